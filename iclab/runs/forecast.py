"""How long the runs of a sweep will take, by those of the same settings that have finished on this machine; seeds make
no difference. Nothing is guessed: of settings that no finished run has, nothing is known.
"""

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from iclab.errors import Damaged, UsageError
from iclab.experiments import config
from iclab.experiments.identity import NOT_IN_ID
from iclab.experiments.mappings import flatten
from iclab.runs.environment import machine
from iclab.runs.store import Run, runs
from iclab.runs.tables import hashable


@dataclass
class Forecast:
    """What is known of the seconds that runs take: the shape of each run that is to be done, by id, and the seconds of
    those that are done, by shape."""

    shapes: Mapping[str, Hashable]
    known: dict[Hashable, list[float]] = field(default_factory=dict)

    def seconds(self, id: str) -> float | None:
        """Returns the seconds that a run will take, the median of those like it; None where there is none."""
        like = self.known.get(self.shapes.get(id))
        return median(like) if like else None

    def learn(self, id: str, seconds: float) -> None:
        """Takes note of the seconds that a run took."""
        if self.shapes.get(id) is not None:
            self.known.setdefault(self.shapes[id], []).append(seconds)

    def left(self, shares: Mapping[str, float], width: int) -> tuple[float, int]:
        """Returns the seconds until all runs are done with so many workers, and the number of runs of which nothing is
        known. `shares` says what share of each is done."""
        known = {id: self.seconds(id) for id in self.shapes}
        left = [seconds * (1 - shares.get(id, 0.0)) for id, seconds in known.items() if seconds is not None]
        unknown = sum(seconds is None and shares.get(id, 0.0) < 1 for id, seconds in known.items())
        return sum(left) / max(1, min(width, len(self.shapes))), unknown

    def told(self, shares: Mapping[str, float], width: int) -> str:
        """Returns the time left in words; "unknown" where nothing is known."""
        seconds, unknown = self.left(shares, width)
        if unknown and not seconds:
            return "unknown"
        return ("at least " if unknown else "") + str(timedelta(seconds=round(seconds)))

    def estimate(self, width: int) -> str:
        """Returns a line that says how many minutes the sweep will take, and by what that is known."""
        seconds, unknown = self.left({}, width)
        if unknown == len(self.shapes):
            return "estimate: unknown, for no run with these settings has finished on this machine"
        minutes = f"{seconds / 60:.1f} minutes with {width} worker{'' if width == 1 else 's'}"
        by = "by finished runs with the same settings on this machine"
        rest = f"; unknown for {unknown} of {len(self.shapes)} runs" if unknown else ""
        return f"estimate: {'at least ' if unknown else ''}{minutes}, {by}{rest}"


def shape(settings: Mapping[str, Any]) -> Hashable:
    """Returns what decides how long a run takes, of its settings: all but seeds, device and recipe name."""
    flat = flatten(config.parse(config.dump(settings), "settings"))
    kept = {k: v for k, v in flat.items() if k.rpartition(".")[2] != "seed" and k not in NOT_IN_ID}
    return tuple(sorted((key, repr(hashable(value))) for key, value in kept.items()))


def forecast(undone: Mapping[str, Mapping[str, Any]], folders: Iterable[Path]) -> Forecast:
    """Returns what finished runs in the folders, and in those beside them, tell of runs, given by id with their
    settings."""
    shapes = {id: shape(settings) for id, settings in undone.items()}
    found = Forecast(shapes)
    wanted = set(shapes.values())
    for run in _near(folders) if shapes else ():
        of, seconds = _finished(run)
        if of in wanted:
            found.known.setdefault(of, []).append(seconds)
    return found


def _near(folders: Iterable[Path]) -> Iterator[Run]:
    """The runs in folders, and in those beside them."""
    homes = {folder.absolute().parent for folder in folders}
    beside = {path for home in homes if home.is_dir() for path in home.iterdir() if path.is_dir()}
    for path in sorted({folder.absolute() for folder in folders} | beside):
        yield from runs(path)


def _finished(run: Run) -> tuple[Hashable, float]:
    """The shape and the seconds of a run that was trained and measured here; no shape where it was not."""
    status = run.recorded()
    if status.state != "done" or status.origin.get("run", run.id) != run.id:
        return None, 0.0
    try:
        settings, made_in = config.load(run.folder / "config.toml"), run.environment()
        here = machine(str(made_in.get("device")))
        alike = all(made_in.get(key) == value for key, value in here.items())
        return (shape(settings), status.seconds) if alike else (None, 0.0)
    except (UsageError, Damaged, OSError, json.JSONDecodeError, ValueError):
        return None, 0.0
