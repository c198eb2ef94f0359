"""Preconditioners of three layers of linear attention with anisotropic inputs.

    python paper_figs/ahn2023_preconditioned.py runs/ahn2023_preconditioned [picture.png]

After Ahn et al. 2023 (arXiv 2306.00297, §4). Left: the distance of the matrix A of each layer to the nearest multiple
of the inverse covariance and of the identity, and of the matrix B that moves the inputs to one of the identity (the
last layer's is read by none). Right: the risk of the model and of the best preconditioned descent of as many steps.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "ahn2023_preconditioned"
DISTANCES = {
    "A to the identity": ("identity", "preconditioner_distance", "C3"),
    "A to the inverse covariance": ("inverse_covariance", "preconditioner_distance", "C0"),
    "B to the identity": ("identity", "contraction_distance", "C2"),
}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.1))
    for label, (predictor, quantity, color) in DISTANCES.items():
        plots.trend(done, left, "layer", [predictor], quantity, label=label, color=color)
    layers = done["layer"].dropna().astype(int).max()
    left.set(xlabel="layer", ylabel="distance to a multiple", yscale="log", xticks=range(1, layers + 1), ylim=(1e-3, 2))
    labels = {"transformer": "trained model", "preconditioned_descent": f"best {layers} preconditioned steps"}
    plots.curves(done, right, ["transformer"], labels=labels)
    plots.curves(done, right, ["preconditioned_descent"], labels=labels, color="C1")
    right.set(yscale="log", ylim=(None, 1e3))  # with few examples the model has no bound
    for axes in (left, right):
        axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load)
