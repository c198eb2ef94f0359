"""Two tied layers of linear attention, and two steps of gradient descent and of GD++.

    python paper_figs/vonoswald2022_gradient_descent_plus_plus.py [FOLDER [picture.png]]

After von Oswald et al. 2022 (arXiv 2212.07677, §3 and Fig. 3), against the number of examples N. Left: risk at the
query. Right: the contraction γ that the trained weights spell out, the one that is best, and the published one.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "vonoswald2022_gradient_descent_plus_plus"
PUBLISHED = {10: 0.179, 25: 0.099, 50: 0.056, 100: 0.029}  # von Oswald et al. 2022, §3
NAMES = {
    "transformer": "transformer, two tied layers",
    "tuned_gradient_descent": "two steps of gradient descent, best",
    "tuned_gradient_descent_plus_plus": "two steps of GD++, best",
}
LOOKS = {
    "transformer": {"color": "C0", "marker": "o", "linestyle": "none", "zorder": 5},
    "tuned_gradient_descent": {"color": "C1"},
    "tuned_gradient_descent_plus_plus": {"color": "black", "linestyle": "--"},
}


def draw(table):
    """A figure of the runs that are done."""
    done = table[(table["state"] == "done") & (table["region"] == "mean") & (table["distribution"] == "own")]
    refuse(
        "nothing to draw", ["no run is done"] if done.empty else [] if "task.n" in done else ["task.n was not swept"]
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.1))
    for name in NAMES:
        line(left, done, name, "risk")
    for name in ("transformer", "tuned_gradient_descent_plus_plus"):
        line(right, done, name, "gamma")
    right.plot(list(PUBLISHED), list(PUBLISHED.values()), "_", color="C3", markersize=16, label="published γ")
    left.set(ylabel="risk at the query")
    right.set(ylabel="contraction γ")
    for axes in (left, right):
        sizes = sorted(int(n) - 1 for n in done["task.n"].unique())
        axes.set(xlabel="examples N", xscale="log", yscale="log")
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
    handles = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    handles |= dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    return figure


def line(axes, table, name, quantity):
    """A quantity of a predictor against N, with two standard errors where they are known."""
    found = table[(table["predictor"] == name) & (table["quantity"] == quantity)]
    refuse("table", [f"no {quantity!r} of {name!r}"] if found.empty else [])
    found = found.groupby("task.n")[["value", "stderr"]].mean()
    y, error = found["value"].astype(float), found["stderr"].astype(float).fillna(0)
    axes.errorbar(found.index - 1, y, 2 * error, label=NAMES[name], **LOOKS[name])


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
