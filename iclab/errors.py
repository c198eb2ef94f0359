"""Refusing bad input at the door: every problem at once, each with what was given and the nearest thing known."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def refuse(what: str, problems: Sequence[str]) -> None:
    """Raises one ``ValueError`` that lists every problem found in `what`; does nothing when there is none."""
    if problems:
        raise ValueError(f"{what}: " + ("; ".join(problems)))


def unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not known: what was given, the nearest match, what is known."""
    known = sorted(known)
    nearest = get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {kind} {given!r}.{hint} Known: {', '.join(known) or 'none'}"
