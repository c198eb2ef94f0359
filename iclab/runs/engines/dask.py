"""Workers of a Dask cluster, which need no common disk: the files of a run travel with it.

    this process     holds the locks, writes the store, sends a run out and resubmits one whose worker was lost
    a task           a run in a folder of the worker's own; a child process works on it, and what changes is sent back
    the scheduler    carries the files through a queue, and a beat by which tasks know that somebody waits for them

Any of them may die. A run whose worker is lost goes on elsewhere from the newest checkpoint that came back; where the
client or the scheduler is lost the same command goes on. A worker of another iclab or PyTorch is refused, since its
numbers could be others.
"""

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import distributed  # pyright: ignore[reportMissingImports]
from dask.config import set as configured  # pyright: ignore[reportMissingImports]
from distributed import Client, Queue, Variable, get_worker  # pyright: ignore[reportMissingImports]

from iclab.errors import UsageError, refuse, unknown
from iclab.runs.engines import Site
from iclab.runs.engines.local import ONE_THREAD, Slot, conditions_of_workers
from iclab.runs.engines.parcel import Changes, Files, packed, unpack
from iclab.runs.engines.places import Versions, differing, versions
from iclab.runs.store import ENDED, Run, at_once
from iclab.runs.worker import BUSY, STOPPED, arguments

LOOK = 0.5  # seconds between two looks of a task at its child, and of the client at the queue
PATIENCE = 30.0  # seconds without a beat after which a task takes its client for gone
CONNECT = "10s"  # for which somebody at an address is waited
GONE = "--engine dask: the scheduler is gone; the same command goes on with another one"
LOST = 255  # the exit status of a run that was given up
NOBODY = 10.0  # seconds without a worker after which that is said
LIVES = 3  # workers in a row that may be lost without a new checkpoint

# ---- at the worker -------------------------------------------------------------------------------------------------


def work(
    files: Mapping[str, Files], retry: Mapping[str, int], slot: Slot, expected: Versions, channel: str, life: str
) -> tuple[int | str, dict[str, Files]]:
    """Works on runs whose files these are, by id, in a folder that Dask removes where nobody else can; sends what
    changes on the way, and returns the exit status of the worker and what changed last. In place of the status stands
    in what this place differs, where it does."""
    if other := differing(expected, versions()):
        return other, {}
    queue, beat = Queue(channel), Variable(f"{channel} beat")
    with tempfile.TemporaryDirectory(prefix="iclab_", dir=get_worker().local_directory) as parent:
        for id, content in files.items():
            unpack(content, Path(parent) / id)
        changes = {id: Changes(Path(parent) / id) for id in files}
        with _child([Run(each.folder) for each in changes.values()], retry, slot) as child:
            for _ in _looks(child, beat, life):
                if found := _taken(changes):
                    queue.put((life, found))
        return child.returncode, _taken(changes)


def _taken(changes: Mapping[str, Changes]) -> dict[str, Files]:
    """What changed of each run, of those where something did."""
    found = {id: each.take() for id, each in changes.items()}
    return {id: files for id, files in found.items() if files}


@contextmanager
def _child(runs: Sequence[Run], retry: Mapping[str, int], slot: Slot) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, which is gone when the block is left, however that comes."""
    command = [sys.executable, "-m", "iclab.runs.worker", *arguments(runs, retry)]
    environment = {**os.environ, **ONE_THREAD, **slot}
    with open(runs[0].log, "ab", opener=at_once) as log:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, bufsize=0)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()


def _looks(child: subprocess.Popen[bytes], beat: Any, life: str) -> Iterator[None]:
    """Yields again and again until the child has ended, and asks it to stop where the client wants that, or is gone."""
    last, heard, asked = None, time.monotonic(), False
    while child.poll() is None:
        time.sleep(LOOK)
        try:
            count, stopped = beat.get(timeout=5)
        except Exception:  # no scheduler, or it knows nothing of us
            count, stopped = last, ()
        if count != last:
            last, heard = count, time.monotonic()
        if not asked and (life in stopped or time.monotonic() - heard > PATIENCE):
            child.terminate()
            asked = True
        yield


# ---- at the client -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Task:
    """Runs at a worker somewhere, of which `refused` counts those that another process holds."""

    runs: Sequence[Run]
    retry: Mapping[str, int]
    refused: int
    slot: Slot
    lock: ExitStack
    submit: Callable[..., Any]
    drain: Callable[[], None]
    life: str = ""
    future: Any = None
    lost: int = 0  # workers in a row that were lost without a new checkpoint
    stopping: bool = False
    ended: int | None = None

    def send(self) -> None:
        """Sends the runs out, with their files as they are."""
        self.life = uuid4().hex
        files = {run.id: packed(run.folder) for run in self.runs}
        self.future = self.submit(files, dict(self.retry), dict(self.slot), self.life)

    def receive(self, files: Mapping[str, Files]) -> None:
        """Lays down what came back."""
        for run in self.runs:
            unpack(files.get(run.id, {}), run.folder)
        if any(name.startswith("checkpoint") for each in files.values() for name in each):
            self.lost = 0

    def code(self) -> int | None:
        """Returns the exit status of the worker; none while it works, here or there. Raises ``ValueError`` where it is
        at a place that must not work."""
        self.drain()
        if self.ended is None and self.future.done():
            self.ended = self._result() if self.future.status == "finished" else self._again()
        return self.ended

    def _result(self) -> int:
        status, files = self.future.result()
        if isinstance(status, str):
            raise UsageError(f"--engine dask: a worker is of another version: {status}")
        self.receive(files)
        return BUSY if self.refused and status != STOPPED else status

    def _again(self) -> int | None:
        """Sends a run out once more whose worker was lost; an exit status where that was tried often enough."""
        self.lost += 1
        why = self.future.exception() if self.future.status == "error" else self.future.status
        if self.lost > LIVES or self.stopping:
            text = f"lost its worker {self.lost} times without a new checkpoint: {why}"
            for run in self.runs:
                run.note(text)
                _ = run.recorded().state in ENDED or run.record(run.recorded(), error=text)
            return LOST
        for run in self.runs:
            run.note(f"lost its worker, and goes on at another one: {why}")
        self.send()
        return None

    def where(self) -> str:
        """Returns nothing: the scheduler chooses, and may choose again."""
        return ""

    def stop(self) -> None:
        """Asks the worker to stop in order; the next beat says so."""
        self.stopping = True
        with suppress(UsageError):
            self.drain()

    def kill(self, patience: float) -> None:
        """Waits for the end and takes what came back; gives the run up where that does not come."""
        end = time.monotonic() + patience
        with suppress(Exception):  # the scheduler may be gone
            while self.code() is None and time.monotonic() < end:
                time.sleep(0.1)
            self.future.cancel()
        self.lock.close()


@dataclass(eq=False)
class Cluster:
    """The workers of a Dask cluster. `slots` are what is set in the environment of each, on a cluster of this machine;
    on another as many runs are sent out as it has threads, or as are said. `nobody` is what to say of a cluster that
    has no workers."""

    client: Client
    slots: Sequence[Slot] = ()
    most: int | None = None
    nobody: str = ""
    tasks: list[Task] = field(default_factory=list)
    channel: str = field(default_factory=lambda: f"iclab {uuid4().hex}")

    def __post_init__(self) -> None:
        self.free = deque(self.slots)
        self.queue: Any = Queue(self.channel, client=self.client)
        self.beat: Any = Variable(f"{self.channel} beat", client=self.client)
        self.count, self.looked = 0, 0.0
        self.threads, self.counted, self.staffed = 0, 0.0, time.monotonic()
        for address, there in asked(self.client, versions).items():
            if other := differing(versions(), there):
                raise UsageError(f"--engine dask: the worker {address} is of another version: {other}")

    def has_room(self) -> bool:
        """Returns whether another run can be sent out."""
        return bool(self.free) if self.slots else len(self.tasks) < (self.most or self._threads())

    def width(self) -> int | None:
        """Returns how many workers work at a time."""
        return len(self.slots) or self.most or self._threads()

    def _threads(self) -> int:
        """The threads of all workers, as they were a moment ago."""
        if time.monotonic() - self.counted > LOOK:
            with _scheduler_there():
                workers = self.client.scheduler_info(n_workers=-1).get("workers", {})
            self.threads = sum(each["nthreads"] for each in workers.values())
            self.counted = time.monotonic()
        return self.threads

    def lacks(self) -> str:
        """Returns that there has been no worker for a while. Raises ``ValueError`` where the scheduler is gone."""
        self._drain()
        if not self.nobody or self._threads():
            self.staffed = time.monotonic()
        return self.nobody if time.monotonic() - self.staffed > NOBODY else ""

    def start(self, runs: Sequence[Run], retry: Mapping[str, int]) -> Task:
        """Sends runs out, once they are held here."""
        locks = ExitStack()
        mine = [run for run in runs if locks.enter_context(run.hold(patience=0.5))]
        if not mine:
            return Task((), retry, len(runs), {}, locks, self._submit, self._drain, ended=BUSY)
        slot = self.free.popleft() if self.slots else {}
        task = Task(mine, retry, len(runs) - len(mine), slot, locks, self._submit, self._drain)
        self.tasks.append(task)
        self._drain()
        task.send()
        return task

    def left(self, task: Task) -> None:
        """Takes note that runs have come back."""
        task.lock.close()
        if task in self.tasks:
            self.tasks.remove(task)
            self.free.extend([task.slot] if self.slots else [])

    def _submit(self, files: Mapping[str, Files], retry: Mapping[str, int], slot: Slot, life: str) -> Any:
        if self.client.status != "running":
            raise UsageError(GONE)
        return self.client.submit(
            work, files, retry, slot, versions(), self.channel, life, pure=False, retries=0, key=f"iclab-{life}"
        )

    def _drain(self) -> None:
        """Lays down what came back, and lets the tasks know that this process is there."""
        if time.monotonic() - self.looked < LOOK:
            return
        self.looked = time.monotonic()
        self.count += 1
        lives = {task.life: task for task in self.tasks}
        with _scheduler_there():
            self.beat.set((self.count, tuple(life for life, task in lives.items() if task.stopping)))
            arrived = self.queue.get(batch=True)
        for life, files in arrived:
            if life in lives:  # and not one that was given up
                lives[life].receive(files)


@contextmanager
def _scheduler_there() -> Iterator[None]:
    """Raises ``ValueError`` where the scheduler turns out to be gone."""
    try:
        yield
    except (OSError, AttributeError, RuntimeError):  # the latter two of a client that has closed itself
        raise UsageError(GONE) from None


def asked(client: Client, question: Callable[[], Any]) -> dict[str, Any]:
    """Returns the answer of each worker to a question, by address. Raises ``ValueError`` where one does not know it."""
    try:
        answers: Any = client.run(question)
        return answers
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--engine dask: a worker has no iclab, or another: {error}") from None
    except OSError as error:
        raise UsageError(f"--engine dask: a worker left while it was asked for its version: {error}") from None


@contextmanager
def opened(place: Site, slots: Sequence[Slot]) -> Iterator[Cluster]:
    """Yields the workplace, as `connected` has it."""
    with connected(place, slots) as client:
        if place.address:
            nobody = f"--address {place.address} has no workers: start one with `dask worker {place.address}`"
            yield Cluster(client, most=place.jobs, nobody=nobody)
        elif place.cluster:
            nobody = f"--cluster {place.cluster}: no job of it is at work; its queue says what they wait for"
            yield Cluster(client, most=place.jobs or 1, nobody=nobody)
        else:
            yield Cluster(client, slots)


@contextmanager
def connected(place: Site, slots: Sequence[Slot]) -> Iterator[Client]:
    """Yields the client of a scheduler at an address, of a cluster that dask-jobqueue starts, or of one on this machine
    with a process for each slot. Raises ``ValueError`` where nobody answers, or a class or an option is not known."""
    settings = {
        "distributed.scheduler.allowed-failures": 0,  # it is the client that sends a run out again, with new files
        "distributed.comm.timeouts.connect": CONNECT,
    }
    with configured(settings):
        if place.address:
            made = _at(place.address)
        elif place.cluster:
            made = _started(place.cluster, place.options, place.jobs or 1)
        else:
            made = _local(len(slots))
        with made as client:
            yield client


def _at(address: str) -> Client:
    try:
        return Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"--address {address}: no scheduler answers: {error}") from None


@contextmanager
def _started(name: str, options: Sequence[str], jobs: int) -> Iterator[Client]:
    """A cluster whose workers are jobs of a queue: none where there is no work, and no more than so many runs need. The
    first is handed in at once: a queue that refuses it says so."""
    try:
        import dask_jobqueue  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise UsageError("--cluster needs the package dask-jobqueue: pip install 'iclab[dask]'") from None
    kinds = {each.removesuffix("Cluster"): each for each in vars(dask_jobqueue) if each.endswith("Cluster")}
    refuse("--cluster", [] if name in kinds else [unknown("cluster", name, kinds)])
    try:
        given = {key: _value(text) for key, _, text in (option.partition("=") for option in options)}
        made = getattr(dask_jobqueue, kinds[name])(**given)
        cores = max(1, int(given.get("cores", 1)))
        _hand_in(made)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"--cluster {name}, with --option KEY=VALUE: {' '.join(str(error).split())}") from None
    made.adapt(minimum_jobs=0, maximum_jobs=math.ceil(jobs / cores))
    with made, Client(made, set_as_default=False) as client:
        yield client


def _hand_in(made: Any) -> None:
    """Hands in the first job of a cluster, and closes it where that is refused: it would wait for the end of the
    job."""
    try:
        made.worker_spec.update(made.new_worker_spec())
        made.sync(made._correct_state)
    except Exception:
        for jobs in (made.workers, made.worker_spec, made._created):
            jobs.clear()
        made.close()
        raise


def _value(text: str) -> Any:
    """The value of an option: a number, a list or a truth as JSON has them, or else a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextmanager
def _local(count: int) -> Iterator[Client]:
    """A cluster of this machine that nobody else can reach."""
    settings: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
    # Workers whose client is killed would log the loss of their scheduler with a traceback, to its terminal.
    settings |= {"silence_logs": logging.CRITICAL}
    with conditions_of_workers():
        try:
            local = distributed.LocalCluster(n_workers=count, host="127.0.0.1", **settings)
        except (RuntimeError, OSError) as error:
            raise UsageError(f"--engine dask: the processes of this machine did not start: {error}") from None
    with local, Client(local, set_as_default=False) as client:
        yield client
