"""Two-layer ReLU networks, one for each prefix, trained on it by Adam.

    f(x) = a · relu(W x),    loss = 1/i Σ_{j<i} (f(x_j) − y_j)²,    the first i examples, all at every step

    ∂loss/∂a = Σ_j e_j relu(W x_j),    ∂loss/∂W = Σ_j e_j (a ∘ 1[W x_j > 0]) x_jᵀ,    e_j = 2/i (f(x_j) − y_j) [j < i]

All start at a = 0 and at the same W ~ N(0, I), so that without an example they answer 0, and so that neither the other
prompts nor the order of the examples plays a part. Kingma and Ba 2015 (arXiv 1412.6980) with its usual constants.

Among in-context baselines: Garg, Tsipras, Liang, Valiant 2022, arXiv 2208.01066, §4, who take batches of 10 examples.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.predictor import in_double
from iclab.predictors.prefixes import in_chunks

BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class TrainedNetwork:
    """The answer of a network of `width` hidden units after `steps` of Adam at rate `lr` on the first i examples; W is
    drawn with `seed`."""

    width: int = 100
    steps: int = 300
    lr: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [] if self.width >= 1 else [f"width must be at least 1, given {self.width}"]
        problems += [] if self.steps >= 0 else [f"steps must be at least 0, given {self.steps}"]
        refuse("TrainedNetwork", problems + ([] if self.lr > 0 else [f"lr must be positive, given {self.lr}"]))

    @in_double
    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        n, d = xs.shape[1:]
        return in_chunks(self._answers, xs, ys, 4 * n * self.width * (n + 2 * d))

    def _answers(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        hidden, readout = self._trained(xs.detach(), ys.detach())  # gradients are those in the query
        return ((xs.unsqueeze(2) @ hidden).relu() @ readout).flatten(1)

    def _trained(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> tuple[Tensor, Tensor]:
        """W [batch n d width] and a [batch n width 1] after all steps."""
        hidden, readout = (Adam(start, self.lr) for start in self._start(xs))
        seen = torch.ones_like(ys).unsqueeze(1).expand(-1, ys.shape[1], -1).tril(-1)
        share = 2 * seen / seen.sum(-1, keepdim=True).clamp_min(1)
        for _ in range(self.steps):
            before = xs.unsqueeze(1) @ hidden.value
            active = before.relu()
            e = share * ((active @ readout.value).squeeze(-1) - ys.unsqueeze(1))
            back = e.unsqueeze(-1) * (before > 0)
            to_hidden = (xs.mT.unsqueeze(1) @ back) * readout.value.mT
            readout.step(active.mT @ e.unsqueeze(-1))
            hidden.step(to_hidden)
        return hidden.value, readout.value

    def _start(self, xs: Float[Tensor, "batch n d"]) -> tuple[Tensor, Tensor]:
        """Both at first."""
        batch, n, d = xs.shape
        rng = torch.Generator().manual_seed(self.seed)
        hidden = torch.randn(d, self.width, generator=rng, dtype=xs.dtype).to(xs.device)
        return hidden.repeat(batch, n, 1, 1), xs.new_zeros(batch, n, self.width, 1)


class Adam:
    """A tensor that is moved against its gradients by Adam."""

    def __init__(self, value: Tensor, lr: float) -> None:
        self.value, self.lr, self.steps = value, lr, 0
        self.first, self.second = torch.zeros_like(value), torch.zeros_like(value)

    def step(self, gradient: Tensor) -> None:
        """Takes a step: θ ← θ − lr · m̂ / (√v̂ + ε)."""
        self.steps += 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        first, second = (1 - beta**self.steps for beta in BETAS)
        self.value.addcdiv_(self.first, (self.second / second).sqrt_().add_(EPS), value=-self.lr / first)
