"""In-context or in-weights learning of labels, by the number of classes.

    python paper_figs/reddy2023_classes.py [runs/reddy2023_classes [picture.png]]

After Reddy 2023 (arXiv 2312.03002, Fig. 2). Left: accuracy against the number of classes, all prompts bursty, on new
classes (only the context helps), on known ones that the context lacks (only memory helps) and where the two disagree.
Middle: the first two in training, with the largest number of classes. Right: the same with Zipf frequencies and a share
of prompts without a burst. Dotted lines: a guess among the labels of the context, and among all.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "reddy2023_classes"
PARTS = {
    "in_context": ("new classes: in context", {"color": "C0", "marker": "o"}),
    "in_weights": ("known ones, not in context: in weights", {"color": "C1", "marker": "s"}),
    "relabelled": ("known ones, relabelled", {"color": "C2", "marker": "^"}),
}
BURSTY = {"task.bursty": 1.0, "task.alpha": 0.0, "task.within": 0.1}


def draw(table):
    """A figure of the runs that are done, averaged over seeds."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.1), sharey=True)
    left, middle, right = axes
    most = done["task.classes"].max()
    curves = {middle: {**BURSTY, "task.classes": most}, right: {"task.alpha": 1.0}}
    for part, (label, look) in PARTS.items():
        where = {**BURSTY, "distribution": part}
        plots.trend(done, left, "task.classes", ["transformer"], "accuracy", where, label=label, **look)
        line = {**look, "marker": "", "label": label}
        for panel, where in curves.items():
            plots.trend(done, panel, "step", ["transformer"], f"evolution_accuracy_{part}", where, **line)
    for part in ("in_context", "in_weights"):
        guesses = done[done["predictor"].eq("chance") & done["distribution"].eq(part) & done["region"].eq("mean")]
        for panel in axes:
            panel.axhline(guesses["value"].mean(), color="0.6", linestyle=":", zorder=0, label=f"a guess, {part}")
    left.set(title="all prompts bursty", xlabel="classes", ylabel="accuracy", ylim=(0, 1.03), xscale="log")
    middle.set(xlabel="step", ylabel="", title=f"{most} classes, bursty")
    right.set(xlabel="step", ylabel="", title="Zipf frequencies, some not bursty")
    handles, labels = left.get_legend_handles_labels()
    middle.legend(handles[: len(PARTS)], labels[: len(PARTS)], fontsize=7, loc=(0.28, 0.2))
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
