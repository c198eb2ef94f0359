"""A channel found in the weights: what the induction head reads of the previous-token head, and the effect of its
ablation.

    python paper_figs/channels.py [runs/channels [picture.png]]

After Elhage et al. 2021 (K-composition) and Merullo et al. 2024 (arXiv 2406.09519, Fig. 2, 7, 10, there GPT-2). Left:
of one head in each layer, the composition of each component with the reader's keys against what prefix matching loses
without it, one colour for each seed; the dotted line is chance, 1/√D. Middle: prefix matching without several
components at once, the strongest by composition first, or the weakest. Right: prefix matching after an edit of the
writer, or of a path from it into the reader, by the number of heads in a layer.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "channels"
EDITS = {
    "transformer": "as it is",
    "path_q": "mean ablation into queries",
    "path_k": "mean ablation into keys",
    "path_v": "mean ablation into values",
    "cut_random": "without a random direction",
    "cut_others": "without a component",
    "cut_top": "without the strongest",
    "keep_top": "the strongest alone",
    "keep_first": "the largest alone",
}


def draw(table):
    """A figure of the runs that are done; averaged over seeds but on the left."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.2), width_ratios=(1, 1, 1.2))
    single = done[done["model.n_head"].eq(1)]
    for seed, run in plots.by_seed(single):
        parts = {
            key: plots.rows(run, "component", f"edit_{key}_by_component").set_index("position")["value"]
            for key in ("composition", "drop")
        }
        left.plot(
            parts["composition"],
            parts["drop"],
            ls="",
            marker=".",
            label="components" if seed is None else f"seed {seed}",
        )
    chance = single[single["predictor"].eq("chance") & single["quantity"].eq("composition_K")]["value"].mean()
    left.axvline(chance, color="0.6", linestyle=":")
    for name, look in {"strongest": "C0", "weakest": "C3"}.items():
        lost = plots.rows(single, name, "edit_cut_several")
        middle.plot(lost["position"], lost["value"], marker="o", color=look, label=f"the {name} first")
    left.set(xlabel="composition with the reader's keys", ylabel="loss of prefix matching by ablation")
    left.set_ylim(min(0, left.get_ylim()[0]), None)
    middle.set(xlabel="ablated components", ylabel="prefix matching", ylim=(0, 1.03))
    for axes in (left, middle):
        axes.legend(fontsize=7)
    edits = done[done["quantity"].eq("edit_score") & done["predictor"].isin(EDITS)]
    shares = edits.pivot_table(index="predictor", columns="model.n_head", values="value")
    plots.heat(shares.loc[list(EDITS)].rename(index=EDITS), right, "{:.2f}".format, cmap="viridis", vmin=0, vmax=1)
    right.set_xlabel("heads in each layer")
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
