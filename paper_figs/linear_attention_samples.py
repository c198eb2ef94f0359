"""The in-context risk of linear attention fitted in closed form, by the number of prompts, against its limit.

    python paper_figs/linear_attention_samples.py [runs/lu2024_samples [picture.png]]

After Lu et al. 2024 (arXiv 2405.11751). Left: the exact risk on new task vectors against τ = prompts / d²; the dashed
line joins values of the limit d → ∞, which is infinite at τ = 1. Right: how far the risk is from the limit, by d.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "lu2024_samples"
D, PROMPTS = "task.base.d", "train.prompts"
SHOWN = [0.5, 2.0, 8.0]  # the τ of the panel on the right


def series(table, axes, key, predictor, quantity, **look):
    """A quantity on new task vectors against a column, as the mean over runs."""
    chosen = table[(table["predictor"] == predictor) & (table["quantity"] == quantity)]
    mean = chosen.groupby(key)["value"].mean()
    axes.plot(mean.index.astype(float), mean, **look)


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    missing = [f"{key} was not swept" for key in (D, PROMPTS) if key not in done]
    refuse("nothing to draw", ["no run is done"] if done.empty else missing)
    done = done[done["distribution"] == "new_tasks"].assign(tau=done[PROMPTS] / done[D] ** 2)
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.1))
    dims = sorted(done[D].unique())
    for i, d in enumerate(dims):
        look = {"label": f"d = {d}", "marker": "o", "color": f"C{i}"}
        series(done[done[D] == d], left, "tau", "transformer", "exact_risk", **look)
    for side, part in (("d → ∞", done[done["tau"] < 1]), (None, done[done["tau"] > 1])):
        series(part, left, "tau", "asymptotic_theory", "exact_risk", label=side, color="black", ls="--", marker="_")
    left.axvline(1, color="grey", lw=0.8, ls=":")
    left.set(xscale="log", yscale="log", xlabel="τ = prompts / d²", ylabel="risk on new tasks", title="double descent")
    left.set_xticks(taus := sorted(done["tau"].unique()), [f"{tau:g}" for tau in taus])
    left.xaxis.minorticks_off()
    for i, tau in enumerate(t for t in SHOWN if t in set(done["tau"])):
        part = done[done["tau"] == tau]
        look = {"label": f"τ = {tau:g}", "marker": "s", "color": f"C{i + 4}"}
        series(part, right, D, "transformer", "theory_gap", **look)
    right.set(xscale="log", yscale="log", xlabel="d", ylabel="risk / limit − 1", title="distance to the limit")
    right.set_xticks(dims, [str(d) for d in dims])
    right.xaxis.minorticks_off()
    for axes in (left, right):
        axes.legend(fontsize="small")
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
