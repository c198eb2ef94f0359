"""Pointing at a slot of a list with keys of few dimensions: accuracy by length and by slot.

    python paper_figs/laundry_list_rank.py [runs/laundry_list_rank [picture.png]]

After Merullo et al. 2024 (arXiv 2406.09519, Fig. 5). Left: accuracy against the length of the list for each rank of the
keys; dashed, 2/N, the most that one dimension allows. Right: accuracy on the longest lists by slot of the missing item.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "laundry_list_rank"


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    sized = plots.sized(done)
    sized = sized.assign(keys=[named(*pair) for pair in zip(sized["model.rank"], sized["model.keys"], strict=True)])
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.1), width_ratios=(1, 1.1))
    ranked = sized.sort_values(["model.keys", "model.rank"], ascending=[False, True])
    names = list(dict.fromkeys(ranked["keys"]))
    for name in names:
        look = {"label": name, "color": f"C{names.index(name)}"}
        plots.trend(sized, left, "items", ["transformer"], "accuracy", {"keys": name}, **look)
    lengths = sorted(set(sized["items"]))
    left.plot(lengths, [2 / n for n in lengths], color="black", linestyle="--", label="2 / N")
    left.set(xlabel="items of the list", ylabel="accuracy", ylim=(0, 1.03))
    left.legend(fontsize=7)
    longest = sized[sized["items"].eq(lengths[-1]) & sized["quantity"].eq("accuracy") & sized["position"].notna()]
    longest = longest[longest["predictor"] == "transformer"]
    shares = longest.pivot_table(index="keys", columns="position", values="value").loc[names]
    plots.heat(shares, right, "{:.2f}".format, cmap="viridis", vmin=0, vmax=1)
    right.set(xlabel="slot of the missing item", title=f"{int(lengths[-1])} items")
    return figure


def named(rank, keys):
    """What keys are called."""
    return f"position, r = {rank}" if keys == "positional" else f"content, r = {rank}"


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
