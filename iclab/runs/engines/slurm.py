"""Workers of a Slurm cluster with shared files: one job array for all runs that wait, each task of it with a few runs.

    SWEEP/.slurm/NAME.json   the runs of each task of an array (`iclab.runs.engines.chunk` works through them)
    SWEEP/.slurm/NAME.sh     the script that was handed to sbatch
    SWEEP/.slurm/NAME.id     the number of the job

Nothing else is kept. Whoever gives the command again, after the client was killed or with another one beside it, finds
the arrays that are still queued there and waits for these. Slurm queues a task again after a preemption or a node that
was lost; before its limit of time a task leaves its run at the last step and asks for that itself.
"""

import json
import math
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from iclab.errors import UsageError, refuse
from iclab.files import atomic_write
from iclab.runs import worker
from iclab.runs.engines import Site
from iclab.runs.engines.local import ONE_THREAD
from iclab.runs.store import ENDED, Run

FOLDER = ".slurm"
MOST = 1000  # tasks of an array: Slurm's MaxArraySize is 1001 unless the cluster says otherwise
LINGER = 5.0  # seconds that the worker of a task which was killed may still hold its run
GONE = 255  # the exit status of a task that left the queue before its run had ended
POLL = 5.0  # seconds between two looks at the queue
WARNING = 120  # seconds before the limit of time at which a task is told
LEAST = 10  # minutes: a signal may come a minute early, and starting takes its part
OURS = ("array", "output", "open-mode", "requeue", "no-requeue", "signal", "parsable", "job-name", "wrap")
WITHOUT_END = ("0", "-1", "INFINITE", "UNLIMITED")  # limits of time that are none


def script(folder: Path, name: str, options: Mapping[str, str]) -> str:
    """Returns the script of an array; it becomes Python, so that signals reach that."""
    lines = [f"#SBATCH --{key}={shlex.quote(value)}" if value else f"#SBATCH --{key}" for key, value in options.items()]
    log = str(folder / FOLDER / name).replace("%", "%%") + "_%a.log"
    exports = [f"export {key}={value}" for key, value in ONE_THREAD.items()]
    own = [
        f"#SBATCH --job-name=iclab-{name}",
        f"#SBATCH --output={shlex.quote(log)}",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        f"#SBATCH --signal=B:USR1@{WARNING}",
    ]
    work = [sys.executable, "-m", "iclab.runs.engines.chunk", str(folder / FOLDER / f"{name}.json")]
    return "\n".join(["#!/bin/bash", *own, *lines, *exports, f"exec {shlex.join(work)} $SLURM_ARRAY_TASK_ID", ""])


def options(texts: Sequence[str]) -> dict[str, str]:
    """Returns options of sbatch given as KEY=VALUE (or KEY). Raises ``ValueError`` for what the engine sets itself, and
    for a limit of time in which nothing would get on."""
    found = dict((key.lstrip("-"), value) for key, _, value in (text.partition("=") for text in texts))
    problems = [f"{key} is set by the engine" for key in found if key in OURS]
    limit = minutes(found["time"]) if "time" in found else None
    if limit is not None and limit < LEAST:
        problems.append(
            f"time={found['time']} is under {LEAST} minutes: Slurm's signal may come a minute before {WARNING} seconds"
            " are left, and a worker takes a while to start, so that runs would not get on"
        )
    if "time" in found and limit is None:
        problems.append(f"time={found['time']} is no time limit: expected MIN, HH:MM:SS or D-HH[:MM[:SS]]")
    refuse("--option", problems)
    return found


def minutes(limit: str) -> float | None:
    """Returns the minutes of a time limit as sbatch reads it; none where it is none."""
    if limit.upper() in WITHOUT_END:
        return math.inf
    days, dash, rest = limit.rpartition("-")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        return None
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minute, second = [*parts, 0, 0][:3]
        return int(days) * 1440 + hours * 60 + minute + second / 60
    hours, minute, second = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    return hours * 60 + minute + second / 60


# ---- the queue -----------------------------------------------------------------------------------------------------


def call(*command: str) -> str:
    """Returns what a command of Slurm prints. Raises ``ValueError`` where it is not there or refuses."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise UsageError(f"--engine slurm: cannot call {command[0]}: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UsageError(f"--engine slurm: {command[0]}: {lines[-1]}")
    return done.stdout


def queued(jobs: Sequence[str]) -> dict[str, dict[int, str]]:
    """Returns the state of each task of these arrays that is still queued or at work, with the reason for waiting."""
    if not jobs:
        return {}
    found: dict[str, dict[int, str]] = {}
    for line in call("squeue", "-h", "-r", "--me", "-o", "%F|%K|%T|%r").splitlines():
        job, task, state, why = [*line.strip().split("|"), "", "", ""][:4]
        if job in jobs and task.isdigit():
            found.setdefault(job, {})[int(task)] = f"{state} ({why})" if state == "PENDING" else state
    return found


@dataclass(eq=False)
class Array:
    """A job array: of each task the runs, in lists of those that train as a pack; `retry` are the attempts that failed,
    by run, after which it tries again."""

    path: Path
    job: str
    chunks: list[list[list[str]]]
    retry: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> "Array | None":
        """Returns the array of a list; none where it was never handed in. Whoever did that may have been killed before
        the number could be kept: then the queue has it by name."""
        number = path.with_suffix(".id")
        if not number.is_file():
            found = call("squeue", "-h", "-r", "--me", f"--name=iclab-{path.stem}", "-o", "%F").split()
            if not found:
                return None
            atomic_write(number, found[0].encode())
        return cls(path, number.read_text().strip(), **json.loads(path.read_text()))

    def task(self, run: Run, retry: int | None) -> int | None:
        """Returns the task that works on a run, where there is one. A task passes over a run that failed, unless it was
        handed in to try again after that very attempt."""
        if run.recorded().state in ENDED and self.retry.get(run.id) != retry:
            return None
        return next((i for i, chunk in enumerate(self.chunks) if any(run.id in unit for unit in chunk)), None)


@dataclass(eq=False)
class Task:
    """Runs in the queue, or at work: one, or several that train as a pack."""

    runs: Sequence[Run]
    retry: Mapping[str, int]
    cluster: "Slurm"
    array: Array | None = None
    index: int = -1
    attempts: dict[str, int] = field(init=False)
    missed: float | None = None  # when it was first not in the queue

    def __post_init__(self) -> None:
        self.attempts = {run.id: run.recorded().attempts for run in self.runs}

    def where(self) -> str:
        """Returns the task and its state."""
        state = self.cluster.state(self)
        return f"{self.array.job}_{self.index} {state}" if self.array and state else "submitted"

    def code(self) -> int | None:
        """Returns the exit status of the worker, as the store tells it; none while the runs are queued or at work."""
        self.cluster.submit()
        held = any(run.held() for run in self.runs)
        if not held and all(map(self._ended, self.runs)):
            done = all(run.recorded().state == "done" for run in self.runs)
            return worker.DONE if done else worker.FAILED
        if self.cluster.state(self) is not None:
            self.missed = None
            return None
        self.missed = self.missed or time.monotonic()
        if held and time.monotonic() - self.missed < LINGER:
            return None
        return worker.BUSY if held else self._gone()

    def _ended(self, run: Run) -> bool:
        """Whether a run has come to an end since it was handed in."""
        status = run.recorded()
        return status.state in ENDED and status.attempts > self.attempts[run.id]

    def _gone(self) -> int:
        """Records that the task left the queue, unless somebody knows better."""
        assert self.array is not None
        log = self.array.path.with_name(f"{self.array.path.stem}_{self.index}.log")
        text = f"task {self.array.job}_{self.index} left the queue before the run had ended; see {log}"
        for run in self.runs:
            with run.hold(patience=0.5) as mine:
                status = run.recorded()
                if mine and status.state not in ENDED and not status.error:
                    run.record(status, error=text)
        return GONE

    def stop(self) -> None:
        """Takes the task from the queue; one at work is asked to stop in order."""
        self.cluster.unwanted.append(self)

    def kill(self, patience: float) -> None:
        """Waits for its end; Slurm kills what does not end."""
        self.cluster.cancel()
        end = time.monotonic() + patience
        while any(run.held() for run in self.runs) and time.monotonic() < end:
            time.sleep(0.2)


@dataclass(eq=False)
class Slurm:
    """The workplace: `folder` is the sweep's; `options` are those of sbatch, `chunk` the runs or packs of a task,
    `most` the tasks that may be at work at once."""

    folder: Path
    options: Mapping[str, str]
    chunk: int | None = None
    most: int | None = None
    waiting: list[Task] = field(default_factory=list)
    unwanted: list[Task] = field(default_factory=list)
    looked: float = -math.inf
    queue: dict[str, dict[int, str]] = field(default_factory=dict)
    seen: bool = False  # whether the controller ever answered

    def __post_init__(self) -> None:
        found = (Array.read(path) for path in sorted((self.folder / FOLDER).glob("*.json")))
        self.arrays = [array for array in found if array]

    def width(self) -> int | None:
        """Returns how many tasks may work at a time, where that was said."""
        return self.most

    def has_room(self) -> bool:
        """Returns whether another run can be queued: always."""
        return True

    def start(self, runs: Sequence[Run], retry: Mapping[str, int]) -> Task:
        """Takes runs for the next array, unless a task of one that was handed in before has them."""
        task = Task(runs, retry, self)
        for array in self.arrays:
            indices = {array.task(run, retry.get(run.id)) for run in runs}
            index = indices.pop() if len(indices) == 1 else None
            if index is not None and self._queue().get(array.job, {}).get(index):
                task.array, task.index = array, index
                return task
        self.waiting.append(task)
        return task

    def left(self, task: Task) -> None:
        """Takes note that a run has ended."""

    def lacks(self) -> str:
        """Returns nothing: the state of a task says what it waits for."""
        return ""

    def state(self, task: Task) -> str | None:
        """Returns the state of a run's task in the queue; none where it is not there any more."""
        if task.array is None:
            return "WAITING"
        return self._queue().get(task.array.job, {}).get(task.index)

    def _queue(self) -> dict[str, dict[int, str]]:
        """The queue as it was seen last; a controller that is away for a while takes nothing from it."""
        if time.monotonic() - self.looked > POLL:
            try:
                self.queue = queued([array.job for array in self.arrays])
                self.seen = True
            except UsageError:
                if not self.seen:
                    raise
            self.looked = time.monotonic()
        return self.queue

    def cancel(self) -> None:
        """Takes all tasks from the queue whose runs are not wanted any more."""
        names = sorted({f"{task.array.job}_{task.index}" for task in self.unwanted if task.array})
        self.unwanted = []
        if names:
            call("scancel", *names)

    def submit(self) -> None:
        """Hands in an array of all runs that wait."""
        if not self.waiting:
            return
        tasks, self.waiting = self.waiting, []
        size = _size(self.chunk, len(tasks))
        groups = [tasks[i : i + size] for i in range(0, len(tasks), size)]
        name = uuid4().hex[:8]
        base = self.folder / FOLDER / name
        base.parent.mkdir(exist_ok=True)
        chunks = [[[run.id for run in task.runs] for task in group] for group in groups]
        retry = {id: attempts for task in tasks for id, attempts in task.retry.items()}
        text = script(self.folder.absolute(), name, self.options)
        atomic_write(base.with_suffix(".json"), json.dumps({"chunks": chunks, "retry": retry}).encode())
        atomic_write(base.with_suffix(".sh"), text.encode())
        answer = call("sbatch", "--parsable", _tasks(len(groups), self.most), str(base.with_suffix(".sh")))
        job = answer.strip().partition(";")[0]
        atomic_write(base.with_suffix(".id"), job.encode())
        made = Array(base.with_suffix(".json"), job, chunks, retry)
        self.arrays.append(made)
        for index, group in enumerate(groups):
            for task in group:
                task.array, task.index = made, index
        self.looked = -math.inf


def planned(folder: Path, place: Site, count: int) -> str:
    """Returns the call of sbatch and the script, as they would be for so many runs or packs."""
    groups = math.ceil(count / _size(place.chunk, count))
    call = f"# sbatch --parsable {_tasks(groups, place.jobs)} {folder / FOLDER}/NAME.sh"
    return f"{call}\n{script(folder.absolute(), 'NAME', options(place.options))}"


def _size(chunk: int | None, count: int) -> int:
    """How many runs, or packs, a task works through: one, or as many as keep the array small enough."""
    return chunk or math.ceil(max(1, count) / MOST)


def _tasks(groups: int, most: int | None) -> str:
    """The tasks of an array, of which at most so many are at work at once."""
    return f"--array=0-{max(0, groups - 1)}" + (f"%{most}" if most else "")
