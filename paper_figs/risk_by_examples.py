"""Risk against the number of examples: the transformer by depth, Bayes, least squares, gradient descent and k-NN.

    python paper_figs/risk_by_examples.py [runs/linear_regression [picture.png]]

After Akyürek et al. 2022 (arXiv 2211.15661, Fig. 1) and Garg et al. 2022 (arXiv 2208.01066, Fig. 2). Reads the result
table of a sweep, with a panel for each `task.noise` and a curve for each `model.n_layer` that were swept; runs that
differ in other settings are averaged. Bands are 5 to 95 % of bootstrap resamples of the test prompts.
"""

from itertools import cycle

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "linear_regression"
BAYES = "Bayes = ridge(λ = noise²)"
REFERENCES = ["zero", "nearest_neighbours", "gradient_descent", "least_squares", "bayes"]


def parts(table, key):
    """The values of a setting, each with its rows; the whole table under None where it was not swept."""
    return list(table.groupby(key)) if key in table else [(None, table)]


def draw(table):
    """A figure with one panel for each noise level, of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    panels = parts(done, "task.noise")
    figure, grid = plt.subplots(1, len(panels), figsize=(max(4.4, 3.3 * len(panels)), 3.3), squeeze=False)
    for axes, (noise, rows) in zip(grid[0], panels, strict=True):
        draw_panel(axes, noise, rows)
    handles = {name: line for axes in grid[0] for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=1 + len(panels))
    return figure


def draw_panel(axes, noise, rows):
    """The references and the transformer of each depth, the deepest darkest."""
    known = [name for name in REFERENCES if name in set(rows["predictor"])]
    plots.curves(rows, axes, known, labels={"bayes": BAYES})
    depths = parts(rows, "model.n_layer")
    for i, ((depth, cell), marker) in enumerate(zip(reversed(depths), cycle("oDs^v"), strict=False)):
        name = "transformer" if depth is None else f"transformer, {depth} layer{'s' if depth > 1 else ''}"
        shade = plt.get_cmap("Blues")(1 - 0.6 * i / len(depths))
        plots.curves(cell, axes, ["transformer"], labels={"transformer": name}, marker=marker, color=shade)
    if noise:
        axes.axhline(noise**2, color="0.8", linewidth=0.8, zorder=0, label="noise²")
    axes.set(title="" if noise is None else f"noise {noise}", yscale="log")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 1e-3), min(high, 30))  # without noise the best risk is that of rounding


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
