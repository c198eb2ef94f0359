"""The smallest model that is nearer to least squares than to ridge, by dimension.

    python paper_figs/smallest_model.py [runs/akyurek2022_smallest [picture.png]]

After Akyürek et al. 2022 (arXiv 2211.15661, Fig. 8). How much nearer a model is to least squares than to ridge, over 1
to d − 1 examples: left against its depth, right against its width, the other size being fixed. Above zero a model is
large enough. All models have one head.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "akyurek2022_smallest"
SIZES = {"model.n_layer": "layers", "model.d_model": "width"}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    missing = [key for key in ("task.d", *SIZES) if key not in done]
    refuse("nothing to draw", ["no run is done"] if done.empty else [f"{key} was not swept" for key in missing])
    usual = {key: done.groupby("run")[key].first().mode().max() for key in SIZES}
    figure, panels = plt.subplots(1, 2, figsize=(6.6, 2.9), sharey=True)
    for axes, (key, name) in zip(panels, SIZES.items(), strict=True):
        (other,) = (each for each in SIZES if each != key)
        for d in sorted(done["task.d"].unique()):
            where = {"region": "fewer", "task.d": d, other: usual[other]}
            plots.trend(done, axes, key, ["ols"], "spd_margin", where, label=f"d = {d}")
        axes.axhline(0.0, color="black", linewidth=0.8, linestyle=":")
        axes.set(xlabel=name, ylabel="", title=f"{SIZES[other]} {usual[other]}")
        axes.set_xscale("log", base=2)
        axes.legend(fontsize=7)
    panels[0].set_ylabel("nearer to least squares")
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
