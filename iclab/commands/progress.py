"""Progress of a sweep: a live table under a bar on a terminal, else a line for whatever changes and one a minute."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from iclab.bar import MINUTE
from iclab.commands.terminal import table
from iclab.runs.forecast import Forecast
from iclab.runs.store import Run, Status

WIDE = 40  # of the bar, in letters


@dataclass
class Pace:
    """The steps of a run that is watched, from which the time left is judged."""

    start: float = 0.0
    first: int | None = None  # the step of the first point seen, which a resumed run does not begin with 0
    phase: str = ""
    share: float = 0.0  # of its steps

    def told(self, point: Mapping[str, float]) -> tuple[str, str, str]:
        """Returns step, loss and time left, as they are printed."""
        step, steps = int(point.get("step", 0)), int(point.get("steps", 0))
        if self.first is None and point:
            self.start, self.first = time.monotonic(), step
        self.share = min(1.0, step / steps) if steps else 0.0
        rate = (step - (self.first or 0)) / max(1e-9, time.monotonic() - self.start)
        left = str(timedelta(seconds=round((steps - step) / rate))) if rate > 0 else ""
        return f"{step}/{steps}" if steps else "", f"{point['loss']:.4g}" if "loss" in point else "", left


def measures(phase: str) -> bool:
    """Returns whether a phase is one without steps of training."""
    return phase not in ("", "train")


@dataclass
class Whole:
    """The sweep as a whole: what has ended, what is at work, and how long the rest will take."""

    labels: Mapping[str, str]
    forecast: Forecast
    width: int | None
    counts: Counter[str] = field(default_factory=Counter, init=False)
    paces: dict[str, Pace] = field(default_factory=dict, init=False)
    ended: set[str] = field(default_factory=set, init=False)

    @property
    def total(self) -> int:
        """Returns the number of runs that had not ended when the sweep began."""
        return len(self.forecast.shapes)

    def start(self, run: Run) -> None:
        """Takes note that a run is worked on."""
        self.paces[run.id] = Pace()

    def end(self, run: Run, status: Status) -> None:
        """Takes note that a run has ended, and how long it took."""
        self.ended.add(run.id)
        self.counts[status.state] += 1
        if status.state == "done" and status.attempts == 1:
            self.forecast.learn(run.id, status.seconds)

    def told(self, run: Run) -> list[str]:
        """Returns phase, step, loss and time left of a run, as they are printed."""
        pace, point = self.paces[run.id], run.latest()
        pace.phase = run.recorded().phase
        step, loss, left = pace.told(point)
        return [pace.phase, "", "", ""] if measures(pace.phase) else [pace.phase, step, loss, left]

    def share(self) -> float:
        """Returns what share of the runs is done, steps of training counted for those at work."""
        return min(1.0, sum(self._shares().values()) / max(1, self.total))

    def left(self, working: Mapping[str, Run]) -> str:
        """Returns the time left, in words."""
        return self.forecast.told(self._shares(), self.width or len(working))

    def _shares(self) -> dict[str, float]:
        return {id: pace.share for id, pace in self.paces.items()} | dict.fromkeys(self.ended, 1.0)

    def named(self, run: Run) -> str:
        """Returns the id of a run and what sets it apart."""
        return f"{run.id} {self.labels.get(run.id, '')}".rstrip()


@dataclass
class Plain:
    """Lines for logs and pipes."""

    whole: Whole
    to: Console
    last: float = field(default_factory=time.monotonic, init=False)
    waiting_for: set[str] = field(default_factory=set, init=False)

    def started(self, run: Run) -> None:
        self.whole.start(run)
        self._say(f"started  {self.whole.named(run)}")

    def ended(self, run: Run, status: Status) -> None:
        self.whole.end(run, status)
        self._say(f"{status.state:8} {self.whole.named(run)}  {status.seconds:.4g} s  {status.error}".rstrip())

    def look(self, working: Mapping[str, Run], held: Mapping[str, Run], waiting: int, where: Mapping[str, str]) -> None:
        for id in held.keys() - self.waiting_for:
            self._say(f"waits    {self.whole.named(held[id])}, which another sweep works on")
        self.waiting_for |= held.keys()
        due = time.monotonic() - self.last >= MINUTE
        for id, run in working.items():
            before = self.whole.paces[id].phase
            phase, step, loss, left = self.whole.told(run)
            if due:
                at = "" if measures(phase) else f"step {step or 0}  loss {loss or '?'}  time left {left or '?'}"
                self._say(f"running  {self.whole.named(run)}  {phase}  {at}  {where.get(id, '')}".rstrip())
            elif phase not in ("", before):
                self._say(f"running  {self.whole.named(run)}  {phase}")
        if due:
            ended = f"{len(self.whole.ended)} of {self.whole.total} runs ended"
            self._say(f"sweep    {ended}, {self.whole.share():.0%}, time left {self.whole.left(working)}")
            self.last = time.monotonic()

    def note(self, text: str) -> None:
        self._say(text)

    def _say(self, text: str) -> None:
        self.to.print(Text(text), soft_wrap=True)


@dataclass
class Moving:
    """A table of the runs at work under a bar for all of them, redrawn in place; runs that end in another state than
    done stay above it."""

    whole: Whole
    live: Live

    def started(self, run: Run) -> None:
        self.whole.start(run)

    def ended(self, run: Run, status: Status) -> None:
        self.whole.end(run, status)
        if status.state != "done":
            self.live.console.print(Text(f"{status.state} {self.whole.named(run)} {status.error}", "red"))

    def look(self, working: Mapping[str, Run], held: Mapping[str, Run], waiting: int, where: Mapping[str, str]) -> None:
        labels = self.whole.labels
        rows = [[id, labels.get(id, ""), *self.whole.told(run), where.get(id, "")] for id, run in working.items()]
        rows += [[id, labels.get(id, ""), "", "", "", "", "another sweep"] for id in held]
        ended = ", ".join(f"{count} {state}" for state, count in self.whole.counts.items()) or "none ended"
        title = f"{self.whole.total} runs: {ended}, {len(working) + len(held)} at work, {waiting} waiting"
        share = self.whole.share()
        left = Text(f"{share:.0%}, time left {self.whole.left(working)}")
        self.live.update(Group(ProgressBar(1.0, share, width=WIDE), left, self._table(title, rows)))

    def note(self, text: str) -> None:
        self.live.console.print(Text(text, "yellow"), soft_wrap=True)

    def _table(self, title: str, rows: list[list[str]]) -> Group:
        columns = ["run", "settings", "phase", "step", "loss", "time left", "where"]
        shown = len(columns) if any(row[-1] for row in rows) else -1  # one place needs no column
        return table(title, columns[:shown], [row[:shown] for row in rows], self.live.console)


@contextmanager
def shown(
    labels: Mapping[str, str], to: Console, forecast: Forecast | None = None, width: int | None = None
) -> Iterator[Plain | Moving]:
    """Yields the display that suits the output. The forecast has the runs that are to be done; without one these are
    all that have labels, and of none is known how long it takes."""
    whole = Whole(labels, forecast or Forecast(dict.fromkeys(labels)), width)
    if not to.is_terminal or os.environ.get("NO_COLOR"):
        yield Plain(whole, to)
    else:
        with Live(console=to, refresh_per_second=4, transient=True) as live:
            yield Moving(whole, live)
