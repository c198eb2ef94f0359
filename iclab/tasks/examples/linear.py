"""Linear functions: dense, whitened, and sparse.

dense    w ~ N(0, prior²·I)                              Akyürek et al. 2022, arXiv 2211.15661, §2
whitened w ~ N(0, prior²·Λ⁻¹), Λ = E x xᵀ                Ahn et al. 2023, arXiv 2306.00297, §4
sparse   as dense, then all but `sparsity` coordinates, chosen uniformly, are set to zero
                                                         Garg et al. 2022, arXiv 2208.01066, §4
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.tasks.examples.prompts import LinearFunctions
from iclab.tasks.task import FunctionClass


@dataclass(frozen=True)
class LinearRegression(FunctionClass):
    """y = w·x + noise·ε with w ~ N(0, prior²·I): the task on which in-context learners are compared with ridge.

    Args:
        d: Dimensions of an input.
        n: Examples of a prompt.
        noise: Standard deviation σ of the label noise.
        prior: Standard deviation τ of a weight; Bayes is ridge with lam = σ²/τ².

    >>> import torch
    >>> task = LinearRegression(d=2, n=5, noise=0.5)
    >>> prompts = task.sample(batch=3, rng=torch.Generator().manual_seed(0))
    >>> prompts.xs.shape, prompts.ys.shape, prompts.ws.shape
    (torch.Size([3, 5, 2]), torch.Size([3, 5]), torch.Size([3, 2]))
    >>> task.label_variance()  # d·prior² + noise²
    2.25
    """

    prior: float = 1.0

    def _problems(self) -> list[str]:
        proper = 0 < self.prior < float("inf")
        wrong = [] if proper else [f"prior must be a positive, finite standard deviation, given {self.prior}"]
        return super()._problems() + wrong

    def factors(self) -> dict[str, float]:
        return super().factors() | {"prior": self.prior}

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> LinearFunctions:
        return LinearFunctions(self.prior * torch.randn(batch, self.d, generator=rng, device=rng.device, dtype=dtype))

    def weight_variance(self) -> float:
        """Returns E w_j² of one coordinate."""
        return self.prior**2

    def weight_covariance(self) -> Float[Tensor, "d d"]:
        """Returns E w wᵀ, float64."""
        return self.weight_variance() * torch.eye(self.d, dtype=torch.float64)

    def label_variance(self) -> float:
        """Returns E y² = tr(Λ E w wᵀ) + noise²."""
        return (self.input_second_moment() @ self.weight_covariance()).trace().item() + self.noise**2


@dataclass(frozen=True)
class WhitenedLinearRegression(LinearRegression):
    """Linear regression with w ~ N(0, prior²·Λ⁻¹): every direction of the inputs has the same share in the labels.

    In the coordinates Λ^(−½) x it is ordinary linear regression. Source: Ahn et al. 2023, arXiv 2306.00297, §4;
    Mahankali et al. 2023, arXiv 2307.03576.
    """

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if problems:
            return problems
        singular = self.rank < self.d
        return ["inputs need a covariance that can be inverted: its spectrum must be positive"] if singular else []

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> LinearFunctions:
        white = super().draw_functions(batch, rng, dtype).ws
        return LinearFunctions(white @ self._inverse_root().to(white))

    def _inverse_root(self) -> Float[Tensor, "d d"]:
        """Λ^(−½), symmetric."""
        eigenvalues, vectors = torch.linalg.eigh(self.input_second_moment())
        return vectors / eigenvalues.sqrt() @ vectors.mT

    def weight_variance(self) -> float:
        """Returns E w_j², averaged over coordinates."""
        return self.weight_covariance().diagonal().mean().item()

    def weight_covariance(self) -> Float[Tensor, "d d"]:
        return self.prior**2 * torch.linalg.inv(self.input_second_moment())


@dataclass(frozen=True)
class SparseLinearRegression(LinearRegression):
    """Linear regression whose weight vector has exactly `sparsity` nonzero coordinates.

    >>> import torch
    >>> task = SparseLinearRegression(d=6, n=4, sparsity=2)
    >>> (task.sample(3, torch.Generator().manual_seed(0)).ws != 0).sum(1)
    tensor([2, 2, 2])
    """

    sparsity: int = 3

    def _problems(self) -> list[str]:
        fits = 1 <= self.sparsity <= self.d
        return super()._problems() + ([] if fits else [f"sparsity must lie in 1..d = {self.d}, given {self.sparsity}"])

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> LinearFunctions:
        dense = super().draw_functions(batch, rng, dtype).ws
        keys = torch.rand(batch, self.d, generator=rng, device=rng.device)
        kept = keys.argsort(-1).argsort(-1) < self.sparsity
        return LinearFunctions(dense * kept)

    def weight_variance(self) -> float:
        """Returns prior² · sparsity/d."""
        return self.prior**2 * self.sparsity / self.d
