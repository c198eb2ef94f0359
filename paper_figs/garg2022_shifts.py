"""The error of a model on prompts that it was not trained on.

    python paper_figs/garg2022_shifts.py [runs/garg2022_shifts [picture.png]]

After Garg et al. 2022 (arXiv 2208.01066, Fig. 3 and 4). Left: other inputs and noisy labels, the model (dots) and
least squares (thin lines), which has no error with d and more noiseless examples. Middle: inputs or weights of another
scale, with all examples. Right: queries that are no fresh draw. Errors are relative to the mean square label, so that 1
is the error of answering 0.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "garg2022_shifts"
PROMPTS = {
    "own": "training distribution",
    "half_subspace": "half of the space",
    "skewed": "skewed inputs",
    "noisy": "noisy labels",
}
SCALES = {"third": 1 / 3, "half": 1 / 2, "own": 1, "twice": 2, "thrice": 3}
QUERIES = {
    "orthogonal": "orthogonal query",
    "opposite_orthant": "opposite orthant",
    "random_orthant": "context in an orthant",
    "repeated": "query in the context",
}
LEAST = 1e-4  # of the errors that are drawn: those of least squares are 0


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (prompts, scales, queries) = plt.subplots(1, 3, figsize=(7.6, 3.4), sharey=True)
    draw_prompts(done, prompts)
    draw_scales(done, scales)
    draw_queries(done, queries)
    prompts.set(yscale="log", ylim=(LEAST, 12), ylabel="error / mean square label")
    for axes in (prompts, scales, queries):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize="small")
    return figure


def errors(done, distribution, predictor="transformer"):
    """Error by number of examples."""
    return plots.rows(done, predictor, "normalised_risk", {"distribution": distribution})


def draw_prompts(done, axes):
    """Curves of the model and of least squares."""
    for i, (distribution, label) in enumerate(PROMPTS.items()):
        model, fit = (errors(done, distribution, name) for name in ("transformer", "least_squares"))
        axes.plot(model["position"], model["value"], marker="o", markersize=3, color=f"C{i}", label=label)
        axes.plot(fit["position"], fit["value"].clip(LEAST / 10), linewidth=0.8, color=f"C{i}", label="_least squares")
    axes.set(title="other distributions", xlabel="examples in context")


def draw_scales(done, axes):
    """The error with all examples by the scale of inputs and of weights."""
    for what, color in (("inputs", "C4"), ("weights", "C5")):
        names = [name if name == "own" else f"{what}_{name}" for name in SCALES]
        last = [errors(done, name)["value"].iloc[-1] for name in names]
        axes.plot(list(SCALES.values()), last, marker="o", color=color, label=f"{what} scaled")
    axes.set(title="other scales", xlabel="scale", xscale="log")
    axes.set_xticks(list(SCALES.values()), ["⅓", "½", "1", "2", "3"])
    axes.minorticks_off()


def draw_queries(done, axes):
    """The error at the query, which comes last, by the number of examples before it."""
    free = errors(done, "own")
    axes.plot(free["position"], free["value"], color="0.6", label="training distribution")
    for i, (name, label) in enumerate(QUERIES.items()):
        ends = [errors(done, found).iloc[-1] for found in distributions(done, name)]
        points = sorted((end["position"], end["value"]) for end in ends)
        axes.plot(*zip(*points, strict=True), marker="o", color=f"C{i + 6}", label=label)
    axes.set(title="other queries", xlabel="examples in context")


def distributions(done, name):
    """The shifts of a kind, each with another number of examples."""
    return [found for found in done["distribution"].unique() if found.rpartition("_")[0] == name]


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
