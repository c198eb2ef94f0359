"""Limits that hold for all settings, checked by their constructors.

    kinds     the type that a field is annotated with: no text or truth value where a number is meant
    scales    0 or a size from 1e-18 to 1e18: prompts are float32, whose squares end at 1e±38. All numbers with a
              fraction are scales, but for those marked as a `share`
    memory    what one prompt needs, and what is drawn once, at most 2²⁷ numbers each (1 GiB in float64)

A class reports the numbers that it holds by `held`. Whatever else stands against settings is looked at when their kinds
and sizes are known to be sound, so that it can be computed.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from numbers import Integral
from typing import Any, Protocol

from iclab.errors import refuse, wrong_fields

LEAST, MOST = 1e-18, 1e18  # of a single scale
FAR = 1e30  # of all scales that labels are multiplied by; float32 ends at 3e38
NUMBERS = 2**27
INTEGERS = 2**63  # beyond which PyTorch has none

SHARE: Mapping[str, Any] = {"share": True}  # the metadata of a field whose bounds are ±1, and which may be next to 0


class Holds(Protocol):
    """Settings that report how many numbers they need, by purpose."""

    def held(self) -> Mapping[str, int]: ...


def admit(settings: Any, problems: Callable[[], list[str]]) -> None:
    """Refuses settings (a dataclass instance) that cannot be, and those against which `problems` stand."""
    name, given = type(settings).__name__, _given(settings)
    refuse(name, wrong_fields(settings))
    refuse(name, [text for field, value in given.items() for text in _too_large(field, value)])
    refuse(name, _too_much(settings.held()) if hasattr(settings, "held") else [])
    texts = problems()
    shares = {field.name for field in fields(settings) if field.metadata.get("share")}
    scales = (text for field, value in given.items() if field not in shares for text in _out_of_range(field, value))
    refuse(name, texts + [text for text in scales if not any(text.split()[0] in one.split() for one in texts)])
    refuse(name, _too_far(settings.factors()) if hasattr(settings, "factors") else [])


def unsquarable(name: str, value: float) -> list[str]:
    """Returns the problems of a number that is not 0 and whose square is, or is infinite."""
    sound = value == 0 or 1e-150 <= abs(value) <= 1e150 or not math.isfinite(value)
    return [] if sound else [f"{name} must be 0 or lie within 1e-150..1e150, so that it has a square, given {value}"]


def _given(settings: Any) -> dict[str, Any]:
    """What the constructor took."""
    return {field.name: getattr(settings, field.name) for field in fields(settings) if field.init}


def _too_large(name: str, value: object) -> Iterator[str]:
    if isinstance(value, Integral) and not -INTEGERS <= int(value) < INTEGERS:
        yield f"{name} must be below 2⁶³, given an integer of {int(value).bit_length()} bits"


def _out_of_range(name: str, value: Any) -> Iterator[str]:
    """Numbers with a fraction alone: integers are counts and seeds."""
    unfit = [
        one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, float) and not _sound(one)
    ]
    if unfit:
        shown = unfit if isinstance(value, tuple) else unfit[0]
        yield f"{name} must be 0 or of a size from {LEAST:g} to {MOST:g}, given {shown}"


def _sound(value: float) -> bool:
    return value == 0 or LEAST <= abs(value) <= MOST


def _too_much(held: Mapping[str, int]) -> list[str]:
    return [
        f"{what} takes {count} numbers, and at most {NUMBERS} fit" for what, count in held.items() if count > NUMBERS
    ]


def _too_far(factors: Mapping[str, float]) -> list[str]:
    """The product of scales, each of which is sound alone."""
    size = math.prod(map(abs, factors.values()))
    text = ", ".join(f"{name} {value:g}" for name, value in factors.items())
    return [] if 1 / FAR <= size <= FAR else [f"labels of size {size:.2g} are not within 1e±30, given {text}"]
