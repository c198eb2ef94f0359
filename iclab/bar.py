"""How far a piece of work is: a bar on a terminal or in a notebook, else a line now and then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

MINUTE = 60.0  # seconds between two lines of a pipe that say nothing new
SOON = 5.0  # the same in a notebook, where somebody waits


@runtime_checkable
class Bar(Protocol):
    """Takes note of how far the work is."""

    def __call__(self, done: int, phase: str = "", words: str = "") -> None:
        """Takes note that so much is done. A line is written where the phase is another one; words may always be."""


def silent(done: int, phase: str = "", words: str = "") -> None:
    """Takes note of nothing."""


@dataclass
class Lines:
    """The lines of a pipe, or of a notebook that cannot draw a bar."""

    total: int
    to: Console
    every: float
    last: float = field(default_factory=time.monotonic, init=False)
    phase: str = field(default="", init=False)

    def __call__(self, done: int, phase: str = "", words: str = "") -> None:
        """Writes a line where there is something new, or after a while."""
        if phase != self.phase or time.monotonic() - self.last >= self.every:
            parts = [phase, f"{done} of {self.total}", words]
            self.to.print(Text("  ".join(filter(None, parts))), soft_wrap=True)
            self.phase, self.last = phase, time.monotonic()


@contextmanager
def bar(total: int, to: Console | None = None) -> Iterator[Bar]:
    """Yields what takes note of how far a work of so many parts is, on the standard error unless a console is given.
    It redraws itself all the time, so that a part that takes long does not look like a standstill."""
    console = to or Console(stderr=True, highlight=False)
    if not (console.is_terminal or (console.is_jupyter and find_spec("ipywidgets"))):
        yield Lines(total, console, SOON if console.is_jupyter else MINUTE)
        return
    texts = (TextColumn("{task.fields[phase]}", markup=False), TextColumn("{task.fields[words]}", markup=False))
    times = (TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(texts[0], BarColumn(), *times, texts[1], console=console, transient=True) as progress:
        task = progress.add_task("", total=total, phase="", words="")
        yield lambda done, phase="", words="": progress.update(task, completed=done, phase=phase, words=words)
