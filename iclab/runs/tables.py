"""One tidy table for all runs of a folder: a measured number a row, with the settings that differ.

A run stores under `position` a number (of examples, or what its quantity counts), the name of a region of positions, or
nothing for the mean over all positions. The table has two columns for these: `position` holds numbers alone, `region`
names alone, and one of them is missing in each row.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from iclab.experiments.claims import MEAN
from iclab.experiments.mappings import flatten
from iclab.runs.store import Status

if TYPE_CHECKING:
    import pandas

PLACE = ("predictor", "distribution", "quantity", "layer", "position", "step")  # what a number is about, as stored
COLUMNS = (*PLACE[:-1], "region", *PLACE[-1:], "value", "stderr")  # of the table

Look = tuple[Status, Mapping[str, Any], Sequence[Mapping[str, Any]]]  # of a run: `Run.look`


def table_of(looks: Mapping[str, Look]) -> "pandas.DataFrame":
    """Returns the results of runs, by id, as one table; `iclab.load` says which."""
    warn_of([status for status, _, _ in looks.values()])
    settings = {id: flatten(each) for id, (_, each, _) in looks.items()}
    swept = differing([each for each in settings.values() if each])
    rows = [
        row
        for id, (status, _, measured) in looks.items()
        for row in table_rows(id, status.state, status.error, measured, [settings[id].get(key) for key in swept])
    ]
    return frame(rows, swept)


def frame(rows: Sequence[tuple[Any, ...]], swept: Sequence[str]) -> "pandas.DataFrame":
    """Returns rows of `run`, swept settings, `COLUMNS`, `state` and `error` as a table."""
    import pandas  # here and not above: a worker has no need of it

    table = pandas.DataFrame(rows, columns=["run", *swept, *COLUMNS, "state", "error"])
    return table.astype({"layer": "Int64", "step": "Int64", "position": float, "value": float, "stderr": float})


def table_rows(
    run: str, state: str, error: str, rows: Sequence[Mapping[str, Any]], swept: Sequence[Any]
) -> Iterator[tuple[Any, ...]]:
    """Yields the rows of a run as `frame` takes them; a single one, which says nothing else, where it has none."""
    for row in rows or [{}]:
        entries = {**row, **(by_position(row.get("position")) if row else {})}
        yield (run, *map(hashable, swept), *(entries.get(column) for column in COLUMNS), state, error)


def by_position(stored: float | str | None) -> dict[str, Any]:
    """Returns the columns `position` and `region` of what a run stores as a position.

    >>> by_position(3), by_position("under"), by_position(None)
    ({'position': 3, 'region': None}, {'position': None, 'region': 'under'}, {'position': None, 'region': 'mean'})
    """
    word = MEAN if stored is None else stored if isinstance(stored, str) else None
    return {"position": stored if word is None else None, "region": word}


def as_stored(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row of the table with the one `position` that a run stores.

    >>> [as_stored(by_position(stored)) for stored in (3, 0.5, "under", None)]
    [{'position': 3}, {'position': 0.5}, {'position': 'under'}, {'position': None}]
    """
    at, region = row["position"], row["region"]
    word = None if region == MEAN else region
    number = at if at is None or at != int(at) else int(at)
    return {**{key: value for key, value in row.items() if key != "region"}, "position": word if at is None else number}


def warn_of(statuses: Iterable[Status]) -> None:
    """Warns of damaged runs, by name."""
    damaged = [status.error for status in statuses if status.state == "damaged"]
    more = [f"and {len(damaged) - 3} more"] if len(damaged) > 3 else []
    if damaged:
        warnings.warn(f"without results: {'; '.join([*damaged[:3], *more])}", stacklevel=4)


# ---- settings ------------------------------------------------------------------------------------------------------


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the keys whose values are not the same in all, in the order in which they are first seen."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings)]


def distinguishing_keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns those of the differing keys that are worth a column: all that every run has, and of those that only some
    have, as another kind of task has other settings, each that distinguishes runs which the ones before do not."""
    keys = differing(settings)
    distinguishing = [key for key in keys if all(key in each for each in settings)]
    for key in [key for key in keys if key not in distinguishing]:
        distinguishing += [key] if _kinds(settings, [*distinguishing, key]) > _kinds(settings, distinguishing) else []
    return [key for key in keys if key in distinguishing]


def _kinds(settings: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> int:
    """How many different runs there are, seen by these keys alone."""
    return len({tuple(hashable(each.get(key)) for key in keys) for each in settings})


def finite(value: Any) -> float | None:
    """Returns a number as a float; None for what is no number, or not finite."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return float(value) if number else None


def hashable(value: Any) -> Any:
    """Returns a setting as tuples, in place of lists and mappings."""
    if isinstance(value, Mapping):
        return tuple((key, hashable(each)) for key, each in value.items())
    return tuple(map(hashable, value)) if isinstance(value, list) else value
