"""Pictures of result tables: a tidy table and axes go in, axes come out. All that is computed here are means over runs,
so that a table of several seeds gives one curve.

with plots.style():
    figure, axes = plt.subplots()
    plots.curves(table, axes, ["transformer", "bayes"])
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iclab.errors import Refusal, refuse, unknown

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
    "zero": {"color": "C3", "linestyle": "-."},
    "gradient_descent_1": {"color": "C1"},
    "gradient_descent_3": {"color": "C6"},
    "gradient_descent_8": {"color": "C5"},
    "newton": {"color": "C8"},
}


def command(description: str, draw: Callable[[pd.DataFrame], Figure], load: Callable[[Path], pd.DataFrame]) -> None:
    """The command line of a figure script, FOLDER [PICTURE]: loads the table of a folder, draws it, writes the picture.
    Ends the process with one line where there is nothing to draw."""
    words = sys.argv[1:]
    if len(words) not in (1, 2) or words[0].startswith("-"):
        sys.exit(description)
    target = Path(words[-1]) if len(words) == 2 else Path(words[0], f"{Path(sys.argv[0]).stem}.png")
    try:
        with style():
            draw(load(Path(words[0]))).savefig(target)
    except Refusal as error:
        sys.exit(str(error))
    print(f"wrote {target}")


def style() -> AbstractContextManager:
    """The style of all figures, as a context."""
    return plt.style.context(STYLE)


def rows(table: pd.DataFrame, predictor: str, quantity: str, where: Mapping[str, object] | None = None) -> pd.DataFrame:
    """`position` and `value` of one predictor and quantity, by position: of the whole model on its own distribution
    unless `where` says otherwise. Where several runs match, the value is their mean."""
    wanted = {"predictor": predictor, "quantity": quantity, "distribution": "own", **(where or {})}
    refuse("where", [unknown("column", name, table.columns) for name in wanted if name not in table])
    if "layer" in table and "layer" not in wanted:
        table = table.loc[table["layer"].isna()]
    chosen = table.assign(position=pd.to_numeric(table["position"], errors="coerce")).dropna(subset=["position"])
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
    """A quantity against the number of examples, one curve per predictor with its bootstrap band where there is one.

    Where several runs match, the curve is their mean at each position, and so are the two ends of the band; `where`
    keeps apart what must not be averaged. Raises ``ValueError`` where nothing matches.
    """
    for name in predictors:
        found = rows(table, name, quantity, where)
        if found.empty:
            raise Refusal(f"the table has no {quantity!r} of {name!r} by position where {dict(where or {})}")
        label = (labels or {}).get(name, name.replace("_", " "))
        (line,) = axes.plot(found["position"], found["value"], label=label, **{**LOOKS.get(name, {}), **look})
        low, high = (rows(table, name, f"{quantity}_{end}", where) for end in ("low", "high"))
        if len(low) and len(high):
            axes.fill_between(low["position"], low["value"], high["value"], color=line.get_color(), alpha=0.2, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("examples in context")
    axes.set_ylabel(quantity.replace("_", " "))
    return axes


def heat(values: pd.DataFrame, axes: Axes, written: Callable[[float], str], **look: Any) -> Axes:
    """A table of numbers, each written on a field of its colour; the names of its rows and columns beside it. `look` is
    that of `imshow`. Raises ``ValueError`` where an entry is missing."""
    refuse("heat", [f"{int(values.isna().sum().sum())} entries are missing"] if values.isna().any(axis=None) else [])
    image = axes.imshow(values.to_numpy(float), aspect="auto", **look)
    axes.set_xticks(range(values.shape[1]), [str(name) for name in values.columns])
    axes.set_yticks(range(values.shape[0]), [str(name) for name in values.index])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(values.to_numpy(float)):
        dark = np.dot(image.cmap(image.norm(value))[:3], (0.3, 0.6, 0.1)) < 0.5
        axes.text(j, i, written(value), ha="center", va="center", fontsize=8, color="white" if dark else "black")
    return axes


def trend(
    table: pd.DataFrame,
    axes: Axes,
    key: str,
    predictors: Sequence[str],
    quantity: str,
    where: Mapping[str, object] | None = None,
) -> Axes:
    """A quantity averaged over positions against a setting, or against "layer", with a band of two standard errors; one
    line for each predictor. Where several runs match, the line is their mean. Raises ``ValueError`` where none does.
    """
    wanted = {"quantity": quantity, "distribution": "own", "position": "mean", **(where or {})}
    refuse("where", [unknown("column", name, table.columns) for name in (*wanted, key) if name not in table])
    chosen = table.loc[table["layer"].notna() if key == "layer" else table["layer"].isna()]
    for column, value in wanted.items():
        chosen = chosen.loc[chosen[column] == value]
    for name in predictors:
        found = chosen.loc[chosen["predictor"] == name, [key, "value", "stderr"]].groupby(key, as_index=False).mean()
        if found.empty:
            raise Refusal(f"the table has no {quantity!r} of {name!r} where {wanted}")
        x, y, error = (found[column].astype(float) for column in (key, "value", "stderr"))
        (line,) = axes.plot(x, y, label=name.replace("_", " "), **{"marker": "o", **LOOKS.get(name, {})})
        axes.fill_between(x, y - 2 * error, y + 2 * error, color=line.get_color(), alpha=0.2, lw=0)
    axes.set_xlabel(key)
    axes.set_ylabel(quantity.replace("_", " "))
    return axes
