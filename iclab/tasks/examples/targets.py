"""Functions of a query and its keys: the targets of a single attention layer.

The input is one tensor xs of tokens, of which x_0 is the query and x_1, ..., x_N are the keys; its label is one number,
the same function f* for every input. This is regression on sets: keys have no labels. `QueryAndKeys` makes prompts of
it, and a task.

    (1/N) Σ_i φ(⟨x_0, S x_i⟩) ψ(⟨β, x_i⟩)     keys, correlations, and products of both
    ψ(⟨β, x_0⟩)                               the query alone
    (1/N) Σ_i (−1)^i ψ(⟨β, x_i⟩)              which depends on the order of keys: a negative control

β is a unit vector and S an orthogonal matrix. Source: Fu, Guo, Bai, Mei 2023, arXiv 2307.11353 (the classes; the
control and the parametrisation of S are this project's).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Real
from torch import Tensor

from iclab.errors import refuse
from iclab.limits import SHARE, admit
from iclab.tasks.examples.inputs import rotation

# ---- functions of one number ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile(ABC):
    """A function ψ of one inner product."""

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def _problems(self) -> list[str]:
        """The problems of these settings."""
        return []

    def size(self, far: float) -> float:
        """Returns |ψ(far)|, or 1 where that is more: powers overflow to ∞."""
        return max(1.0, self(torch.tensor(far, dtype=torch.float64)).abs().item())

    @abstractmethod
    def __call__(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]: ...

    def powers(self, count: int) -> Float[Tensor, " count"] | None:
        """Returns the first coefficients of its power series, float64; none where it has none that converges on
        [−1, 1]."""
        return None


@dataclass(frozen=True)
class Power(Profile):
    """ψ(z) = z^degree; the constant 1 for degree 0."""

    degree: int

    def _problems(self) -> list[str]:
        return [] if self.degree >= 0 else [f"degree must be 0 or more, given {self.degree}"]

    def __call__(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return z**self.degree

    def powers(self, count: int) -> Float[Tensor, " count"]:
        return (torch.arange(count) == self.degree).double()


@dataclass(frozen=True)
class Cosine(Profile):
    """ψ(z) = cos(frequency · z)."""

    frequency: float = 1.0

    def __call__(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (self.frequency * z).cos()

    def powers(self, count: int) -> Float[Tensor, " count"]:
        """Returns (−1)^k frequency^{2k} / (2k)! at 2k."""
        k = torch.arange(1, (count + 1) // 2, dtype=torch.float64)
        ratios = -(self.frequency**2) / (2 * k * (2 * k - 1))
        return _even(torch.nn.functional.pad(ratios, (1, 0), value=1.0).cumprod(0), count)


@dataclass(frozen=True)
class Arctangent(Profile):
    """ψ(z) = z · arctan(z / eta), whose power series converges for |z| < eta."""

    eta: float = 3.0

    def _problems(self) -> list[str]:
        return [] if self.eta > 0 else [f"eta must be positive, given {self.eta}"]

    def __call__(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return z * (z / self.eta).atan()

    def powers(self, count: int) -> Float[Tensor, " count"] | None:
        """Returns (−1)^j / ((2j + 1) eta^{2j+1}) at 2j + 2."""
        j = torch.arange((count + 1) // 2, dtype=torch.float64)
        terms = (-1.0) ** j / ((2 * j + 1) * self.eta ** (2 * j + 1))
        return _even(torch.nn.functional.pad(terms, (1, 0)), count) if self.eta > 1 else None


def _even(terms: Float[Tensor, " half"], count: int) -> Float[Tensor, " count"]:
    """A series in z²."""
    return torch.stack([terms, torch.zeros_like(terms)], dim=1).flatten()[:count]


ONE = Power(0)

# ---- functions of a query and keys ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target(ABC):
    """f*: from a query and keys to a number.

    Law (key order): permuting x_1, ..., x_N changes nothing, where `invariant` is true.
    """

    @property
    def invariant(self) -> bool:
        """Returns whether the order of the keys is without effect."""
        return True

    def problems_for(self, d: int) -> list[str]:
        """Returns the problems of this target in d dimensions."""
        return []

    def size(self, far: float) -> float:
        """Returns how large labels are, or 1 where that is more, of inputs that go so far in any direction."""
        return 1.0

    @abstractmethod
    def __call__(self, xs: Real[Tensor, "batch tokens d"]) -> Float[Tensor, " batch"]: ...


def labels(targets: Sequence[Target], xs: Real[Tensor, "batch tokens d"]) -> Float[Tensor, "batch targets"]:
    """Returns the values of several targets on the same inputs, one column each.

    Raises ``ValueError`` where there are no keys, or a target does not fit the dimension.
    """
    problems = [] if xs.shape[1] > 1 else [f"a query needs keys: at least 2 tokens, given {xs.shape[1]}"]
    refuse("labels", problems + [text for target in targets for text in target.problems_for(xs.shape[-1])])
    return torch.stack([target(xs) for target in targets], dim=-1)


@dataclass(frozen=True)
class KeyAverage(Target):
    """f*(X) = (1/N) Σ_i φ(⟨x_0, S x_i⟩) ψ(⟨β, x_i⟩), with ψ = `key` and φ = `correlation`, both 1 unless given.

    `seed` draws β and S = g I + √(1 − g²) J for an overlap g = tr S / d, where J is an antisymmetric orthogonal matrix:
    S is orthogonal for every g, from 1 (the identity) to 0 (nothing of it left). Overlaps below 1 need an even d.
    """

    key: Profile = ONE
    correlation: Profile = ONE
    overlap: float = field(default=1.0, metadata=SHARE)
    seed: int = 0

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def _problems(self) -> list[str]:
        return [] if -1 <= self.overlap <= 1 else [f"overlap must lie in -1..1, given {self.overlap}"]

    def size(self, far: float) -> float:
        return self.key.size(far) * self.correlation.size(far**2)

    def problems_for(self, d: int) -> list[str]:
        odd = d % 2 and abs(self.overlap) < 1
        return [f"KeyAverage with an overlap of {self.overlap} needs an even d, given {d}"] if odd else []

    def turn(self, d: int) -> Float[Tensor, "d d"]:
        """Returns S, float64."""
        eye, basis = torch.eye(d, dtype=torch.float64), rotation(d, self.seed)
        if abs(self.overlap) == 1:
            return self.overlap * eye
        plane = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
        quarter = basis @ torch.block_diag(*[plane] * (d // 2)) @ basis.mT
        return self.overlap * eye + (1 - self.overlap**2) ** 0.5 * quarter

    def __call__(self, xs: Real[Tensor, "batch tokens d"]) -> Float[Tensor, " batch"]:
        xs = _real(xs)
        query, keys = xs[:, :1] @ self.turn(xs.shape[-1]).to(xs), xs[:, 1:]
        return (self.correlation((query * keys).sum(-1)) * self.key(keys @ _beta(self.seed, xs))).mean(-1)


@dataclass(frozen=True)
class QueryFunction(Target):
    """f*(X) = ψ(⟨β, x_0⟩)."""

    profile: Profile
    seed: int = 0

    def __post_init__(self) -> None:
        admit(self, list)

    def size(self, far: float) -> float:
        return self.profile.size(far)

    def __call__(self, xs: Real[Tensor, "batch tokens d"]) -> Float[Tensor, " batch"]:
        xs = _real(xs)
        return self.profile(xs[:, 0] @ _beta(self.seed, xs))


@dataclass(frozen=True)
class Alternating(Target):
    """f*(X) = (1/N) Σ_i (−1)^i ψ(⟨β, x_i⟩): antisymmetric where two keys of unlike parity change places, and so out of
    reach of whatever pools its keys."""

    profile: Profile = field(default_factory=lambda: Power(1))
    seed: int = 0

    @property
    def invariant(self) -> bool:
        return False

    def __post_init__(self) -> None:
        admit(self, list)

    def size(self, far: float) -> float:
        return self.profile.size(far)

    def __call__(self, xs: Real[Tensor, "batch tokens d"]) -> Float[Tensor, " batch"]:
        xs = _real(xs)
        terms = self.profile(xs[:, 1:] @ _beta(self.seed, xs))
        return (terms[:, 1::2].sum(-1) - terms[:, ::2].sum(-1)) / terms.shape[-1]


@dataclass(frozen=True, eq=False)
class Custom(Target):
    """Any function of a query and keys that does not depend on the order of the keys; one that does is refused. No file
    can hold one.

    It is also called with the first two keys exchanged and with all keys moved on by one: these two generate every
    order, so that what neither moves depends on none.
    """

    function: Callable[[Tensor], Tensor]

    def __call__(self, xs: Real[Tensor, "batch tokens d"]) -> Float[Tensor, " batch"]:
        xs = _real(xs)
        values, query, keys = self.function(xs), xs[:, :1], xs[:, 1:]
        exchanged = torch.cat([query, keys[:, :2].flip(1), keys[:, 2:]], dim=1)
        moved = [self.function(other) - values for other in (exchanged, torch.cat([query, keys.roll(1, 1)], dim=1))]
        most = torch.stack(moved).abs().max().item()
        allowed = 64 * xs.shape[1] * torch.finfo(xs.dtype).eps * values.abs().max().item()
        refuse("Custom", [] if most <= allowed else [f"the order of the keys moves the function, by {most:.2g}"])
        return values


def _real(xs: Real[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Inputs as they are, or whole numbers as float: directions that are cast to integers would be zero."""
    return xs if xs.is_floating_point() else xs.to(torch.get_default_dtype())


def _beta(seed: int, xs: Float[Tensor, "*batch d"]) -> Float[Tensor, " d"]:
    """β, uniform on the sphere."""
    return rotation(xs.shape[-1], seed)[:, 0].to(xs)
