"""Features: fixed maps Φ of an input, of a task or of a predictor; nothing in them is learned.

    Identity              x
    Representation        s(B_L s(B_{L−1} ⋯ s(B_1 x))),  s(t) = max(t, slope·t): a leaky ReLU network without biases
    Concatenated          several of them side by side
    Windowed              Φ of the last few inputs, where inputs follow upon each other

B_1 [D d] and B_2, ..., B_L [D D] are drawn once, from the seed, uniformly among matrices with orthonormal columns (or
rows, where there are fewer of them): with D ≥ d the network never makes an input longer. Divided by its length the
output is on the unit sphere; it is not centred, for leaky ReLUs push towards the positive orthant, the more the deeper.

The weights are a function of the settings. They are drawn in float64 on the CPU, so that every device has the same; a
run keeps them in a file besides, since another linear algebra library may round another way.

Source: Guo, Hu, Mei, Wang, Xiong, Savarese, Bai 2023, arXiv 2310.10616, §4 and §5.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize, pad

from iclab.errors import refuse
from iclab.limits import SHARE, admit


class Features(ABC):
    """A map Φ: ℝᵈ → ℝᴰ, the same for every prompt."""

    @abstractmethod
    def __call__(self, xs: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch D"]: ...

    @abstractmethod
    def size(self, d: int) -> int:
        """Returns D, the number of features of an input of d dimensions."""


@dataclass(frozen=True)
class Identity(Features):
    """The input itself."""

    def __call__(self, xs: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch D"]:
        return xs

    def size(self, d: int) -> int:
        return d


@dataclass(frozen=True)
class Representation(Features):
    """A leaky ReLU network of `depth` layers and `width` D with random orthogonal weights, drawn from `seed`.

    `normalised` divides its output by the length of it, as in the paper's experiments; its theory has none of that.
    """

    width: int = 20
    depth: int = 2
    slope: float = field(default=0.01, metadata=SHARE)
    normalised: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def _problems(self) -> list[str]:
        least = {"width": self.width, "depth": self.depth}
        problems = [f"{name} must be at least 1, given {value}" for name, value in least.items() if value < 1]
        problems += [] if 0 <= self.slope <= 1 else [f"slope must lie in 0..1, given {self.slope}"]
        problems += [] if 0 <= self.seed < 2**32 else [f"seed must lie in 0..{2**32 - 1}, given {self.seed}"]
        return problems

    def held(self) -> dict[str, int]:
        """Returns how many numbers the weights behind the first layer take."""
        return {"the representation": self.width + (self.depth - 1) * self.width**2}

    def __call__(self, xs: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch D"]:
        last = self.layers(xs)[-1]
        return normalize(last, dim=-1) if self.normalised else last

    def layers(self, xs: Float[Tensor, "*batch d"]) -> list[Float[Tensor, "*batch D"]]:
        """Returns s(B_1 x), s(B_2 s(B_1 x)), ...: what each layer makes of an input, the last one before it is
        divided."""
        layers = []
        for B in _matrices(self, xs.shape[-1], xs.device, xs.dtype):
            xs = leaky_relu(xs @ B.mT, self.slope)
            layers.append(xs)
        return layers

    def size(self, d: int) -> int:
        return self.width

    def weights(self, d: int) -> tuple[Float[Tensor, "D _"], ...]:
        """Returns B_1, ..., B_L for inputs of d dimensions, float64."""
        rng = torch.Generator().manual_seed(self.seed)
        return tuple(orthogonal(self.width, k, rng) for k in (d, *[self.width] * (self.depth - 1)))


@dataclass(frozen=True)
class Concatenated(Features):
    """Several features of one input, side by side."""

    parts: tuple[Features, ...]

    def __post_init__(self) -> None:
        refuse("Concatenated", [] if self.parts else ["parts must not be empty"])

    def __call__(self, xs: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch D"]:
        return torch.cat([part(xs) for part in self.parts], dim=-1)

    def size(self, d: int) -> int:
        return sum(part.size(d) for part in self.parts)


@dataclass(frozen=True)
class Windowed(Features):
    """Φ(x̄_i) of the last `window` rows, x̄_i = (x_{i−k+1}, ..., x_i), oldest first; zeros stand before the first one.

    The features of the states of a dynamical system: row i depends on no later row.
    """

    features: Features
    window: int = 1

    def __post_init__(self) -> None:
        refuse("Windowed", [] if self.window >= 1 else [f"window must be at least 1, given {self.window}"])

    def __call__(self, xs: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n D"]:
        return self.features(windows(xs, self.window))

    def size(self, d: int) -> int:
        return self.features.size(self.window * d)


def windows(xs: Float[Tensor, "*batch n d"], k: int) -> Float[Tensor, "*batch n kd"]:
    """Returns x̄_i, the last k rows of each row, oldest first."""
    padded = pad(xs, (0, 0, k - 1, 0))
    return torch.cat([padded[..., j : j + xs.shape[-2], :] for j in range(k)], dim=-1)


def orthogonal(rows: int, columns: int, rng: torch.Generator) -> Float[Tensor, "rows columns"]:
    """Draws a matrix with orthonormal columns, or rows where there are fewer, uniformly (Haar), float64."""
    gaussian = torch.randn(max(rows, columns), min(rows, columns), generator=rng, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    q = q * r.diagonal().sign()
    return (q if rows >= columns else q.mT).contiguous()


@lru_cache(maxsize=64)
def _matrices(
    features: Representation, d: int, device: torch.device, dtype: torch.dtype
) -> tuple[Float[Tensor, "D _"], ...]:
    """The weights where they are needed: a training applies them at every step."""
    return tuple(B.to(device, dtype) for B in features.weights(d))
