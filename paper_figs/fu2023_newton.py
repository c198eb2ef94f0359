"""The numbers of steps of Newton's iteration and of gradient descent that each layer of a deep model is worth.

    python paper_figs/fu2023_newton.py [runs/fu2023_newton [picture.png]]

After Fu et al. 2023 (arXiv 2310.17086, §4): the number of steps whose errors are most like those of a layer, which is
read out by a linear map that was fitted on other prompts. Left: Newton, on a linear axis, where a constant number of
steps per layer is a straight line. Right: gradient descent of the largest safe step, on a logarithmic one.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "fu2023_newton"
KEY = "task.inputs.spectrum"
PANELS = {"newton": "steps of Newton", "landweber": "steps of gradient descent"}


def inputs(table):
    """Names for the inputs that were swept, with their rows."""
    if KEY not in table:
        return {"": table}
    names = {s: f"condition {max(s) / min(s):.0f}" if s else "isotropic inputs" for s in table[KEY].unique()}
    return {name: table[table[KEY] == spectrum] for spectrum, name in names.items()}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, panels = plt.subplots(1, 2, figsize=(6.6, 2.9))
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        for color, (label, rows) in zip(["C0", "C1", "C2"], inputs(done).items(), strict=False):
            plots.trend(rows, axes, "layer", [name], "matched_steps", label=label, color=color)
        layers = done["layer"].dropna().astype(int)
        axes.set(xlabel="after layer", ylabel=title, xticks=range(0, layers.max() + 1, max(1, layers.max() // 8)))
    guide(panels[0], [0, layers.max()], [1, 1 + 3 * layers.max()], "three steps in each layer")
    guide(panels[1], [0, layers.max()], [1, 2 ** layers.max()], "twice as many with each layer")
    panels[0].set(ylim=(0.5, None))
    panels[1].set_yscale("log", base=2)
    for axes in panels:
        axes.legend(fontsize=7)
    return figure


def guide(axes, x, y, label):
    """A line for the eye."""
    axes.plot(x, y, color="0.6", linestyle=":", marker="", label=label, zorder=0)


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
