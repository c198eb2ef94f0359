"""The distance of trained models to dMMSE and to ridge by the size of the training pool.

    python paper_figs/pool_diversity.py runs/raventos2023_diversity [picture.png]

After Raventós et al. 2023 (arXiv 2306.15063, Fig. 2): squared differences of answers relative to the Bayes risk, with
weight vectors from the pool (left) and from the true prior (right). Below the threshold a model is near the Bayes
predictor of its pool, above it near ridge.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

KEY = "task.size"
PANELS = {"own": ("on the pool", "bayes"), "true_prior": ("on the true prior", "trained_bayes")}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [] if KEY in done else [f"{KEY} was not swept"])
    figure, panels = plt.subplots(1, 2, figsize=(6.6, 2.9), sharey=True)
    for axes, (distribution, (title, memory)) in zip(panels, PANELS.items(), strict=True):
        plots.trend(done, axes, KEY, [memory, "ridge"], "relative_spd", {"distribution": distribution})
        axes.set(title=title, xlabel="weight vectors in the pool", ylabel="", yscale="log")
        axes.set_xscale("log", base=2)
    panels[0].set_ylabel("distance / Bayes risk")
    lines = panels[0].get_lines()
    figure.legend(lines, ["dMMSE, the Bayes predictor of the pool", "ridge"], loc="outside lower center", ncols=2)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load)
