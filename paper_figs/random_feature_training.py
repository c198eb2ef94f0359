"""Attention with trained query-key products, compared with frozen ones.

    python paper_figs/random_feature_training.py [runs/random_feature_training [picture.png]]

After Fu et al. 2023 (arXiv 2307.11353), with this project's settings. Above, the relative test error against the number
of inputs for the model that was trained from a mean of zero, for one that was trained from the identity, and for frozen
ones. Below, how much of the identity is in the trained query-key products, on average over heads and with the signs of
their values. Means over seeds.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "random_feature_training"
TARGETS = {"key_1": "⟨β, xᵢ⟩", "correlation_1": "⟨x₀, xᵢ⟩", "correlation_2": "⟨x₀, xᵢ⟩²"}
FROZEN = {
    "frozen": ("32 frozen", "C1"),
    "frozen_many": ("1000 frozen", "C2"),
    "biased": ("32 biased, frozen", "C3"),
    "biased_many": ("1000 biased, frozen", "C4"),
}
STARTS = {0.0: ("trained from mean 0", "-"), 1.0: ("trained from the identity", "--")}
AVERAGES = {"identity": ("mean over heads", "C0"), "identity_signed": ("signed by values", "C5")}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (above, below) = plt.subplots(2, len(TARGETS), figsize=(9, 5.6), sharex=True, sharey="row")
    for (target, title), top, bottom in zip(TARGETS.items(), above, below, strict=True):
        chosen = done[done["distribution"] == target]
        for start, (label, style) in STARTS.items():
            mine = chosen[(chosen["model.bias"] == start) & (chosen["predictor"] == "transformer")]
            curve(top, mine, "error", label=label, color="C0", ls=style)
            for quantity, (average, color) in AVERAGES.items():
                curve(bottom, mine, quantity, label=f"{average}, {label}", color=color, ls=style)
        for name, (label, color) in FROZEN.items():
            curve(top, chosen[chosen["predictor"] == name], "error", label=label, color=color, lw=1)
        top.set(xscale="log", yscale="log", ylim=(1e-4, 2))
        top.set_title(f"average of {title}", fontsize="small")
        bottom.set(xlabel="inputs learned from")
    above[0].set_ylabel("test error / variance")
    below[0].set_ylabel("tr W / d of trained products")
    below[-1].legend(fontsize="x-small", loc="center")
    figure.legend(*above[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


def curve(axes, table, quantity, **look):
    """A quantity against the number of inputs."""
    found = table[table["quantity"] == quantity].groupby("step")["value"].mean()
    axes.plot(found.index.astype(float), found, marker="o", ms=3, **look)


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
