"""The engine brings runs to their ends. It only has workers started, somewhere; the store holds what they did.

    waiting  →  working  →  ended               a worker of ours
    waiting  →  held     →  ended or waiting    a worker of another sweep; if that one dies, the run waits again

A run whose training another one makes right now waits for it, and takes it then: see `iclab.runs.trainings`.
A worker that is killed costs its own run only, and that run resumes from its checkpoint when the sweep is given again;
so does one that the disk interrupted. A finished run whose files are not what was recorded waits like others.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from iclab.errors import Damaged
from iclab.runs.disk import ADVICE, told
from iclab.runs.packing import Packs
from iclab.runs.store import ENDED, Run, Status
from iclab.runs.trainings import Trainings
from iclab.runs.worker import BUSY, UNRECORDED

PAUSE = 0.1  # seconds between two looks at the workers


@runtime_checkable
class Display(Protocol):
    """Shows a sweep while it goes on."""

    def started(self, run: Run) -> None:
        """Takes note that a worker of ours took the run up."""

    def ended(self, run: Run, status: Status) -> None:
        """Takes note that the run has ended, here or in another sweep."""

    def look(self, working: Mapping[str, Run], held: Mapping[str, Run], waiting: int, where: Mapping[str, str]) -> None:
        """Redraws the display; called repeatedly in between. `where` holds the places of the working runs."""

    def note(self, text: str) -> None:
        """Shows a line about the workplace."""


@runtime_checkable
class Worker(Protocol):
    """Who works on a run, or on several, wherever that is."""

    def code(self) -> int | None:
        """Returns the exit status of the worker (`iclab.runs.worker`); none while it works."""
        ...

    def stop(self) -> None:
        """Asks the worker to stop in order."""

    def kill(self, patience: float) -> None:
        """Waits so many seconds for its end, and kills it where that does not come."""

    def where(self) -> str:
        """Returns where it works, in a word or two; nothing where there is one place only."""
        ...


@runtime_checkable
class Workplace(Protocol):
    """Where workers work: see `iclab.runs.engines`."""

    def width(self) -> int | None:
        """Returns how many workers can work at a time; none where that is not known."""
        ...

    def has_room(self) -> bool:
        """Returns whether another worker can start."""
        ...

    def start(self, runs: Sequence[Run], retry: Mapping[str, int]) -> Any:
        """Starts a `Worker` on a run, or on several that train as a pack; `retry` are the numbers of the attempts that
        failed, by run, of those that shall be tried again. Raises ``OSError``."""

    def left(self, child: Any) -> None:
        """Takes note that a worker has ended."""

    def lacks(self) -> str:
        """Returns in a line what runs wait for that does not come by itself; nothing where they do not."""
        ...


@dataclass
class Engine:
    """Brings runs to their ends with workers in a workplace. Failed runs are left alone unless `retry` is set."""

    runs: Sequence[Run]
    workplace: Workplace
    display: Display
    retry: bool = False
    trainings: Trainings = field(default_factory=Trainings)
    packs: Packs = field(default_factory=Packs)
    waiting: deque[Run] = field(default_factory=deque, init=False)
    working: dict[tuple[Run, ...], Worker] = field(default_factory=dict, init=False)
    held: dict[str, Run] = field(default_factory=dict, init=False)
    outcomes: dict[str, Status] = field(default_factory=dict, init=False)
    tries: dict[str, int] = field(default_factory=dict, init=False)
    lacking: str = field(default="", init=False)

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

    def handed_in(self) -> dict[str, Status]:
        """Has work begun on every run that can begin now, and leaves it alone; returns the statuses as they are."""
        self._sort()
        self._start()
        for worker in self.working.values():
            worker.code()
        return {run.id: self.outcomes.get(run.id) or run.status() for run in self.runs}

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
        while self.workplace.has_room() and (run := self._next()):
            if self._startable(run):
                self._begin((run, *self._companions(run)))

    def _next(self) -> Run | None:
        """The first waiting run that needs not wait for the training of another."""
        busy = {*self._at_work(), *self.held}
        run = next((run for run in self.waiting if not self.trainings.waits(run, busy)), None)
        _ = run and self.waiting.remove(run)
        return run

    def _at_work(self) -> dict[str, Run]:
        """The runs that workers of ours work on, by id."""
        return {run.id: run for unit in self.working for run in unit}

    def _startable(self, run: Run) -> bool:
        """Whether work on a run can begin: it has no end that stands, and nobody else holds it. It has its training
        then, where there is one to take."""
        if run.held():
            self.held[run.id] = run
            return False
        return not self._settled(run) and self._given(run)

    def _companions(self, run: Run) -> list[Run]:
        """Waiting runs that train with one that has no training."""
        key, found = self.packs.key(run.id), []
        waiting = [other for other in self.waiting if key and self.packs.key(other.id) == key and not run.weights]
        undone = [run.id, *(other.id for other in self.waiting), *self._at_work()]
        alike = sum(self.packs.key(id) == key for id in undone)
        size = self.packs.size(run, len(waiting) + 1, alike, len(undone), self.workplace.width())
        for other in waiting:
            busy = {*self._at_work(), *self.held, run.id, *(each.id for each in found)}
            trained = other.weights or self.trainings.sources(other) or self.trainings.waits(other, busy)
            if len(found) + 1 < size and not trained:
                self.waiting.remove(other)
                found += [other] if self._startable(other) else []
        return found

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

    def _begin(self, unit: tuple[Run, ...]) -> None:
        try:
            again = {run.id: self.tries[run.id] for run in unit} if self.retry else {}
            self.working[unit] = self.workplace.start(unit, again)
        except OSError as error:
            for run in unit:
                self._end(run, _interrupted(run.recorded(), told(error)))
        else:
            for run in unit:
                self.display.started(run)

    def _look(self) -> None:
        for unit, worker in list(self.working.items()):
            if (code := worker.code()) is not None:
                del self.working[unit]
                self.workplace.left(worker)
                for run in unit:
                    self._finish(run, code)
        for id, run in list(self.held.items()):
            if not run.held():
                del self.held[id]
                self.waiting.append(run)
        where = {run.id: _where(unit, worker) for unit, worker in self.working.items() for run in unit}
        self.display.look(self._at_work(), self.held, len(self.waiting), where)
        self._say_what_is_lacking()
        time.sleep(PAUSE)

    def _say_what_is_lacking(self) -> None:
        """Says it once, and again where it was there meanwhile."""
        before, self.lacking = self.lacking, self.workplace.lacks()
        if self.lacking not in ("", before):
            self.display.note(self.lacking)

    def _finish(self, run: Run, code: int) -> None:
        if self._settled(run):
            return
        if code == BUSY:
            self.held[run.id] = run
        else:
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
        """Stops all workers in order and waits; those that do not end are killed."""
        for worker in self.working.values():
            worker.stop()
        end = time.monotonic() + 10
        for worker in self.working.values():
            worker.kill(max(0.1, end - time.monotonic()))


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


def _where(unit: Sequence[Run], worker: Worker) -> str:
    """Where a run is worked on, and with how many others."""
    return ", ".join(filter(None, [worker.where(), f"pack of {len(unit)}" if len(unit) > 1 else ""]))


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
