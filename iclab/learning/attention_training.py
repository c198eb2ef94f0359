"""Attention of one layer trained as a whole: query-key products as well as values, by gradient descent on a sample.

    f(X) = b + Σ_m (1/N) Σ_i relu(x̃_0ᵀ W_m x̃_i) ⟨v_m, x̃_i⟩,      minimise mean (f(X) − y)² over W, v and b

starts from the W_m of a frozen model and v = b = 0, one model for each target, all of them in one stack. Labels are
scaled to mean 0 and variance 1 for the training. The parameters kept are those with the least error on the inputs held
out (early stopping), a choice that a frozen model makes for its penalty on as many inputs.

Which way the W_m go: with v_m as yet small, its constant channel moves as E y relu(s) ∝ tr W_m for y = ⟨x_0, x_i⟩, and
then W_m as v_m E y 1[s > 0] x_0 x_iᵀ ∝ v_m I. So heads of positive trace become more positive, those of negative trace
more negative, and the mean over heads stays what it was: it is the mean weighted by the sign of the values that turns
to the identity.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, inf, pi

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.learning.random_feature_ridge import CurveLearner, FrozenRidge
from iclab.models import ModelConfig, RandomAttention, RandomAttentionConfig, RandomFeatures
from iclab.models.random_features import with_one
from iclab.tasks import Task

LOOKS = 40  # at the inputs held out, in a training


@dataclass(frozen=True, eq=False)
class TrainedAttention:
    """A stack of layers, one for each target."""

    products: Float[Tensor, "targets heads d_1 d_1"]
    values: Float[Tensor, "targets heads d_1"]
    intercepts: Float[Tensor, " targets"]

    @property
    def parameters(self) -> list[Tensor]:
        """Returns what is trained."""
        return [self.products, self.values, self.intercepts]

    def __call__(self, xs: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch targets"]:
        query, keys = with_one(xs[:, 0]), with_one(xs[:, 1:])
        targets, heads = self.values.shape[:2]
        turned = (query @ self.products.permute(2, 0, 1, 3).flatten(1)).unflatten(1, (targets * heads, -1))
        scores, read = turned @ keys.mT, self.values.flatten(0, 1) @ keys.mT  # [batch targets·heads N]
        added = (scores.relu() * read).sum(-1).unflatten(1, (targets, heads)).sum(-1)
        return added / keys.shape[1] + self.intercepts

    def scaled(self, spread: Float[Tensor, " targets"], mean: Float[Tensor, " targets"]) -> "TrainedAttention":
        """Returns the same layers with answers of another scale."""
        return TrainedAttention(self.products, self.values * spread.view(-1, 1, 1), self.intercepts * spread + mean)

    @property
    def coefficients(self) -> Float[Tensor, "targets heads"]:
        """Returns tr W_dd / d of each head: how much of the identity there is in its query-key product."""
        return self.products[..., :-1, :-1].diagonal(dim1=-2, dim2=-1).mean(-1)

    @property
    def signs(self) -> Float[Tensor, "targets heads"]:
        """Returns the sign of what a head adds to the answer with the size of its scores: of the value of its
        constant."""
        return self.values[..., -1].sign()


@dataclass(frozen=True, kw_only=True)
class AttentionDescent(CurveLearner):
    """Trains all weights of the model, by Adam with a rate that falls to 0 as a cosine; models beside it stay frozen
    and are fitted by ridge regression."""

    steps: int = 1000
    batch: int = 64
    lr: float = 1e-2

    def _problems(self) -> list[str]:
        problems = [
            f"{k} must be at least 1, given {getattr(self, k)}" for k in ("steps", "batch") if getattr(self, k) < 1
        ]
        problems += [] if 0 < self.lr < inf else [f"lr must be positive and finite, given {self.lr}"]
        return super()._problems() + problems

    def problems_for(self, task: Task, model: ModelConfig) -> list[str]:
        relu = isinstance(model, RandomAttentionConfig) and model.activation == "relu"
        problems = [] if relu else [f"AttentionDescent trains ReLU attention, given {type(model).__name__}"]
        return super().problems_for(task, model) + problems

    @property
    def for_others(self) -> CurveLearner:
        return FrozenRidge(sizes=self.sizes, validation=self.validation)

    def answers(
        self,
        model: RandomFeatures,
        xs: Float[Tensor, "n tokens d"],
        ys: Float[Tensor, "n targets"],
        others: Float[Tensor, "m tokens d"],
    ) -> Float[Tensor, "sizes m targets"]:
        return asked(self.trained(model, xs, ys), others)

    def trained(
        self, model: RandomFeatures, xs: Float[Tensor, "n tokens d"], ys: Float[Tensor, "n targets"]
    ) -> list[TrainedAttention]:
        """Trains the layers, one stack for each number of inputs, which alone decides the order of batches."""
        refuse("AttentionDescent", [] if isinstance(model, RandomAttention) else ["only attention can be trained"])
        return [self._train(model, xs[:n].float(), ys[:n].float()) for n in self.sizes]

    def _train(self, model: RandomFeatures, xs: Tensor, ys: Tensor) -> TrainedAttention:
        kept, mean, spread = len(xs) - round(len(xs) * self.validation), ys.mean(0), ys.std(0)
        layers, targets = untrained(model, ys.shape[1]), (ys - mean) / spread
        optimizer = torch.optim.Adam([p.requires_grad_() for p in layers.parameters], self.lr, fused=True)
        best = Best(lambda: (layers(xs[kept:]) - targets[kept:]).square().mean(0), layers)
        rng = torch.Generator(xs.device).manual_seed(len(xs))
        for step in range(self.steps):
            chosen = torch.randint(kept, (min(self.batch, kept),), generator=rng, device=xs.device)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * (1 + cos(pi * step / self.steps)) / 2
            optimizer.zero_grad()
            (layers(xs[chosen]) - targets[chosen]).square().mean(0).sum().backward()
            optimizer.step()
            if (step + 1) % max(1, self.steps // LOOKS) == 0:
                best.look()
        return best.layers.scaled(spread, mean)


@torch.no_grad()
def asked(
    layers: Sequence[TrainedAttention], xs: Float[Tensor, "batch tokens d"]
) -> Float[Tensor, "sizes batch targets"]:
    """Returns the answers of several stacks, float64."""
    return torch.stack([f(xs.float()) for f in layers]).double()


class Best:
    """The parameters of each target at its least error so far; at first those of no training."""

    def __init__(self, errors: Callable[[], Float[Tensor, " targets"]], layers: TrainedAttention) -> None:
        self.errors, self.now = errors, layers
        self.layers = TrainedAttention(*(p.detach().clone() for p in layers.parameters))
        self.least = torch.full_like(layers.intercepts, inf).detach()
        self.look()

    @torch.no_grad()
    def look(self) -> None:
        """Keeps what is better."""
        errors = self.errors()
        better = errors < self.least
        self.least = torch.where(better, errors, self.least)
        for kept, now in zip(self.layers.parameters, self.now.parameters, strict=True):
            kept[better] = now[better]


def untrained(model: RandomFeatures, targets: int) -> TrainedAttention:
    """Returns the layers before training: the frozen products, and no values."""
    products = model.weights.float().expand(targets, *model.weights.shape).clone()
    return TrainedAttention(products, torch.zeros_like(products[..., 0]), products.new_zeros(targets))
