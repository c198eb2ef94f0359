"""Parameters as one vector θ, with the state of their optimizer: an update is a few operations, whatever the model.

    AdamW   m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
            θ ← (1 − η λ) θ − η m̂ / (√v̂ + ε)               m̂ = m / (1 − β₁^t),  v̂ = v / (1 − β₂^t)
    Muon    m ← μ m + (1 − μ) g,   G = μ m + (1 − μ) g
            W ← (1 − η λ) W − η √max(1, r/c) · O(G)          for each matrix W [r, c], μ = 0.95

O(G) is near U Vᵀ, from the singular vectors of G: five steps X ← a X + (b A + c A²) X with A = X Xᵀ, from X = G / |G|.
They are taken in the precision of the weights, for all matrices of a shape at once; `torch.optim.Muon` does the same in
bfloat16, one by one. Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim.adamw import adamw

from iclab.errors import refuse

MOMENTUM, COEFFICIENTS, ITERATIONS, LEAST = 0.95, (3.4445, -4.7750, 2.0315), 5, 1e-7  # of Muon, those of its source


class Flat(ABC):
    """Some parameters of a model as one vector θ [P], of which they are views from then on. They are of one precision
    and on one device. A final class updates them by the gradient that was put in `gradient`.

    `moments` are vectors like θ, and `count` is the number of steps taken.
    """

    moment_names: ClassVar[tuple[str, ...]]
    counted: ClassVar[bool]  # whether the update depends on the number of steps

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.sizes = [p.numel() for p in self.parameters.values()]
        self.theta = torch.cat([p.detach().flatten() for p in self.parameters.values()])
        self.gradient, self.count = torch.empty_like(self.theta), torch.zeros((), device=self.theta.device)
        self.moments = {name: torch.zeros_like(self.theta) for name in self.moment_names}
        for parameter, part in zip(self.parameters.values(), self.parts(self.theta), strict=True):
            parameter.data = part

    def parts(self, vector: Float[Tensor, " P"]) -> list[Tensor]:
        """Returns views of a vector in the shapes of the parameters."""
        return [part.view(p.shape) for p, part in zip(self.parameters.values(), vector.split(self.sizes), strict=True)]

    def gather(self, gradients: Mapping[str, Tensor]) -> None:
        """Puts the gradients of its parameters into one vector. Raises ``ValueError`` where a parameter is no part of θ
        any more, so that no step could move it."""
        first = next(iter(self.parameters.values()))
        gone = first.data_ptr() != self.theta.data_ptr() or first.dtype != self.theta.dtype
        refuse("Training", ["the model was given other weights after its training was made"] if gone else [])
        torch.cat([gradients[name].flatten() for name in self.parameters], out=self.gradient)

    def adopt(
        self, theta: Float[Tensor, " P"], moments: Sequence[Float[Tensor, " P"]], count: Float[Tensor, ""]
    ) -> None:
        """Goes on in other memory, of which the parameters are views already."""
        self.theta = theta
        for own, other in ((self.count, count), *zip(self.moments.values(), moments, strict=True)):
            other.copy_(own)
        self.count, self.moments = count, dict(zip(self.moments, moments, strict=True))

    @abstractmethod
    def step(self, rate: float | Float[Tensor, ""], skip: Bool[Tensor, ""] | None = None) -> None:
        """Updates θ and its moments, but not where `skip` holds. A rate in a tensor is not looked at."""


class AdamW(Flat):
    """Parameters that AdamW updates."""

    moment_names = ("exp_avg", "exp_avg_sq")
    counted = True

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], betas: tuple[float, float], eps: float, decay: float
    ) -> None:
        super().__init__(parameters)
        self.betas, self.eps, self.decay = betas, eps, decay

    @torch.no_grad()
    def step(self, rate: float | Float[Tensor, ""], skip: Bool[Tensor, ""] | None = None) -> None:
        means, squares = self.moments.values()
        adamw(
            [self.theta], [self.gradient], [means], [squares], [], [self.count],
            fused=True, amsgrad=False, beta1=self.betas[0], beta2=self.betas[1], weight_decay=self.decay,
            lr=rate.float() if isinstance(rate, Tensor) and rate.is_cuda else rate,  # what that kernel reads
            eps=self.eps, maximize=False, found_inf=None if skip is None else skip.float(),
        )  # fmt: skip


class Muon(Flat):
    """Matrices of one shape that Muon updates."""

    moment_names = ("momentum_buffer",)
    counted = False

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        super().__init__(parameters)
        (self.shape,) = {tuple(p.shape) for p in parameters.values()}
        self.decay = decay

    @torch.no_grad()
    def step(self, rate: float | Float[Tensor, ""], skip: Bool[Tensor, ""] | None = None) -> None:
        (momentum,) = self.moments.values()
        changed = (self.theta, momentum, self.count)
        kept = [] if skip is None else [each.clone() for each in changed]
        momentum.lerp_(self.gradient, 1 - MOMENTUM)
        rows, columns = self.shape
        update = orthogonal(self.gradient.lerp(momentum, MOMENTUM).view(-1, rows, columns)).reshape(-1)
        self.theta.mul_(1 - rate * self.decay)
        scale = -rate * max(1, rows / columns) ** 0.5
        if isinstance(scale, Tensor):
            self.theta.addcmul_(update, scale)
        else:
            self.theta.add_(update, alpha=scale)
        self.count += 1
        if skip is not None:
            for each, before in zip(changed, kept, strict=True):
                each.copy_(torch.where(skip, before, each))


def orthogonal(matrices: Float[Tensor, "n r c"]) -> Float[Tensor, "n r c"]:
    """Returns matrices near U Vᵀ, from the singular vectors of the given ones: all with singular values near 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=LEAST)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def bound_norm(flats: Sequence[Flat], most: float) -> None:
    """Shrinks the gradients of all parameters together to a norm of at most `most`."""
    norms = [torch.linalg.vector_norm(flat.gradient) for flat in flats]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack([n.to(norms[0]) for n in norms]))
    share = (most / (norm + 1e-6)).clamp_(max=1)
    for flat in flats:
        flat.gradient.mul_(share.to(flat.gradient))


def flattened(
    parameters: Mapping[str, nn.Parameter], make: Callable[[Mapping[str, nn.Parameter]], Flat], shaped: bool = False
) -> list[Flat]:
    """Returns parameters as vectors, one for each precision and device, and where they are `shaped` for each shape."""

    def kind(name: str) -> tuple[str, ...]:
        p = parameters[name]
        return (str(p.dtype), str(p.device), *(str(size) for size in p.shape if shaped))

    return [
        make({name: parameters[name] for name in names}) for _, names in groupby(sorted(parameters, key=kind), kind)
    ]
