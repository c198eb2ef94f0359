"""The store: a folder for each run, and one tidy table for all of them.

    runs/<sweep>/study.toml          the task file as used
    runs/<sweep>/verdicts.json       what became of its claims
    runs/<sweep>/<id>/config.toml    the experiment, every default spelled out
                      status.json    how far it came (no such file: nothing was started)
                      metrics.jsonl  the training curve, one point a line
                      results.jsonl  the result rows
                      environment.json, log.txt, weights.safetensors, checkpoint.safetensors
                      checkpoint_NAME.safetensors   what an analysis trains beside the model, such as a read-in
                      constants.safetensors   what a task draws once for all prompts, such as a representation
                      lock           held by the process that works on the run

The store is the truth: whoever wants to know what is done reads it, and nothing else is kept. Every file but the log
and the curve is written whole. The lock belongs to the kernel, which frees it however its holder ends.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from iclab.errors import Refusal, refuse, unknown
from iclab.experiments import config
from iclab.experiments.mappings import flatten
from iclab.files import write_whole

if TYPE_CHECKING:
    import pandas

State = Literal["pending", "running", "interrupted", "done", "failed", "diverged"]

STATES: tuple[State, ...] = ("done", "running", "pending", "interrupted", "failed", "diverged")
ENDED = ("done", "failed", "diverged")
COLUMNS = ("predictor", "distribution", "quantity", "layer", "position", "step", "value", "stderr")


def now() -> str:
    """The time as it is recorded."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Status:
    """How far a run came. `attempts` counts how often it was started, `seconds` the time that all of them took."""

    state: State = "pending"
    attempts: int = 0
    seconds: float = 0.0
    error: str = ""
    started: str | None = None
    ended: str | None = None


@dataclass(frozen=True)
class Run:
    """The folder of one run."""

    folder: Path

    @property
    def id(self) -> str:
        """The experiment's id, which is the folder's name."""
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        """Where training goes on from."""
        return self.folder / "checkpoint.safetensors"

    def start_anew(self) -> None:
        """Removes all checkpoints: of the training, and of what was trained beside the model."""
        for path in self.folder.glob("checkpoint*.safetensors"):
            path.unlink()

    @property
    def log(self) -> Path:
        """What the run had to say."""
        return self.folder / "log.txt"

    def create(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder with its configuration. That of a run which some process works on, or which is done, is
        left as it is; any other is written anew, since what is no part of the id may have changed, such as the device.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path, content = self.folder / "config.toml", config.dump(settings).encode()
        if not path.exists():
            write_whole(path, content)
        elif path.read_bytes() != content:
            with self.hold(patience=0.5) as mine:
                if mine and self.recorded().state != "done":
                    write_whole(path, content)

    def settings(self) -> dict[str, Any]:
        """The configuration as nested settings."""
        return config.load(self.folder / "config.toml")

    # ---- status ----------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """The status. A run that was working when its process died is interrupted: it will be continued."""
        status = self.recorded()
        stopped = status.state == "running" and not self.held()
        # It may have ended, and recorded that, between the two looks.
        status = self.recorded() if stopped else status
        return _with(status, state="interrupted") if stopped and status.state == "running" else status

    def recorded(self) -> Status:
        """The status as the file has it."""
        path = self.folder / "status.json"
        try:
            return Status(**json.loads(path.read_text()))
        except FileNotFoundError:
            return Status()
        except (ValueError, TypeError) as error:
            raise Refusal(f"{path}: not the status of a run: {error}") from None

    def record(self, status: Status, **changes: Any) -> Status:
        """Writes a status with some entries changed; only who holds the lock may do so."""
        status = _with(status, **changes)
        write_whole(self.folder / "status.json", json.dumps(asdict(status), indent=1).encode())
        return status

    # ---- the lock --------------------------------------------------------------------------------------------------

    @contextmanager
    def hold(self, patience: float = 0.0) -> Iterator[bool]:
        """Holds the run while the block lasts, unless another process does: then the value is False."""
        with open(self.folder / "lock", "ab") as file:
            yield _locked(file.fileno(), fcntl.LOCK_EX, patience)

    def held(self) -> bool:
        """Whether some process holds the run."""
        try:
            with open(self.folder / "lock", "rb") as file:
                return not _locked(file.fileno(), fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    # ---- what it measured ------------------------------------------------------------------------------------------

    def curve(self) -> list[dict[str, Any]]:
        """The training curve; a last line that was cut off is left out."""
        return list(_lines(self.folder / "metrics.jsonl"))

    def latest(self, tail: int = 4096) -> dict[str, Any]:
        """The last point of the training curve, read from the end of the file."""
        try:
            with open(self.folder / "metrics.jsonl", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - tail))
                return next(filter(None, map(_point, reversed(file.read().split(b"\n")))), {})
        except FileNotFoundError:
            return {}

    def rows(self) -> list[dict[str, Any]]:
        """The result rows."""
        return list(_lines(self.folder / "results.jsonl"))

    def keep_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes the result rows."""
        write_whole(self.folder / "results.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())

    def environment(self) -> dict[str, Any]:
        """What it was made in; empty before it was started."""
        path = self.folder / "environment.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def note(self, text: str) -> None:
        """Adds to the log. Where that fails the run goes on: the status says what matters."""
        with suppress(OSError), open(self.log, "a") as file:
            file.write(f"{now()} {text.rstrip()}\n")

    def tidy(self) -> None:
        """Removes what a killed worker left half written. A configuration may be in the making by another sweep."""
        for stray in self.folder.glob(".*.tmp"):
            if not stray.name.startswith(".config.toml"):
                stray.unlink(missing_ok=True)


def _with(status: Status, **changes: Any) -> Status:
    return Status(**{**asdict(status), **changes})


def _locked(descriptor: int, how: int, patience: float = 0.0) -> bool:
    """Whether the lock could be taken, trying for a while: others take it for an instant when they look."""
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)


def _point(line: bytes | str) -> dict[str, Any] | None:
    try:
        point = json.loads(line)
    except ValueError:
        return None
    return point if isinstance(point, dict) else None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from filter(None, map(_point, path.read_bytes().split(b"\n")))


@dataclass
class Curve:
    """Appends points to a training curve. A resumed training says its last steps again: those points are replaced."""

    path: Path
    opened: bool = field(default=False, init=False)

    def __call__(self, point: Mapping[str, Any]) -> None:
        """Writes a point as one line."""
        if not self.opened:
            self._cut(point.get("step", 0))
        line = f"{json.dumps(point)}\n".encode()
        with open(self.path, "ab", buffering=0) as file:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _cut(self, step: int) -> None:
        """Keeps the whole lines from before a step."""
        kept = [point for point in _lines(self.path) if point.get("step", 0) < step]
        write_whole(self.path, "".join(f"{json.dumps(point)}\n" for point in kept).encode())
        self.opened = True


# ---- many runs -----------------------------------------------------------------------------------------------------


def runs(folder: Path) -> list[Run]:
    """The runs in a folder: its own, if it is that of a run, else those of its subfolders."""
    if (folder / "config.toml").is_file():
        return [Run(folder)]
    return [Run(path.parent) for path in sorted(folder.glob("*/config.toml"))]


def sweeps(folder: Path) -> list[Path]:
    """The folders that hold runs, at or below a folder."""
    beside = [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    return [path for path in (folder, *beside) if not (path / "config.toml").exists() and runs(path)]


def verdicts(sweep: Path) -> list[dict[str, Any]]:
    """What became of the claims of a sweep, as it was last judged; empty where it never was."""
    path = sweep / "verdicts.json"
    return json.loads(path.read_text()) if path.is_file() else []


def find(name: str, root: Path) -> Run:
    """The run of a folder, or the only one below `root` whose id starts with a name. Raises ``ValueError``."""
    if (Path(name) / "config.toml").is_file():
        return Run(Path(name).resolve())
    known = [run for sweep in sweeps(root) for run in runs(sweep)]
    found = [run for run in known if name and run.id.startswith(name)]
    refuse(
        "show",
        []
        if found
        else [
            unknown("run", name, [run.id for run in known])
            + f" (looked below {root}; give the folder of the run, or --root)"
        ],
    )
    several = f"{name!r} may be " + ", ".join(str(run.folder) for run in found)
    refuse("show", [several] if len(found) > 1 else [])
    return found[0]


def load(folder: Path | str) -> "pandas.DataFrame":
    """The results of all runs in a folder as one tidy table, one measured number a row.

    Columns: `run`; the settings that differ between the runs, by dotted key; `predictor`, `distribution`, `quantity`,
    `layer`, `position` (a number of examples, or "mean" over all positions), `step` (of training, for what was measured
    on the way), `value`, `stderr`; `state` and `error`. A run without results has a single row, whose value is NaN.
    Raises ``ValueError`` where the folder holds no runs.
    """
    import pandas  # here and not above: a worker has no need of it

    found = runs(Path(folder))
    refuse("load", [] if found else [f"{folder} holds no runs; expected a folder that `iclab sweep` made"])
    settings = [flatten(run.settings()) for run in found]
    swept = differing(settings)
    rows = [row for run, chosen in zip(found, settings, strict=True) for row in _table_rows(run, chosen, swept)]
    table = pandas.DataFrame(rows, columns=["run", *swept, *COLUMNS, "state", "error"])
    return table.astype({"layer": "Int64", "step": "Int64", "position": object, "value": float, "stderr": float})


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all, in the order in which they are first seen."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings)]


def telling(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the differing keys those worth a column: all that every run has, and of those that only some have, as another
    kind of task has other settings, each that tells runs apart which the ones before do not."""
    keys = differing(settings)
    told = [key for key in keys if all(key in each for each in settings)]
    for key in [key for key in keys if key not in told]:
        told += [key] if _kinds(settings, [*told, key]) > _kinds(settings, told) else []
    return [key for key in keys if key in told]


def _kinds(settings: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> int:
    """How many different runs there are, seen by these keys alone."""
    return len({tuple(_hashable(each.get(key)) for key in keys) for each in settings})


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((key, _hashable(each)) for key, each in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _table_rows(run: Run, settings: Mapping[str, Any], swept: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    status = run.status()
    head = (run.id, *(_hashable(settings.get(key)) for key in swept))
    tail = (status.state, status.error)
    for row in (run.rows() if status.state == "done" else []) or [{}]:
        position = "mean" if row and row.get("position") is None else row.get("position")
        entries = {**row, "position": position}
        yield (*head, *(entries.get(column) for column in COLUMNS), *tail)
