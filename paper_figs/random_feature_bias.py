"""Biased random-feature attention by the strength of its bias, and by how well that matches the target.

    python paper_figs/random_feature_bias.py [runs/random_feature_bias [picture.png]]

After Fu et al. 2023 (arXiv 2307.11353), with this project's settings. The relative test error against the number of
inputs, means over seeds; above with an intercept that is free of any penalty, below with the mean label in its place.
g = tr S / d is the part of the identity in S.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "random_feature_bias"
MODELS = {"transformer": 0, "bias_0_5": 0.5, "bias_1": 1, "bias_2": 2, "bias_4": 4}
TARGETS = {
    "correlation_1": "⟨x₀, xᵢ⟩",
    "correlation_1_half": "⟨x₀, S xᵢ⟩, g = 1/2",
    "correlation_1_none": "⟨x₀, S xᵢ⟩, g = 0",
    "correlation_2": "⟨x₀, xᵢ⟩²",
    "key_1": "⟨β, xᵢ⟩",
}


def draw(table):
    """A figure of the runs that are done."""
    done = table[(table["state"] == "done") & (table["quantity"] == "error")]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    kinds = sorted(done["train.intercept"].unique())
    figure, grid = plt.subplots(
        len(kinds), len(TARGETS), figsize=(11, 0.6 + 2.3 * len(kinds)), sharex=True, sharey=True, squeeze=False
    )
    for kind, line in zip(kinds, grid, strict=True):
        for (target, title), axes in zip(TARGETS.items(), line, strict=True):
            chosen = done[(done["train.intercept"] == kind) & (done["distribution"] == target)]
            for i, (name, bias) in enumerate(MODELS.items()):
                found = chosen[chosen["predictor"] == name].groupby("step")["value"].mean()
                axes.plot(found.index.astype(float), found, marker="o", ms=3, color=f"C{i}", label=f"bias {bias:g}")
            axes.set(xscale="log", yscale="log", ylim=(1e-4, 3))
            axes.set_title(f"{title}", fontsize="small")
        line[0].set_ylabel(f"test error / variance\n{kind} intercept")
    for axes in grid[-1]:
        axes.set_xlabel("inputs learned from")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
