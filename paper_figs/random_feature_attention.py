"""Learning curves of random-feature attention and of random-feature networks, with theory.

    python paper_figs/random_feature_attention.py [runs/random_feature_attention [picture.png]]

After Fu et al. 2023 (arXiv 2307.11353), with this project's settings. A row for each dimension, a panel for each of
five targets: the relative test error against the number of inputs, means over seeds; dotted, what theory says of
infinitely many heads or neurons. An error of 1 is that of the mean label.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "random_feature_attention"
MODELS = {
    "transformer": ("attention", "C0"),
    "biased": ("attention, biased", "C1"),
    "network": ("network", "C2"),
    "network_of_orders": ("network, averaged over orders", "C4"),
}
TARGETS = {
    "key_1": "⟨β, xᵢ⟩",
    "key_2": "⟨β, xᵢ⟩²",
    "correlation_1": "⟨x₀, xᵢ⟩",
    "correlation_2": "⟨x₀, xᵢ⟩²",
    "alternating": "(−1)ⁱ⟨β, xᵢ⟩",
}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    done = done if "task.d" in done else done.assign(**{"task.d": ""})
    dims = sorted(done["task.d"].unique(), reverse=True)
    figure, grid = plt.subplots(
        len(dims), len(TARGETS), figsize=(11, 0.6 + 2.3 * len(dims)), sharey=True, sharex=True, squeeze=False
    )
    for d, line in zip(dims, grid, strict=True):
        for (target, title), axes in zip(TARGETS.items(), line, strict=True):
            chosen = done[(done["task.d"] == d) & (done["distribution"] == target)]
            panel(axes, chosen)
            axes.set_title(f"average of {title}, d = {d}", fontsize="small")
        line[0].set_ylabel("test error / variance")
    for axes in grid[-1]:
        axes.set_xlabel("inputs learned from")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def panel(axes, table):
    """One curve for each model, and dotted ones where theory has them."""
    for name, (label, color) in MODELS.items():
        for quantity, look in (("error", {"marker": "o", "ms": 3}), ("predicted_error", {"ls": ":"})):
            found = (
                table[(table["predictor"] == name) & (table["quantity"] == quantity)].groupby("step")["value"].mean()
            )
            if len(found):
                title = label if quantity == "error" else f"{label}, theory"
                axes.plot(found.index.astype(float), found, label=title, color=color, **look)
    axes.set(xscale="log", yscale="log", ylim=(1e-4, 2))


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
