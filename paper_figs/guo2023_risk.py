"""Representations of other depths and widths, other noise: the risk, and the layer of the representation.

    python paper_figs/guo2023_risk.py [runs/guo2023_risk [picture.png]]

After Guo et al. 2023 (arXiv 2310.10616, Fig. 2): the risk of models (lines) and of ridge on the representation (thin,
dashed: Bayes) by examples, for several depths L, widths D and levels of noise. Right: how much of Φ* is written at
tokens of x by layer, above what is linear in x, for each depth L.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "guo2023_risk"
AXES = {"task.representation.depth": "L", "task.representation.width": "D", "task.noise": "noise"}


def draw(table):
    """A figure of the runs that are done; what is not varied in a panel is as in the first run of the file."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    base = {key: done[key].mode().iloc[0] for key in AXES}  # one is varied at a time
    figure, (*risks, layers) = plt.subplots(1, 4, figsize=(9.6, 3.1))
    for axes, key in zip(risks, AXES, strict=True):
        panel(done, axes, key, {k: v for k, v in base.items() if k != key})
    rest = {k: v for k, v in base.items() if k != "task.representation.depth"}
    for i, depth in enumerate(values(done, "task.representation.depth", rest)):
        where = {**rest, "task.representation.depth": depth}
        plots.trend(done, layers, "layer", ["representation"], "token_probe_x_above_floor", where,
                    label=f"L = {depth:g}", color=f"C{i}")  # fmt: skip
    risks[0].set(ylabel="risk")
    layers.set(title="", xlabel="after layer", ylabel="R² of Φ*(x), above linear in x")
    layers.legend(fontsize="small")
    return figure


def values(table, key, rest):
    """The values of a setting among the runs with the rest of the settings."""
    for name, value in rest.items():
        table = table[table[name] == value]
    return sorted(table[key].unique())


def panel(table, axes, key, rest):
    """Risks for all values of one setting."""
    for i, value in enumerate(values(table, key, rest)):
        where = {**rest, key: value}
        label = f"{AXES[key]} = {value:g}"
        plots.curves(table, axes, ["transformer"], where=where, labels={"transformer": label}, color=f"C{i}")
        optimum = plots.rows(table, "bayes", "risk", where)
        axes.plot(optimum["position"], optimum["value"], color=f"C{i}", lw=1, linestyle="--", label="_Bayes")
    axes.set(xlabel="examples in context", ylabel="", yscale="log", title="")
    axes.legend(fontsize="small")


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
