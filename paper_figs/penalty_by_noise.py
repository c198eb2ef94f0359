"""The penalty of ridge that a model has learned, by the noise of its labels.

    python paper_figs/penalty_by_noise.py [runs/akyurek2022_noise [picture.png]]

After Akyürek et al. 2022 (arXiv 2211.15661, Fig. 2): the squared difference of the model's answers from those of each
predictor, with few examples, in units of the least of its column. The frames are where theory wants the least.
"""

import matplotlib.pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "akyurek2022_noise"
ROWS = {
    "ols": "least squares",
    "ridge_1_16": "ridge, λ = 1/16",
    "ridge_1_9": "ridge, λ = 1/9",
    "ridge_1_4": "ridge, λ = 1/4",
    "ridge_4_9": "ridge, λ = 4/9",
}
KEYS = ["task.noise", "task.prior"]
COLUMNS = {(0.0, 1.0): "0", (0.25, 1.0): "1/16", (0.5, 1.5): "1/9", (0.5, 1.0): "1/4", (0.5, 0.75): "4/9"}


def draw(table):
    """A figure of the runs that are done."""
    done = table[(table["state"] == "done") & (table["quantity"] == "spd") & (table["region"] == "under")]
    missing = [key for key in KEYS if key not in done]
    refuse("nothing to draw", ["no run is done"] if done.empty else [f"{key} was not swept" for key in missing])
    found = done.groupby(["predictor", *KEYS])["value"].mean().unstack(KEYS)
    found = found.reindex(index=list(ROWS), columns=list(COLUMNS)).set_axis(list(COLUMNS.values()), axis=1)
    found = found.rename(index=ROWS)
    figure, axes = plt.subplots(figsize=(4.6, 2.9))
    plots.heat(found / found.min(), axes, lambda v: f"{v:.3g}", cmap="viridis_r", norm=LogNorm(1, 30))
    for i in range(len(ROWS)):
        axes.add_patch(Rectangle((i - 0.48, i - 0.46), 0.96, 0.92, fill=False, edgecolor="#bd1f01", linewidth=2))
    axes.set(xlabel="(noise / weights)² of the labels", title="E (model − predictor)², column minimum = 1")
    return figure


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
