"""A wide table of one quantity: what is compared in rows and columns, values beside their standard errors.

The long table of `iclab.load` has one number a row. What is meant where nothing is said are the numbers of the whole
model, after training, on its own distribution, as the mean over positions (`USUAL`).
"""

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from iclab.errors import refuse, unknown
from iclab.experiments.claims import MEAN, TRAINED
from iclab.experiments.intervals import SeedMean
from iclab.measures.rows import MODEL
from iclab.runs.tables import COLUMNS

if TYPE_CHECKING:
    import pandas

PARTS = ("layer", "step", "position", "region")  # columns that are empty where a number is of nothing smaller
USUAL: Mapping[str, Any] = {"predictor": MODEL, "distribution": TRAINED, "layer": None, "step": None}
NUMBERS = ("value", "stderr")
ABSENT = "none"  # stands for a setting that a run does not have


def pick(
    table: "pandas.DataFrame",
    quantity: str,
    by: str | Sequence[str] = (),
    columns: str | Sequence[str] = (),
    *,
    over: str | Sequence[str] = (),
    where: Mapping[str, Any] | None = None,
) -> "pandas.DataFrame":
    """Returns a wide table of one quantity, with a row for each entry of `by` and a column for each of `columns`.

    Values keep their standard errors: the result has the columns `value` and `stderr`, and where `columns` is given
    each of these is a table of its own, `wide["value"]` and `wide["stderr"]`, with the same rows and columns. So
    ``wide["value"].plot(yerr=wide["stderr"])`` draws it with error bars.

    Args:
        table: What `iclab.load` returns.
        quantity: The quantity, such as "excess"; `iclab quantities` lists them.
        by: Columns of the table that become rows. Default: the settings that differ between the runs and are not named
            elsewhere; the run, where there are none.
        columns: Columns of the table that become columns: "seed", "predictor", "layer", "position" …
        over: Columns that are averaged over, such as "seed". The error is then that of the mean over runs,
            √(max(SD², SE²) / S) for S of them (`iclab.experiments.intervals.SeedMean`).
        where: Entries that are chosen, by column: ``{"predictor": "ridge", "region": "under"}``. What is named nowhere
            is as usual: the predictor "transformer" on its own distribution ("own"), the whole model after training,
            and the mean over positions.

    Raises ``ValueError`` for a quantity or a column that is not known, where nothing is left, and where several numbers
    are left for one entry: then it names the columns in which they differ.

    >>> from iclab.runs.tables import frame, table_rows
    >>> row = {"predictor": "transformer", "distribution": "own", "quantity": "excess", "stderr": 0.01}
    >>> rows = [(1, 0, 0.5), (1, 1, 0.7), (4, 0, 0.1), (4, 1, 0.2)]
    >>> stored = [next(table_rows(f"{k}", "done", "", [row | {"value": v}], k)) for *k, v in rows]
    >>> table = frame(stored, ["model.n_layer", "seed"])
    >>> pick(table, "excess", columns="seed")["value"]  # doctest: +NORMALIZE_WHITESPACE
    seed             0    1
    model.n_layer
    1              0.5  0.7
    4              0.1  0.2
    >>> pick(table, "excess", over="seed").round(3)  # doctest: +NORMALIZE_WHITESPACE
                   value  stderr
    model.n_layer
    1               0.60    0.10
    4               0.15    0.05
    """
    across, along, chosen = _names(columns), _names(over), dict(where or {})
    refuse("pick", [*_column_problems(table, [*_names(by), *across, *along, *chosen]), *_unmeasured(table, quantity)])
    named = {*across, *along, *chosen}
    down = _names(by) or [key for key in settings(table) if key not in named] or ["run"]
    kept = _chosen(table, {"quantity": quantity, **_usual({*down, *named}), **chosen}, [*down, *across, *along])
    kept = kept.assign(**{key: _labels(kept[key]) for key in (*down, *across)})
    if along:
        kept = _averaged(kept, [*down, *across], along)
    refuse("pick", _ambiguous(kept, [*down, *across]))
    return _spread(kept, down, across)


def settings(table: "pandas.DataFrame") -> list[str]:
    """Returns the columns of a table that hold settings which differ between its runs."""
    known = {"run", *COLUMNS, "state", "error"}
    return [name for name in map(str, table.columns) if name not in known]


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _column_problems(table: "pandas.DataFrame", names: Sequence[str]) -> Iterator[str]:
    known = [str(name) for name in table.columns if name not in ("quantity", *NUMBERS)]
    yield from (unknown("column", name, known) for name in dict.fromkeys(names) if name not in known)
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    yield from (f"{name!r} is named twice among by, columns, over and where" for name in twice)


def _unmeasured(table: "pandas.DataFrame", quantity: str) -> list[str]:
    measured = set(table["quantity"].dropna())
    return [] if quantity in measured else [unknown("quantity", quantity, measured)]


def _usual(named: set[str]) -> dict[str, Any]:
    """What is chosen of the columns that nobody names. Single positions are no regions, nor the other way round."""
    usual = {**USUAL, **({} if "position" in named else {"region": MEAN})}
    return {key: value for key, value in usual.items() if key not in named}


def _chosen(table: "pandas.DataFrame", wanted: Mapping[str, Any], spread: Sequence[str]) -> "pandas.DataFrame":
    """The rows with these entries, of the parts that are spread out. Raises ``ValueError`` where none is left, for the
    first entry that leaves none."""
    for key, value in wanted.items():
        left = table.loc[table[key].isna() if value is None else table[key] == value]
        refuse("pick", [_none_left(table, key, value, wanted)] if left.empty else [])
        table = left
    for key in [key for key in PARTS if key in spread]:
        table = table.loc[table[key].notna()]
        refuse("pick", [f"{wanted['quantity']!r} has no {key} here"] if table.empty else [])
    return table


def _none_left(table: "pandas.DataFrame", key: str, value: Any, wanted: Mapping[str, Any]) -> str:
    """The sentence about an entry that no row has, among those with the entries before it."""
    before = list(wanted)[: list(wanted).index(key)]
    of = ", ".join(f"{name} {wanted[name]!r}" for name in before if wanted[name] is not None)
    known = sorted({_shown(one) for one in table[key].dropna()})
    if value is None:
        return f"{of} is measured by {key} alone; name {key!r} in by, columns or where. Known: {', '.join(known)}"
    if not known:
        return f"{of} has no {key}"
    return f"{unknown(key, _shown(value), known)} (of {of})"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _labels(column: Any) -> Any:
    """A column as the names of rows or columns: whole numbers where it counts, and a word for what is absent."""
    if column.isna().any():
        return column.astype(object).where(column.notna(), ABSENT)
    counts = column.name in PARTS and column.name != "region" and (column == column.round()).all()
    return column.astype(int) if counts else column


def _averaged(table: "pandas.DataFrame", kept: Sequence[str], along: Sequence[str]) -> "pandas.DataFrame":
    """The mean over all entries of some columns, with its error."""
    refuse("pick", _ambiguous(table, [*kept, *along]))
    groups = table.groupby(list(kept), sort=False)
    means = [SeedMean.of(list(each["value"]), list(each["stderr"])) for _, each in groups]
    return groups.head(1).assign(value=[one.value for one in means], stderr=[one.stderr for one in means])


def _ambiguous(table: "pandas.DataFrame", keys: Sequence[str]) -> list[str]:
    """The problem of entries with several numbers: in which columns these differ."""
    several = table.loc[table.duplicated(list(keys), keep=False)]
    if several.empty:
        return []
    rest = [key for key in (*settings(table), *COLUMNS) if key not in (*keys, *NUMBERS)]
    groups = several.groupby(list(keys))
    differ = [key for key in rest if (groups[key].nunique(dropna=False) > 1).any()] or ["run"]
    return [f"several numbers for one entry: name {', '.join(map(repr, differ))} in by, columns, over or where"]


def _spread(table: Any, down: Sequence[str], across: Sequence[str]) -> Any:
    wide = table.set_index([*down, *across])[list(NUMBERS)]
    if across:
        wide = wide.unstack(list(across))
        wide = wide.iloc[:, _order(wide.columns)][list(NUMBERS)]
    return wide.iloc[_order(wide.index)]


def _order(labels: Any) -> list[int]:
    """The order of rows or columns: numbers by their size, then all else by its text."""
    keys = [[_rank(part) for part in (label if labels.nlevels > 1 else [label])] for label in labels]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _rank(label: Any) -> tuple[int, float, str]:
    return (0, float(label), "") if isinstance(label, Real) else (1, 0.0, str(label))
