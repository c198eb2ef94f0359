"""Mechanisms of list recall: difference of two bags, or a name-mover head.

    python paper_figs/laundry_list_mechanism.py [runs/laundry_list [picture.png]]

Left: of each head, at the end of lists of ten items: its weight on the list and on what is named again, how often it is
largest on the missing item beyond a guess among ten, and the accuracy that is lost if it writes what it writes in
another prompt (first seed). Middle: the logit of an item by how often it stands in either list, above that of one that
stands in neither. Right: how much of the logits is explained by counts of items where an item can be listed
twice, or named and not listed: two bags subtracted, one set without the other, and any function of the two counts.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "laundry_list"
COLUMNS = {
    "mechanism_first": "on the\nlist",
    "mechanism_second": "on the\nnamed",
    "mechanism_hit": "finds it,\nover 1/10",
    "mechanism_resample": "loss\nwithout",
}
FITS = {
    "any_of_counts": ("any function of the counts", {"color": "black", "linestyle": "--", "marker": ""}),
    "subtraction": ("bags subtracted", {"color": "C0"}),
    "set_difference": ("set difference", {"color": "C3", "marker": "s"}),
}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.6), width_ratios=(1.1, 0.7, 1.1))
    _, first = plots.by_seed(done)[0]
    first = first[first["distribution"].eq("10_items")]
    heads = first[first["quantity"].isin(COLUMNS)].pivot_table(index="predictor", columns="quantity", values="value")
    heads = heads[list(COLUMNS)].rename(columns=COLUMNS).rename(index=lambda name: name.replace("_", " "))
    heads[COLUMNS["mechanism_hit"]] -= 0.1
    plots.heat(heads, left, "{:.2f}".format, cmap="RdBu", vmin=-1, vmax=1)
    left.set_title("at the end of ten items", fontsize=9)
    logits = done[done["distribution"].eq("10_items") & done["quantity"].eq("mechanism_fit_apart_logit")]
    counts = logits["predictor"].str.extract(r"listed_(?P<listed>\d)_named_(?P<named>\d)").join(logits["value"])
    table = counts.pivot_table(index="listed", columns="named", values="value")
    plots.heat(table.rename(index="listed {}".format), middle, "{:.1f}".format, cmap="RdBu", vmin=-12, vmax=12)
    middle.set_xlabel("named")
    middle.set_title("logit, by counts", fontsize=9)
    sized = plots.sized(done)
    for name, (label, look) in FITS.items():
        plots.trend(sized, right, "items", [name], "mechanism_fit_apart", label=label, **look)
    right.axvline(10, color="0.6", linestyle=":")
    right.set(xlabel="items of the list", ylabel="R² of the logits, counts apart", ylim=(None, 1.03))
    right.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
