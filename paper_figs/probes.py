"""What is written in the layers, and at which tokens.

    python paper_figs/probes.py [runs/akyurek2022_probes [picture.png]]

After Akyürek et al. 2022 (arXiv 2211.15661, Fig. 4 and 5). Left and middle: R² on held-out prompts of probes that
attend to all tokens, for Xᵀy / i and for the least-squares weights, by layer, averaged over numbers of examples;
controls are dashed. Right: where the MLP probes of the best layer look, after 1, 2, 4, … examples.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "akyurek2022_probes"
TARGETS = {"moment": "Xᵀy / i", "least_squares": "least squares"}
HEADS = {"linear": "linear probe", "mlp": "MLP probe"}
PLACE = {"distribution": "fresh_w"}
SOURCES = {  # the task trained on, the ending of the quantity, the look
    "model": ("LinearRegression", "", {"color": "C0", "marker": "o", "zorder": 5}),
    "trained with one w": ("FinitePool", "", {"color": "C2", "linestyle": "--"}),
    "untrained": ("LinearRegression", "_untrained", {"color": "C1", "linestyle": "--"}),
    "bare prompt": ("LinearRegression", "_bare", {"color": "black", "linestyle": "--"}),
}


def rows(table, **wanted):
    """The rows with these entries."""
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def by_layer(table, axes, target, head):
    """R² of the model and of its controls."""
    for label, (task, control, look) in SOURCES.items():
        where, quantity = {"task.kind": task, **PLACE}, f"attention_probe_{head}{control}"
        if control == "_bare":  # a prompt has no layers
            found = rows(table, predictor=target, quantity=quantity, region="mean", **where)
            axes.axhline(found["value"].mean(), label=label, **look)
        elif task in set(table["task.kind"]):
            plots.trend(table, axes, "layer", [target], quantity, where, label=label, **{"marker": "", **look})
    axes.set(xlabel="", ylabel="", ylim=(min(-0.05, *axes.get_ylim()), 1.05))


def attention(table, axes, target):
    """Where the MLP probes of the best layer look."""
    name = "attention_probe_mlp_looks_"
    looks = rows(table, predictor=target, **{"task.kind": "LinearRegression"}, **PLACE)
    looks = looks[looks["quantity"].str.startswith(name)]
    looks = looks.assign(examples=looks["quantity"].str.removeprefix(name).astype(int), token=looks["position"])
    looks = looks[looks["run"] == looks["run"].iloc[0]]
    shares = looks.pivot_table(index="examples", columns="token", values="value")
    picture = axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
    axes.set_yticks(range(len(shares)), shares.index)
    ticks = range(1, shares.shape[1], max(2, 2 * (shares.shape[1] // 12)))
    axes.set_xticks(ticks, [f"y$_{{{token // 2}}}$" for token in ticks])
    axes.set(ylabel="examples", title=f"attention of the MLP probe, layer {int(looks['layer'].iloc[0])}")
    axes.figure.colorbar(picture, ax=axes, shrink=0.9)


def draw(table):
    """A figure of the runs that are done; the attention is that of the first seed."""
    done = table[table["state"] == "done"]
    known = "task.kind" in done and (done["task.kind"] == "LinearRegression").any()
    refuse("nothing to draw", [] if known else ["no run of a model trained with fresh weights is done"])
    figure, panels = plt.subplots(2, 3, figsize=(7.4, 4.2), width_ratios=(1, 1, 1.5), sharex="col")
    for (target, name), line in zip(TARGETS.items(), panels, strict=True):
        for (head, title), axes in zip(HEADS.items(), line[:2], strict=True):
            by_layer(done, axes, target, head)
            axes.set(title=f"{name}, {title}")
        line[0].set(ylabel="R² on held-out prompts")
        line[1].sharey(line[0])
        attention(done, line[2], target)
    for axes in panels[1, :2]:
        axes.set(xlabel="after layer")
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[1, 2].set(xlabel="token")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
