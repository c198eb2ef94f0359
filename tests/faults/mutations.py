"""Damage to the files of a store: every file, in every way that a disk or a user may do it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

Mutation = Callable[[Path, Random], object]

OTHERS = [b"[]", b"{}", b"null", b"3", b"\0" * 64, b"\xff\xfe\xfd", b"[" * 5000]
OTHERS += [b'{"state": "done"}', b'{"step": "x"}\n']


def cut(path: Path, rng: Random) -> None:
    """Loses the end of a file."""
    os.truncate(path, rng.randrange(max(1, path.stat().st_size)))


def cut_at_a_line(path: Path, rng: Random) -> None:
    """Loses whole lines at the end."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: rng.randrange(max(1, len(lines)))]))


def flip(path: Path, rng: Random) -> None:
    """Changes one bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def flip_a_digit(path: Path, rng: Random) -> None:
    """Changes a digit into another one."""
    content = bytearray(path.read_bytes())
    if digits := [i for i, byte in enumerate(content) if 48 <= byte < 58]:
        at = rng.choice(digits)
        content[at] = 48 + (content[at] - 48 + rng.randrange(1, 10)) % 10
    path.write_bytes(bytes(content))


def empty(path: Path, rng: Random) -> None:
    """Loses all of it."""
    path.write_bytes(b"")


def remove(path: Path, rng: Random) -> None:
    """Loses the file."""
    path.unlink()


def folder(path: Path, rng: Random) -> None:
    """Has an empty folder in its place."""
    path.unlink()
    path.mkdir()


def full_folder(path: Path, rng: Random) -> None:
    """Has a folder with something in it in its place."""
    folder(path, rng)
    (path / "something").write_text("of the user")


def pipe(path: Path, rng: Random) -> None:
    """Has a pipe in its place, which nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def other(path: Path, rng: Random) -> None:
    """Holds something else."""
    path.write_bytes(rng.choice(OTHERS))


def another_file(path: Path, rng: Random) -> None:
    """Is another file of the same folder."""
    others = sorted(each for each in path.parent.iterdir() if each.is_file() and each != path)
    shutil.copyfile(rng.choice(others), path)


MUTATIONS: dict[str, Mutation] = {
    each.__name__: each
    for each in (
        *(cut, cut_at_a_line, flip, flip_a_digit, empty, remove),
        *(folder, full_folder, pipe, other, another_file),
    )
}
