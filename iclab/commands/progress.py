"""Progress of a sweep: a live table on a terminal, else a line for each start and end and one now and then."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from iclab.commands.terminal import table
from iclab.runs.store import Run, Status

SPARSE = 15.0  # seconds between two plain lines of progress


@dataclass
class Pace:
    """The steps of a run that is watched, from which the time left is judged."""

    start: float = 0.0
    first: int | None = None  # the step of the first point seen, which a resumed run does not begin with 0

    def told(self, point: Mapping[str, float]) -> tuple[str, str, str]:
        """Returns step, loss and time left, as they are printed."""
        step, steps = int(point.get("step", 0)), int(point.get("steps", 0))
        if self.first is None and point:
            self.start, self.first = time.monotonic(), step
        rate = (step - (self.first or 0)) / max(1e-9, time.monotonic() - self.start)
        left = str(timedelta(seconds=round((steps - step) / rate))) if rate > 0 else ""
        return f"{step}/{steps}" if steps else "", f"{point['loss']:.4g}" if "loss" in point else "", left


@dataclass
class Plain:
    """Lines for logs and pipes."""

    labels: Mapping[str, str]
    to: Console
    paces: dict[str, Pace] = field(default_factory=dict, init=False)
    last: float = field(default_factory=time.monotonic, init=False)
    waiting_for: set[str] = field(default_factory=set, init=False)

    def started(self, run: Run) -> None:
        self.paces[run.id] = Pace()
        self._say(f"started  {self._named(run)}")

    def ended(self, run: Run, status: Status) -> None:
        self._say(f"{status.state:8} {self._named(run)}  {status.seconds:.4g} s  {status.error}".rstrip())

    def look(self, working: Mapping[str, Run], held: Mapping[str, Run], waiting: int, where: Mapping[str, str]) -> None:
        for id in held.keys() - self.waiting_for:
            self._say(f"waits    {self._named(held[id])}, which another sweep works on")
        self.waiting_for |= held.keys()
        if time.monotonic() - self.last >= SPARSE:
            for id, run in working.items():
                step, loss, left = self.paces[id].told(run.latest())
                pace = f"step {step or 0}  loss {loss or '?'}  time left {left or '?'}"
                self._say(f"running  {self._named(run)}  {pace}  {where.get(id, '')}".rstrip())
            self.last = time.monotonic()

    def note(self, text: str) -> None:
        self._say(text)

    def _named(self, run: Run) -> str:
        return f"{run.id} {self.labels.get(run.id, '')}".rstrip()

    def _say(self, text: str) -> None:
        self.to.print(Text(text), soft_wrap=True)


@dataclass
class Moving:
    """A table of the runs at work, redrawn in place; runs that end in another state than done stay above it."""

    labels: Mapping[str, str]
    live: Live
    total: int
    counts: Counter[str] = field(default_factory=Counter, init=False)
    paces: dict[str, Pace] = field(default_factory=dict, init=False)

    def started(self, run: Run) -> None:
        self.paces[run.id] = Pace()

    def ended(self, run: Run, status: Status) -> None:
        self.counts[status.state] += 1
        if status.state != "done":
            self.live.console.print(
                Text(f"{status.state} {run.id} {self.labels.get(run.id, '')} {status.error}", "red")
            )

    def look(self, working: Mapping[str, Run], held: Mapping[str, Run], waiting: int, where: Mapping[str, str]) -> None:
        rows = [
            [id, self.labels.get(id, ""), *self.paces[id].told(run.latest()), where.get(id, "")]
            for id, run in working.items()
        ]
        rows += [[id, self.labels.get(id, ""), "", "", "", "another sweep"] for id in held]
        ended = ", ".join(f"{count} {state}" for state, count in self.counts.items()) or "none ended"
        title = f"{self.total} runs: {ended}, {len(working) + len(held)} at work, {waiting} waiting"
        self.live.update(self._table(title, rows))

    def note(self, text: str) -> None:
        self.live.console.print(Text(text, "yellow"), soft_wrap=True)

    def _table(self, title: str, rows: list[list[str]]) -> Group:
        columns = ["run", "settings", "step", "loss", "time left", "where"]
        shown = len(columns) if any(row[-1] for row in rows) else -1  # one place needs no column
        return table(title, columns[:shown], [row[:shown] for row in rows], self.live.console)


@contextmanager
def shown(labels: Mapping[str, str], total: int, to: Console) -> Iterator[Plain | Moving]:
    """Yields the display that suits the output."""
    if not to.is_terminal or os.environ.get("NO_COLOR"):
        yield Plain(labels, to)
    else:
        with Live(console=to, refresh_per_second=4, transient=True) as live:
            yield Moving(labels, live, total)
