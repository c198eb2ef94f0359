"""What comes from outside the package: classes of plug-ins, where they stand, and what their code raised."""

import inspect
import sys
from traceback import walk_tb
from types import TracebackType
from typing import Any

BROUGHT: set[str] = set()  # names of the modules that task files and entry points named
LONGEST = 200  # characters of what foreign code has to say


def outside(kind: type) -> bool:
    """Returns whether a class is defined outside the package."""
    return _root(kind.__module__) not in ("iclab", "builtins")


def of_users(model: Any) -> bool:
    """Returns whether a model's numbers come from the user: from a class or a module of theirs, or from a file."""
    return outside(type(model)) or not model.trainable


def place(kind: type) -> str:
    """Returns the file and line of a class; its module where there is no file."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    try:
        return f"{file}:{inspect.findsource(kind)[1] + 1}"
    except (OSError, TypeError):
        return str(file or kind.__module__)


def told(error: BaseException) -> str:
    """Returns what code raised in one line, with the last line of a plug-in that it passed through."""
    where, what = blamed(error), f"{type(error).__name__}: {_shortened(error)}"
    return f"{where}: {what}" if where else what


def blamed(error: BaseException) -> str:
    """Returns the last line of a plug-in that an error passed through, as `file:line`; nothing where there is none."""
    places = [place for place, name in _frames(error.__traceback__) if _root(name) in {_root(each) for each in BROUGHT}]
    return places[-1] if places else ""


def _frames(trace: TracebackType | None) -> list[tuple[str, str]]:
    frames = walk_tb(trace)
    return [(f"{frame.f_code.co_filename}:{line}", frame.f_globals.get("__name__", "")) for frame, line in frames]


def _shortened(error: BaseException) -> str:
    """Returns the first line that is not empty; messages of other libraries may have many."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"


def _root(module: str) -> str:
    return module.partition(".")[0]
