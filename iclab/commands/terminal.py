"""What the store holds, as tables for a terminal; plain lines where the output is no terminal."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log10
from pathlib import Path
from typing import Any

from rich.box import ASCII2, ROUNDED
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from iclab.errors import refuse
from iclab.experiments.claims import TRAINED
from iclab.experiments.config import dump
from iclab.experiments.findings import Findings, beaten, number
from iclab.experiments.mappings import flatten
from iclab.runs.store import STATES, Run, Status, runs, sweeps
from iclab.runs.tables import Look, distinguishing_keys

Row = Mapping[str, Any]

STYLES = {
    "done": "green",
    "holds": "green",
    "PASS": "green",
    "FAIL": "bold red",
    "failed": "red",
    "diverged": "red",
    "fails": "bold red",
    "inconclusive": "yellow",
    "void": "magenta",
    "not measured": "yellow",
    "interrupted": "yellow",
    "damaged": "bold red",
    "running": "cyan",
}
BARS = "▁▂▃▄▅▆▇█"
WIDE = 220  # columns where the output is no terminal, so that nothing is folded
# An easier task (the token layout) and handed answers (the targets) must be seen in every table.
LABELS = {"layout": "model.layout", "targets": "train.targets"}
RESULTS = ("excess", "risk", "accuracy")
UNBROKEN = {"run", "state", *RESULTS, "expected", "verdict", "outcome"}  # kept whole when narrow
WIDTHS = {"claim": 20}
POINTS = 12  # how many positions of a curve are printed
FITTED = ("fit_distance", "fit_probability")


def console() -> Console:
    """Returns the standard output."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=WIDE)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], to: Console) -> Group:
    """Returns a table in which words for states are coloured and columns that hold nothing are left out."""
    kept, entries = filled(columns, rows)
    made = Table(box=ROUNDED if to.is_terminal else ASCII2)
    for column in kept:
        made.add_column(column, overflow="fold", no_wrap=column in UNBROKEN, min_width=WIDTHS.get(column))
    for row in entries:
        made.add_row(*(Text(entry, style=STYLES.get(entry, "")) for entry in row))
    return Group(Text(title, style="bold"), made)


def filled(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns that hold something, and the rows with each entry as it is printed."""
    entries = [[_text(entry) for entry in row] for row in rows]
    kept = [i for i in range(len(columns)) if any(row[i] for row in entries)]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in entries]


def _text(entry: Any) -> str:
    if entry is None:
        return ""
    return f"{entry:.4g}" if isinstance(entry, float) else str(entry)


def value(
    rows: Iterable[Row], predictor: str, quantity: str, position: int | str | None = None, distribution: str = TRAINED
) -> str:
    """Returns a number with its error, as it is printed; empty where it was not measured."""
    wanted = (predictor, quantity, position, distribution)
    keys = ("predictor", "quantity", "position", "distribution")
    return number(next((row for row in rows if tuple(map(row.get, keys)) == wanted), None))


# ---- sweeps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A run, as it is listed."""

    id: str
    state: str
    error: str
    seconds: float
    settings: Mapping[str, Any]
    rows: Sequence[Row]


def of_runs(title: str, runs: Sequence[Run], to: Console) -> Group:
    """Shows runs: what was varied between them, the state, and how far each is from the Bayes predictor; its risk,
    where that predictor is not known."""
    return of_entries(title, entries({run.id: run.look() for run in runs}), to)


def entries(looks: Mapping[str, Look]) -> list[Entry]:
    """Returns runs, by id, as they are listed."""
    return [Entry(id, s.state, s.error, s.seconds, flatten(e), rows) for id, (s, e, rows) in looks.items()]


def of_entries(title: str, entries: Sequence[Entry], to: Console) -> Group:
    """Shows runs as `of_runs` does, wherever they come from."""
    return table(title, *run_rows(entries), to)


def run_rows(entries: Sequence[Entry]) -> tuple[list[str], list[list[Any]]]:
    """Returns the columns and rows of the table of runs; the id comes first."""
    settings = [entry.settings for entry in entries if entry.settings]
    keys = [key for key in distinguishing_keys(settings) if key not in LABELS.values()]
    columns = ["run", *keys, *LABELS, "state", "seconds", *RESULTS, "note"]
    return columns, [_run_row(entry, [*keys, *LABELS.values()]) for entry in entries]


def _run_row(entry: Entry, keys: Sequence[str]) -> list[Any]:
    note = "; ".join([entry.error, *beaten(entry.rows)] if entry.error else beaten(entry.rows))
    chosen = [entry.settings.get(key) for key in keys]
    return [entry.id, *chosen, entry.state, entry.seconds or None, *_results(entry.rows), note]


def _results(rows: Sequence[Row]) -> tuple[str, str, str]:
    """Excess, or else risk; of tokens accuracy."""
    excess = value(rows, "transformer", "excess")
    risk = "" if excess else value(rows, "transformer", "risk")
    return excess, risk, value(rows, "transformer", "accuracy")


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table in Markdown."""
    entries = ([_text(cell).replace("|", "\\|") for cell in row] for row in rows)
    lines = [columns, ["---"] * len(columns), *entries]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of_store(folder: Path, to: Console) -> Iterator[Group]:
    """Yields the sweeps below a folder with the states of their runs, or the runs of a sweep."""
    folders = sweeps(folder)
    refuse(
        "ls", [] if folders else [f"no runs in {folder}; `iclab sweep FILE` makes some, `iclab ls DIR` looks elsewhere"]
    )
    if folders == [folder]:
        yield of_runs(str(folder), runs(folder), to)
    else:
        counted = [(path, Counter(run.status().state for run in runs(path))) for path in folders]
        rows = [[path, sum(count.values()), *(count[state] or None for state in STATES)] for path, count in counted]
        yield table(f"sweeps in {folder}", ["sweep", "runs", *STATES], rows, to)


# ---- one run -------------------------------------------------------------------------------------------------------


def of_run(run: Run, to: Console) -> Iterator[Group | Text]:
    """Yields a run in full: settings, state, training curve, what it turned out to be in sentences, risk by position,
    nearest algorithms, shifted distributions, and what else was analysed."""
    status, settings, rows = run.look()
    status = run.checked() if status.state == "done" else status
    swept = {name: flatten(settings).get(key) for name, key in LABELS.items()}
    labels = ", ".join(f"{name} {chosen}" for name, chosen in swept.items() if chosen)
    labels = f" ({labels})" if labels else ""
    yield from [Text(dump(settings).rstrip())] if settings else []
    yield _state(run, status)
    yield from _bayes_notes(run)
    yield from (Text(line, style="bold red") for line in beaten(rows))
    yield from (Text(line) for line in _curve_lines(run.curve()))
    findings = Findings(rows)
    yield from (Text(line) for line in findings.sentences())
    if any(row["quantity"] == "risk" for row in rows):
        yield _risk_table(rows, labels, to)
    if any(row["quantity"] == "accuracy" for row in rows):
        yield _accuracy_table(rows, to)
        return
    if any(row["quantity"] == "fit_distance" for row in rows):
        yield _distance_table(rows, findings, labels, to)
    if any(row.get("distribution") != TRAINED for row in rows):
        yield _shift_table(rows, labels, to)
    for section in findings.sections():
        yield table(f"{section.title}{labels}", section.columns, section.body, to)


def _state(run: Run, status: Status) -> Text:
    text = f"{run.folder}\n{status.state}, started {status.attempts} times, {status.seconds:.4g} s"
    if status.origin and status.origin.get("run") != run.id:
        text += f", training of {status.origin.get('sweep')}/{status.origin.get('run')}"
    return Text(f"\n{text}" + (f": {status.error}" if status.error else ""), style=STYLES.get(status.state, ""))


def _bayes_notes(run: Run) -> Iterator[Text]:
    """Why nothing is compared with the Bayes predictor, where the log says that it is not known."""
    lines = run.log.read_text(errors="replace").splitlines() if run.log.is_file() else []
    yield from map(Text, dict.fromkeys(line.partition(" ")[2] for line in lines if "no Bayes predictor: " in line))


def _curve_lines(curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each quantity of the training curve."""
    names = [name for name in ("loss", "risk", "excess") if any(name in point for point in curve)]
    for name in names:
        values = [float(point[name]) for point in curve if isinstance(point.get(name), int | float)]
        if not values:
            continue
        first, last = (
            f"{values[0]:.4g} at step {curve[0].get('step')}",
            f"{values[-1]:.4g} at step {curve[-1].get('step')}",
        )
        yield f"{name:8}{sparkline(values)}  {first}, {last}"


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Returns bars for a curve, on a logarithmic scale where all of it is positive; a gap where it is not finite."""
    values = [values[i * len(values) // min(width, len(values))] for i in range(min(width, len(values)))]
    finite = [v for v in values if isfinite(v)]
    scale = log10 if finite and min(finite) > 0 else float
    low, high = (scale(min(finite)), scale(max(finite))) if finite else (0.0, 0.0)
    return "".join(_bar(scale(v), low, high) if isfinite(v) else " " for v in values)


def _bar(v: float, low: float, high: float) -> str:
    return BARS[round((v - low) / (high - low) * (len(BARS) - 1))] if high > low else BARS[0]


def _risk_table(rows: Sequence[Row], labels: str, to: Console) -> Group:
    """Risk after each number of examples, at most a dozen of them, then the averages over regions and over all."""
    risks = [row for row in rows if row["quantity"] == "risk" and row.get("distribution") == TRAINED]
    predictors = list(dict.fromkeys(row["predictor"] for row in risks))
    counts = dict.fromkeys(row.get("position") for row in risks)
    positions = sorted(at for at in counts if isinstance(at, int))
    shown = [*positions[:: max(1, -(-len(positions) // POINTS))], *(at for at in counts if isinstance(at, str)), None]
    body = [["mean" if at is None else at, *(value(risks, name, "risk", at) for name in predictors)] for at in shown]
    return table(f"risk by number of examples{labels}", ["examples", *predictors], body, to)


def _accuracy_table(rows: Sequence[Row], to: Console) -> Group:
    """Accuracy of every predictor on each distribution, over all target positions."""
    accuracies = [row for row in rows if row["quantity"] == "accuracy" and row.get("position") is None]
    predictors = list(dict.fromkeys(row["predictor"] for row in accuracies))
    body = []
    for name in dict.fromkeys(row["distribution"] for row in accuracies):
        body.append([name, *(value(accuracies, predictor, "accuracy", None, name) for predictor in predictors)])
    return table("accuracy", ["distribution", *predictors], body, to)


def _distance_table(rows: Sequence[Row], findings: Findings, labels: str, to: Console) -> Group:
    """How far the model's predictions are from those of each algorithm, the nearest first; ≤ and ≥ where a parameter
    is an end of what was tried."""
    whole = [row for row in rows if row.get("distribution") == TRAINED and row.get("layer") is None]
    own = [row for row in whole if row.get("position") is None]
    fits = sorted((row for row in own if row["quantity"] == "fit_distance"), key=lambda row: row["value"])
    body = [
        [
            row["predictor"],
            *(value(own, row["predictor"], q) for q in FITTED),
            f"{findings.grid_bound_mark(row['predictor'], fitted)} {number(fitted)}".strip(),
        ]
        for row in fits
        for fitted in [findings.one("fit_parameter", row["predictor"])]
    ]
    title = f"distance to algorithms with fitted parameters, relative to the reference risk{labels}"
    return table(title, ["algorithm", "distance", "probability of being the nearest", "parameter"], body, to)


def _shift_table(rows: Sequence[Row], labels: str, to: Console) -> Group:
    """What the model does on each distribution, its own first."""
    whole = [row for row in rows if row.get("layer") is None and row.get("position") is None]
    names = dict.fromkeys(row["distribution"] for row in whole)
    body = [
        [
            name,
            value(whole, "transformer", "risk", distribution=name),
            value(whole, "bayes", "risk", distribution=name),
            value(whole, "transformer", "excess", distribution=name),
            _nearest(row for row in whole if row["distribution"] == name),
        ]
        for name in names
    ]
    columns = ["distribution", "risk of transformer", "risk of bayes", "excess", "nearest algorithm"]
    return table(
        f"by distribution, mean over positions (at the query for shifts of the query){labels}", columns, body, to
    )


def _nearest(rows: Iterable[Row]) -> str:
    """The algorithm with the least distance among the rows; empty where none was measured."""
    fits = [row for row in rows if row["quantity"] == "fit_distance" and isfinite(row["value"])]
    return min(fits, key=lambda row: row["value"])["predictor"] if fits else ""
