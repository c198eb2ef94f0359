"""The store: a folder for each run.

    runs/<sweep>/study.toml          the task file as used
    runs/<sweep>/verdicts.json       what became of its claims
    runs/<sweep>/imports/            the user's own files that it imports
    runs/<sweep>/<id>/config.toml    the experiment, every default spelled out
                      status.json    how far it came (no such file: nothing was started)
                      metrics.jsonl  the training curve, one point a line
                      results.jsonl  the result rows
                      environment.json, log.txt, weights.safetensors, checkpoint.safetensors
                      checkpoint_NAME.safetensors   what an analysis trains beside the model
                      imports/                      the text of the user's own files that it was made with
                      constants.safetensors         what a task draws once for all prompts
                      lock                          held by the process that works on the run

The store is the truth: whoever wants to know what is done reads it, and nothing else is kept. Every file but the log
and the curve is written whole. The lock belongs to the kernel, which frees it however its holder ends.

Disks and users damage files later. The status of a finished run holds the number of its rows and a digest of each file
that was made, and the id of a run is a hash of its settings: what does not agree is reported by name and never read in
part. A finished run whose results or settings do not agree is *damaged*: it has no rows until the sweep is given again,
which measures it anew from its weights, and trains it anew only where these or the curve are damaged as well. Runs from
before there were digests are read as they are.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from iclab.errors import Damaged, UsageError, refuse, unknown
from iclab.experiments import config
from iclab.experiments.identity import numerics_of, remedy, run_id
from iclab.files import atomic_write, naming, read_json, regular
from iclab.runs.disk import AGAIN
from iclab.runs.locks import locked
from iclab.stops import whole

State = Literal["pending", "running", "interrupted", "done", "failed", "diverged", "damaged"]

STATES: tuple[State, ...] = ("done", "running", "pending", "interrupted", "failed", "diverged", "damaged")
ENDED = ("done", "failed", "diverged")
RESULTS, CURVE, WEIGHTS = "results.jsonl", "metrics.jsonl", "weights.safetensors"
VERDICTS = "verdicts.json"  # of a sweep
NEEDED = ("claim", "expected", "measured", "outcome")  # of each verdict
TRAINED = (WEIGHTS, CURVE, "constants.safetensors")  # what a training leaves
RECORDED = (RESULTS, *TRAINED, "environment.json")  # whose digests the status holds
MADE_IN = ("device", "gpu", "torch", "iclab", "revision", "pack")  # what of the environment is said of a training
IN_THE_WAY = ("config.toml", "lock", "log.txt")  # what a sweep itself opens
OWN = re.compile(
    r"config\.toml|lock|log\.txt|(status|environment)\.json|(results|metrics)\.jsonl"
    r"|(weights|constants|checkpoint[\w-]*)\.safetensors"
)
STRAY = re.compile(r"\..+\.(\d+)\.tmp")


def now() -> str:
    """Returns the time as it is recorded."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Status:
    """The state of a run. `attempts` counts how often it was started, `seconds` the time that all of them took; of a
    finished run `rows` is the number of its results and `digests` those of its files (none in old stores). `training`
    names the training that it has, and `origin` names the run that made it, and its environment, if it was another
    run. `phase` says what a running one is at; the file of any other has no such entry."""

    state: State = "pending"
    attempts: int = 0
    seconds: float = 0.0
    error: str = ""
    started: str | None = None
    ended: str | None = None
    rows: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    training: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    phase: str = ""


@dataclass(frozen=True)
class Run:
    """The folder of one run."""

    folder: Path

    @property
    def id(self) -> str:
        """Returns the experiment's id, which is the folder's name."""
        return self.folder.name or self.folder.absolute().name

    @property
    def checkpoint(self) -> Path:
        """Returns the path of the checkpoint from which training resumes."""
        return self.folder / "checkpoint.safetensors"

    @property
    def remedy(self) -> str:
        """Returns what mends a damaged run, if its sweep has one."""
        return remedy(self.folder)

    def start_anew(self) -> None:
        """Removes the curve and all checkpoints: of the training, and of what was trained beside the model."""
        for path in (*self.folder.glob("checkpoint*.safetensors"), self.folder / CURVE):
            path.unlink(missing_ok=True)

    @property
    def log(self) -> Path:
        """Returns the text of the log."""
        return self.folder / "log.txt"

    def create(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder with its configuration. That of a run which some process works on, or which is done, is
        left as it is; any other is written anew, since what is no part of the id may have changed, such as the device;
        so is one that is damaged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tidy(mine=False)
        path, content = self.folder / "config.toml", config.dump(settings).encode()
        if not path.exists():
            atomic_write(path, content)
        elif _content(path) != content and not (self.recorded().state == "done" and self._has_settings()):
            with self.hold(patience=0.5) as mine:
                if mine:
                    atomic_write(path, content)

    def settings(self) -> dict[str, Any]:
        """Returns the configuration as nested settings. Raises `Damaged` where they are not those that the id stands
        for."""
        path = self.folder / "config.toml"
        try:
            settings = config.load(path)
            numerics = numerics_of(self.id, settings)
        except (ValueError, TypeError) as error:
            raise Damaged(f"{path} is damaged: {error}; {self.remedy}") from None
        if numerics is None:
            digest = run_id(settings)
            raise Damaged(f"{path} is damaged: its settings have the id {digest}, not {self.id}; {self.remedy}")
        return settings

    @property
    def numerics(self) -> int:
        """Returns the version of the numerics that its id stands for. Raises `Damaged` where it stands for none."""
        return numerics_of(self.id, self.settings()) or 1

    def _has_settings(self) -> bool:
        try:
            return bool(self.settings())
        except Damaged:
            return False

    # ---- status ----------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Returns the status. A run that was working when its process died is interrupted: it will be continued. One
        that is done and whose results are not what was recorded is damaged."""
        status = self._seen()
        try:
            _ = status.state == "done" and self._results(status)
        except Damaged as error:
            return _damaged(status, error)
        return status

    def checked(self) -> Status:
        """Returns the status; damaged also where weights or other files beside whole results are not what was
        recorded."""
        status = self.status()
        changed = self.changed(status) if status.state == "done" else []
        return _damaged(status, f"{', '.join(changed)} of {self.folder}: damaged; {self.remedy}") if changed else status

    def look(self) -> tuple[Status, dict[str, Any], list[dict[str, Any]]]:
        """Returns the status, the settings with the version of the numerics, and, of a finished run, the rows. Where
        one of them cannot be trusted the run is damaged, which the status says, and has no rows."""
        status, settings = self._seen(), {}
        try:
            settings = self.settings()
            settings["numerics"] = numerics_of(self.id, settings)
            return status, settings, self._rows(status) if status.state == "done" else []
        except Damaged as error:
            return _damaged(status, error), settings, []

    def _seen(self) -> Status:
        status = self.recorded()
        stopped = status.state == "running" and not self.held()
        # It may have ended, and recorded that, between the two looks.
        status = self.recorded() if stopped else status
        return _with(status, state="interrupted") if stopped and status.state == "running" else status

    def recorded(self) -> Status:
        """Returns the status as the file has it; "damaged" where that is the status of no run."""
        path = self.folder / "status.json"
        if not os.path.lexists(path):
            return Status()
        try:
            content = read_json(path)
            refuse(f"{path}", [] if isinstance(content, dict) else ["expected a table"])
            return config.read(Status, {key: value for key, value in content.items() if value is not None}, path)
        except UsageError as error:
            why = str(error).splitlines()[0]
            return Status("damaged", error=f"not the status of a run: {why}; {self.remedy}")

    def lost_seconds(self, status: Status) -> float:
        """Returns the seconds from the start of an attempt that was killed to its last sign of life."""
        signs = [path.stat().st_mtime for path in (self.checkpoint, self.folder / CURVE, self.log) if path.is_file()]
        begun = datetime.fromisoformat(status.started).timestamp() if status.started else max(signs, default=0.0)
        return max(0.0, max(signs, default=0.0) - begun)

    def record(self, status: Status, **changes: Any) -> Status:
        """Writes a status with some entries changed; only who holds the lock may do so."""
        status = _with(status, **changes)
        content = {key: value for key, value in asdict(status).items() if key != "phase" or value}
        atomic_write(self.folder / "status.json", json.dumps(content, indent=1).encode())
        return status

    def begin(self, phase: str) -> None:
        """Records what a running run is at; only who holds the lock may do so. Where that fails the run goes on."""
        status = self.recorded()
        if status.state == "running" and status.phase != phase:
            with suppress(OSError), whole():
                self.record(status, phase=phase)

    # ---- the lock --------------------------------------------------------------------------------------------------

    @contextmanager
    def hold(self, patience: float = 0.0) -> Iterator[bool]:
        """Locks the run while the block lasts; the value is False where another process holds it."""
        path = self.folder / "lock"
        with naming(path):
            file = open(path, "ab", opener=at_once)  # noqa: SIM115  (an error inside the block is not the lock's)
        with file:
            yield locked(file, patience=patience)

    def held(self) -> bool:
        """Returns whether some process holds the run."""
        try:
            with open(self.folder / "lock", "rb", opener=at_once) as file:
                return not locked(file, shared=True)
        except (FileNotFoundError, IsADirectoryError):
            return False

    # ---- what it measured ------------------------------------------------------------------------------------------

    def curve(self) -> list[dict[str, Any]]:
        """Returns the training curve; a last line that was cut off is left out."""
        return list(_lines(self.folder / CURVE))

    def latest(self, tail: int = 4096) -> dict[str, Any]:
        """Returns the last point of the training curve, read from the end of the file."""
        try:
            with open(regular(self.folder / CURVE), "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - tail))
                return next(filter(None, map(_point, reversed(file.read().split(b"\n")))), {})
        except UsageError:
            return {}

    def rows(self) -> list[dict[str, Any]]:
        """Returns the result rows. Raises `Damaged` where they are not those that were recorded."""
        return self._rows(self.recorded())

    def _rows(self, status: Status) -> list[dict[str, Any]]:
        content, path = self._results(status), self.folder / RESULTS
        try:
            rows = json.loads(b"[%s]" % b",".join(content.split(b"\n")[:-1]))
        except (ValueError, RecursionError):
            rows = []
        if len(rows) != content.count(b"\n") or not all(isinstance(row, dict) for row in rows):
            raise Damaged(f"{path} is damaged: a line of it is no row; {self.remedy}")
        return rows

    def _results(self, status: Status) -> bytes:
        """What the file of results holds, once it is known to be what the status says."""
        path = self.folder / RESULTS
        content = _content(path)
        lines = content.count(b"\n")
        if status.state == "done" and not lines:
            raise Damaged(f"{path} is damaged: it holds no rows; {self.remedy}")
        if content and not content.endswith(b"\n"):
            raise Damaged(f"{path} is damaged: its last line was cut; {self.remedy}")
        if status.state == "done" and status.rows not in (None, lines):
            raise Damaged(f"{path} is damaged: it has {lines} rows, and {status.rows} were recorded; {self.remedy}")
        if status.state == "done" and _digest(content) != status.digests.get(RESULTS, _digest(content)):
            raise Damaged(f"{path} is damaged: its rows are not those that were recorded; {self.remedy}")
        return content

    def keep_rows(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Writes the result rows; returns the entries of a status by which they, and all files beside them, are known
        again."""
        content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        atomic_write(self.folder / RESULTS, content)
        others = {name: _digest(_content(self.folder / name)) for name in RECORDED if (self.folder / name).exists()}
        return {"rows": content.count(b"\n"), "digests": others | {RESULTS: _digest(content)}}

    def changed(self, status: Status, names: Iterable[str] = RECORDED) -> list[str]:
        """Returns the files that are there and not what the status says; one that was removed is missed in the results
        only."""
        there = [name for name in names if name in status.digests and os.path.lexists(self.folder / name)]
        changed = [name for name in there if _digest(_content(self.folder / name)) != status.digests[name]]
        return changed + [RESULTS for _ in "." if RESULTS in names and RESULTS in status.digests.keys() - {*there}]

    @property
    def weights(self) -> Path | None:
        """Returns the weights that a finished training left, as long as they and the curve of that training are
        whole."""
        status = self.recorded()
        names = [name for name in (WEIGHTS, CURVE) if name in status.digests]
        there = WEIGHTS in names and all((self.folder / name).is_file() for name in names)
        return self.folder / WEIGHTS if there and not self.changed(status, names) else None

    def trained(self) -> dict[str, bytes]:
        """Returns the files that a finished training left. Raises `Damaged` where they are not what was recorded."""
        status = self.recorded()
        contents = {name: _content(self.folder / name) for name in TRAINED if name in status.digests}
        unfit = [name for name, content in contents.items() if _digest(content) != status.digests[name]]
        if unfit or WEIGHTS not in contents:
            what = f"{', '.join(unfit)} not as recorded" if unfit else "no finished training is recorded"
            raise Damaged(f"{self.folder}: {what}; {self.remedy}")
        return contents

    def parts(self) -> dict[str, bytes]:
        """Returns the checkpoints of what was trained beside the model."""
        return {path.name: _content(path) for path in sorted(self.folder.glob("checkpoint_*.safetensors"))}

    def take(self, files: Mapping[str, bytes], parts: Mapping[str, bytes], **entries: Any) -> None:
        """Copies the files of a finished training, and of its auxiliary trainings, into this run.
        The status comes last, with these entries: before that the run has no training. Only who holds the lock may do
        so."""
        self.tidy()
        left = {*self.folder.glob("checkpoint*.safetensors"), *(self.folder / name for name in TRAINED)}
        for path in left - {self.folder / name for name in files}:
            path.unlink(missing_ok=True)
        for name, content in {**parts, **files}.items():
            atomic_write(self.folder / name, content)
        status, digests = self.recorded(), {name: _digest(content) for name, content in files.items()}
        if status.state in ("done", "damaged"):  # whose results are not those of these files
            status = _with(status, state="pending", error="")
        self.record(status, rows=None, digests=digests, **entries)

    def environment(self) -> dict[str, Any]:
        """Returns what it was made in; empty before it was started. Raises `Damaged`."""
        path, status = self.folder / "environment.json", self.recorded()
        if not os.path.lexists(path):
            return {}
        try:
            content = read_json(path)
        except UsageError as error:
            raise Damaged(f"{error}; {self.remedy}") from None
        if not isinstance(content, dict) or self.changed(status, [path.name]):
            raise Damaged(f"{path} is damaged: it is not what was recorded; {self.remedy}")
        return content

    def origin(self) -> dict[str, str]:
        """Returns the origin of the weights: the run that trained them, their digest, and what that was done in, as far
        as these are known."""
        status = self.recorded()
        if status.origin or WEIGHTS not in status.digests:
            return dict(status.origin)
        try:
            made_in = self.environment()
        except Damaged:
            made_in = {}
        origin = {name: str(made_in[name]) for name in MADE_IN if made_in.get(name) is not None}
        return {"run": self.id, "sweep": self.folder.absolute().parent.name, WEIGHTS: status.digests[WEIGHTS]} | origin

    def note(self, text: str) -> None:
        """Adds to the log. Where that fails the run goes on: the status holds what matters."""
        with suppress(OSError), open(self.log, "a", opener=at_once) as file:
            file.write(f"{now()} {text.rstrip()}\n")

    def note_damage(self, status: Status) -> None:
        """Logs the files that differ from their recorded digests."""
        if damaged := self.changed(status):
            self.note(f"made again: {', '.join(damaged)} not as recorded")

    def tidy(self, mine: bool = True) -> None:
        """Removes what processes left half written that are gone (all of it, if the run is held; but a configuration
        may be in the making by another sweep), and whatever stands where a file of the run should be and is none; of
        these a sweep, which does not hold the run, removes what is in its own way. Raises `Damaged` for a folder that
        is not empty."""
        for entry in os.scandir(self.folder):
            stray = STRAY.fullmatch(entry.name)
            if stray and ((mine and not entry.name.startswith(".config.toml")) or not _alive(int(stray[1]))):
                _remove(entry.path)
            elif OWN.fullmatch(entry.name) and not entry.is_file():
                _refuse_full(entry)
                if mine or entry.name in IN_THE_WAY:
                    _remove(entry.path)
                    self.note(f"removed {entry.name}, which was no file")


def _content(path: Path) -> bytes:
    """The content of a regular file, empty where there is none."""
    try:
        return regular(path).read_bytes()
    except UsageError:
        return b""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def at_once(path: str, flags: int) -> int:
    """Opens a file, and never waits for the other end of a pipe that stands in its place."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def tidy(folder: Path) -> None:
    """Removes what processes that are gone left half written in the folder of a sweep."""
    for entry in os.scandir(folder):
        if (stray := STRAY.fullmatch(entry.name)) and not _alive(int(stray[1])):
            _remove(entry.path)


def _alive(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(max(1, process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _refuse_full(entry: os.DirEntry[str]) -> None:
    if entry.is_dir() and any(os.scandir(entry.path)):
        raise Damaged(f"{entry.path} is a folder where a file should be; remove it {AGAIN}")


def _remove(path: str) -> None:
    """Removes a stray file, a pipe or an empty folder; a disk that takes nothing is no reason to stop."""
    try:
        os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise


def _with(status: Status, **changes: Any) -> Status:
    return Status(**{**asdict(status), **changes})


def _damaged(status: Status, error: Damaged | str) -> Status:
    return _with(status, state="damaged", error=str(error).splitlines()[0])


def _point(line: bytes | str) -> dict[str, Any] | None:
    try:
        point = json.loads(line)
    except ValueError:
        return None
    return point if isinstance(point, dict) else None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    yield from filter(None, map(_point, _content(path).split(b"\n")))


@dataclass
class Curve:
    """Appends points to a training curve. A resumed training reports its last steps again: those points are replaced;
    one that has no checkpoint to go on from reports all of them.

    Each point is answered with the mark of the curve so far, which the checkpoint of that point keeps.
    """

    path: Path
    checkpoint: Path | None = None
    so_far: Any = field(default=None, init=False)  # the digest of what the file holds, once it is opened

    def __call__(self, point: Mapping[str, Any]) -> str:
        """Writes a point as one line; returns the mark."""
        so_far = self.so_far or self._cut(point.get("step", 0))
        line = f"{json.dumps(point)}\n".encode()
        with naming(self.path), open(self.path, "ab", buffering=0, opener=at_once) as file:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        so_far.update(line)
        self.so_far = so_far
        return so_far.hexdigest()

    def _cut(self, step: int) -> Any:
        """Keeps the whole lines from before a step."""
        goes_on = self.checkpoint is None or self.checkpoint.exists()
        kept = [point for point in _lines(self.path) if goes_on and _before(point.get("step", 0), step)]
        content = "".join(f"{json.dumps(point)}\n" for point in kept).encode()
        atomic_write(self.path, content)
        return hashlib.sha256(content)

    def back_to(self, mark: str) -> bool:
        """Removes the points after a mark; returns whether the mark is one of this curve."""
        content, so_far, end = _content(self.path), hashlib.sha256(), 0
        for line in content.splitlines(keepends=True):
            so_far.update(line)
            end += len(line)
            if so_far.hexdigest() == mark:
                _ = len(content) > end and atomic_write(self.path, content[:end])
                return True
        return False


def _before(point: Any, step: int) -> bool:
    return isinstance(point, int) and point < step


# ---- many runs -----------------------------------------------------------------------------------------------------


def runs(folder: Path) -> list[Run]:
    """Returns the runs in a folder: its own, if it is that of a run, else those of its subfolders."""
    if is_run(folder):
        return [Run(folder)]
    return [Run(path) for path in sorted(folder.iterdir()) if is_run(path)] if folder.is_dir() else []


def is_run(folder: Path) -> bool:
    """Returns whether a folder is that of a run: one that has lost its settings still has its status."""
    return any(os.path.lexists(folder / name) for name in ("config.toml", "status.json"))


def sweeps(folder: Path) -> list[Path]:
    """Returns the folders that hold runs, at or below a folder."""
    beside = [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    return [path for path in (folder, *beside) if not is_run(path) and runs(path)]


def verdicts(sweep: Path) -> list[dict[str, Any]]:
    """Returns what became of the claims of a sweep, as it was last judged; empty where it never was. A file of before
    there were seeds has the outcome under another name. Raises `Damaged` where the file is no list of verdicts."""
    path = sweep / VERDICTS
    if not os.path.lexists(path):
        return []
    remedy = f"`iclab sweep {sweep / 'study.toml'}` judges again"
    try:
        content = read_json(path)
    except UsageError as error:
        raise Damaged(f"{path} is damaged: {error}; {remedy}") from None
    content = list(map(_as_today, content)) if isinstance(content, list) else content
    if not is_verdicts(content):
        raise Damaged(f"{path} is damaged: it is no list of verdicts; {remedy}")
    return content


def _as_today(record: Any) -> Any:
    """A verdict of before there were seeds: its outcome has another name, and in the oldest another word."""
    if not isinstance(record, dict) or "outcome" in record:
        return record
    said = record.get("verdict")
    return {**record, "outcome": "inconclusive" if said == "undecided" else said}


def is_verdicts(content: Any) -> bool:
    """Returns whether something is a list of verdicts, as far as tables need them."""
    return isinstance(content, list) and all(isinstance(one, dict) and _is_verdict(one) for one in content)


def _is_verdict(record: Mapping[str, Any]) -> bool:
    texts = [record.get(key, "") for key in ("kind", "of")] + [record.get("written") or ""]
    numbers = [record.get(key) for key in ("share", "distance", "low", "high")]
    return all(isinstance(text, str) for text in [*texts, *map(record.get, NEEDED)]) and all(
        number is None or (isinstance(number, int | float) and not isinstance(number, bool)) for number in numbers
    )


def find(name: str, root: Path, command: str = "show") -> Run:
    """Returns the run of a folder, or the only one below `root` whose id starts with a name. Raises ``ValueError``."""
    if name and is_run(Path(name)):
        return Run(Path(name).resolve())
    known = [run for sweep in sweeps(root) for run in runs(sweep)]
    matches = [run for run in known if name and run.id.startswith(name)]
    refuse(
        command,
        []
        if matches
        else [
            unknown("run", name, [run.id for run in known])
            + f" (looked below {root}; give the folder of the run, or --root)"
        ],
    )
    several = f"{name!r} may be " + ", ".join(str(run.folder) for run in matches)
    refuse(command, [several] if len(matches) > 1 else [])
    return matches[0]
