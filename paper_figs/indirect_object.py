"""Indirect-object identification: trained and held-out pairs of names, by layers and heads.

    python paper_figs/indirect_object.py [runs/indirect_object [picture.png]]

After Wang et al. 2022 (arXiv 2211.00593, there GPT-2 on text). Each dot is a run. Left: accuracy on pairs of names as
in training; right: on pairs that were held out. The dashed line is a guess between the two names.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "indirect_object"
PANELS = {"own": "pairs as in training", "new": "pairs held out"}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, panels = plt.subplots(1, 2, figsize=(6.8, 3.0), sharey=True)
    means = done[
        done["predictor"].eq("transformer")
        & done["quantity"].eq("accuracy")
        & done["region"].eq("mean")
        & done["layer"].isna()
    ]
    shapes = sorted({*zip(means["model.n_layer"], means["model.n_head"], strict=True)})
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        for place, (layers, heads) in enumerate(shapes):
            chosen = means[means["model.n_layer"].eq(layers) & means["model.n_head"].eq(heads)]
            values = chosen.loc[chosen["distribution"].eq(name), "value"]
            axes.plot([place] * len(values), values, "o", color=f"C{place}", alpha=0.7)
        axes.axhline(0.5, color="black", linestyle="--", linewidth=0.8)
        axes.set_xticks(range(len(shapes)), [f"{layers}×{heads}" for layers, heads in shapes])
        axes.set(xlabel="layers × heads", ylim=(0, 1.03), title=title)
    panels[0].set_ylabel("accuracy")
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
