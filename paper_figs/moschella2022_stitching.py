"""The lower blocks of one model under the upper blocks of another.

    python paper_figs/moschella2022_stitching.py [runs/moschella2022_stitching [picture.png]]

After Moschella et al. 2022 (arXiv 2209.15430), Bansal et al. 2021 (arXiv 2106.07682) and Kornblith et al. 2019 (arXiv
1905.00414). Left and middle: the excess risk against the cut, under a model of another seed and one that was trained
with other noise, by bridge; dashed the same bridge to lower blocks that are untrained, dotted to the partner's own.
Right: linear CKA of the layers of two seeds.
"""

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

import iclab
from iclab import plots
from iclab.errors import refuse

STUDY = "moschella2022_stitching"
PARTNERS = {"other_seed": "another seed", "other_noise": "another noise"}
BRIDGES = {
    "direct": "none",
    "affine": "affine, fitted",
    "trained": "affine, trained",
    "relative": "relative, reader fitted",
    "relative_trained": "relative, reader trained",
}
COLORS = dict(zip(BRIDGES, ("C3", "C0", "C1", "C4", "C2"), strict=True))
CONTROLS = {"affine": "untrained", "trained": "untrained", "relative": "own", "relative_trained": "own"}
STYLES = {"untrained": "--", "own": ":"}


def draw(table):
    """A figure of the runs that are done."""
    done = table[table["state"] == "done"]
    refuse("nothing to draw", ["no run is done"] if done.empty else [])
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.2))
    for axes, (partner, label) in zip((left, middle), PARTNERS.items(), strict=True):
        for bridge, color in COLORS.items():
            line(axes, done, f"{partner}_{bridge}", label=BRIDGES[bridge], color=color, marker="o")
            if bridge in CONTROLS:
                control = CONTROLS[bridge]
                line(axes, done, f"{partner}_{bridge}_{control}", color=color, linestyle=STYLES[control])
        axes.set(title=f"under a model of {label}", xlabel="blocks below", yscale="log")
        axes.xaxis.get_major_locator().set_params(integer=True)
    left.set(ylabel="excess over Bayes / Bayes risk")
    left.legend([Line2D([], [], color="gray", linestyle=style) for style in STYLES.values()], STYLES)
    similar(figure, right, done)
    handles, labels = left.get_legend_handles_labels()
    named = [(h, text) for h, text in zip(handles, labels, strict=True) if text in BRIDGES.values()]
    figure.legend(*zip(*named, strict=True), loc="outside lower center", ncols=5)
    return figure


def line(axes, table, name, **look):
    """The excess at every cut, the mean over seeds, with two standard errors over prompts."""
    found = table[(table["predictor"] == name) & (table["quantity"] == "stitching_excess")]
    found = found[found["layer"].notna()]
    refuse("table", [f"no rows of stitching for {name!r}"] if found.empty else [])
    values = found.groupby(found["layer"].astype(int))[["value", "stderr"]].mean()
    x, y, error = values.index, values["value"].astype(float), values["stderr"].astype(float)
    (drawn,) = axes.plot(x, y, **look)
    axes.fill_between(x, y - 2 * error, y + 2 * error, color=drawn.get_color(), alpha=0.2, lw=0)


def similar(figure, axes, table):
    """CKA of all pairs of layers, the mean over seeds."""
    found = table[(table["predictor"] == "other_seed") & (table["quantity"] == "cka")]
    square = found.assign(place=found["position"].astype(int)).pivot_table("value", "layer", "place")
    image = axes.imshow(square.astype(float), origin="lower", vmin=0, vmax=1)
    axes.set(title="CKA, two seeds", xlabel="layer of the other model", ylabel="layer")
    axes.grid(False)
    figure.colorbar(image, ax=axes)


if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
