"""Reach of the keys of a pointing model, with its accuracy and with untrained keys.

    python paper_figs/laundry_list_reach.py [runs/laundry_list_rank [picture.png]]

After Merullo et al. 2024 (arXiv 2406.09519, Fig. 5, middle), where areas of a plane of signals lead to items of a list.
Left: the shares of directions that lead to the slots of the longest lists, the largest first, a line for each run;
dashed, keys that are a smooth curve of the slot, dotted, keys around a circle. Middle: the smallest share against the
length of the list, averaged over runs. Right: accuracy of a slot against its share, for every run and length.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "laundry_list_rank"
SHOWN = (1, 2, 3)
REFERENCES = {"legendre": {"linestyle": "--"}, "circle": {"linestyle": ":"}}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"].eq("done") & table["model.keys"].eq("positional")]
    refuse("nothing to draw", ["no run with positional keys is done"] if done.empty else [])
    sized = plots.sized(done)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.0))
    ranks = sorted(set(sized["model.rank"]))
    for rank in ranks:
        one, color = sized[sized["model.rank"] == rank], f"C{ranks.index(rank)}"
        if rank in SHOWN:
            ordered(left, one[one["items"] == sized["items"].max()], rank, color)
            crowding(middle, one, color)
        slots = by_slot(one[one["predictor"] == "transformer"])
        right.plot(slots["reach"], slots["accuracy"], "o", color=color, alpha=0.5, label=f"r = {rank}")
    longest = int(sized["items"].max())
    left.set(xlabel=f"slots of {longest}, by reach", ylabel="reachable fraction", ylim=(-0.02, 0.55))
    middle.set(xlabel="items of the list", ylabel="smallest reachable fraction", ylim=(-0.02, 0.55))
    right.set(xlabel="reachable fraction", ylabel="accuracy of the slot", ylim=(-0.03, 1.03))
    middle.set_title("dashed: keys on a smooth curve, dotted: on a circle", fontsize=7)
    left.legend(fontsize=7)
    right.legend(fontsize=7)
    return figure


def ordered(axes, one, rank, color):
    """The shares of a rank's slots in falling order: learned in each run, and of the references."""
    shares = one[one["quantity"].eq("reach") & one["position"].notna()]
    label = f"r = {rank}"
    for (predictor, _), each in shares.groupby(["predictor", "run"]):
        values = sorted(each["value"], reverse=True)
        look = REFERENCES.get(predictor, {"marker": "o", "alpha": 0.7})
        axes.plot(range(1, len(values) + 1), values, color=color, **look, label=label if "marker" in look else "")
        label = "" if "marker" in look else label


def crowding(axes, one, color):
    """The smallest share by length of the list."""
    for predictor in ("transformer", *REFERENCES):
        if predictor in set(one["predictor"]):
            look = {"label": "", "color": color, "marker": "", **REFERENCES.get(predictor, {"marker": "o"})}
            plots.trend(one, axes, "items", [predictor], "reach_least", **look)


def by_slot(one):
    """Reach and accuracy of each slot of each run."""
    chosen = one[one["quantity"].isin(["reach", "accuracy"]) & one["position"].notna()]
    return chosen.pivot_table(index=["run", "items", "position"], columns="quantity", values="value").dropna()


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
