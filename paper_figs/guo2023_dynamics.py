"""A dynamical system with a representation of its last states.

    python paper_figs/guo2023_dynamics.py [runs/guo2023_dynamics [picture.png]]

After Guo et al. 2023 (arXiv 2310.10616, Fig. 5). Left: the risk by states seen, per coordinate of the next state.
Middle and right: R² of probes of states and of representations before the present one, by layer.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "guo2023_dynamics"
RISKS = {
    "transformer": ("transformer", {"color": "C0", "zorder": 5}),
    "bayes": ("ridge on Φ* (Bayes)", {"color": "black", "linestyle": "--"}),
    "ridge": ("ridge on the state", {"color": "C2"}),
}
PANELS = {
    "states": {"x": "present", "x_1": "one before", "x_2": "two before"},
    "representations": {
        "representation": "present",
        "representation_1": "one before",
        "representation_2": "two before",
        "unrelated": "unrelated",
    },
}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (risk, *panels) = plt.subplots(1, 3, figsize=(7.8, 3.1), width_ratios=(1.1, 1, 1))
    for name, (label, look) in RISKS.items():
        plots.curves(done, risk, [name], labels={name: label}, **look)
    risk.set(xlabel="states in context", ylabel="risk per coordinate", ylim=(0, 2), title="")
    risk.legend(fontsize="small")
    for axes, (title, targets) in zip(panels, PANELS.items(), strict=True):
        for i, (name, label) in enumerate(targets.items()):
            look = {"color": f"C{i}", "linestyle": "--" if name == "unrelated" else "-"}
            plots.trend(done, axes, "layer", [name], "token_probe_x", label=label, **look)
        axes.set(title=title, xlabel="after layer", ylabel="", ylim=(-0.1, 1.05))
        axes.legend(fontsize="small")
    panels[0].set(ylabel="R² on held-out prompts")
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
