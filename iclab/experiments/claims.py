"""Claims of a task file: what is expected of a quantity of a predictor, and of how many trainings.

    kind = "typical"            the mean over training seeds, in each setting that the claim covers (the default)
    kind = "every"              each single run
    kind = "share", share = q   at least this share of all runs

`written` says whether the claim was written before or after its result was seen, `origin` where its bound comes from.
A claim whose `premise`, another claim of the file, fails says nothing: it is void. Claims are judged in
`iclab.experiments.verdicts`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any, Literal

from iclab.errors import refuse, unknown

Scalar = bool | int | float | str
Kind = Literal["typical", "every", "share"]
Written = Literal["before", "after"]

TRAINED = "own"  # the distribution that the model was trained on
MEAN = "mean"  # the position that stands for the average over all positions
ROW_KEYS = {"distribution": TRAINED, "position": MEAN, "layer": None, "step": None}
BOUNDS = ("at_most", "at_least", "within")


@dataclass(frozen=True)
class Claim:
    """An expected value of a quantity of a predictor, in the cells that `where` selects (all, if empty).

    `where` holds settings of the experiment and may choose `distribution`, `position`, `layer` and `step` among the
    rows; without it the rows are those of the whole model after training on its training distribution, averaged over
    positions.
    """

    name: str
    quantity: str
    predictor: str
    where: tuple[tuple[str, Scalar], ...] = ()
    at_most: float | None = None
    at_least: float | None = None
    within: tuple[float, float] | None = None
    kind: Kind = "typical"
    share: float | None = None
    written: Written | None = None
    premise: str | None = None
    origin: str | None = None

    def __post_init__(self) -> None:
        refuse(f"claim {self.name!r}", [*self._bound_problems(), *self._kind_problems()])

    def _bound_problems(self) -> Iterator[str]:
        given = [key for key in BOUNDS if getattr(self, key) is not None]
        if len(given) != 1:
            yield f"give exactly one of {', '.join(BOUNDS)}; given {', '.join(given) or 'none'}"
        if self.within and self.within[1] < 0:
            yield f"within = [expected, tolerance] needs a tolerance of 0 or more, given {self.within[1]}"
        if self.origin is not None and not self.origin.strip():
            yield "origin must not be empty"

    def _kind_problems(self) -> Iterator[str]:
        if self.share is None and self.kind == "share":
            yield 'kind = "share" needs the least share of runs, e.g. share = 0.9'
        if self.share is not None and self.kind != "share":
            yield f'share belongs to kind = "share", given kind = "{self.kind}"'
        if self.share is not None and not 0 < self.share < 1:
            yield f'share must lie between 0 and 1, given {self.share}; for all runs kind = "every"'

    @property
    def expected(self) -> str:
        """Returns the bound, as it is printed."""
        if self.within:
            return f"{self.within[0]:.4g} ± {self.within[1]:.4g}"
        return f"≤ {self.at_most:.4g}" if self.at_most is not None else f"≥ {self.at_least:.4g}"

    def slack(self, value: float) -> float:
        """Returns how far a value lies inside of the bound; negative outside.

        at_most b: b − value      at_least b: value − b      within (e, t): t − |value − e|
        """
        if self.within:
            return self.within[1] - abs(value - self.within[0])
        return self.at_most - value if self.at_most is not None else value - (self.at_least or 0.0)

    def unknown_keys(self, known: Iterable[str]) -> list[str]:
        """Returns the keys of `where` that are neither settings nor columns of the rows."""
        known = {*known, *ROW_KEYS}
        return [f"claim {self.name!r}: {unknown('key', key, known)}" for key, _ in self.where if key not in known]

    def concerns(self, config: Mapping[str, Any]) -> bool:
        """Returns whether a cell with these settings (dotted keys) is one that the claim speaks of."""
        return all(_same(config.get(key, "none"), value) for key, value in self.where if key not in ROW_KEYS)

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Returns the rows of a cell on which the claim is judged."""
        chosen = {key: dict(self.where).get(key, default) for key, default in ROW_KEYS.items()}
        wanted = {"predictor": self.predictor, "quantity": self.quantity, **chosen}
        return [row for row in rows if all(_same(entry(row, key), value) for key, value in wanted.items())]


def entry(row: Mapping[str, Any], key: str) -> Any:
    """Returns what a row has under a key, or what stands for none."""
    value = row.get(key)
    return ROW_KEYS[key] if value is None and key in ROW_KEYS else value


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool) or not isinstance(value, int | float):
        return type(value) is type(wanted) and value == wanted
    return isinstance(wanted, int | float) and isclose(value, wanted, rel_tol=1e-9)


# ---- the claims of a file, together --------------------------------------------------------------------------------


def premise_problems(claims: Sequence[Claim]) -> Iterator[str]:
    """Yields the problems of the claims of one file: two of one name, premises that are no claim, and circles of
    them."""
    premises = {claim.name: claim.premise for claim in claims}
    yield from (f"two claims have the name {n!r}" for n, k in Counter(c.name for c in claims).items() if k > 1)
    for claim in claims:
        if claim.premise is not None and claim.premise not in premises:
            yield f"claim {claim.name!r}: {unknown('premise', claim.premise, premises)}"
    circles = (_circle(name, premises) for name in premises)
    for circle in dict.fromkeys(frozenset(circle) for circle in circles if circle):
        yield f"claims that are each other's premise: {', '.join(n for n in premises if n in circle)}"


def _circle(name: str, premises: Mapping[str, str | None]) -> list[str]:
    """The premises that lead from a claim back to it; none where they end elsewhere."""
    seen: list[str] = []
    at: str | None = name
    while at is not None and at not in seen:
        seen.append(at)
        at = premises.get(at)
    return seen if at == name else []
