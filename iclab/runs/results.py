"""Results of a study that stay: one small file with all that its claims and figures rest on, in the place of a folder
of runs.

    study, title, question, paper   what the task file says
    settings                        those that all runs share, by dotted key
    runs                            of each the id, state, seconds, and the settings that differ
    environments                    the versions and machines that runs were made with, and how many were
    verdicts                        what became of each claim, as in verdicts.json
    rows                            runs with rows on the same things: `keys` says what each row is on (`PLACE`), `runs`
                                    has values and standard errors of each run in that order

A row is kept where a claim is judged by it, or where a picture would be another without it. Values have seven digits,
and so have errors where a claim is judged by them, others three. `iclab.load` reads such a file as it reads the folder.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isinf, isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclab.errors import UsageError, refuse
from iclab.experiments.claims import MEAN, entry
from iclab.experiments.mappings import flatten
from iclab.experiments.study import Study
from iclab.experiments.verdicts import Cell, judge
from iclab.files import atomic_write, read_json
from iclab.runs.store import Run, Status, is_verdicts, runs
from iclab.runs.tables import PLACE, as_stored, differing, frame, table_of, table_rows

if TYPE_CHECKING:
    import pandas

Picture = Callable[["pandas.DataFrame"], object]  # of a table; what looks alike is equal

VALUE_DIGITS, ERROR_DIGITS = 7, 3
ENVIRONMENT = ("iclab", "numerics", "python", "torch", "numpy", "platform", "device", "gpu", "cores")
PARTS = {"study": str, "title": str, "question": str, "paper": str, "settings": dict, "runs": list, "rows": list}


def load(source: Path | str) -> "pandas.DataFrame":
    """Returns the results of all runs in a folder, or those that were kept in a file, as one tidy table, one measured
    number a row.

    Columns: `run`; the settings that differ between the runs, by dotted key; `predictor`, `distribution`, `quantity`,
    `layer`; `position`, a number of examples (or what the quantity counts), or `region`, the positions that were
    averaged over: "mean" for all of them, "under", "threshold", "over", "fewer"; `step` (of training, for what was
    measured on the way), `value`, `stderr`; `state` and `error`. A run without results has a single row, whose value is
    NaN; so has one that is damaged, and a warning names it. `iclab.pick` makes a wide table of it. Raises
    ``ValueError`` where there are no runs.

    >>> from tempfile import TemporaryDirectory
    >>> from iclab.experiments.experiment import Experiment
    >>> from iclab.tasks import LinearRegression
    >>> folder = TemporaryDirectory()
    >>> for seed in (0, 1):
    ...     experiment = Experiment(LinearRegression(d=2, n=4), seed=seed)
    ...     Run(Path(folder.name) / experiment.id).create(experiment.mapping())
    >>> table = load(folder.name)  # two runs that are still without results
    >>> list(table.columns[:3]), sorted(table["seed"]), set(table["state"])
    (['run', 'seed', 'predictor'], [0, 1], {'pending'})
    """
    path = Path(source)
    if path.suffix == ".json" and not path.is_dir():
        return kept_table(read(path))
    known = runs(path)
    refuse("load", [] if known else [f"{source} holds no runs; expected a folder that `iclab sweep` made"])
    return table_of({run.id: run.look() for run in known})


# ---- the file ------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """Reads results that were kept. Raises ``ValueError`` where the file holds none."""
    content = read_json(path)
    whole = isinstance(content, dict) and all(isinstance(content.get(key), kind) for key, kind in PARTS.items())
    sound = whole and is_verdicts(content.get("verdicts")) and _fit(content)
    refuse(str(path), [] if sound else ["it holds no results of a study that `iclab results` wrote"])
    return content


def _fit(content: Mapping[str, Any]) -> bool:
    """Whether each block has as many numbers of each run as it has keys."""
    try:
        known = {one["run"] for one in content["runs"]}
        return all(
            id in known and len(block["keys"]) == len(values) == len(errors)
            for block in content["rows"]
            for id, (values, errors) in block["runs"].items()
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes results: a line for each run, verdict and block of rows, so that a change is seen where it is."""
    atomic_write(
        path, ("{\n" + ",\n".join(f'"{key}": {_lines(part)}' for key, part in content.items()) + "\n}\n").encode()
    )


def _lines(part: Any) -> str:
    if not isinstance(part, list) or not part:
        return _compact(part)
    return "[\n" + ",\n".join(map(_compact, part)) + "\n]"


def _compact(part: Any) -> str:
    return json.dumps(part, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def kept_table(content: Mapping[str, Any]) -> "pandas.DataFrame":
    """Returns the rows of results as the table that `load` makes of a folder."""
    swept, rows = list(dict.fromkeys(key for one in content["runs"] for key in one["settings"])), _rows_by_run(content)
    listed = []
    for one in content["runs"]:
        chosen = [one["settings"].get(key) for key in swept]
        listed += table_rows(one["run"], one["state"], one["error"], rows.get(one["run"], ()), chosen)
    return frame(listed, swept)


def _rows_by_run(content: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for block in content["rows"]:
        for id, numbers in block["runs"].items():
            both = zip(block["keys"], *numbers, strict=True)
            found[id] = [_read_row(key, *pair) for key, *pair in both]
    return found


def _read_row(key: Sequence[Any], value: float | str | None, error: float | str | None) -> dict[str, Any]:
    """A row as a run stores it, where the mean over positions has no position."""
    row = {**dict(zip(PLACE, key, strict=True)), "value": _read_number(value), "stderr": _read_number(error)}
    return {**row, "position": None if row["position"] == MEAN else row["position"]}


def _read_number(written: float | str | None) -> float:
    return nan if written is None else float(written)


def cells(content: Mapping[str, Any]) -> list[Cell]:
    """Returns the runs of results as claims see them: they can be judged again."""
    rows = _rows_by_run(content)
    return [
        Cell(one["run"], {**content["settings"], **one["settings"]}, one["state"], rows.get(one["run"], ()))
        for one in content["runs"]
    ]


# ---- from a folder of runs -----------------------------------------------------------------------------------------


def collect(folder: Path, name: str, pictures: Sequence[Picture] = ()) -> dict[str, Any]:
    """Returns what is to be kept of a sweep: verdicts, and the rows that its claims and the pictures need. Raises
    ``ValueError`` where a picture cannot be made of the sweep."""
    study = Study.read(folder / "study.toml")
    known = [Run(folder / cell.experiment.id) for cell in study.cells]
    looks = {run.id: run.look() for run in known}
    table = table_of(looks)
    claimed, shown = _claimed(study, table), set[Any]()
    table = _rounded(table, claimed)
    for picture in pictures:
        shown |= _shown(picture, table)
    flat = [{**flatten(looks[c.experiment.id][1]), **c.flat} for c in study.cells]  # in the order of the columns
    swept = differing(flat)
    content = {
        "study": name,
        **{key: getattr(study.heading, key) for key in ("title", "question", "paper")},
        "settings": {key: value for key, value in flat[0].items() if key not in swept},
        "runs": [_run(id, look[0], one, swept) for (id, look), one in zip(looks.items(), flat, strict=True)],
        "environments": environments(known),
        "rows": list(_blocks(records(table.loc[table.index.isin(claimed | shown)]))),
    }
    return content | {"verdicts": [one.record() for one in judge(study.heading.claims, cells(content))]}


def _run(id: str, status: Status, settings: Mapping[str, Any], swept: Sequence[str]) -> dict[str, Any]:
    """A run, with those of the settings that differ which it has."""
    return {
        "run": id,
        "state": status.state,
        "error": status.error,
        "seconds": round(status.seconds, 2),
        "settings": {key: settings[key] for key in swept if key in settings},
    }


def environments(known: Iterable[Run]) -> list[dict[str, Any]]:
    """Returns the environments of runs, each once, with the number of runs that were made in it."""
    counted: Counter[str] = Counter()
    for run in known:
        made_in = run.environment()
        counted[json.dumps({key: made_in.get(key) for key in ENVIRONMENT})] += bool(made_in)
    return [{**json.loads(each), "runs": count} for each, count in counted.items() if count]


def _rounded(table: "pandas.DataFrame", claimed: set[Any]) -> "pandas.DataFrame":
    """Numbers with fewer digits; errors of what is only shown with very few."""
    digits = [VALUE_DIGITS if index in claimed else ERROR_DIGITS for index in table.index]
    errors = [_round(x, n) for x, n in zip(table["stderr"], digits, strict=True)]
    return table.assign(value=[_round(x, VALUE_DIGITS) for x in table["value"]], stderr=errors)


def _round(x: float, digits: int) -> float:
    return float(f"{x:.{digits}g}")


def _claimed(study: Study, table: "pandas.DataFrame") -> set[Any]:
    """The rows by which claims are judged."""
    by_run = _by_run(records(table.assign(index=table.index)))
    return {
        row["index"]
        for claim in study.heading.claims
        for cell in study.cells
        if claim.concerns(cell.flat)
        for row in claim.rows(by_run.get(cell.experiment.id, ()))
    }


def _by_run(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["run"], []).append(row)
    return grouped


def _shown(picture: Picture, table: "pandas.DataFrame") -> set[Any]:
    """The rows without which a picture would be another."""
    whole, left = picture(table), table
    for kinds in (_parts(table), table["quantity"], table["predictor"], table["distribution"]):
        left = _without(picture, whole, left, kinds, list(kinds.dropna().unique()))
    return set(left.index)


def _without(
    picture: Picture, whole: object, table: "pandas.DataFrame", kinds: Any, dropped: Sequence[Any]
) -> "pandas.DataFrame":
    """A table without the kinds of rows that change nothing: all that are given, or else those of each half."""
    fewer = table.loc[~kinds.loc[table.index].isin(dropped)]
    if len(fewer) and _looks_like(picture, fewer, whole):
        return fewer
    if len(dropped) < 2:
        return table
    half = len(dropped) // 2
    left = _without(picture, whole, table, kinds, dropped[:half])
    return _without(picture, whole, left, kinds, dropped[half:])


def _parts(table: "pandas.DataFrame") -> Any:
    """What each row is about at large: layers, training on the way, single positions, or none of these."""
    missing = zip(*(table[name].isna() for name in ("layer", "step", "position")), strict=True)
    names = [" ".join(map(str, each)) for each in missing]
    return table["quantity"].mask(table["quantity"].notna(), names)


def _looks_like(picture: Picture, table: "pandas.DataFrame", whole: object) -> bool:
    try:
        return picture(table) == whole
    except (UsageError, LookupError, ValueError, TypeError, AttributeError):  # what is needed is not there
        return False


def _blocks(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows by what they are on; runs with rows on the same things share the list of these."""
    shared: dict[str, dict[str, Any]] = {}
    for run, part in _by_run(rows).items():
        keys = [[_plain(entry(row, name)) for name in PLACE] for row in part]
        block = shared.setdefault(_compact(keys), {"keys": keys, "runs": {}})
        block["runs"][run] = [[_number(row[name]) for row in part] for name in ("value", "stderr")]
    yield from shared.values()


def records(table: "pandas.DataFrame") -> list[dict[str, Any]]:
    """Returns the rows of a table that say something, as they are stored, with none for what is missing."""
    columns: dict[str, Any] = {str(name): table[name].astype(object).where(table[name].notna(), None) for name in table}
    rows = zip(*columns.values(), strict=True)
    found = (dict(zip(columns, each, strict=True)) for each in rows)
    return [as_stored(row) for row in found if row["quantity"] is not None]


def _plain(entry: Any) -> Any:
    return entry if entry is None or isinstance(entry, str) or entry != int(entry) else int(entry)


def _number(value: float | None) -> float | int | str | None:
    """A number as it is written: the shorter way, none where it is none, and infinity, for which JSON has no word, as a
    text."""
    if value is None or isnan(value):
        return None
    if isinf(value):
        return str(value)
    return int(value) if float(value).is_integer() and abs(value) < 10**VALUE_DIGITS else float(value)
