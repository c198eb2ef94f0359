"""Verdicts as tables: of one sweep, of all sweeps in a folder with their tally, and what has changed between two
folders.

A folder holds sweeps, with their `verdicts.json`, or results that were kept: `<study>.json` with a list `verdicts` of
the same records.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import copysign, isnan, nan
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.text import Text

from iclab.commands.terminal import markdown, table
from iclab.errors import UsageError, refuse
from iclab.experiments.config import load
from iclab.experiments.verdicts import OUTCOMES, Verdict
from iclab.files import read_json, write_json
from iclab.runs.store import VERDICTS, is_verdicts, runs, sweeps, verdicts

Record = Mapping[str, Any]

PARTS = ["claim", "expected", "kind", "measured", "seeds", "distance", "written", "verdict"]
CLAIMS = ["paper", *PARTS, "minutes"]
CHANGES = ["study", "claim", "change", "before", "now"]
NOT_RUN = "not run"  # the outcome of a claim without a result
LISTED = (*reversed(OUTCOMES), NOT_RUN)  # the best first
OLD = "worst run"  # the kind of claims that were judged before there were kinds
WRITTEN = ("before", "after", None)
MOMENTS = {"before": "written before the result was seen", "after": "written after it was seen", None: "verdicts"}


def of_verdicts(judged: Sequence[Verdict], to: Console) -> Group:
    """Shows the outcomes of the claims of a sweep, with notes on those that do not hold, and their tally."""
    return of_records([verdict.record() for verdict in judged], to)


def of_records(records: Sequence[Record], to: Console) -> Group:
    """Shows verdicts as `of_verdicts` does, as they were recorded."""
    body = [[*parts(one), _runs(one)] for one in records]
    notes = [f"{one['claim']}: {one['note'] or 'decided by run ' + one['run']}" for one in records if _noted(one)]
    return Group(table("claims", [*PARTS, "runs"], body, to), *map(Text, [*notes, *tally_lines(records)]))


def _noted(record: Record) -> bool:
    return record["outcome"] != "holds" and bool(record.get("note") or record.get("run"))


def _runs(record: Record) -> str:
    """How many runs a verdict speaks of, and the layouts and targets among them."""
    if "cells" not in record:
        return ""
    return f"{len(record['cells'])} {', '.join(record[key] for key in ('layout', 'targets') if record[key])}".rstrip()


def parts(record: Record) -> list[str]:
    """Returns a record as it is printed, by `PARTS`."""
    kind = f"share {record['share']:.0%}" if record.get("share") else record.get("kind", OLD)
    told = [record["measured"], record.get("of", ""), distance(record), record.get("written") or ""]
    return [record["claim"], record["expected"], kind, *told, record["outcome"]]


def distance(record: Record) -> str:
    """Returns how far the mean lies inside of its bound, in halves of the interval: from +1 on the claim holds, below
    −1 it fails."""
    value = record.get("distance")
    return "" if value is None else f"{value:+.2g}" if abs(value) < 100 else f"{copysign(99, value):+.0f} or more"


# ---- all sweeps of a folder ----------------------------------------------------------------------------------------


def claims(folder: Path) -> list[list[str]]:
    """Returns the verdicts on all claims of the sweeps in a folder, as rows of a table with the columns `CLAIMS`: the
    first row of each sweep names the paper and figure (what its file says before a colon) and the minutes of one
    core."""
    rows = [row for path in sweeps(folder) for row in _rows_of_sweep(path)]
    refuse("verdicts", [] if rows else [f"no claims were judged in {folder}; `iclab sweep FILE` does"])
    return rows


def _rows_of_sweep(sweep: Path) -> list[list[str]]:
    """The rows of a sweep; a single one that says so where what it keeps of them is damaged."""
    try:
        return list(_claim_rows(sweep, verdicts(sweep)))
    except UsageError as error:
        blank = dict.fromkeys(CLAIMS, "") | {"paper": str(sweep), "claim": str(error).splitlines()[0]}
        return [list((blank | {"verdict": "damaged"}).values())]


def _claim_rows(sweep: Path, judged: Sequence[Record]) -> Iterator[list[str]]:
    if not judged:
        return
    paper = str(load(sweep / "study.toml").get("paper", "")).partition(":")[0]
    minutes = f"{sum(run.recorded().seconds for run in runs(sweep)) / 60:.1f}"
    for i, record in enumerate(judged):
        yield [paper, *parts(record), minutes] if i == 0 else ["", *parts(record), ""]


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the verdicts in a folder by study: those of sweeps, and those of results that were kept. Raises
    ``ValueError`` for a file that holds none."""
    found = {path.name: verdicts(path) for path in sweeps(folder)}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if path.name != VERDICTS:
            found[path.stem] = _kept(path)
    return {study: each for study, each in found.items() if each}


def _kept(path: Path) -> list[dict[str, Any]]:
    content = read_json(path)
    judged = content.get("verdicts") if isinstance(content, dict) else None
    refuse(str(path), [] if is_verdicts(judged) else ["it holds no list of verdicts"])
    return list(judged or ())


def tally(judged: Iterable[Record]) -> tuple[list[str], list[list[int | str | None]]]:
    """Returns columns and rows of a table that counts verdicts by when the claim was written and by its kind."""
    judged = list(judged)
    kinds = list(dict.fromkeys(one.get("kind", OLD) for one in judged))
    marks = [("written", each) for each in WRITTEN] + [("kind", each) for each in kinds]
    body: list[list[int | str | None]] = []
    for outcome in LISTED:
        those = [{"kind": OLD, "written": None} | dict(one) for one in judged if one["outcome"] == outcome]
        counted = Counter(mark for one in those for mark in marks if one[mark[0]] == mark[1])
        body += [[outcome, *(counted[mark] or None for mark in marks), len(those)]] if those else []
    return ["verdict", "written before", "after", "not said", *kinds, "all"], body


def tally_lines(judged: Sequence[Record]) -> Iterator[str]:
    """Yields a line of counted verdicts for claims written before their results were seen, after, and neither said."""
    for written in WRITTEN:
        counted = Counter(one["outcome"] for one in judged if one.get("written") == written)
        told = ", ".join(f"{counted[outcome]} {outcome}" for outcome in LISTED if counted[outcome])
        yield from [f"{MOMENTS[written]}: {told}"] if told else []


def origins(judged: Iterable[Record]) -> str:
    """Returns the sentence that says how many bounds have an origin."""
    told = [bool(one.get("origin")) for one in judged]
    return f"Bounds with an origin: {sum(told)} of {len(told)}."


def show(folder: Path, to: Console, as_markdown: bool = False, file: Path | None = None) -> None:
    """Prints the verdicts in a folder with their tally, and writes them to a file where one is named."""
    rows, by_study = claims(folder), _readable(folder)
    judged = [one for each in by_study.values() for one in each]
    columns, counted = tally(judged)
    if as_markdown:
        print(markdown(CLAIMS, rows), markdown(columns, counted), origins(judged), sep="\n\n")
    else:
        to.print(table(f"claims judged in {folder}", CLAIMS, rows, to))
        to.print(table("claims by verdict", columns, counted, to), Text(origins(judged)))
    if file is not None:
        write_json(file, {"verdicts": [{"study": study, **one} for study, each in by_study.items() for one in each]})


def _readable(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The verdicts of the sweeps in a folder that are not damaged."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sweeps(folder):
        try:
            found[path.name] = verdicts(path)
        except UsageError:  # the table says so
            continue
    return found


# ---- two folders ---------------------------------------------------------------------------------------------------


def compare(folder: Path, other: Path) -> list[list[str]]:
    """Returns what is otherwise in a folder than in another, which was before, as rows with the columns `CHANGES`.
    Studies that the folder lacks are passed over: it may hold a single one."""
    now, before = records(folder), records(other)
    missing = [path for path, each in ((folder, now), (other, before)) if not each]
    refuse("verdicts", [f"no verdicts in {path}" for path in missing])
    rows: list[list[str]] = []
    for study, judged in now.items():
        was = {one["claim"]: one for one in before.get(study, ())}
        for claim in dict.fromkeys([*(one["claim"] for one in judged), *was]):
            new = next((one for one in judged if one["claim"] == claim), None)
            rows += [[study, claim, text, _told(was.get(claim)), _told(new)] for text in _change(was.get(claim), new)]
    return rows


def _told(record: Record | None) -> str:
    return "" if record is None else f"{record['measured']} {record['outcome']}".strip()


def _change(was: Record | None, new: Record | None) -> list[str]:
    """What became of a claim, in words; nothing where all is as it was."""
    if was is None or new is None:
        return ["added" if was is None else "removed"]
    told = [f"verdict {was['outcome']} → {new['outcome']}"] if was["outcome"] != new["outcome"] else []
    for key in ("expected", "kind"):
        old, now = was.get(key, OLD), new.get(key, OLD)
        told += [f"{key} {old} → {now}"] if old != now else []
    told += ["value moved beyond both intervals"] if _apart(was, new) else []
    return ["; ".join(told)] if told else []


def _apart(was: Record, new: Record) -> bool:
    """Whether two intervals of a mean have nothing in common."""
    (low, high), (other_low, other_high) = _ends(was), _ends(new)
    return high < other_low or other_high < low


def _ends(record: Record) -> tuple[float, float]:
    ends = [nan if record.get(key) is None else float(record[key]) for key in ("low", "high")]
    return (nan, nan) if any(map(isnan, ends)) else (ends[0], ends[1])


def show_changes(folder: Path, other: Path, to: Console) -> bool:
    """Prints what has changed since another folder; returns whether a verdict has."""
    rows = compare(folder, other)
    changed = sum("verdict " in row[2] for row in rows)
    if rows:
        to.print(table(f"{folder} compared with {other}", CHANGES, rows, to))
    to.print(Text(f"{changed} verdicts differ from those in {other}"))
    return changed > 0
