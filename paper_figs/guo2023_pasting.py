"""Frozen upper blocks with new input projections, on plain linear regression.

    python paper_figs/guo2023_pasting.py [runs/guo2023_pasting [picture.png]]

After Guo et al. 2023 (arXiv 2310.10616, Fig. 4). Left: the risk against the number of examples, at the cut that probes
choose, of the three input projections, of one layer alone and of a full model. Right: the risk relative to Bayes
against the cut, under the trained upper blocks and (dashed) under untrained ones.
"""

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "guo2023_pasting"
SLOPE = "task.representation.slope"
READ_INS = {"linear": "linear", "linear_copied": "linear, x copied", "one_layer": "one layer"}
COLORS = dict(zip(READ_INS, ("C0", "C1", "C2"), strict=True))
UPPER = {"trained": {"marker": "o"}, "untrained": {"marker": "x", "linestyle": "--"}}
OTHERS = {
    "bayes": ("Bayes", {"color": "black", "linestyle": ":"}),
    "full": ("full model", {"color": "C4"}),
    "one_layer_alone": ("one layer alone", {"color": "C3"}),
}


def draw(table):
    """A figure of the runs that are done, with a row for each slope of the leaky ReLU."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    rows = list(done.groupby(SLOPE, sort=False)) if SLOPE in done else [("", done)]
    figure, grid = plt.subplots(len(rows), 2, figsize=(6.8, 0.7 + 2.6 * len(rows)), squeeze=False)
    for (left, right), (slope, own) in zip(grid, rows, strict=True):
        panels(left, right, own)
        left.set(title=f"slope {slope}" if slope else "", ylabel="risk on linear regression", yscale="log")
        right.set(ylabel="risk / Bayes risk", ylim=(0.9, None))
    grid[-1, 0].set(xlabel="examples")
    grid[-1, 1].set(xlabel="removed lower blocks")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def panels(left, right, table):
    """Risk by examples, and relative risk by cut."""
    for name, label in READ_INS.items():
        line(left, examples(table, name), "position", label=label, color=COLORS[name])
        for ending, look in zip(("", "_untrained"), UPPER.values(), strict=True):
            line(right, by_cut(table, f"{name}{ending}"), "layer", color=COLORS[name], **look)
    for name, (label, look) in OTHERS.items():
        line(left, examples(table, name), "position", label=label, **look)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend([Line2D([], [], color="gray", **look) for look in UPPER.values()], UPPER)


def examples(table, name):
    """The risk by number of examples, at the chosen cut or without one."""
    found = table[(table["predictor"] == name) & (table["quantity"] == "pasting_risk") & table["layer"].isna()]
    return found[found["position"].notna()]


def by_cut(table, name):
    """The risk relative to Bayes at every cut."""
    found = table[(table["predictor"] == name) & (table["quantity"] == "pasting_risk_ratio")]
    return found[found["layer"].notna() & (found["region"] == "mean")]


def line(axes, found, along, **look):
    """Values along a column, the mean over seeds, with two standard errors over prompts."""
    refuse("table", [f"no rows of pasting for {look.get('label', along)!r}"] if found.empty else [])
    values = found.groupby(found[along].astype(int))[["value", "stderr"]].mean()
    x, y, error = values.index, values["value"].astype(float), values["stderr"].astype(float)
    (drawn,) = axes.plot(x, y, **look)
    axes.fill_between(x, y - 2 * error, y + 2 * error, color=drawn.get_color(), alpha=0.2, lw=0)


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
