"""The distance of trained models to dMMSE and to ridge by the size of the training pool, and how it came about.

    python paper_figs/pool_diversity.py [runs/raventos2023_diversity [picture.png]]

After Raventós et al. 2023 (arXiv 2306.15063, Fig. 2 and 4): squared differences of answers relative to the Bayes risk,
with weight vectors from the pool (left) and from the true prior (middle). Below the threshold a model is near the Bayes
predictor of its pool, above it near ridge. Right: the same in training, on the pool, where the penalty of ridge is
fitted: a pool below the threshold is learned like any other at first, until the model goes over to dMMSE.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "raventos2023_diversity"
KEY = "task.size"
PANELS = {"own": ("on the pool", "bayes"), "true_prior": ("on the true prior", "trained_bayes")}
MEMORY, GENERAL = {"color": "black", "linestyle": "--"}, {"color": "C0", "linestyle": "-"}
POOLS = {4: "C1", 16: "C2", 64: "C4", 1024: "C5"}  # shown in training, where they were swept


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [] if KEY in done else [f"{KEY} was not swept"])
    figure, panels = plt.subplots(1, 3, figsize=(9.2, 3.1))
    for axes, (distribution, (title, memory)) in zip(panels, PANELS.items(), strict=False):
        where = {"distribution": distribution}
        label = "dMMSE, the Bayes predictor of the pool"
        plots.trend(done, axes, KEY, [memory], "relative_spd", where, label=label, **MEMORY)
        plots.trend(done, axes, KEY, ["ridge"], "relative_spd", where, label="ridge", **GENERAL)
        axes.set(title=title, xlabel="weight vectors in the pool", ylabel="", yscale="log")
        axes.set_xscale("log", base=2)
    panels[0].set_ylabel("distance / Bayes risk")
    draw_training(done, panels[2])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def draw_training(done, axes):
    """Distances along the training curve for some pools: dashed to dMMSE, solid to ridge."""
    swept = [size for size in POOLS if size in set(done[KEY])] or sorted(set(done[KEY]))[:1]
    for size in swept:
        where, color = {KEY: size}, POOLS.get(size, "C1")
        look = {"marker": "", "color": color}
        plots.trend(done, axes, "step", ["bayes"], "evolution_distance", where, label="", linestyle="--", **look)
        plots.trend(done, axes, "step", ["ridge"], "evolution_distance", where, label=f"{size}", linestyle="-", **look)
    axes.set(title="in training, on the pool", xlabel="step", ylabel="", xscale="log", yscale="log")
    axes.legend(title="pool", fontsize=7, title_fontsize=7, loc="lower left")


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
