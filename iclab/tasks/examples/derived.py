"""Tasks made from tasks: a pool of functions, another scale or noise of labels, another length, shifted inputs.

Each changes one fact of its `base` and keeps the others, so they nest. The input shifts are those on which
Garg et al. 2022 (arXiv 2208.01066, §4) test a model that was trained without them; where the shift concerns "the
query", it is the input at the last position (sweep n to see a curve against the number of examples).
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.limits import admit
from iclab.renamed import method, old_names
from iclab.tasks.examples.inputs import rotation
from iclab.tasks.examples.linear import LinearRegression
from iclab.tasks.examples.prompts import Functions, LinearFunctions, MixedFunctions
from iclab.tasks.examples.query_and_keys import QueryAndKeys
from iclab.tasks.task import FunctionClass, Task, same_labels


@dataclass(frozen=True)
class Derived(Task):
    """A task that differs from `base` in one fact; what is not overridden is the base's."""

    base: Task

    def __post_init__(self) -> None:
        keyed = isinstance(self.base, QueryAndKeys)  # whose functions belong to the keys that they were drawn with
        problems = ["no task is derived from QueryAndKeys, whose inputs and functions belong together"] if keyed else []
        moving = f"base cannot be a {type(self.base).__name__}, whose inputs are drawn with its functions"
        problems += [moving] if getattr(self.base, "labels_are_next_inputs", False) else []
        admit(self, lambda: problems or self._problems())

    def factors(self) -> dict[str, float]:
        return self.base.factors()

    @abstractmethod
    def _problems(self) -> list[str]:
        """The problems of this base and these settings."""

    @property
    def d(self) -> int:
        return self.base.d

    @property
    def n(self) -> int:
        return self.base.n

    @property
    def noise(self) -> float:
        return self.base.noise

    @property
    def query_only(self) -> bool:
        return self.base.query_only

    def input_transform(self) -> Float[Tensor, "d d"]:
        """Returns C, float64, where inputs are C x for inputs x of the base; the identity unless they are changed."""
        return torch.eye(self.d, dtype=torch.float64)

    def input_second_moment(self) -> Float[Tensor, "d d"]:
        return self.input_transform() @ self.base.input_second_moment() @ self.input_transform().mT

    def input_fourth_moment(self, form: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        transform = self.input_transform()
        return transform @ self.base.input_fourth_moment(transform.mT @ form @ transform) @ transform.mT

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        return self.base.draw_inputs(batch, rng, dtype)

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Functions:
        return self.base.draw_functions(batch, rng, dtype)

    def noise_in(self, truth: Functions) -> float | Float[Tensor, "batch 1"]:
        return self.base.noise_in(truth)

    def constants(self) -> dict[str, Float[Tensor, "..."]]:
        return self.base.constants()

    colour = method("colour", "input_transform")


# ---- other functions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinitePool(Derived):
    """The weight vector of each prompt is one of `size` vectors, drawn once from the base's prior with `seed`.

    The base is the task with the true prior: a model trained here is tested on both.
    Source: Raventós et al. 2023, arXiv 2306.15063, §2.

    >>> import torch
    >>> from iclab.tasks import LinearRegression
    >>> task = FinitePool(LinearRegression(d=2, n=4), size=3)
    >>> task.pool().shape
    torch.Size([3, 2])
    >>> len(task.sample(100, torch.Generator().manual_seed(0)).ws.unique(dim=0))
    3
    """

    size: int
    seed: int = 0

    def _problems(self) -> list[str]:
        linear = isinstance(self.base, LinearRegression)
        problems = (
            [] if linear else [f"a pool holds weight vectors: base must be linear, given {type(self.base).__name__}"]
        )
        return problems + ([] if self.size >= 1 else [f"size must be at least 1, given {self.size}"])

    def held(self) -> dict[str, int]:
        return super().held() | {"the pool": self.size * self.d}

    def pool(self) -> Float[Tensor, "size d"]:
        """Returns the weight vectors, float64."""
        truth = self.base.draw_functions(self.size, torch.Generator().manual_seed(self.seed), torch.float64)
        assert isinstance(truth, LinearFunctions)
        return truth.ws

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> LinearFunctions:
        chosen = torch.randint(self.size, (batch,), generator=rng, device=rng.device)
        return LinearFunctions(_pool(self, rng.device, dtype)[chosen])


@lru_cache(maxsize=4)
def _pool(task: FinitePool, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "size d"]:
    """The pool where it is needed: a training draws from it at every step."""
    return task.pool().to(device, dtype)


@dataclass(frozen=True)
class TruePrior(Derived):
    """The prior that a finite pool was drawn from: functions that no member of the pool is equal to."""

    base: FinitePool

    def _problems(self) -> list[str]:
        pool = isinstance(self.base, FinitePool)
        return [] if pool else [f"the true prior is that of a FinitePool, given {type(self.base).__name__}"]

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Functions:
        return self.prior.draw_functions(batch, rng, dtype)

    @property
    def prior(self) -> Task:
        """Returns the task with the true prior."""
        return self.base.base


@dataclass(frozen=True)
class ScaledFunctions(Functions):
    """c·f."""

    base: Functions
    scale: float

    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m"]:
        return self.scale * self.base(xs)


def _times(factors: dict[str, float], scale: float) -> dict[str, float]:
    """All scales that tasks were derived with are one."""
    return factors | {"scale": factors.get("scale", 1.0) * scale}


def _scaled(truth: Functions, scale: float) -> Functions:
    if isinstance(truth, MixedFunctions):
        return replace(truth, parts=tuple(_scaled(part, scale) for part in truth.parts))
    return LinearFunctions(scale * truth.ws) if isinstance(truth, LinearFunctions) else ScaledFunctions(truth, scale)


@dataclass(frozen=True)
class ScaledWeights(Derived):
    """The functions are multiplied by `scale`, the noise is not."""

    scale: float

    def _problems(self) -> list[str]:
        usable = isfinite(self.scale) and self.scale != 0
        return [] if usable else [f"scale must be finite and not 0, given {self.scale}"]

    def factors(self) -> dict[str, float]:
        return _times(super().factors(), self.scale)

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Functions:
        return _scaled(self.base.draw_functions(batch, rng, dtype), self.scale)


@dataclass(frozen=True)
class NormalisedLabels(Derived):
    """Functions and noise are divided by the standard deviation of a label, so that E y² = 1."""

    base: LinearRegression

    def _problems(self) -> list[str]:
        linear = isinstance(self.base, LinearRegression)
        return [] if linear else [f"E y² is known for linear tasks only, given {type(self.base).__name__}"]

    @property
    def scale(self) -> float:
        """Returns 1 / √E y² of the base."""
        return self.base.label_variance() ** -0.5

    @property
    def noise(self) -> float:
        return self.scale * self.base.noise

    def noise_in(self, truth: Functions) -> float:
        return self.noise

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Functions:
        return _scaled(self.base.draw_functions(batch, rng, dtype), self.scale)


# ---- other noise, other length -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NoisyLabels(Derived):
    """Label noise of standard deviation `std` in place of the base's.

    >>> from iclab.tasks import LinearRegression
    >>> from iclab.theory.posterior import bayes
    >>> bayes(NoisyLabels(LinearRegression(d=2, n=4), std=1.0))
    Ridge(lam=1.0)
    """

    std: float

    def _problems(self) -> list[str]:
        proper = 0 <= self.std < float("inf")
        return [] if proper else [f"std must be a standard deviation (0 or more, finite), given {self.std}"]

    @property
    def noise(self) -> float:
        return self.std

    def noise_in(self, truth: Functions) -> float:
        return self.std


@same_labels
@dataclass(frozen=True)
class Truncated(Derived):
    """The first `points` examples, with every coordinate of x from the `dims`-th on set to zero: a curriculum step."""

    dims: int
    points: int

    def _problems(self) -> list[str]:
        ranges = {"dims": (self.dims, self.base.d), "points": (self.points, self.base.n)}
        problems = [f"{k} must lie in 1..{top}, given {v}" for k, (v, top) in ranges.items() if not 1 <= v <= top]
        return problems + _query_below(self.base)

    @property
    def n(self) -> int:
        return self.points

    def input_transform(self) -> Float[Tensor, "d d"]:
        return (torch.arange(self.d) < self.dims).double().diag()

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        xs = super().draw_inputs(batch, rng, dtype)[:, : self.points]
        return xs * (torch.arange(self.d, device=xs.device) < self.dims)


@same_labels
@dataclass(frozen=True)
class Longer(Derived):
    """Prompts of `points` examples, more than the base has, of the same distributions."""

    base: FunctionClass
    points: int

    def _problems(self) -> list[str]:
        if not isinstance(self.base, FunctionClass):
            return [f"longer prompts are drawn of a class of functions only, given {type(self.base).__name__}"]
        more = self.points > self.base.n
        return [] if more else [f"points must be more than the base's n = {self.base.n}, given {self.points}"]

    @property
    def n(self) -> int:
        return self.points

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        return replace(self.base, n=self.points).draw_inputs(batch, rng, dtype)


# ---- shifted inputs ------------------------------------------------------------------------------------------------


@same_labels
@dataclass(frozen=True)
class ScaledInputs(Derived):
    """Every input is multiplied by `scale`."""

    scale: float

    def _problems(self) -> list[str]:
        usable = isfinite(self.scale) and self.scale != 0
        return [] if usable else [f"scale must be finite and not 0, given {self.scale}"]

    def factors(self) -> dict[str, float]:
        return _times(super().factors(), self.scale)

    def input_transform(self) -> Float[Tensor, "d d"]:
        return self.scale * super().input_transform()

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        return self.scale * super().draw_inputs(batch, rng, dtype)


@same_labels
@dataclass(frozen=True)
class CovarianceShift(Derived):
    """x ← C x with C = U diag(scales) Uᵀ, Σ scales² = d, U drawn from `seed`: an isotropic distribution keeps its
    trace."""

    seed: int = 0

    def _problems(self) -> list[str]:
        return _query_below(self.base)

    @abstractmethod
    def scales(self) -> Float[Tensor, " d"]:
        """Returns the scales along the axes of U, up to a factor."""

    def input_transform(self) -> Float[Tensor, "d d"]:
        scales, basis = self.scales(), rotation(self.d, self.seed)
        return basis * scales * (self.d / scales.square().sum()).sqrt() @ basis.mT

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        xs = super().draw_inputs(batch, rng, dtype)
        return xs @ self.input_transform().to(xs)


@same_labels
@dataclass(frozen=True)
class SkewedInputs(CovarianceShift):
    """Covariance with eigenvalues proportional to 1/i² in a random basis drawn from `seed`, and the same trace, where
    the base is isotropic."""

    def scales(self) -> Float[Tensor, " d"]:
        return 1 / torch.arange(1, self.d + 1, dtype=torch.float64)


@same_labels
@dataclass(frozen=True)
class HalfSubspace(CovarianceShift):
    """Inputs confined to a random subspace of ⌊d/2⌋ dimensions, drawn from `seed`; an isotropic distribution keeps its
    trace."""

    def _problems(self) -> list[str]:
        problems = [] if self.base.d >= 2 else [f"half a subspace needs d of 2 or more, given {self.base.d}"]
        return problems + super()._problems()

    def scales(self) -> Float[Tensor, " d"]:
        return (torch.arange(self.d) < self.d // 2).double()


def _query_below(base: Task) -> list[str]:
    """A task that moves inputs or drops the last one would undo a shift of the query that it is derived from."""
    return [f"a shift of the query must be outermost, given base {type(base).__name__}"] if base.query_only else []


@same_labels
@dataclass(frozen=True)
class QueryShift(Derived):
    """A shift that concerns the query, which is the input at the last position: only there is it to be measured."""

    def _problems(self) -> list[str]:
        return _query_below(self.base)

    @property
    def query_only(self) -> bool:
        return True

    @abstractmethod
    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        """Draws the inputs of the base with another query, or another context before it."""
        return super().draw_inputs(batch, rng, dtype)


def _with_query(xs: Float[Tensor, "batch n d"], query: Float[Tensor, "batch d"]) -> Float[Tensor, "batch n d"]:
    return torch.cat([xs[:, :-1], query.unsqueeze(1)], dim=1)


@same_labels
@dataclass(frozen=True)
class Orthant(QueryShift):
    """The context lies in one random orthant per prompt."""

    def input_second_moment(self) -> Float[Tensor, "d d"]:
        return super().input_second_moment().diag().diag()  # the signs of a context are independent coins

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        xs = super().draw_inputs(batch, rng, dtype)
        coin = torch.randint(2, (batch, self.d), generator=rng, device=rng.device)
        inside = xs.abs() * (2 * coin - 1).to(dtype).unsqueeze(1)
        return _with_query(inside, self.query(xs[:, -1], inside[:, -1]))

    @abstractmethod
    def query(self, free: Float[Tensor, "batch d"], inside: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """Returns the query, from the base's and from its mirror image in the orthant."""


@same_labels
@dataclass(frozen=True)
class RandomOrthant(Orthant):
    """The context lies in one random orthant per prompt; the query is free."""

    def query(self, free: Float[Tensor, "batch d"], inside: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        return free


@same_labels
@dataclass(frozen=True)
class OppositeOrthant(Orthant):
    """The context lies in one random orthant per prompt and the query in the opposite one."""

    def query(self, free: Float[Tensor, "batch d"], inside: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        return -inside


@same_labels
@dataclass(frozen=True)
class OrthogonalQuery(QueryShift):
    """The query is orthogonal to the span of the context and keeps its norm; the context must leave a dimension."""

    def _problems(self) -> list[str]:
        n, rank = self.base.n, self.base.rank
        few = n - 1 < rank
        problems = [] if few else [f"a query orthogonal to n − 1 = {n - 1} inputs needs more dimensions, given {rank}"]
        return problems + super()._problems()

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        xs = super().draw_inputs(batch, rng, dtype)
        basis, _ = torch.linalg.qr(xs[:, :-1].double().mT)
        query = xs[:, -1].double()
        outside = query - (basis @ (basis.mT @ query.unsqueeze(-1))).squeeze(-1)
        outside = torch.nn.functional.normalize(outside, dim=-1) * query.norm(dim=-1, keepdim=True)
        return _with_query(xs, outside.to(dtype))


@same_labels
@dataclass(frozen=True)
class RepeatedQuery(QueryShift):
    """The query is one of the context's inputs, chosen uniformly; needs n of 2 or more."""

    def _problems(self) -> list[str]:
        problems = [] if self.base.n >= 2 else ["a query equal to a context input needs n of 2 or more, given 1"]
        return problems + super()._problems()

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        xs = super().draw_inputs(batch, rng, dtype)
        chosen = torch.randint(self.n - 1, (batch,), generator=rng, device=rng.device)
        return _with_query(xs, xs[torch.arange(batch, device=xs.device), chosen])


__getattr__ = old_names(__name__, Recoloured="CovarianceShift")
