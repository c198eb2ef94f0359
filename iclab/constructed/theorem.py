"""Theorems that can be run: a construction, its specification, and how far apart they may be.

A theorem draws nothing itself. Its `ranges` say which cases it speaks of, so that a run over random cases and a search
for a counterexample test the same statement:

    measure(case) = error, bound    the measured distance between what was built and what was promised, and the largest
                                    such distance that the statement allows

A published statement that is wrong is a theorem of its own with a `corrected` twin: it must fail where the twin holds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse, unknown

Number = int | float | str


@dataclass(frozen=True, kw_only=True)
class Case:
    """The numbers of one case. A theorem reads those that its ranges name; whatever is random follows from `seed`.

    `size` is the standard deviation of inputs, `noise` that of labels around w·x; `scale` is what a construction takes
    to be large (its c, N or β); `gamma` moves the inputs in GD++; `layers` counts what is repeated; `vocab` counts
    tokens; a representation has `features` numbers, made in `depth` layers from the last `window` inputs; `heads`
    counts those of one layer and `outputs` the labels of one example; `dtype` is that of weights and prompts.
    """

    seed: int = 0
    d: int = 3
    n: int = 4
    vocab: int = 3
    features: int = 3
    depth: int = 1
    window: int = 1
    heads: int = 1
    outputs: int = 1
    layers: int = 1
    lr: float = 0.1
    lam: float = 0.1
    gamma: float = 0.0
    size: float = 1.0
    noise: float = 0.0
    scale: float = 1000.0
    variant: str = ""
    dtype: str = "float64"
    condition: float = 1.0  # of the covariance of inputs

    @property
    def precision(self) -> torch.dtype:
        """Returns the dtype itself."""
        return getattr(torch, self.dtype)

    @property
    def eps(self) -> float:
        """Returns the relative rounding of one operation in it."""
        return torch.finfo(self.precision).eps

    def asked(
        self, model: torch.nn.Module, xs: Float[Tensor, "b n d"], ys: Float[Tensor, "b n"], m: int | None = None
    ) -> Float[Tensor, "b m"]:
        """Returns the predictions of a model in this precision, as float64."""
        dtype = self.precision
        return model.to(dtype)(xs.to(dtype), ys.to(dtype), m).double().detach()

    def rng(self, stream: int = 0) -> torch.Generator:
        """Returns a new generator with the case's seed; another `stream` has other numbers."""
        return torch.Generator().manual_seed(self.seed + stream)

    def prompt(self) -> tuple[Float[Tensor, "one n_1 d"], Float[Tensor, "one n_1"]]:
        """Draws one prompt of n examples and a query: x ~ N(0, size² C), w ~ N(0, I), y = w·x and noise.

        It is in float64, of numbers that the dtype has. The eigenvalues of C fall from 1 to 1/condition in equal
        ratios; its eigenvectors are random.
        """
        rng, n = self.rng(), self.n + 1
        xs, noise, w = (torch.randn(*shape, generator=rng).double() for shape in ((1, n, self.d), (1, n), (self.d,)))
        xs = self.size * self.conditioned(xs)
        ys = xs @ w + self.noise * noise
        return xs.to(self.precision).double(), ys.to(self.precision).double()

    def conditioned(self, xs: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Transforms isotropic inputs to the covariance C."""
        if self.condition == 1:
            return xs
        fallen = self.condition ** -torch.linspace(0, 0.5, self.d, dtype=xs.dtype)
        turn = torch.linalg.qr(torch.randn(self.d, self.d, generator=self.rng(), dtype=xs.dtype)).Q
        return xs * fallen @ turn


@dataclass(frozen=True)
class Integers:
    """Every integer from `low` to `high`, both included."""

    low: int
    high: int

    def at(self, u: float) -> Number:
        """Returns the value at u in [0, 1]."""
        return min(self.low + int(u * (self.high - self.low + 1)), self.high)


@dataclass(frozen=True)
class Reals:
    """The real numbers from `low` to `high`, evenly, or evenly in the logarithm."""

    low: float
    high: float
    log: bool = False

    def at(self, u: float) -> Number:
        """Returns the value at u in [0, 1]."""
        if self.log:
            return min(max(self.low ** (1 - u) * self.high**u, self.low), self.high)
        return self.low + u * (self.high - self.low)


@dataclass(frozen=True)
class Choices:
    """One of a few values."""

    values: Sequence[Number]

    def at(self, u: float) -> Number:
        """Returns the value at u in [0, 1]."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]


Range = Integers | Reals | Choices
SEEDS = Integers(0, 2**31 - 1)
CONDITION = Reals(1.0, 100.0, log=True)
DTYPE = Choices(["float64", "float32"])
PROMPTS: Mapping[str, Range] = {
    "d": Integers(1, 5),
    "n": Integers(1, 12),
    "size": Reals(0.1, 2.0, log=True),
    "noise": Reals(0.0, 1.0),
    "condition": CONDITION,
}

Measure = Callable[[Case], tuple[float, float]]


@dataclass(frozen=True)
class Theorem:
    """A statement about a construction: for every case within the ranges the error is at most the bound.

    `paper` names authors, year, arXiv number and place; `reason` says where the bound comes from; `cases` is the
    default number of cases.

    >>> from iclab.predictors import Ridge
    >>> def shrinks(case):
    ...     xs, ys = case.prompt()
    ...     more, less = (Ridge(lam).weights(xs, ys)[0, -1].norm().item() for lam in (2.0, 1.0))
    ...     return more, less
    >>> theorem = Theorem("shrinks", "textbook", "a larger penalty gives shorter weights", PROMPTS, shrinks, "exact")
    >>> theorem.tried(theorem.drawn(5)).holds
    True
    """

    name: str
    paper: str
    statement: str
    ranges: Mapping[str, Range]
    measure: Measure
    reason: str
    corrected: "Theorem | None" = None
    cases: int = 20

    def __post_init__(self) -> None:
        known = [each.name for each in fields(Case)]
        refuse(f"theorem {self.name}", [unknown("range", each, known) for each in self.ranges if each not in known])

    @property
    def expected(self) -> Literal["holds", "fails"]:
        """Returns whether the statement is expected to hold; one with a corrected twin was published wrong."""
        return "holds" if self.corrected is None else "fails"

    def as_printed(self, paper: str, statement: str, measure: Measure, name: str = "") -> "Theorem":
        """Returns what was published in the place of this statement, for the same cases; its bound has the same
        reason."""
        name = name or f"{self.name}_printed"
        return replace(self, name=name, paper=paper, statement=statement, measure=measure, corrected=self)

    def error(self, case: Case) -> float:
        """Returns how far apart what was built and what was promised are."""
        return self.measure(case)[0]

    def bound(self, case: Case) -> float:
        """Returns how far apart they may be."""
        return self.measure(case)[1]

    def case(self, u: Mapping[str, float], seed: int = 0) -> Case:
        """Returns the case at a point of the unit cube."""
        return replace(Case(seed=seed), **{name: space.at(u[name]) for name, space in self.ranges.items()})

    def drawn(self, count: int) -> Iterator[Case]:
        """Yields the same `count` cases each time: both ends of all ranges first, then evenly at random."""
        rng = torch.Generator().manual_seed(0)
        for k in range(count):
            u = torch.rand(len(self.ranges), generator=rng, dtype=torch.float64).tolist() if k > 1 else None
            yield self.case(dict(zip(self.ranges, u or [float(k)] * len(self.ranges), strict=True)), seed=k)

    def tried(self, cases: Iterable[Case]) -> "Tally":
        """Returns the errors and bounds of these cases."""
        return Tally(self, [(case, *self.measure(case)) for case in cases])


@dataclass(frozen=True)
class Tally:
    """The cases that were tried, each with its error and its bound."""

    theorem: Theorem
    results: Sequence[tuple[Case, float, float]] = field(repr=False)

    @cached_property
    def worst(self) -> tuple[Case, float, float]:
        """Returns the case whose error is the largest part of its bound."""
        return max(self.results, key=lambda each: _share(each[1], each[2]))

    @property
    def holds(self) -> bool:
        """Returns whether no case breaks the bound; an error that is not a number breaks it."""
        return all(error <= bound for _, error, bound in self.results)

    def passes(self) -> bool:
        """Returns whether the outcome is the expected one: a wrong statement fails, and its twin holds on the same
        cases."""
        twin = self.theorem.corrected
        if twin is None:
            return self.holds
        return not self.holds and twin.tried(case for case, *_ in self.results).holds


def _share(error: float, bound: float) -> float:
    if not error <= bound and not error > bound:  # not a number
        return float("inf")
    return error / bound if bound > 0 else (0.0 if error <= bound else float("inf"))
