"""List recall: accuracy by length and by slot of the missing item.

    python paper_figs/laundry_list.py [runs/laundry_list [picture.png]]

After Merullo et al. 2024 (arXiv 2406.09519, Fig. 1, left, there GPT-2 on text). Left: accuracy against the length of
the list, over all tokens and among the listed items, with a guess among these; the dotted line is the longest list of
training. Right: accuracy by length and slot of the missing item.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "laundry_list"
LINES = {
    "accuracy": ("transformer", "transformer", {"color": "C0", "marker": "o"}),
    "accuracy_among_options": ("transformer", "… among the listed items", {"color": "C2", "marker": "s"}),
    "guess": ("chance", "a guess among these", {"color": "black", "linestyle": "--"}),
}


def draw(table):
    """A figure of the runs that are done, averaged over them."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    sized = plots.sized(done)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.1), width_ratios=(1, 1.2))
    for quantity, (predictor, label, look) in LINES.items():
        name = "accuracy" if quantity == "guess" else quantity
        plots.trend(sized, left, "items", [predictor], name, label=label, **look)
    left.axvline(10, color="0.6", linestyle=":")
    left.set(xlabel="items of the list", ylabel="accuracy", ylim=(0, 1.03))
    left.legend(fontsize=7)
    slots = sized[sized["quantity"].eq("accuracy") & sized["predictor"].eq("transformer") & sized["position"].notna()]
    shares = slots.pivot_table(index="items", columns="position", values="value")
    picture = right.imshow(shares.to_numpy(float), aspect="auto", cmap="viridis", vmin=0, vmax=1)
    right.set_yticks(range(len(shares)), shares.index.astype(int))
    right.set(xlabel="slot of the missing item", ylabel="items of the list")
    figure.colorbar(picture, ax=right, shrink=0.9, label="accuracy")
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
