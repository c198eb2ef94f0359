"""The algorithm that a model is near, by its depth and layer by layer.

    python paper_figs/algorithm_by_depth.py runs/akyurek2022_depth [picture.png]

After Akyürek et al. 2022 (arXiv 2211.15661, Fig. 3). Left: the distance of whole models to algorithms with fitted
parameters, relative to the Bayes risk, against depth. Right: the same for each layer of the deepest model, read out by
a linear map that was fitted on other prompts.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "akyurek2022_depth"
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
    key = "model.n_layer"
    refuse("nothing to draw", ["no run is done"] if done.empty else [] if key in done else [f"{key} was not swept"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.1), sharey=True)
    plots.trend(done, left, key, FAMILIES, "fit_distance")
    plots.trend(done, right, "layer", FAMILIES, "fit_distance", {key: done[key].max()})
    left.set(
        xlabel="layers of the model", xscale="log", yscale="log", ylabel="distance / Bayes risk", title="whole models"
    )
    left.set_xticks(sorted(done[key].unique()), [str(depth) for depth in sorted(done[key].unique())])
    left.minorticks_off()
    right.set(xlabel="after layer", ylabel="", title=f"the {done[key].max()} layers of the deepest", ylim=(None, 10))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load)
