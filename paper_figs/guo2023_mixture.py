"""Several representations, of which each prompt has one: the risk, and the encoding of the others.

    python paper_figs/guo2023_mixture.py [runs/guo2023_mixture [picture.png]]

After Guo et al. 2023 (arXiv 2310.10616, App. E). Left: the risk by examples. Middle: R² of Φ*_k(x) at tokens of x by
layer, for the k of the prompt (solid) and the others (dashed). Right: the same for the predictions of ridge on Φ*_k.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "guo2023_mixture"
RISKS = {
    "transformer": ("transformer", {"color": "C0", "zorder": 5}),
    "bayes": ("Bayes: average of three ridges", {"color": "black", "linestyle": "--"}),
    "oracle": ("ridge on the true one", {"color": "0.6", "linestyle": ":"}),
    "half_split": ("hold-out selection", {"color": "C1"}),
    "concatenated_ridge": ("ridge on all side by side", {"color": "C2"}),
}
PANELS = {
    "representations Φ*_k(x)": {"true_representation": "C0", "other_representation": "C1", "unrelated": "C3"},
    "predictions of ridge on Φ*_k": {"true_ridge": "C0", "other_ridge": "C1", "bayes": "black"},
}
NAMES = {
    "true": "of the prompt's own k",
    "other": "of the others",
    "unrelated": "unrelated Φ",
    "bayes": "Bayes average",
}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (risk, *panels) = plt.subplots(1, 3, figsize=(7.8, 3.3), width_ratios=(1.1, 1, 1))
    for name, (label, look) in RISKS.items():
        plots.curves(done, risk, [name], labels={name: label}, **look)
    risk.set(xlabel="examples in context", ylabel="risk", yscale="log", title="")
    risk.legend(fontsize="small")
    for axes, (title, targets) in zip(panels, PANELS.items(), strict=True):
        for name, color in targets.items():
            look = {"color": color, "linestyle": "-" if name.startswith(("true", "bayes")) else "--"}
            label = NAMES[name.split("_")[0]]
            plots.trend(done, axes, "layer", [name], "token_probe_x", label=label, **look)
        axes.set(title=title, xlabel="after layer", ylabel="", ylim=(-0.1, 1.05))
        axes.legend(fontsize="small")
    panels[0].set(ylabel="R² at tokens of x")
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
