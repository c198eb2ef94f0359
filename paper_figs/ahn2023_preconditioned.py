"""Preconditioners of three layers of linear attention with anisotropic inputs.

    python paper_figs/ahn2023_preconditioned.py [runs/ahn2023_preconditioned [picture.png]]

After Ahn et al. 2023 (arXiv 2306.00297, §4). Left, with the blocks of the weights that the paper trains, and middle,
with all weights: the distance of the matrix A of each layer to the nearest multiple of the inverse covariance and of
the identity, and of the matrix B that moves the inputs to one of the identity (the last layer's is read by none; the
paper's blocks have none). Right: the risk of both, and of the best preconditioned descent of as many steps.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "ahn2023_preconditioned"
KEY = "model.zero_blocks"
DISTANCES = {
    "A to the identity": ("identity", "preconditioner_distance", "C3"),
    "A to the inverse covariance": ("inverse_covariance", "preconditioner_distance", "C0"),
    "B to the identity": ("identity", "contraction_distance", "C2"),
}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [] if KEY in done else [f"{KEY} was not swept"])
    held = done[KEY].notna()
    kinds = {"the paper's blocks": (done[held], "C0"), "all weights": (done[~held], "C2")}
    figure, (*panels, right) = plt.subplots(1, 3, figsize=(9.0, 3.1))
    layers = done["layer"].dropna().astype(int).max()
    for axes, (title, (rows, _)) in zip(panels, kinds.items(), strict=True):
        distances(rows, axes)
        axes.set(title=title, xlabel="layer", ylabel="distance to a multiple", yscale="log", ylim=(1e-3, 2))
        axes.set_xticks(range(1, layers + 1))
    for title, (rows, color) in kinds.items():
        plots.curves(rows, right, ["transformer"], labels={"transformer": title}, color=color)
    best = {"preconditioned_descent": f"best {layers} preconditioned steps"}
    plots.curves(done, right, list(best), labels=best, color="black", linestyle=":", zorder=3)
    right.set(yscale="log", ylim=(None, 1e3))  # with few examples a model has no bound
    for axes in (*panels, right):
        axes.legend(fontsize=7)
    return figure


def distances(rows, axes):
    """The distances of the matrices, of those that there are."""
    for label, (predictor, quantity, color) in DISTANCES.items():
        if (rows["quantity"] == quantity).any():
            plots.trend(rows, axes, "layer", [predictor], quantity, label=label, color=color)


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
