"""One model for two noise levels, compared with those of one level and with ridge with one penalty.

    python paper_figs/bai2023_noise.py [runs/bai2023_noise [picture.png]]

After Bai et al. 2023 (arXiv 2306.04637, Fig. 2). Left and middle: the risk by examples on each level. Right: the risks
on both levels in the middle of the prompt; dashed are the Bayes risks.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "bai2023_noise"
LEVELS = {"low": 0.1, "high": 0.5}
PENALTIES = {"ridge_low": ("ridge, Bayes at noise 0.1", "C1"), "ridge_high": ("ridge, Bayes at noise 0.5", "C2")}


def models():
    """The trained models: name, look, the settings that distinguish them."""
    yield "model of both levels", {"color": "C0"}, {"task.kind": "NoiseMixture"}
    for level, color in ((0.1, "C1"), (0.5, "C2")):
        look = {"color": color, "linestyle": ":"}
        yield f"model of noise {level}", look, {"task.kind": "LinearRegression", "task.noise": level}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    known = {"task.kind", "task.noise"} <= set(done.columns) and done["task.kind"].nunique() == 2
    refuse("nothing to draw", [] if known else ["the runs of both kinds of tasks are not done"])
    figure, (*panels, both) = plt.subplots(1, 3, figsize=(8.4, 3.5))
    for axes, (name, level) in zip(panels, LEVELS.items(), strict=True):
        for label, look, where in models():
            curve(done, axes, "transformer", name, label, {**look, "zorder": 5}, where)
        for predictor, (label, color) in PENALTIES.items():
            curve(done, axes, predictor, name, label, {"color": color, "lw": 1})
        curve(done, axes, "bayes", name, "Bayes", {"color": "black", "linestyle": "--"})
        axes.set(title=f"noise {level}", xlabel="examples in context", ylim=(0, None))
    panels[0].set(ylabel="risk")
    scatter(done, both)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def curve(table, axes, predictor, distribution, label, look, where=None):
    """The risk by examples."""
    found = plots.rows(table, predictor, "risk", {"distribution": distribution, **(where or {})})
    axes.plot(found["position"], found["value"], label=label, **look)


def scatter(table, axes):
    """The two risks in the middle of the prompt."""
    middle = plots.rows(table, "bayes", "risk", {"distribution": "low"})["position"].median()

    def risks(predictor, where=None):
        found = [plots.rows(table, predictor, "risk", {"distribution": name, **(where or {})}) for name in LEVELS]
        return [each.loc[each["position"] == middle, "value"].item() for each in found]

    for label, look, where in models():
        axes.scatter(*risks("transformer", where), color=look["color"], marker="o", label=label, zorder=5)
    for predictor, (label, color) in PENALTIES.items():
        axes.scatter(*risks(predictor), color=color, marker="x", label=label)
    low, high = risks("bayes")
    axes.axvline(low, color="black", linestyle="--", lw=1, label="Bayes at noise 0.1")
    axes.axhline(high, color="black", linestyle="--", lw=1, label="Bayes at noise 0.5")
    axes.set(xlabel="risk at noise 0.1", ylabel="risk at noise 0.5", title=f"after {middle:g} examples")


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
