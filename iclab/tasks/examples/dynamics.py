"""Dynamical systems with a representation: states x_{i+1} = Wᵀ Φ(x̄_i) + noise·z_i, x̄_i the last k of them.

W [D d] is drawn for each prompt and Φ is the same in all. A prompt has the states as inputs, and as label y_i the next
state, a vector of d coordinates:

    y_i = x_{i+1} = Wᵀ Φ(x̄_i) + noise·z_i,        z_i ~ N(0, I).

The columns of W are independent, and so are the noises of the coordinates, so that given the states each column has a
posterior of its own: it is ridge on the pairs (Φ(x̄_j), the coordinate of x_{j+1}), j < i, and what the other
coordinates did adds nothing. So the Bayes predictor is ridge on Φ, coordinate by coordinate.

Source: Guo, Hu, Mei, Wang, Xiong, Savarese, Bai 2023, arXiv 2310.10616, §4.2 and §5.2. The variance of W and the
normalised Φ, which bounds the states, are this project's choice.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.tasks.examples.prompts import Functions, Prompts
from iclab.tasks.examples.representation import RepresentationRegression
from iclab.tasks.features import Features, Windowed


@dataclass(frozen=True)
class Transitions(Functions):
    """f(x)_i = Wᵀ Φ(x̄_i), with one matrix W for each prompt and one Φ for all."""

    W: Float[Tensor, "batch D c"]
    features: Features

    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m c"]:
        return self.features(xs) @ self.W


@dataclass(frozen=True)
class DynamicalSystem(RepresentationRegression):
    """The next state, from n states of d dimensions; Φ takes the last `window` of them.

    `prior` is the standard deviation of an entry of W, `noise` that of the noise of a coordinate, and `inputs` the law
    of the first state, whose moments are those that the task states.
    """

    window: int = 1

    def _problems(self) -> list[str]:
        return super()._problems() + ([] if self.window >= 1 else [f"window must be at least 1, given {self.window}"])

    def held(self) -> dict[str, int]:
        windows = {"the last states": self.n * self._seen(), "W": self.representation.width * self.d}
        return super().held() | windows

    def _seen(self) -> int:
        return self.window * self.d

    @property
    def label_dim(self) -> int:
        return self.d

    @property
    def labels_are_next_inputs(self) -> bool:
        return True

    @property
    def features(self) -> Features:
        return Windowed(self.representation, self.window)

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "batch n d"]:
        raise ValueError("the states of a DynamicalSystem are drawn with its functions")

    def constants(self) -> dict[str, Float[Tensor, "..."]]:
        weights = self.representation.weights(self.window * self.d)
        return {f"B_{k}": B for k, B in enumerate(weights, 1)}

    def sample(self, batch: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Prompts:
        """Draws the first state, W and the noise, and lets the states follow upon each other."""
        first = self.inputs.sample(batch, 1, self.d, rng, dtype)
        shape = (batch, self.features.size(self.d), self.d)
        W = self.prior * torch.randn(shape, generator=rng, device=rng.device, dtype=dtype)
        noise = torch.randn(batch, self.n, self.d, generator=rng, device=rng.device, dtype=dtype)
        states = self._states(first, W, self.noise * noise)
        truth = Transitions(W, self.features)
        return Prompts(states[:, :-1], states[:, 1:], truth(states[:, :-1]), truth)

    def _states(
        self, first: Float[Tensor, "batch 1 d"], W: Float[Tensor, "batch D d"], noise: Float[Tensor, "batch n d"]
    ) -> Float[Tensor, "batch states d"]:
        """One after the other: each needs those before it."""
        states = first
        for step in noise.split(1, dim=1):
            states = torch.cat([states, self.features(states[:, -self.window :])[:, -1:] @ W + step], dim=1)
        return states
