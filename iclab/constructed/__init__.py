"""Transformers whose weights are set by hand from a published proof, one paper per file, and the theorems as code.

Each is an ordinary `iclab.models.Transformer`: what a theorem says is checked on the very code that is trained.
"""

from iclab.constructed import akyurek, bai, fu
from iclab.constructed.bounded import Bounded
from iclab.constructed.start import Construction, Start
from iclab.constructed.theorem import Case, Choices, Integers, Reals, Tally, Theorem
from iclab.errors import refuse, unknown

THEOREMS: list[Theorem] = [*akyurek.THEOREMS, *bai.THEOREMS, *fu.THEOREMS]


def named(name: str) -> Theorem:
    """The theorem of this name. Raises ``ValueError`` with the nearest match where there is none."""
    found = {each.name: each for each in THEOREMS}
    refuse("theorems", [] if name in found else [unknown("theorem", name, found)])
    return found[name]


__all__ = [
    "THEOREMS",
    "Bounded",
    "Case",
    "Choices",
    "Construction",
    "Integers",
    "Reals",
    "Start",
    "Tally",
    "Theorem",
    "named",
]
