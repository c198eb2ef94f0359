"""Random-feature attention and networks by their size, at a fixed number of inputs.

    python paper_figs/random_feature_heads.py [runs/random_feature_heads [picture.png]]

After Fu et al. 2023 (arXiv 2307.11353), with this project's settings. The relative test error, means over seeds; M
heads are compared with M (d + 1) neurons. Dotted, what theory says of infinitely many.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "random_feature_heads"
MODELS = {"transformer": "attention", "biased": "attention, biased", "network": "network"}
TARGETS = {"key_1": "⟨β, xᵢ⟩", "key_2": "⟨β, xᵢ⟩²", "correlation_1": "⟨x₀, xᵢ⟩"}
HEADS = "model.heads"


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, panels = plt.subplots(1, len(TARGETS), figsize=(8, 3), sharey=True)
    for (target, title), axes in zip(TARGETS.items(), panels, strict=True):
        chosen = done[done["distribution"] == target]
        for i, (name, label) in enumerate(MODELS.items()):
            for quantity, look in (("final_error", {"marker": "o", "ms": 3}), ("predicted_error", {"ls": ":"})):
                errors = chosen[(chosen["predictor"] == name) & (chosen["quantity"] == quantity)]
                errors = errors.groupby(HEADS)["value"].mean()
                if len(errors):
                    text = label if quantity == "final_error" else f"{label}, theory"
                    axes.plot(errors.index.astype(float), errors, color=f"C{i}", label=text, **look)
        axes.set(xscale="log", yscale="log", xlabel="heads M")
        axes.set_title(f"average of {title}", fontsize="small")
    panels[0].set_ylabel("test error / variance")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
