"""The error with as many examples as dimensions, and the second descent under noise.

    python paper_figs/garg2022_descent.py runs/garg2022_descent [picture.png]

After Garg et al. 2022 (arXiv 2208.01066, Fig. 2 and 4). Left: noiseless prompts, as in training. Right: noisy labels.
Each thin line is a model of another seed, the thick one their mean; the dashed line is least squares, which has no
error with d and more noiseless examples. Errors are relative to the mean square label.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "garg2022_descent"
PANELS = {"own": "training distribution", "noisy": "noisy labels"}
LEAST = 1e-4  # of the errors that are drawn: those of least squares are 0


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, panels = plt.subplots(1, 2, figsize=(6.8, 3.4), sharey=True)
    for axes, (distribution, title) in zip(panels, PANELS.items(), strict=True):
        where = {"distribution": distribution}
        for _, one in done.groupby("run"):
            curve(axes, plots.rows(one, "transformer", "normalised_risk", where), color="C0", lw=0.6, alpha=0.6)
        curve(axes, plots.rows(done, "transformer", "normalised_risk", where), color="C0", lw=2, label="model")
        fit = plots.rows(done, "least_squares", "normalised_risk", where)
        curve(axes, fit, color="black", linestyle="--", label="least squares")
        axes.axvline(done["task.d"].iloc[0], color="0.7", lw=0.8, zorder=0)
        axes.set(title=title, xlabel="examples in context", yscale="log", ylim=(LEAST, 30))
    panels[0].set(ylabel="error / mean square label")
    panels[0].legend()
    return figure


def curve(axes, found, **look):
    """The mean error by examples."""
    values = found.groupby("position")["value"].mean()
    axes.plot(values.index, values.clip(LEAST / 10), **look)


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load)
