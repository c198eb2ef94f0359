"""Modules and methods with a new name. The old one works for one more version, with a warning that names the new
one."""

from collections.abc import Callable
from importlib import import_module
from typing import Any
from warnings import warn


def moved(old: str, new: str) -> Callable[[str], Any]:
    """Returns the ``__getattr__`` of a module whose content has moved."""

    def look_up(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        warn(f"{old} is now {new}", DeprecationWarning, stacklevel=2)
        return getattr(import_module(new), name)

    return look_up


def method(old: str, new: str) -> Callable[..., Any]:
    """Returns a method that has another name now."""

    def call(self: Any, *given: Any) -> Any:
        warn(f"{type(self).__name__}.{old} is now {new}", DeprecationWarning, stacklevel=2)
        return getattr(self, new)(*given)

    call.__doc__ = f"Returns what `{new}` does, its new name."
    return call
