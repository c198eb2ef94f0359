"""Task files as anyone might write them: those of the project with some of their text or of their values changed."""

import io
import signal
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import tomli_w
from rich.console import Console

from iclab.commands.sweep import plan
from iclab.errors import UsageError
from iclab.experiments.study import Study

VALUES: list[Any] = [
    *(0, 1, -1, 2, 3, 7, 64, 10**3, 10**5, 10**9, 10**12, 2**63, -(2**63), 10**400),
    *(0.0, 0.5, -0.5, 1.0, 1e-300, 1e-200, 1e200, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "none", "0:3", "log:1e-3..1e-1:3", "LinearRegression", "fast", "lagged", "ü\n\t", "x" * 5000, "0:10000000"),
    *(True, False, [], [1], [1.0, "a"], [[1, 2], [3]]),
    *({}, {"kind": "Ridge"}, {"kind": "SkewedInputs"}, {"a": {"b": 1}}),
]
PIECES = [*"[]=#é\0\r\n\ufeff", '"', "'''", "[task]", "[sweep]\nseed = 0\n", "kind = 3\n", "a.b.c = 1\n"]


def changed(text: str, others: list[str], rng: Random) -> bytes:
    """A task file with something changed in it: now in its text, now in its values."""
    if rng.random() < 0.35:
        return mangled(text.encode(), rng)
    content = tomllib.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        change(content, tomllib.loads(rng.choice(others)), rng)
    try:
        return tomli_w.dumps(content).encode()
    except (TypeError, ValueError):  # such as a whole number of 400 digits
        return mangled(text.encode(), rng)


def mangled(content: bytes, rng: Random) -> bytes:
    """Text that is cut, torn, doubled, or has something in it."""
    lines = content.splitlines(keepends=True)
    at, some = rng.randrange(len(lines)), rng.randrange(len(lines))
    piece = rng.choice(PIECES).encode()
    ways: list[Callable[[], bytes]] = [
        lambda: content[: rng.randrange(len(content))],
        lambda: b"".join(lines[:at] + lines[at + 1 :]),
        lambda: b"".join([*lines[:at], lines[some], *lines[at:]]),
        lambda: b"".join(lines[:at]) + piece + b"".join(lines[at:]),
        lambda: content[: rng.randrange(len(content))] + piece + content[rng.randrange(len(content)) :],
        lambda: bytes(byte ^ (1 << rng.randrange(8)) if rng.random() < 0.002 else byte for byte in content),
        lambda: b"".join(rng.sample(lines, len(lines))),
    ]
    return rng.choice(ways)()


def change(content: dict[str, Any], other: dict[str, Any], rng: Random) -> None:
    """Replaces, removes or adds one entry somewhere."""
    tables = list(tables_in(content))
    table = rng.choice(tables)
    name = rng.choice(list(table)) if table else "a"
    kind = rng.random()
    if kind < 0.6:
        table[name] = rng.choice(VALUES)
    elif kind < 0.75:
        table.pop(name, None)
    elif kind < 0.85:
        table[rng.choice(("d", "n", "kind", "seed", "n_layer", "d_model", "steps", "noise", "base", "prompts"))] = (
            rng.choice(VALUES)
        )
    else:
        donor = rng.choice(list(tables_in(other)))
        if donor:
            key = rng.choice(list(donor))
            table[key] = donor[key]


def tables_in(value: Any) -> Iterator[dict[str, Any]]:
    """A table and all that are in it."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from tables_in(each)


class TooLong(BaseException):
    """A case took more seconds than any should."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Stops what takes longer."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(path: Path, store: Path, seconds: float = 60.0) -> str:
    """What a dry run makes of a task file: "accepted" or "refused"; anything else is told after "fault:"."""
    try:
        with at_most(seconds):
            study = Study.read(path)
            plan(study, store, Console(file=io.StringIO(), width=220))
    except UsageError as error:
        lines = str(error).splitlines()
        whole = lines and all(line.isprintable() and len(line) < 20_000 for line in lines)
        named = all(line.startswith((str(path), "… and ", "device: ")) for line in lines)
        return "refused" if whole and named else f"fault: not lines that name the file: {str(error)[:500]!r}"
    except TooLong:
        return f"fault: takes more than {seconds} s"
    except Exception as error:
        return f"fault: {type(error).__name__}: {str(error)[:300]}"
    return "accepted"
