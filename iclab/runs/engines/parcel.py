"""The files of a run on their way between the store and a worker that sees no store.

A worker elsewhere works in a folder of its own and sends what changed; the store is written by one side alone. Files
are taken in an order in which any part of them is whole: a checkpoint is read before the curve that it belongs to, and
the curve is laid down first; the status comes last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from iclab.files import atomic_write
from iclab.runs.store import CURVE, STRAY

LEFT = ("lock",)  # what is of one machine alone
STATUS = "status.json"

Files = dict[str, bytes | None]  # by name; none where a file was removed


def packed(folder: Path) -> Files:
    """Returns the content of all files of a run, by their names in its folder."""
    return {name: _read(folder / name) for name in _marks(folder)}


def unpack(files: Mapping[str, bytes | None], folder: Path) -> None:
    """Lays files down in a folder, each whole or not at all, the curve before checkpoints and the status last."""
    for name in sorted(files, key=lambda name: (name == STATUS, name.startswith("checkpoint"), name)):
        path, content = folder / name, files[name]
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, content)


@dataclass
class Changes:
    """What changed in the folder of a run since the last look."""

    folder: Path
    seen: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seen = _marks(self.folder)

    def take(self) -> Files:
        """Returns the files that are new, others than before, or gone. With a checkpoint comes the curve, which is read
        after it, so that it holds at least what the checkpoint knows."""
        marks = _marks(self.folder)
        found: Files = {name: None for name in self.seen.keys() - marks.keys()}
        for name in marks:
            if self.seen.get(name) != marks[name]:
                found[name] = _read(self.folder / name)
        if any(name.startswith("checkpoint") for name in found):
            found[CURVE] = _read(self.folder / CURVE)
        self.seen = marks
        return found


def _marks(folder: Path) -> dict[str, tuple[int, ...]]:
    """The files of a run by name, each with what is another where it is another; not those that are half written."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    kept = {name: _mark(path) for name, path in paths.items() if name not in LEFT and not STRAY.fullmatch(path.name)}
    return {name: mark for name, mark in kept.items() if mark is not None}


def _mark(path: Path) -> tuple[int, ...] | None:
    """What is another where a file is another; none where there is no file. Two files that are written one after the
    other may have the same time, but not the same place on the disk while both are there."""
    try:
        told = path.stat()
    except FileNotFoundError:  # replaced meanwhile
        return None
    return (told.st_mtime_ns, told.st_size, told.st_ino) if S_ISREG(told.st_mode) else None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
