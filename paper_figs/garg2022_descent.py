"""The error with as many examples as dimensions, and the second descent under noise.

    python paper_figs/garg2022_descent.py [runs/garg2022_descent [picture.png]]

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
        for _, one in done.groupby("run"):
            curve(axes, one, "transformer", distribution, color="C0", lw=0.6, alpha=0.6)
        curve(axes, done, "transformer", distribution, color="C0", lw=2, label="model")
        curve(axes, done, "least_squares", distribution, color="black", linestyle="--", label="least squares")
        axes.set(title=title, xlabel="examples in context", yscale="log", ylim=(LEAST, 30))
    panels[0].set(ylabel="error / mean square label")
    panels[0].legend()
    return figure


def curve(axes, table, predictor, distribution, **look):
    """The error by examples, the mean over runs."""
    found = plots.rows(table, predictor, "normalised_risk", {"distribution": distribution})
    axes.plot(found["position"], found["value"].clip(LEAST / 10), **look)


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
