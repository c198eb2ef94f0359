"""The risk of one layer of linear attention on prompts of other lengths than in training.

    python paper_figs/zhang2023_one_layer.py [runs/zhang2023_one_layer [picture.png]]

After Zhang, Frei, Bartlett 2023 (arXiv 2306.09927, Thm 4.2) and Wu et al. 2023 (2310.08391): the trained layer, its
closed form and the Bayes risk against the number of examples, for isotropic inputs, one panel for each noise. The
vertical line is the length of training, N: with more examples the risk of the layer does not go to that of Bayes.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "zhang2023_one_layer"
WHERE = {"distribution": "longer"}
LABELS = {"transformer": "trained layer", "bayes": "Bayes", "one_layer_optimum": "optimum, closed form"}


def isotropic(table):
    """The runs with inputs of the same variance in all directions."""
    key = "task.inputs.spectrum"
    return table[table[key].map(lambda spectrum: not spectrum)] if key in table else table


def draw(table):
    """A figure of the runs that are done."""
    done = isotropic(table[table["state"] == "done"])
    refuse("nothing to draw", ["no run with isotropic inputs is done"] if done.empty else [])
    noises = sorted(done["task.noise"].unique()) if "task.noise" in done else [None]
    figure, panels = plt.subplots(1, len(noises), figsize=(3.3 * len(noises), 2.9), sharey=True, squeeze=False)
    for axes, noise in zip(panels[0], noises, strict=True):
        rows = done if noise is None else done[done["task.noise"] == noise]
        plots.curves(rows, axes, ["transformer"], "risk", WHERE, LABELS, markersize=2.5)
        plots.curves(rows, axes, ["one_layer_optimum"], "formula", WHERE, LABELS, color="C1", marker="", zorder=6)
        plots.curves(rows, axes, ["bayes"], "risk", WHERE, LABELS)
        trained = rows.loc[rows["distribution"] == "own", "position"]
        axes.axvline(trained.max(), color="0.6", linestyle=":", label="N, in training")
        axes.set(title="" if noise is None else f"noise {noise:g}", yscale="log", ylim=(0.1, 10), ylabel="")
    panels[0][0].set_ylabel("risk")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
