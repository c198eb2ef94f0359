"""Transformers whose weights are set by hand from a published proof, one paper per file, and the theorems as code.

Each is an ordinary `iclab.models.Transformer` or `TokenTransformer`: what a theorem says is checked on the very code
that is trained.
"""

from iclab.constructed import ahn, akyurek, bai, fu, guo, induction, linearity, random_features, vonoswald
from iclab.constructed.bounded import Bounded
from iclab.constructed.start import Construction, Start
from iclab.constructed.theorem import Case, Choices, Integers, Reals, Tally, Theorem
from iclab.errors import refuse, unknown

PAPERS = (akyurek, linearity, vonoswald, ahn, fu, bai, guo, random_features, induction)
THEOREMS: list[Theorem] = [theorem for paper in PAPERS for theorem in paper.THEOREMS]


def named(name: str) -> Theorem:
    """Returns the theorem of this name. Raises ``ValueError`` with the nearest match where there is none.

    >>> theorem = named("vonoswald2022_proposition1")
    >>> theorem.expected, theorem.tried(theorem.drawn(3)).holds
    ('holds', True)
    """
    theorems = {each.name: each for each in THEOREMS}
    refuse("theorems", [] if name in theorems else [unknown("theorem", name, theorems)])
    return theorems[name]


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
