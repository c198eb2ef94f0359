"""The local engine: a process for each run, a few at a time. It only starts workers; the store holds what they did.

    waiting  →  working  →  ended               a worker of ours
    waiting  →  held     →  ended or waiting    a worker of another sweep; if that one dies, the run waits again

A run whose training another one makes right now waits for it, and takes it then: see `iclab.runs.trainings`.
A worker that is killed costs its own run only, and that run resumes from its checkpoint when the sweep is given again;
so does one that the disk interrupted. A finished run whose files are not what was recorded waits like others.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from iclab.errors import Damaged
from iclab.runs.disk import ADVICE, told
from iclab.runs.store import ENDED, Run, Status, at_once
from iclab.runs.trainings import Trainings
from iclab.runs.worker import BUSY, UNRECORDED

PAUSE = 0.1  # seconds between two looks at the workers
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


@runtime_checkable
class Display(Protocol):
    """Shows a sweep while it goes on."""

    def started(self, run: Run) -> None:
        """Takes note that a worker of ours took the run up."""

    def ended(self, run: Run, status: Status) -> None:
        """Takes note that the run has ended, here or in another sweep."""

    def look(self, working: Mapping[str, Run], held: Mapping[str, Run], waiting: int) -> None:
        """Redraws the display; called repeatedly in between."""


@dataclass
class Engine:
    """Brings runs to their ends with `jobs` processes. Failed runs are left alone unless `retry` is set."""

    runs: Sequence[Run]
    jobs: int
    display: Display
    retry: bool = False
    trainings: Trainings = field(default_factory=Trainings)
    waiting: deque[Run] = field(default_factory=deque, init=False)
    working: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    held: dict[str, Run] = field(default_factory=dict, init=False)
    outcomes: dict[str, Status] = field(default_factory=dict, init=False)
    tries: dict[str, int] = field(default_factory=dict, init=False)

    def execute(self) -> dict[str, Status]:
        """Works until every run has ended; returns how, by id. A run whose worker was killed ends interrupted."""
        self._sort()
        try:
            with _termination_as_interrupt():
                while self.waiting or self.working or self.held:
                    self._start()
                    self._look()
        finally:
            self._stop()
        return self.outcomes

    def _sort(self) -> None:
        """Runs that have ended need nothing; the others wait."""
        for run in self.runs:
            status = run.checked()
            self.tries[run.id] = status.attempts
            again = self.retry and status.state in ("failed", "diverged")
            if status.state in ENDED and not again:
                self.outcomes[run.id] = status
            else:
                self.waiting.append(run)

    def _start(self) -> None:
        while len(self.working) < self.jobs and (run := self._next()):
            if run.held():
                self.held[run.id] = run
            elif not self._settled(run) and self._given(run):
                self._begin(run)

    def _next(self) -> Run | None:
        """The first waiting run that needs not wait for the training of another."""
        busy = {*self.working, *self.held}
        run = next((run for run in self.waiting if not self.trainings.waits(run, busy)), None)
        _ = run and self.waiting.remove(run)
        return run

    def _given(self, run: Run) -> bool:
        """Gives a run its training, where there is one; whether the disk takes it."""
        try:
            self.trainings.give(run)
        except Damaged:  # the worker meets the same error, and reports it
            return True
        except OSError as error:
            self._end(run, _interrupted(run.recorded(), told(error)))
            return False
        return True

    def _begin(self, run: Run) -> None:
        try:
            self.working[run.id] = _spawn(run, self.tries[run.id] if self.retry else None)
        except OSError as error:
            self._end(run, _interrupted(run.recorded(), told(error)))
        else:
            self.display.started(run)

    def _look(self) -> None:
        by_id = {run.id: run for run in self.runs}
        for id, process in list(self.working.items()):
            if process.poll() is not None:
                del self.working[id]
                self._finish(by_id[id], process.returncode)
        for id, run in list(self.held.items()):
            if not run.held():
                del self.held[id]
                self.waiting.append(run)
        self.display.look({id: by_id[id] for id in self.working}, self.held, len(self.waiting))
        time.sleep(PAUSE)

    def _finish(self, run: Run, code: int) -> None:
        if code == BUSY:
            self.held[run.id] = run
        elif not self._settled(run):
            self._end(run, _explained(run, code))

    def _settled(self, run: Run) -> bool:
        """Whether the run has an end that stands: done, or failed in an attempt of this sweep or with none left."""
        status = run.checked()
        again = self.retry and status.attempts == self.tries[run.id]
        if status.state not in ENDED or (status.state != "done" and again):
            return False
        self._end(run, status)
        return True

    def _end(self, run: Run, status: Status) -> None:
        self.outcomes[run.id] = status
        self.trainings.ended(run)
        self.display.ended(run, status)

    def _stop(self) -> None:
        """Stops all workers and waits; those that do not are killed."""
        for process in self.working.values():
            with suppress(ProcessLookupError):
                process.terminate()
        end = time.monotonic() + 10
        for process in self.working.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def _spawn(run: Run, retry: int | None) -> subprocess.Popen[bytes]:
    """Starts a worker. The pipe to its standard input closes when this process dies, and the worker stops then."""
    again = [] if retry is None else ["--retry", str(retry)]
    command = [sys.executable, "-m", "iclab.runs.worker", str(run.folder), "--watch", *again]
    with open(run.log, "ab", opener=at_once) as log, _interrupts_blocked():
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **ONE_THREAD}, bufsize=0
        )


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A child started inside never sees the Ctrl-C of the terminal: it is this process that stops it, in order."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM stops the sweep in the same order as Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _explained(run: Run, code: int) -> Status:
    """The status of a run that was left without an end, with what is known of the reason."""
    status, number = run.status(), code - UNRECORDED
    if code < 0:
        name = signal.Signals(-code).name
        reason = f"its process was killed by {name}" + (" (memory used up?)" if name == "SIGKILL" else "")
    elif number in ADVICE:
        reason = told(OSError(number, os.strerror(number), str(run.folder)))
    else:
        reason = status.error or f"its process ended with status {code}; see its log.txt"
    return _interrupted(status, reason)


def _interrupted(status: Status, reason: str) -> Status:
    return Status("interrupted", status.attempts, status.seconds, reason, status.started, status.ended)
