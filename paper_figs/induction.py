"""Induction heads in training: loss and scores of heads.

    python paper_figs/induction.py [runs/induction [picture.png]]

After Olsson et al. 2022 (arXiv 2209.11895, arguments 1 and 2). Left: the loss on repeated blocks of one layer and of
two. Right: of two layers, how much the best head of the second attends to what followed the current token, and the best
head of the first to the token before.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "induction"
HEADS = {
    "evolution_prefix_matching": (1, "layer 2: prefix matching", {"color": "C0"}),
    "evolution_previous_token": (0, "layer 1: previous token", {"color": "C1"}),
    "evolution_accuracy": (None, "accuracy", {"color": "black", "linestyle": "--"}),
}


def draw(table):
    """A figure of the runs that are done, averaged over seeds."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.0))
    for layers, name in ((1, "one layer"), (2, "two layers")):
        where = {"model.n_layer": layers}
        look = {"label": name, "marker": "", "color": f"C{2 - layers}"}
        plots.trend(done, left, "step", ["transformer"], "evolution_loss", where, **look)
    for quantity, (layer, label, look) in HEADS.items():
        where = {"model.n_layer": 2} | ({} if layer is None else {"layer": layer})
        plots.trend(done, right, "step", ["transformer"], quantity, where, label=label, marker="", **look)
    left.set(xlabel="step", ylabel="loss at determined positions", ylim=(0, None))
    right.set(xlabel="step", ylabel="attention, accuracy", ylim=(0, 1.03))
    for axes in (left, right):
        axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
