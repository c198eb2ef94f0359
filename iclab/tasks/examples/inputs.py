"""Distributions of a single input x: z has independent coordinates (or lies on the sphere), and x = R diag(√spectrum)
z.

With E zzᵀ = v·I the second moment of the input is Λ = v · R diag(spectrum) Rᵀ, and R is the rotation drawn from
`rotation_seed` (the identity when there is none).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.limits import admit


@lru_cache(maxsize=64)
def rotation(d: int, seed: int) -> Float[Tensor, "d d"]:
    """Returns a rotation of ℝᵈ drawn uniformly (Haar) from its own seed, float64."""
    gaussian = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    q = q * r.diagonal().sign()
    return torch.cat([q[:, :1] * torch.linalg.det(q).sign(), q[:, 1:]], dim=1)  # no reflection


@dataclass(frozen=True, kw_only=True)
class Inputs(ABC):
    """Distribution of one input. `spectrum` are the eigenvalues of its covariance before its own variance."""

    spectrum: tuple[float, ...] = ()
    rotation_seed: int | None = None

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def _problems(self) -> list[str]:
        unfit = [s for s in self.spectrum if not 0 <= s < float("inf")]
        problems = [f"spectrum must hold finite numbers, none negative, given {unfit}"] if unfit else []
        vanishes = self.spectrum and not any(self.spectrum)
        return problems + (["spectrum must not be zero everywhere"] if vanishes else [])

    @property
    def bare(self) -> bool:
        """Returns whether z is the input itself."""
        return not self.spectrum and self.rotation_seed is None

    def problems_for(self, d: int) -> list[str]:
        """Returns the problems of using this distribution in d dimensions."""
        wrong = self.spectrum and len(self.spectrum) != d
        return [f"spectrum has {len(self.spectrum)} entries for d = {d}"] if wrong else []

    def root(self, d: int) -> Float[Tensor, "d d"]:
        """Returns A = R diag(√spectrum), float64, so that x = A z."""
        scales = torch.tensor(self.spectrum or (1.0,) * d, dtype=torch.float64).sqrt()
        basis = torch.eye(d, dtype=torch.float64) if self.rotation_seed is None else rotation(d, self.rotation_seed)
        return basis * scales

    def second_moment(self, d: int) -> Float[Tensor, "d d"]:
        """Returns Λ = E x xᵀ, float64."""
        root = self.root(d)
        return self.variance(d) * root @ root.mT

    def fourth_moment(self, form: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        """Returns E (xᵀ S x) x xᵀ for a symmetric form S, float64."""
        root = self.root(len(form))
        return root @ self.standard_fourth_moment(root.mT @ form @ root) @ root.mT

    def sample(
        self, batch: int, n: int, d: int, rng: torch.Generator, dtype: torch.dtype
    ) -> Float[Tensor, "batch n d"]:
        """Draws n inputs for each prompt on the generator's device."""
        zs = self.standard(batch, n, d, rng, dtype)
        return zs if self.bare else zs @ self.root(d).to(zs).mT

    def reach(self, d: int) -> float:
        """Returns how far inputs go in any direction, but for a chance of 1e-15."""
        return max(self.spectrum, default=1.0) ** 0.5 * self.standard_reach(d)

    def standard_reach(self, d: int) -> float:
        """Returns the same of z, by default eight standard deviations."""
        return 8 * self.variance(d) ** 0.5

    @abstractmethod
    def variance(self, d: int) -> float:
        """Returns v, the variance of one coordinate of z."""

    @abstractmethod
    def standard_fourth_moment(self, form: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        """Returns E (zᵀ S z) z zᵀ."""

    @abstractmethod
    def standard(
        self, batch: int, n: int, d: int, rng: torch.Generator, dtype: torch.dtype
    ) -> Float[Tensor, "batch n d"]:
        """Draws z."""


def _of_normal(form: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """E (zᵀ S z) z zᵀ = 2 S + tr(S) I for z ~ N(0, I)."""
    return 2 * form + form.trace() * torch.eye(len(form), dtype=form.dtype)


@dataclass(frozen=True, kw_only=True)
class Normal(Inputs):
    """z ~ N(0, I)."""

    def variance(self, d: int) -> float:
        return 1.0

    def standard_fourth_moment(self, form: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        return _of_normal(form)

    def standard(self, batch: int, n: int, d: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.randn(batch, n, d, generator=rng, device=rng.device, dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class UnitNormal(Inputs):
    """z ~ N(0, I/d), so that E|z|² = 1."""

    def variance(self, d: int) -> float:
        return 1.0 / d

    def standard_fourth_moment(self, form: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        return _of_normal(form) / len(form) ** 2

    def standard(self, batch: int, n: int, d: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.randn(batch, n, d, generator=rng, device=rng.device, dtype=dtype) / d**0.5


@dataclass(frozen=True, kw_only=True)
class Uniform(Inputs):
    """Independent coordinates, uniform on (−half_width, half_width)."""

    half_width: float = 1.0

    def _problems(self) -> list[str]:
        wrong = [] if self.half_width > 0 else [f"half_width must be positive, given {self.half_width}"]
        return super()._problems() + wrong

    def variance(self, d: int) -> float:
        return self.half_width**2 / 3

    def standard_reach(self, d: int) -> float:
        return self.half_width * d**0.5

    def standard_fourth_moment(self, form: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        v = self.variance(len(form))
        return v**2 * _of_normal(form) + (self.half_width**4 / 5 - 3 * v**2) * form.diagonal().diag()

    def standard(self, batch: int, n: int, d: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
        unit = torch.rand(batch, n, d, generator=rng, device=rng.device, dtype=dtype)
        return self.half_width * (2 * unit - 1)


@dataclass(frozen=True, kw_only=True)
class Sphere(Inputs):
    """Uniform on the unit sphere of ℝᵈ."""

    def standard_reach(self, d: int) -> float:
        return 1.0

    def variance(self, d: int) -> float:
        return 1.0 / d

    def standard_fourth_moment(self, form: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
        return _of_normal(form) / (len(form) * (len(form) + 2))

    def standard(self, batch: int, n: int, d: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.nn.functional.normalize(
            torch.randn(batch, n, d, generator=rng, device=rng.device, dtype=dtype), dim=-1
        )
