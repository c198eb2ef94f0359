"""Refusing bad input at the door: every problem at once, each with what was given and the nearest thing known.

A refusal is the user's to mend, and the command line prints it in one line. Any other exception is a bug, and is shown
in full.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from math import isinf
from numbers import Integral, Real
from reprlib import repr as shown
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from iclab.renamed import old_names

MOST, NEAREST = 40, 5  # names that a message lists; of more than that so many

KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    dict: "a table",
    NoneType: "none",
}


class UsageError(ValueError):
    """Input that cannot be used; the message names what was given and what is accepted."""


class Damaged(UsageError):
    """A file of the store that is not what was written."""


def refuse(what: str, problems: Sequence[str]) -> None:
    """Raises one `UsageError` that lists every problem found in `what`; does nothing when there is none."""
    if problems:
        raise UsageError(f"{what}: " + ("; ".join(problems)))


@contextmanager
def prefixed(what: str) -> Iterator[None]:
    """Prefixes the message of a refusal with the place of its cause, such as a file."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from None


def unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """Returns the sentence for a name that is not known: what was given, the nearest match, what is known; of very many
    names the nearest."""
    known = sorted(known)
    nearest = get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    shown_names = known if len(known) <= MOST else get_close_matches(given, known, n=NEAREST, cutoff=0.0)
    more = f" and {len(known) - NEAREST} more" if len(known) > MOST else ""
    return f"unknown {kind} {given!r}.{hint} Known: {', '.join(shown_names) or 'none'}{more}"


def unknown_choices(instance: object) -> list[str]:
    """Returns the problems of a dataclass instance whose annotations name the words that a field may hold
    (``Literal``)."""
    words = {name: get_args(hint) for name, hint in _hints(type(instance)).items() if get_origin(hint) is Literal}
    given = {name: getattr(instance, name) for name in words}
    return [unknown(name, str(v), map(str, words[name])) for name, v in given.items() if v not in words[name]]


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The annotations of a class; to evaluate them takes longer than all else that is asked of a small object."""
    return get_type_hints(cls)


def wrong_kinds(given: Mapping[str, object], hints: Mapping[str, Any]) -> list[str]:
    """Returns the problems of values whose annotations name a kind, or several: "n must be an integer, given
    '4'"."""
    wanted = {name: _wanted(hints[name], value) for name, value in given.items() if name in hints}
    return [f"{name} must be {kind}, given {shown(given[name])}" for name, kind in wanted.items() if kind]


def wrong_fields(instance: Any) -> list[str]:
    """Returns the problems of the kinds of what a dataclass instance was made of."""
    given = {field.name: getattr(instance, field.name) for field in fields(instance) if field.init}
    return wrong_kinds(given, _hints(type(instance)))


def out_of_bounds(given: Mapping[str, int], most: Mapping[str, int], least: int = 1) -> list[str]:
    """Returns the problems of whole numbers that must be at least so large and at most as large as `most` says."""
    small = [f"{k} must be at least {least}, given {shown(v)}" for k, v in given.items() if v < least]
    return small + [f"{k} must be at most {most[k]}, given {shown(v)}" for k, v in given.items() if v > most[k]]


def _wanted(hint: Any, value: object) -> str:
    """The kind that an annotation wants in the place of a value that is none; nothing where it is one. Annotations
    that say more than a kind (of functions, of arrays) want nothing."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        reasons = [_wanted(one, value) for one in get_args(hint)]
        return "" if "" in reasons else " or ".join(reasons)
    if origin is tuple:
        return _wanted_of_each(get_args(hint), value)
    hint = str if origin is Literal else hint
    if not isinstance(hint, type) or _is(value, hint):
        return ""
    return KINDS.get(hint, f"a {hint.__name__}")


def _wanted_of_each(hints: tuple[Any, ...], value: object) -> str:
    if not isinstance(value, tuple):
        return "a tuple"
    each = hints[:1] * len(value) if hints[-1] is Ellipsis else hints
    if len(each) != len(value):
        return f"a tuple of {len(hints)}"
    reasons = [reason for hint, one in zip(each, value, strict=True) if (reason := _wanted(hint, one))]
    return f"a tuple, each {reasons[0]}" if reasons else ""


def _is(value: object, kind: Any) -> bool:
    """Whether a value is of a kind. True is no number, and a whole number is one unless none is so large."""
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, float) or (isinstance(value, Real) and not _overflows(value))
    return isinstance(value, Integral if kind is int else kind)


def _overflows(value: Real) -> bool:
    try:
        return isinf(value)
    except OverflowError:
        return True


__getattr__ = old_names(__name__, Refusal="UsageError")
