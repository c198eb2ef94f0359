"""Refusing bad input at the door: every problem at once, each with what was given and the nearest thing known.

A refusal is the user's to mend, and the command line tells it in a line. Any other exception is a bug, and is shown in
full.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Literal, get_args, get_origin, get_type_hints


class Refusal(ValueError):
    """Input that cannot be used; the message says what was given and what would do."""


def refuse(what: str, problems: Sequence[str]) -> None:
    """Raises one `Refusal` that lists every problem found in `what`; does nothing when there is none."""
    if problems:
        raise Refusal(f"{what}: " + ("; ".join(problems)))


def unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not known: what was given, the nearest match, what is known."""
    known = sorted(known)
    nearest = get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {kind} {given!r}.{hint} Known: {', '.join(known) or 'none'}"


def unknown_choices(instance: object) -> list[str]:
    """What stands against a dataclass instance whose annotations name the words that a field may hold (``Literal``)."""
    words = _words(type(instance))
    given = {name: getattr(instance, name) for name in words}
    return [unknown(name, str(v), map(str, words[name])) for name, v in given.items() if v not in words[name]]


@cache
def _words(cls: type) -> dict[str, tuple[object, ...]]:
    hints = get_type_hints(cls)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
