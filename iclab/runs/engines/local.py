"""Workers on this machine: forks of one process that has loaded what a run needs, a few at a time.

To load PyTorch and iclab takes seconds, more than many a run. A server loads them once (multiprocessing's fork server)
and each worker is a fork of it. Where runs go to the GPU every worker sees one GPU alone, the next free one.
"""

import errno
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from iclab.runs import worker
from iclab.runs.store import Run, at_once

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
PRELOADED = "iclab.runs.engines.preloaded"
GPU = "CUDA_VISIBLE_DEVICES"
TRIES = 3  # servers that may be killed while they fork a worker

Slot = Mapping[str, str]  # what is set in the environment of a worker


@dataclass
class Child:
    """A process that works on a run."""

    process: Any
    alive: Connection  # it stops when this end of the pipe closes, however that comes
    slot: Slot

    def code(self) -> int | None:
        """Returns its exit status, minus the signal that killed it; none while it works."""
        return self.process.exitcode

    def stop(self) -> None:
        """Asks it to stop in order."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def where(self) -> str:
        """Returns its GPU, where it has one of its own."""
        return f"GPU {self.slot[GPU]}" if GPU in self.slot else ""

    def kill(self, patience: float) -> None:
        """Waits for its end, and kills it where that does not come."""
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()


@dataclass
class Processes:
    """A worker in each slot."""

    slots: Sequence[Slot]
    free: deque[Slot] = field(init=False)

    def __post_init__(self) -> None:
        self.free = deque(self.slots)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([PRELOADED])

    def width(self) -> int | None:
        """Returns the number of slots."""
        return len(self.slots)

    def has_room(self) -> bool:
        """Returns whether another worker can start."""
        return bool(self.free)

    def start(self, runs: Sequence[Run], retry: Mapping[str, int]) -> Child:
        """Starts a worker. Raises ``OSError`` where a log cannot be written, or no process can be made."""
        for run in runs:
            open(run.log, "ab", opener=at_once).close()  # an error of the disk is raised here and not in the worker
        read, write = self.context.Pipe(duplex=False)
        arguments = worker.arguments(runs, retry)
        process = self.context.Process(target=_become, args=(runs[0].log, arguments, dict(self.free[0]), read))
        with read, conditions_of_workers():
            _fork(process, runs[0])
        return Child(process, write, self.free.popleft())

    def left(self, child: Child) -> None:
        """Takes back the slot of a worker that has ended."""
        child.alive.close()
        self.free.append(child.slot)

    def lacks(self) -> str:
        """Returns nothing: a process is made when it is needed."""
        return ""


def _fork(process: Any, run: Run) -> None:
    """Has the server fork a worker; a new one where it is killed just then. What that one may have forked holds the
    run, and another worker waits for it. Raises ``OSError`` where that goes on."""
    for _ in range(TRIES):
        with suppress(EOFError, ConnectionError):
            return process.start()
    raise OSError(errno.ECHILD, "the server that forks workers was killed each time", str(run.folder))


@contextmanager
def conditions_of_workers() -> Iterator[None]:
    """Has what is started inside compute in one thread and never see the Ctrl-C of the terminal: it is this process
    that stops it, in order."""
    resource_tracker.ensure_running()  # whose start would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    environment = dict(os.environ)
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name in ONE_THREAD:
            os.environ.pop(name)
            os.environ.update({name: environment[name]} if name in environment else {})
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become(log: Path, arguments: Sequence[str], slot: Slot, alive: Connection) -> None:
    """Runs a worker to its end. Its output goes to a log, and its standard input ends with its parent."""
    os.environ.update(slot)
    with open(log, "ab", opener=at_once) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.dup2(alive.fileno(), 0)
    sys.exit(worker.main(arguments))


def slots(jobs: int | None, devices: Sequence[str], cores: int) -> list[Slot]:
    """Returns the slots for `jobs` workers on such devices (as `device` of an experiment names them): without a number
    one for each core, or where some go to a GPU that the machine chooses, one for each GPU."""
    gpus = visible_gpus() if any(each in ("auto", "cuda") for each in devices) else []
    if not gpus or any(each.startswith("cuda:") for each in devices):  # who says which GPU sees them all
        return [{}] * (jobs or cores)
    return [{GPU: gpus[i % len(gpus)]} for i in range(jobs or len(gpus))]


def visible_gpus() -> list[str]:
    """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count, named = torch.cuda.device_count(), os.environ.get(GPU, "")
    return named.split(",")[:count] if named else [str(i) for i in range(count)]
