"""The algorithm that a model is near, by its width.

    python paper_figs/algorithm_by_width.py [runs/akyurek2022_width [picture.png]]

After Akyürek et al. 2022 (arXiv 2211.15661, Fig. 3, right), whose figure divides by d: the squared difference of the
model's answers from those of each algorithm. Left: with 1 to d − 1 examples. Right: with all numbers of examples.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "akyurek2022_width"
KEY = "model.d_model"
ALGORITHMS = {
    "ols": "least squares",
    "ridge_1_10": "ridge, λ = 0.1",
    "ridge_1_2": "ridge, λ = 0.5",
    "sgd_03": "one pass of SGD, α = 0.03",
    "gd_02": "one step of GD, α = 0.02",
    "sgd_01": "one pass of SGD, α = 0.01",
    "gd_01": "one step of GD, α = 0.01",
    "knn_weighted": "3 neighbours, weighted",
    "knn_uniform": "3 neighbours",
}
LOOKS = [
    ("C2", "-"),
    ("C9", "-"),
    ("C9", "--"),
    ("C5", "-"),
    ("C1", "-"),
    ("C5", "--"),
    ("C1", "--"),
    ("C4", "-"),
    ("C4", "--"),
]
PANELS = {"fewer": "1 to d − 1 examples", "mean": "all numbers of examples"}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [] if KEY in done else [f"{KEY} was not swept"])
    figure, panels = plt.subplots(1, 2, figsize=(6.6, 3.6), sharey=True)
    for axes, (region, title) in zip(panels, PANELS.items(), strict=True):
        plots.trend(done, axes, KEY, list(ALGORITHMS), "spd", {"region": region})
        for line, (colour, style) in zip(axes.get_lines(), LOOKS, strict=True):
            line.set(color=colour, linestyle=style)
        for band in axes.collections:
            band.remove()  # narrower than the lines
        axes.set(title=title, xlabel="width of the model", ylabel="", yscale="log")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(done[KEY].unique()), [str(width) for width in sorted(done[KEY].unique())])
    panels[0].set_ylabel("E (model − algorithm)²")
    figure.legend(panels[0].get_lines(), ALGORITHMS.values(), loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
