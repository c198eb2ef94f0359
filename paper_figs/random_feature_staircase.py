"""Powers of a key are learned degree by degree.

    python paper_figs/random_feature_staircase.py [runs/random_feature_staircase [picture.png]]

After Fu et al. 2023 (arXiv 2307.11353), with this project's settings. The relative test error against the number of
inputs, means over seeds, of attention on the left and of a network on the right; dotted, theory.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "random_feature_staircase"
MODELS = {"transformer": "attention", "network": "network"}
TARGETS = {
    "key_1": "⟨β, xᵢ⟩",
    "key_2": "⟨β, xᵢ⟩²",
    "key_3": "⟨β, xᵢ⟩³",
    "key_4": "⟨β, xᵢ⟩⁴",
    "correlation_3": "⟨x₀, xᵢ⟩³",
}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.4), sharey=True)
    for (name, title), axes in zip(MODELS.items(), panels, strict=True):
        for i, (target, label) in enumerate(TARGETS.items()):
            chosen = done[(done["distribution"] == target) & (done["predictor"] == name)]
            for quantity, look in (
                ("error", {"marker": "o", "ms": 3, "label": label}),
                ("predicted_error", {"ls": ":"}),
            ):
                found = chosen[chosen["quantity"] == quantity].groupby("step")["value"].mean()
                axes.plot(found.index.astype(float), found, color=f"C{i}", **look)
        axes.set(xscale="log", yscale="log", ylim=(1e-3, 2), xlabel="inputs learned from", title=title)
    panels[0].set_ylabel("test error / variance")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
