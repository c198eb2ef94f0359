"""Pictures of result tables: a tidy table and axes go in, axes come out. All that is computed here are means over runs,
so that a table of several seeds gives one curve.

with plots.style():
    figure, axes = plt.subplots()
    plots.curves(table, axes, ["transformer", "bayes"])
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from itertools import cycle, islice
from math import nan
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from iclab.algorithm_names import short
from iclab.errors import UsageError, refuse, unknown

DASHES = ("solid", "dashed", "dotted", "dashdot")
OWN = ("layer", "step")  # columns that hold something only for a part of a model, or for a model on the way
DIGITS: Any = {"float_kind": lambda value: f"{value:.4g}"}
STYLE = Path(__file__).with_name("style.mplstyle")

# One look for each predictor in every figure.
LOOKS: Mapping[str, Mapping[str, Any]] = {
    "transformer": {"color": "C0", "marker": "o", "zorder": 5},
    "bayes": {"color": "black", "linestyle": "--", "zorder": 6},
    "trained_bayes": {"color": "black", "linestyle": "--", "zorder": 6},
    "ridge": {"color": "C9", "linestyle": ":"},
    "least_squares": {"color": "C2"},
    "gradient_descent": {"color": "C1"},
    "nearest_neighbours": {"color": "C4"},
    "averaging": {"color": "C5"},
    "lasso": {"color": "C6"},
    "greedy_tree": {"color": "C8"},
    "greedy_tree_of_signs": {"color": "0.2"},
    "boosted_trees": {"color": "C6"},
    "trained_network": {"color": "0.2"},
    "zero": {"color": "C3", "linestyle": "-."},
    "newton": {"color": "C8"},
    "landweber": {"color": "C7"},
}


def command(
    description: str, draw: Callable[[pd.DataFrame], Figure], load: Callable[[Path], pd.DataFrame], study: str
) -> None:
    """Runs the command line of a figure script, [SOURCE [PICTURE]]: loads the table of a folder of runs, or of results
    that were kept, draws it, writes the picture. Without words these are the results of a study beside the script. Ends
    the process with one line where there is nothing to draw."""
    words, script = sys.argv[1:], Path(sys.argv[0])
    if len(words) > 2 or any(word.startswith("-") for word in words):
        sys.exit(description)
    source = Path(words[0]) if words else script.with_name("results") / f"{study}.json"
    folder = source if source.is_dir() else source.parent
    target = Path(words[1]) if len(words) == 2 else folder / f"{script.stem}.png"
    table = pd.DataFrame()
    try:
        table = load(source)
        save(draw, table, target)
    except UsageError as error:
        sys.exit(str(error))
    except KeyError as error:
        if error.args[0] in table or "." not in str(error.args[0]):  # no setting: a bug, which is shown in full
            raise
        sys.exit(f"nothing to draw: {error.args[0]} was not swept")
    print(f"wrote {target}")


def save(draw: Callable[[pd.DataFrame], Figure], table: pd.DataFrame, target: Path) -> None:
    """Writes the picture that is drawn of a table."""
    with _drawn(partial(draw, table)) as figure:
        figure.savefig(target)


def svg(draw: Callable[[], Figure]) -> bytes:
    """Returns the picture that is drawn, as SVG: the same bytes for the same picture."""
    content = BytesIO()
    with plt.rc_context({"svg.hashsalt": "iclab"}), _drawn(draw) as figure:
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


@contextmanager
def _drawn(draw: Callable[[], Figure]) -> Iterator[Figure]:
    """A picture in the style of all figures, which is forgotten behind the block."""
    try:
        with style():
            yield lettered(draw())
    finally:
        plt.close("all")


def lettered(figure: Figure) -> Figure:
    """Gives each panel of a figure that has several a letter, by which a caption may name it."""
    panels: dict[Any, Axes] = {}  # by place: a second axis of a panel is in the same
    for axes in figure.axes:
        if (place := axes.get_subplotspec()) and axes.axison and axes.get_label() != "<colorbar>":
            panels.setdefault(place, axes)
    if len(panels) > 1:
        for letter, axes in zip(ascii_lowercase, panels.values(), strict=False):
            axes.set_title(letter, loc="left", fontweight="bold")
    return figure


def contents(draw: Callable[[pd.DataFrame], Figure], table: pd.DataFrame) -> str:
    """Returns a digest of what is drawn of a table, curves, bands, tables and words, to four significant digits: it
    does not depend on fonts or on how pictures are made."""
    with _drawn(partial(draw, table)) as figure:
        words = [text.get_text() for text in figure.findobj(Text)]
        numbers = [line.get_xydata() for line in figure.findobj(Line2D)]
        numbers += [path.vertices for each in figure.findobj(Collection) for path in each.get_paths()]
        numbers += [each.get_offsets() for each in figure.findobj(Collection)]
        numbers += [bar.get_bbox().get_points() for bar in figure.findobj(Rectangle)]
        numbers += [image.get_array() for image in figure.findobj(AxesImage)]
        told = [np.array2string(np.ma.filled(np.ma.asarray(each, float), nan), formatter=DIGITS) for each in numbers]
        return sha256(json.dumps([words, told]).encode()).hexdigest()[:16]


def shown(draw: Callable[[pd.DataFrame], Figure], table: pd.DataFrame) -> bytes:
    """Returns the pixels of the picture that is drawn of a table, coarse and without its layout, which takes most of
    the time: where two are equal, pictures show the same."""
    content = BytesIO()
    try:
        with style(), warnings.catch_warnings(action="ignore"):  # a legend without curves, for lack of rows
            figure = draw(table)
            figure.set_layout_engine("none")
            figure.savefig(content, format="raw", dpi=40)
    finally:
        plt.close("all")
    return content.getvalue()


def by_seed(table: pd.DataFrame) -> list[tuple[object, pd.DataFrame]]:
    """Returns the rows of each seed, the least first; all, and none, where runs are of one seed, which is then no
    column."""
    return [(None, table)] if "seed" not in table else list(table.groupby("seed"))


def picture_endings() -> list[str]:
    """Returns the kinds of files that a picture can be written to."""
    return sorted(FigureCanvasBase.filetypes)


def style() -> AbstractContextManager:
    """Returns the style of all figures, as a context."""
    return plt.style.context(STYLE)


def rows(table: pd.DataFrame, predictor: str, quantity: str, where: Mapping[str, object] | None = None) -> pd.DataFrame:
    """Returns `position` and `value` of one predictor and quantity, by position: of the whole model on its own
    distribution unless `where` says otherwise. Where several runs match, the value is their mean."""
    wanted = {"predictor": predictor, "quantity": quantity, "distribution": "own", **(where or {})}
    refuse("where", [unknown("column", name, table.columns) for name in wanted if name not in table])
    for column in OWN:
        if column in table and column not in wanted:
            table = table.loc[table[column].isna()]
    chosen = table.dropna(subset=["position"])
    for column, value in wanted.items():
        chosen = chosen.loc[chosen[column] == value]
    return chosen.loc[:, ["position", "value"]].groupby("position", as_index=False).mean()


def curves(
    table: pd.DataFrame,
    axes: Axes,
    predictors: Sequence[str],
    quantity: str = "risk",
    where: Mapping[str, object] | None = None,
    labels: Mapping[str, str] | None = None,
    **look: Any,
) -> Axes:
    """Draws a quantity against the number of examples, one curve per predictor with its bootstrap band where there is
    one.

    Where several runs match, the curve is their mean at each position, and so are the two ends of the band; `where`
    keeps apart what must not be averaged. Raises ``ValueError`` where nothing matches.
    """
    for name in predictors:
        chosen = rows(table, name, quantity, where)
        if chosen.empty:
            raise UsageError(f"the table has no {quantity!r} of {name!r} by position where {dict(where or {})}")
        label = (labels or {}).get(name, short(name))
        (line,) = axes.plot(chosen["position"], chosen["value"], label=label, **{**look_of(name), **look})
        low, high = (rows(table, name, f"{quantity}_{end}", where) for end in ("low", "high"))
        if len(low) and len(high):
            axes.fill_between(low["position"], low["value"], high["value"], color=line.get_color(), alpha=0.2, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("examples in context")
    axes.set_ylabel(quantity.replace("_", " "))
    return axes


@dataclass(frozen=True)
class Line:
    """One curve of training: what it is called, its look, and its points."""

    run: str
    label: str
    color: str
    dash: str
    steps: Sequence[float]
    values: Sequence[float]


def curve_looks(count: int) -> list[tuple[str, str]]:
    """Returns colours and dashes for so many curves: first all colours of the style, then the same in dashes."""
    with style():
        colors = [f"#{color.removeprefix('#')}" for color in plt.rcParams["axes.prop_cycle"].by_key()["color"]]
    return list(islice(cycle((color, dash) for dash in DASHES for color in colors), count))


def logarithmic(lines: Sequence[Line]) -> bool:
    """Returns whether a logarithmic scale can show all points."""
    return all(value > 0 for line in lines for value in line.values)


def training(lines: Sequence[Line], quantity: str) -> Figure:
    """Draws a quantity against the step of training, one line for each run; a dot marks its last point."""
    figure, axes = plt.subplots(figsize=(6.6, 2.8))
    for line in lines:
        axes.plot(line.steps, line.values, color=line.color, linestyle=line.dash, linewidth=1)
        axes.plot(line.steps[-1:], line.values[-1:], color=line.color, marker="o")
    axes.set(xlabel="step of training", yscale="log" if logarithmic(lines) else "linear")
    axes.set_ylabel(quantity, parse_math=False)  # the name may be a user's
    return figure


def identification(table: pd.DataFrame, most: int = 6) -> Figure:
    """Draws which algorithm a run is near: the distance of the nearest families to the whole model by number of
    examples, and where they were measured, to its layers, and to the model in training.

    In each panel are the families that come nearest on average over it, at most so many. Raises ``ValueError`` where
    the run was not compared with any family.
    """
    own = table.loc[table["distribution"] == "own"]
    panels = {"position": "fit_distance_at", "layer": "fit_distance", "step": "evolution_distance"}
    panels_drawn = {key: _distances(own, key, quantity) for key, quantity in panels.items()}
    panels_drawn = {key: rows for key, rows in panels_drawn.items() if not rows.empty}
    refuse(
        "figure", [] if panels_drawn else ["the run has no distances to algorithms (its eval.prompts may be too few)"]
    )
    figure, grid = plt.subplots(1, len(panels_drawn), figsize=(1 + 3.2 * len(panels_drawn), 3.6), squeeze=False)
    for axes, (key, rows) in zip(grid[0], panels_drawn.items(), strict=True):
        _draw_distances(axes, key, rows, most)
    handles = {name: line for axes in grid[0] for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 + len(panels_drawn))
    return figure


def _distances(own: pd.DataFrame, key: str, quantity: str) -> pd.DataFrame:
    """`predictor`, `at` and `value` of a distance against positions, layers or steps; only what a logarithm takes."""
    chosen = own.loc[(own["quantity"] == quantity) & (own["value"] > 0)]
    for column in OWN:
        chosen = chosen.loc[chosen[column].notna() if column == key else chosen[column].isna()]
    if key != "position":
        chosen = chosen.loc[chosen["region"] == "mean"]
    return chosen.assign(at=pd.to_numeric(chosen[key])).loc[:, ["predictor", "at", "value"]]


def _draw_distances(axes: Axes, key: str, rows: pd.DataFrame, most: int) -> None:
    """The families nearest at any place come first, then those that are near on (geometric) average."""
    ranks = rows.assign(rank=rows.groupby("at")["value"].rank())
    order = ranks.groupby("predictor").agg(best=("rank", "min"), usual=("rank", "mean")).sort_values(["best", "usual"])
    for name in order.index[:most]:
        each = rows.loc[rows["predictor"] == name].sort_values("at")
        axes.plot(each["at"], each["value"], label=short(name), **{"color": "0.5", **look_of(name), "marker": "o"})
    labels = {"position": "examples in context", "layer": "after layer", "step": "step of training"}
    heights = {"position": "E(Δŷ)²", "layer": "distance / reference risk", "step": "distance / reference risk"}
    axes.set(xlabel=labels[key], ylabel=heights[key], yscale="log", xscale="log" if key == "step" else "linear")
    if key != "step":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def look_of(name: str) -> Mapping[str, Any]:
    """Returns the look that a predictor has in every figure: gradient descent is orange, the darker the more steps."""
    kind, _, steps = name.rpartition("_")
    if kind == "gradient_descent" and steps.isdigit():
        return {"color": plt.get_cmap("YlOrBr")(0.4 + 0.6 * min(int(steps), 8) / 8)}
    return LOOKS.get(name, {})


def sized(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of lists of one length, which is the column `items`, as if all were of one distribution
    ("own")."""
    items = pd.to_numeric(table["distribution"].str.extract(r"^(\d+)_items$")[0])
    return table.assign(items=items).dropna(subset=["items"]).assign(distribution="own")


def heat(values: pd.DataFrame, axes: Axes, written: Callable[[float], str], **look: Any) -> Axes:
    """Draws a table of numbers, each written on a field of its colour; the names of its rows and columns beside it.
    `look` is that of `imshow`. Raises ``ValueError`` where an entry is missing."""
    refuse("heat", [f"{int(values.isna().sum().sum())} entries are missing"] if values.isna().any(axis=None) else [])
    image = axes.imshow(values.to_numpy(float), aspect="auto", **look)
    axes.set_xticks(range(values.shape[1]), [_name(name) for name in values.columns])
    axes.set_yticks(range(values.shape[0]), [_name(name) for name in values.index])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(values.to_numpy(float)):
        dark = np.dot(image.cmap(image.norm(value))[:3], (0.3, 0.6, 0.1)) < 0.5
        axes.text(j, i, written(value), ha="center", va="center", fontsize=8, color="white" if dark else "black")
    return axes


def _name(name: Any) -> str:
    return f"{name:g}" if isinstance(name, float) else str(name)


def trend(
    table: pd.DataFrame,
    axes: Axes,
    key: str,
    predictors: Sequence[str],
    quantity: str,
    where: Mapping[str, object] | None = None,
    **look: Any,
) -> Axes:
    """Draws a quantity averaged over positions (or over another `region`) against a setting, or against "layer" or
    "step", with a band of two standard errors; one line for each predictor. Where several runs match, the line is their
    mean. Raises ``ValueError`` where none does."""
    at = {} if "position" in (where or {}) else {"region": "mean"}
    wanted = {"quantity": quantity, "distribution": "own", **at, **(where or {})}
    refuse("where", [unknown("column", name, table.columns) for name in (*wanted, key) if name not in table])
    chosen = table
    for column in OWN:
        if column in table and column not in wanted:
            chosen = chosen.loc[chosen[column].notna() if key == column else chosen[column].isna()]
    for column, value in wanted.items():
        chosen = chosen.loc[chosen[column] == value]
    for name in predictors:
        means = chosen.loc[chosen["predictor"] == name, [key, "value", "stderr"]].groupby(key, as_index=False).mean()
        if means.empty:
            raise UsageError(f"the table has no {quantity!r} of {name!r} where {wanted}")
        x, y, error = (means[column].astype(float) for column in (key, "value", "stderr"))
        (line,) = axes.plot(x, y, **{"label": short(name), "marker": "o", **look_of(name), **look})
        axes.fill_between(x, y - 2 * error, y + 2 * error, color=line.get_color(), alpha=0.2, lw=0)
    axes.set_xlabel(key)
    axes.set_ylabel(quantity.replace("_", " "))
    return axes
