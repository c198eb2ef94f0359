"""Linear functions of a fixed representation: y = w·Φ(x) + noise·ε, with w ~ N(0, prior²·I) for each prompt.

Φ is the same in every prompt of training and of test: a learner that knows it has linear regression before it.
With |Φ| = 1 and prior = 1 the labels before noise have the variance 1.

Source: Guo, Hu, Mei, Wang, Xiong, Savarese, Bai 2023, arXiv 2310.10616, §4.1 and §5.1.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.tasks.examples.prompts import Functions
from iclab.tasks.features import Features, Representation
from iclab.tasks.task import FunctionClass


@dataclass(frozen=True)
class FeatureFunctions(Functions):
    """f(x) = w·Φ(x), with one weight vector w for each prompt and one Φ for all."""

    ws: Float[Tensor, "batch D"]
    features: Features

    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m"]:
        return (self.features(xs) @ self.ws.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class RepresentationRegression(FunctionClass):
    """Linear regression on Φ(x), where Φ is the `representation`: ridge on the features is the Bayes predictor."""

    prior: float = 1.0
    representation: Representation = field(default_factory=Representation)

    def _problems(self) -> list[str]:
        proper = 0 < self.prior < float("inf")
        wrong = [] if proper else [f"prior must be a positive, finite standard deviation, given {self.prior}"]
        return super()._problems() + wrong

    def held(self) -> dict[str, int]:
        width, depth = self.representation.width, self.representation.depth
        features = {"the features of a prompt": self.n * width * depth}
        return super().held() | features | {"the representation": width * (self._seen() + (depth - 1) * width)}

    def _seen(self) -> int:
        """The dimensions of what the representation is applied to."""
        return self.d

    def factors(self) -> dict[str, float]:
        return super().factors() | {"prior": self.prior}

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> FeatureFunctions:
        shape = (batch, self.features.size(self.d))
        ws = self.prior * torch.randn(shape, generator=rng, device=rng.device, dtype=dtype)
        return FeatureFunctions(ws, self.features)

    @property
    def features(self) -> Features:
        """Returns what functions are linear in."""
        return self.representation

    def weight_variance(self) -> float:
        """Returns E w_j² of one coordinate."""
        return self.prior**2

    def constants(self) -> dict[str, Float[Tensor, "..."]]:
        return {f"B_{k}": B for k, B in enumerate(self.representation.weights(self.d), 1)}
