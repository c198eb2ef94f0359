"""The risk of linear attention fitted in closed form, by the diversity of its tasks, against its limit.

    python paper_figs/linear_attention_diversity.py [runs/lu2024_diversity [picture.png]]

After Lu et al. 2024 (arXiv 2405.11751). The exact risk on the task vectors of the training and on new ones against
κ = task vectors / d, one panel for each d; the dashed line joins values of the limit d → ∞ for new ones.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "lu2024_diversity"
D, SIZE = "task.base.d", "task.size"
CURVES = {  # distribution, predictor: how it is drawn
    ("new_tasks", "transformer"): {"label": "new tasks", "color": "C0", "marker": "o"},
    ("own", "transformer"): {"label": "tasks of the training", "color": "C1", "marker": "s"},
    ("new_tasks", "asymptotic_theory"): {"label": "new tasks, d → ∞", "color": "black", "ls": "--", "marker": "_"},
}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    missing = [f"{key} was not swept" for key in (D, SIZE) if key not in done]
    refuse("nothing to draw", ["no run is done"] if done.empty else missing)
    done = done[done["quantity"] == "exact_risk"].assign(kappa=done[SIZE] / done[D])
    dims = sorted(done[D].unique())
    figure, panels = plt.subplots(1, len(dims), figsize=(3.3 * len(dims), 3.1), sharey=True, squeeze=False)
    for axes, d in zip(panels[0], dims, strict=True):
        for (distribution, predictor), look in CURVES.items():
            chosen = done[(done[D] == d) & (done["distribution"] == distribution) & (done["predictor"] == predictor)]
            mean = chosen.groupby("kappa")["value"].mean()
            axes.plot(mean.index, mean, **look)
        axes.axvline(1, color="grey", lw=0.8, ls=":")
        axes.set(xscale="log", yscale="log", xlabel="κ = task vectors / d", title=f"d = {d}")
        axes.set_xticks(mean.index, [f"{kappa:g}" for kappa in mean.index])
        axes.xaxis.minorticks_off()
    panels[0][0].set_ylabel("risk")
    panels[0][-1].legend(fontsize="small")
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
