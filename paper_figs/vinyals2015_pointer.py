"""Sorting, or convex hulls, by pointing at the input, by its places and by an unembedding: accuracy by number of items.

    python paper_figs/vinyals2015_pointer.py [runs/vinyals2015_hull [picture.png]]

After Vinyals et al. 2015 (arXiv 1506.03134, §4), where hulls are measured by whole answers and by area. Left: accuracy
of each token, with chance level. Middle: answers that are right as a whole, and of hulls the area covered by those that
are simple polygons. Right: the loss in training. The dotted line is the largest number of items in training.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "vinyals2015_hull"
KINDS = {
    ("model.keys", "content"): {"label": "points", "color": "C0", "marker": "o"},
    ("model.keys", "positional"): {"label": "one output for each place", "color": "C2", "marker": "^"},
    ("model.kind", "TokenTransformerConfig"): {"label": "unembedding", "color": "C1", "marker": "s"},
}


def draw(table):
    """A figure of the runs that are done, averaged over them."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    sized = plots.sized(done)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.0))
    hulls = "area_covered" in set(sized["quantity"])
    for (key, kind), look in KINDS.items():
        where = {key: kind}
        plots.trend(sized, left, "items", ["transformer"], "accuracy", where, **look)
        plots.trend(sized, middle, "items", ["transformer"], "whole_answer", where, **look)
        if hulls:
            area = {**look, "label": f"{look['label']}: area", "marker": "", "linestyle": ":"}
            plots.trend(sized, middle, "items", ["transformer"], "area_covered", where, **area)
        curve = {**look, "marker": ""}
        plots.trend(done, right, "step", ["transformer"], "evolution_loss", where, **curve)
    plots.trend(sized, left, "items", ["chance"], "accuracy", label="a guess", color="black", linestyle="--")
    for axes, label in ((left, "tokens that are right"), (middle, "answers that are right as a whole")):
        axes.axvline(8, color="0.6", linestyle=":")
        axes.set(xlabel="items", ylabel=label, ylim=(0, 1.05))
        axes.legend(fontsize=7)
    right.set(xlabel="step", ylabel="loss", yscale="log")
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
