"""The smallest model that is nearer to least squares than to ridge, by dimension.

    python paper_figs/smallest_model.py runs/akyurek2022_smallest [picture.png]

After Akyürek et al. 2022 (arXiv 2211.15661, Fig. 8). Each field is a model in which one size is varied: how much nearer
it is to least squares than to ridge, in standard errors of that difference, with half as many examples as dimensions.
"""

import matplotlib.pyplot as plt

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "akyurek2022_smallest"
SIZES = {"model.n_layer": "layers", "model.d_model": "width", "model.n_head": "heads"}


def draw(table):
    """A figure of the runs that are done."""
    done = table[(table["state"] == "done") & (table["quantity"] == "spd_margin") & (table["predictor"] == "ols")]
    missing = [key for key in ("task.d", *SIZES) if key not in done]
    refuse("nothing to draw", ["no run is done"] if done.empty else [f"{key} was not swept" for key in missing])
    done = done[done["position"] == done["task.d"] // 2]
    usual = {key: done[key].mode().max() for key in SIZES}
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 2.3), width_ratios=[4, 3, 2])
    for axes, (key, name) in zip(panels, SIZES.items(), strict=True):
        others = [other for other in SIZES if other != key]
        cells = done[(done[others] == [usual[other] for other in others]).all(axis=1)]
        margins = cells.assign(score=cells["value"] / cells["stderr"]).groupby(["task.d", key])["score"].mean()
        plots.heat(margins.unstack(), axes, lambda v: f"{v:+.0f}", cmap="PuOr", vmin=-30, vmax=30)
        rest = ", ".join(f"{SIZES[other]} {usual[other]}" for other in others)
        axes.set(xlabel=name, title=rest)
    panels[0].set_ylabel("dimensions of the input")
    figure.suptitle("nearer to least squares (+) or to ridge (−), in standard errors", fontsize=9)
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load)
