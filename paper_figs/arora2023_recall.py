"""How many pairs of key and value softmax attention and linear attention recall.

    python paper_figs/arora2023_recall.py [runs/arora2023_recall [picture.png]]

After Arora et al. 2023 (arXiv 2312.04927, Fig. 2). Left: accuracy against the number of pairs, with a guess among the
values of the prompt. Right: the same in training, at the largest number of pairs.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "arora2023_recall"
LOOKS = {"softmax": {"color": "C0", "marker": "o"}, "linear": {"color": "C1", "marker": "s"}}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 3.0))
    most = done["task.pairs"].max()
    for kind, look in LOOKS.items():
        where = {"model.attention": kind}
        plots.trend(done, left, "task.pairs", ["transformer"], "accuracy", where, label=f"{kind} attention", **look)
        look = {**look, "marker": "", "label": f"{kind} attention"}
        plots.trend(done, right, "step", ["transformer"], "evolution_accuracy", {**where, "task.pairs": most}, **look)
    guess = {"label": "a guess among the values", "color": "black", "linestyle": "--"}
    plots.trend(done, left, "task.pairs", ["chance"], "accuracy", **guess)
    left.set(xlabel="pairs", ylabel="accuracy", ylim=(0, 1.03))
    right.set(xlabel="step", ylabel="", ylim=(0, 1.03), title=f"{most} pairs")
    left.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
