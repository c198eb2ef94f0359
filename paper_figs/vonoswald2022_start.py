"""Where training goes that starts from the construction of gradient descent, disturbed or not.

    python paper_figs/vonoswald2022_start.py [runs/vonoswald2022_start [picture.png]]

After von Oswald et al. 2022 (arXiv 2212.07677, §3). Left: risk after training against the relative perturbation of the
weights, beside two steps of gradient descent and of GD++. Right: the distance of the weights, up to symmetries, to
those of the two constructions; dashed: trained from random weights; dotted: before training.
"""

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "vonoswald2022_start"
ALGORITHMS = {
    "two_steps": {"label": "two steps of gradient descent", "color": "C1"},
    "two_steps_plus_plus": {"label": "two steps of GD++", "color": "black"},
}
STYLES = {":": "before training", "--": "trained from random weights"}
DISTURBANCE = "start.perturbation"


def draw(table):
    """A figure of the runs that are done."""
    done = table[(table["state"] == "done") & (table["region"] == "mean")]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    refuse("nothing to draw", [] if DISTURBANCE in done else [f"{DISTURBANCE} was not swept"])
    steps = done["train.steps"] if "train.steps" in done else done["value"] * 0
    before, after = (done[steps == extreme] for extreme in (0, steps.max()))
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.1))
    for name, look in ALGORITHMS.items():
        line(left, after, name, "risk", **look)
        line(right, after, name, "weight_distance", marker="o", **look)
        line(right, before, name, "weight_distance", linestyle=":", color=look["color"])
        for value in drawn_at_random(after, name, "weight_distance"):
            right.axhline(value, linestyle="--", color=look["color"], lw=1)
    line(left, after, "transformer", "risk", label="transformer, trained", marker="o", color="C0")
    for value in drawn_at_random(after, "transformer", "risk"):
        left.axhline(value, linestyle="--", color="C0", lw=1)
    left.set(ylabel="risk at the query")
    right.set(ylabel="distance of weights")
    for axes in (left, right):
        axes.set(xlabel="relative perturbation of the weights", ylim=(0, None))
    styles = [Line2D([], [], linestyle=style, color="gray", lw=1, label=label) for style, label in STYLES.items()]
    figure.legend(handles=[*left.get_legend_handles_labels()[0], *styles], loc="outside lower center", ncols=3)
    return figure


def line(axes, table, name, quantity, **look):
    """A quantity of a predictor against the disturbance, the mean over seeds; nothing where there are no such runs."""
    found = values(table, name, quantity).dropna(subset=[DISTURBANCE]).groupby(DISTURBANCE)["value"].mean()
    if len(found):
        axes.plot(found.index, found.astype(float), **look)


def drawn_at_random(table, name, quantity):
    """The mean over runs that started from random weights, if there are any."""
    found = values(table, name, quantity)
    found = found.loc[found[DISTURBANCE].isna(), "value"]
    return [found.mean()] if len(found) else []


def values(table, name, quantity):
    """The rows of a quantity of a predictor."""
    return table[(table["predictor"] == name) & (table["quantity"] == quantity)]


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
