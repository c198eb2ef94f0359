"""One layer of linear attention and one step of gradient descent.

    python paper_figs/vonoswald2022_one_layer.py [runs/vonoswald2022_one_layer [picture.png]]

After von Oswald et al. 2022 (arXiv 2212.07677, Fig. 2). Left: the risk of the model, of the best step and of the model
half-way between the two, against the scale of the inputs. Right: the cosine of the implied weights with those of the
step and of least squares, against the same.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "vonoswald2022_one_layer"
SCALES = {"inputs_0_5": 0.5, "own": 1.0, "inputs_1_5": 1.5, "inputs_2": 2.0}  # the distributions, by scale of inputs
NAMES = {
    "transformer": "transformer",
    "tuned_gradient_descent": "gradient descent, best in training",
    "interpolated": "half-way between the two",
    "least_squares": "least squares",
}
LOOKS = {
    "transformer": {"marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": "none", "zorder": 5},
    "tuned_gradient_descent": {"color": "C1"},
    "interpolated": {"color": "black", "marker": "x", "linestyle": "none", "zorder": 6},
    "least_squares": {"color": "C2", "marker": "s"},
}


def draw(table):
    """A figure of the runs that are done."""
    done = table[(table["state"] == "done") & (table["region"] == "mean")]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.1))
    for name in ("tuned_gradient_descent", "interpolated", "transformer"):
        line(left, done, name, "risk")
    for name in ("tuned_gradient_descent", "least_squares"):
        line(right, done, name, "weight_cosine", marker="o")
    left.set(xlabel="scale of the inputs (1 in training)", ylabel="risk at the query", yscale="log")
    right.set(xlabel="scale of the inputs (1 in training)", ylabel="cosine with the model's weights", ylim=(None, 1.04))
    handles, labels = left.get_legend_handles_labels()
    more = [pair for pair in zip(*right.get_legend_handles_labels(), strict=True) if pair[1] not in labels]
    figure.legend(
        [*handles, *(h for h, _ in more)], [*labels, *(t for _, t in more)], loc="outside lower center", ncols=2
    )
    return figure


def line(axes, table, name, quantity, **look):
    """A quantity of a predictor against the scale of the inputs, the mean over seeds, with two standard errors."""
    found = table[(table["predictor"] == name) & (table["quantity"] == quantity) & table["distribution"].isin(SCALES)]
    refuse("table", [f"no {quantity!r} of {name!r}"] if found.empty else [])
    found = found.assign(scale=found["distribution"].map(SCALES)).groupby("scale")[["value", "stderr"]].mean()
    x, y, error = found.index, found["value"].astype(float), found["stderr"].astype(float)
    (drawn,) = axes.plot(x, y, label=NAMES[name], **LOOKS[name] | look)
    axes.fill_between(x, y - 2 * error, y + 2 * error, color=drawn.get_color(), alpha=0.2, lw=0)


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
