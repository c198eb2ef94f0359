"""The algorithm that a model is near, by its depth and layer by layer.

    python paper_figs/algorithm_by_depth.py [runs/akyurek2022_depth [picture.png]]

After Akyürek et al. 2022 (arXiv 2211.15661, Fig. 3). Left: the squared difference of the answers of whole models from
those of the paper's nine algorithms, over 1 to d − 1 examples, against depth. Middle: their distance to algorithms with
fitted parameters, relative to the Bayes risk, over all numbers of examples. Right: the same for each layer of the
deepest model, read out by a linear map that was fitted on other prompts.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "akyurek2022_depth"
KEY = "model.n_layer"
ALGORITHMS = {
    "ols": ("least squares", "C2", "-"),
    "ridge_1_10": ("ridge, λ = 0.1", "C9", "-"),
    "ridge_1_2": ("ridge, λ = 0.5", "C9", "--"),
    "sgd_03": ("one pass of SGD, α = 0.03", "C5", "-"),
    "gd_02": ("one step of GD, α = 0.02", "C1", "-"),
    "sgd_01": ("one pass of SGD, α = 0.01", "C5", "--"),
    "gd_01": ("one step of GD, α = 0.01", "C1", "--"),
    "knn_weighted": ("3 neighbours, weighted", "C4", "-"),
    "knn_uniform": ("3 neighbours", "C4", "--"),
}
FAMILIES = [
    "gradient_descent_1",
    "gradient_descent_3",
    "gradient_descent_8",
    "landweber",
    "newton",
    "ridge",
    "least_squares",
]


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [] if KEY in done else [f"{KEY} was not swept"])
    figure, (fixed, left, right) = plt.subplots(1, 3, figsize=(9.6, 3.6))
    for name, (label, color, style) in ALGORITHMS.items():
        look = {"label": label, "color": color, "linestyle": style, "marker": ""}
        plots.trend(done, fixed, KEY, [name], "spd", {"region": "fewer"}, **look)
    plots.trend(done, left, KEY, FAMILIES, "fit_distance")
    plots.trend(done, right, "layer", FAMILIES, "fit_distance", {KEY: done[KEY].max()})
    fixed.set(ylabel="E (model − algorithm)²", title="nine algorithms, 1 to d − 1 examples")
    left.set(ylabel="distance / Bayes risk", title="fitted families, all numbers")
    for axes in (fixed, left):
        axes.set(xlabel="layers of the model", xscale="log", yscale="log")
        axes.set_xticks(sorted(done[KEY].unique()), [str(depth) for depth in sorted(done[KEY].unique())])
        axes.minorticks_off()
    right.set(xlabel="after layer", ylabel="", yscale="log", title=f"the {done[KEY].max()} layers of the deepest")
    right.set_ylim(None, 10)
    for axes in (fixed, left):
        axes.legend(fontsize=6)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
