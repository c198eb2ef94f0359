"""How exact constructions are in float64, float32 and bfloat16, as they grow.

    iclab precision && python paper_figs/precision.py [runs/precision [picture.png]]

One panel for each construction and what grows in it. A precision that a construction refuses at all sizes is named in
its panel.
"""

import json

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import NullLocator

from iclab import plots
from iclab.errors import refuse

STUDY = "precision"  # no task file: what the command measures
LOOKS = {"bfloat16": "C1", "float32": "C0", "float64": "black"}


def load(source):
    """The table that `iclab precision` wrote to a folder, or that was kept."""
    path = source / "precision.json" if source.is_dir() else source
    refuse("load", [] if path.is_file() else [f"{path}: no such file; `iclab precision --out {path.parent}` makes it"])
    content = json.loads(path.read_text())
    return pd.DataFrame(content["rows"] if isinstance(content, dict) else content)


def draw(table):
    """One panel for each ladder."""
    refuse("nothing to draw", ["the table is empty"] if table.empty else [])
    ladders = list(table.groupby(["construction", "key"], sort=False))
    rows = -(-len(ladders) // 3)
    figure, panels = plt.subplots(rows, 3, figsize=(7.2, 2.5 * rows), squeeze=False, sharey=True)
    for axes, ((name, key), ladder) in zip(panels.flat, ladders, strict=False):
        panel(axes, ladder)
        axes.set_title(name.replace(" (", "\n("), fontsize=8)
        axes.set(xlabel=key, yscale="log")
    for axes in panels.flat[len(ladders) :]:
        axes.remove()
    for axes in panels[:, 0]:
        axes.set_ylabel("relative error")
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def panel(axes, ladder):
    """Error against size, a line for each precision."""
    for dtype, color in LOOKS.items():
        found = ladder[ladder["dtype"] == dtype].dropna(subset=["error"])
        if len(found):
            axes.plot(found["size"], found["error"], marker="o", markersize=3, color=color, label=dtype)
        else:
            axes.text(0.5, 0.93, f"{dtype}: refused", transform=axes.transAxes, ha="center", fontsize=7, color=color)
    sizes = sorted(ladder["size"].unique())
    axes.set(xscale="log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())


if __name__ == "__main__":
    plots.command(__doc__, draw, load, STUDY)
