"""Where a representation is computed, copied and used.

    python paper_figs/guo2023_representation.py [runs/guo2023_representation [picture.png]]

After Guo et al. 2023 (arXiv 2310.10616, Fig. 1 and 3). Left: the risk by examples, with ridge on the representation
(Bayes) and on x itself. Middle and right: R² of probes by layer, at tokens of x and of y. Dashed are the controls: what
is linear in x, and an unrelated representation.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "guo2023_representation"
RISKS = {
    "transformer": ("transformer", {"color": "C0", "zorder": 5}),
    "bayes": ("ridge on Φ* (Bayes)", {"color": "black", "linestyle": "--"}),
    "features_least_squares": ("least squares on Φ*", {"color": "C4"}),
    "raw_ridge_3": ("ridge on x, λ = 3", {"color": "C2"}),
}
TARGETS = {
    "representation": ("Φ*(x)", {"color": "C0", "marker": "o"}),
    "layer_1": ("its first layer", {"color": "C1", "marker": "s"}),
    "x": ("x", {"color": "C2", "marker": "^"}),
    "unrelated": ("an unrelated Φ(x)", {"color": "C3", "linestyle": "--", "marker": ""}),
    "bayes": ("the answer of ridge on Φ*", {"color": "black", "marker": "d"}),
}


def draw(table):
    """A figure of the runs that are done, averaged over seeds."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (risk, *panels) = plt.subplots(1, 3, figsize=(7.8, 3.4), width_ratios=(1.1, 1, 1))
    for name, (label, look) in RISKS.items():
        plots.curves(done, risk, [name], labels={name: label}, **look)
    risk.set(xlabel="examples in context", ylabel="risk", ylim=(0, 1.5), title="")
    risk.legend(fontsize="small")
    for axes, kind in zip(panels, "xy", strict=True):
        probes(done, axes, kind)
    panels[0].set(ylabel="R² on held-out prompts")
    panels[1].sharey(panels[0])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def probes(table, axes, kind):
    """R² by layer at one kind of tokens; what is linear in x is a horizontal line."""
    floor = table[(table["quantity"] == f"token_probe_{kind}_floor") & (table["predictor"] == "representation")]
    for name, (label, look) in TARGETS.items():
        if kind == "x" or name != "bayes":
            plots.trend(table, axes, "layer", [name], f"token_probe_{kind}", label=label, **look)
    axes.axhline(floor["value"].mean(), color="C0", linestyle="--", lw=1, label="Φ*(x), linearly from x")
    axes.set(title=f"tokens of {kind}", xlabel="after layer", ylabel="", ylim=(-0.1, 1.05))
    axes.xaxis.get_major_locator().set_params(integer=True)


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
