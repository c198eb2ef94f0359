"""Models whose weights are drawn and frozen, and whose values are learned: attention heads, and neurons.

    f(X) = b + Σ_m ⟨φ_m(X), v_m⟩,      φ_m a function of the query x_0, the keys x_1..x_N and frozen weights

For attention (RFA, and with a mean of its weights BRFA), with x̃ = [x; 1] and (W_m)_jk ~ N(bias · 1[j = k ≤ d], 1/4),

    φ_m(X) = (1/N) Σ_i σ(x̃_0ᵀ W_m x̃_i) x̃_i  ∈ ℝᵈ⁺¹,      σ = ReLU.

On unit tokens |x̃|² = 2, and a score is N(bias · ⟨x_0, x_i⟩, 1). For a two-layer network (RFMLP)

    φ_m(X) = σ(w_m · [x_0; ...; x_N; 1]),      w_m ~ N(0, I/(N + 2)),

whose preactivation is N(0, 1). Its counterpart that does not see the order of keys averages φ_m over orders.

Each frozen model has the kernel K_M(X, X') = (1/M) Σ_m φ_m(X)·φ_m(X') over its M heads or neurons, which tends to a
closed form as M grows (`iclab.predictors.AttentionKernel`, `NetworkKernel`).

Self-attention between all tokens, whose features are not pooled, is there to be compared in its sensitivity to a word.

Source: Fu, Guo, Bai, Mei 2023, arXiv 2307.11353 (RFA, BRFA, RFMLP). The strength of the bias (1 in the paper), the
softmax and the average over orders (after Mei, Misiakiewicz, Montanari 2021, arXiv 2102.13219) are this project's.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclab.errors import out_of_bounds, refuse, unknown_choices, wrong_fields
from iclab.models.architecture import LARGEST, ModelConfig, refuse_sizes, refuse_weights
from iclab.models.door import inputs_in

CHUNK = 2**22  # numbers that are formed at once

Activation = Literal["relu", "softmax"]


class RandomFeatures(nn.Module, ABC):
    """f(X) = b + Σ_m ⟨φ_m(X), v_m⟩ for several targets at once: `values` [M·per_head, targets] holds the v_m and
    `intercept` the b, both zero before a fit (`iclab.learning.random_feature_ridge.fit`). A final class draws
    `weights`, one row for each of the M heads, and implements `features`.

    Computes in the precision of the inputs.
    """

    weights: Tensor

    def __init__(self, d: int, n_keys: int, weights: Tensor, per_head: int, targets: int) -> None:
        super().__init__()
        self.d, self.n_keys, self.per_head = d, n_keys, per_head
        self.register_buffer("weights", weights)
        self.values = nn.Parameter(torch.zeros(len(weights) * per_head, targets, dtype=torch.float64))
        self.intercept = nn.Parameter(torch.zeros(targets, dtype=torch.float64))

    @property
    def heads(self) -> int:
        """Returns M."""
        return len(self.weights)

    @property
    def size(self) -> int:
        """Returns the number of features, which is that of the values learned for one target."""
        return self.heads * self.per_head

    @abstractmethod
    def features(
        self, xs: Float[Tensor, "batch tokens d"], weights: Float[Tensor, "heads ..."] | None = None
    ) -> Float[Tensor, "batch p"]:
        """Returns φ_m(X) of all heads, or of those with the given rows of `weights`, side by side."""

    @property
    @abstractmethod
    def cost(self) -> int:
        """Returns how many numbers the features of one head hold at once for one input."""

    def chunks(self, batch: int) -> Iterator[slice]:
        """Yields the heads, so many at a time as their features for a batch of inputs fit into memory."""
        step = max(1, CHUNK // (batch * self.cost))
        return (slice(start, min(start + step, self.heads)) for start in range(0, self.heads, step))

    @inputs_in
    def kernel(
        self, xs: Float[Tensor, "n tokens d"], others: Float[Tensor, "m tokens d"] | None = None
    ) -> Float[Tensor, "n m"]:
        """Returns K_M between inputs, or of inputs with themselves, float64; a sum over chunks of heads, none of which
        is kept.

        In float32 the features are rounded but a Gram matrix of rounded features is positive still.
        """
        if others is None:
            return self.with_others(xs, xs[:0])
        total = torch.zeros(len(xs), len(others), dtype=torch.float64, device=xs.device)
        for chosen in self.chunks(len(xs) + len(others)):
            total += self.features(xs, self.weights[chosen]) @ self.features(others, self.weights[chosen]).mT
        return total / self.heads

    @inputs_in
    def with_others(
        self, xs: Float[Tensor, "n tokens d"], others: Float[Tensor, "m tokens d"]
    ) -> Float[Tensor, "n_plus_m n"]:
        """Returns K_M of inputs and then of others, each with the inputs: the features of either are formed once."""
        both = torch.cat([xs, others])
        total = torch.zeros(len(both), len(xs), dtype=torch.float64, device=xs.device)
        for chosen in self.chunks(len(both)):
            features = self.features(both, self.weights[chosen])
            total += features @ features[: len(xs)].mT
        return total / self.heads

    @inputs_in
    def forward(self, xs: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch targets"]:
        """Returns the answers for every target, float64."""
        parts = torch.zeros(len(xs), len(self.intercept), dtype=torch.float64, device=xs.device)
        for chosen in self.chunks(len(xs)):
            parts = parts + self.features(xs, self.weights[chosen]).double() @ self.values[self.rows(chosen)]
        return parts + self.intercept

    def rows(self, heads: slice) -> slice:
        """Returns the rows of `values` that belong to some of the heads."""
        return slice(heads.start * self.per_head, heads.stop * self.per_head)


class RandomAttention(RandomFeatures):
    """Attention with frozen query-key weights and learned values: RFA, and BRFA where `bias` is not 0.

    With the softmax, σ(s_i)/N gives way to exp(s_i) / Σ_j exp(s_j).
    Law (key order): permuting keys leaves the features as they are.
    """

    def __init__(
        self,
        d: int,
        n_keys: int,
        heads: int,
        bias: float = 0.0,
        activation: Activation = "relu",
        rng: torch.Generator | None = None,
        targets: int = 1,
    ) -> None:
        refuse_sizes("RandomAttention", {"d": d, "n_keys": n_keys, "heads": heads, "targets": targets})
        refuse_weights("RandomAttention", heads * (d + 1) * (d + 1 + targets))
        known = activation in ("relu", "softmax")
        refuse("RandomAttention", [] if known else [f"activation must be relu or softmax, given {activation!r}"])
        super().__init__(d, n_keys, query_key_products(heads, d, bias, rng), d + 1, targets)
        self.bias, self.activation = bias, activation

    @property
    def cost(self) -> int:
        return 2 * (self.d + 1) + 2 * self.n_keys

    @inputs_in
    def features(
        self, xs: Float[Tensor, "batch tokens d"], weights: Float[Tensor, "heads a b"] | None = None
    ) -> Float[Tensor, "batch p"]:
        weights = (self.weights if weights is None else weights).to(xs)
        query, keys = with_one(xs[:, 0]), with_one(xs[:, 1:])
        projected = (query @ weights.transpose(0, 1).flatten(1)).unflatten(1, weights.shape[::2])
        scores = projected @ keys.mT  # [batch heads N]
        attention = scores.softmax(-1) if self.activation == "softmax" else scores.relu_() / keys.shape[1]
        return (attention @ keys).flatten(1)


class RandomSelfAttention(RandomFeatures):
    """Every token attends to every token, query and keys alike, and nothing is pooled: with words √d x_i, x_i of length
    1 and rows of X,

        φ_m(X) = softmax(√d X W_m Xᵀ) X,      (W_m)_jk ~ N(0, 1/d),

    or relu(√d X W_m Xᵀ) with rows divided by their number, flattened to (N + 1) d numbers. No constant is appended.

    Source: Bombari, Mondelli 2024, arXiv 2402.02969, §3 (a single head, and the softmax).
    """

    def __init__(
        self,
        d: int,
        n_keys: int,
        heads: int,
        activation: Activation = "softmax",
        rng: torch.Generator | None = None,
        targets: int = 1,
    ) -> None:
        refuse_sizes("RandomSelfAttention", {"d": d, "n_keys": n_keys, "heads": heads, "targets": targets})
        refuse_weights("RandomSelfAttention", heads * d * (d + (n_keys + 1) * targets))
        weights = torch.randn(heads, d, d, generator=rng, dtype=torch.float64) / d**0.5
        super().__init__(d, n_keys, weights, (n_keys + 1) * d, targets)
        self.activation = activation

    @property
    def cost(self) -> int:
        return 2 * (self.n_keys + 1) * (self.d + self.n_keys + 1)

    @inputs_in
    def features(
        self, xs: Float[Tensor, "batch tokens d"], weights: Float[Tensor, "heads d d"] | None = None
    ) -> Float[Tensor, "batch p"]:
        weights, xs = (self.weights if weights is None else weights).to(xs), xs.unsqueeze(1)
        scores = self.d**0.5 * (xs @ weights) @ xs.mT  # [batch heads tokens tokens]
        attention = scores.softmax(-1) if self.activation == "softmax" else scores.relu() / xs.shape[-2]
        return (attention @ xs).flatten(1)


class RandomNetwork(RandomFeatures):
    """A two-layer network on all tokens at once with a frozen first layer: RFMLP. With `orders` above 0 each feature is
    averaged over so many orders of the keys, which are drawn once: it is then nearly blind to their order.
    """

    def __init__(
        self,
        d: int,
        n_keys: int,
        neurons: int,
        orders: int = 0,
        rng: torch.Generator | None = None,
        targets: int = 1,
    ) -> None:
        refuse_sizes("RandomNetwork", {"d": d, "n_keys": n_keys, "neurons": neurons, "targets": targets})
        refuse("RandomNetwork", _order_problems(orders))
        width = d * (n_keys + 1) + 1
        refuse_weights("RandomNetwork", neurons * (width + targets) + orders * n_keys)
        weights = torch.randn(neurons, width, generator=rng, dtype=torch.float64) / (n_keys + 2) ** 0.5
        super().__init__(d, n_keys, weights, 1, targets)
        drawn = [torch.randperm(n_keys, generator=rng) for _ in range(orders)] or [torch.arange(n_keys)]
        self.register_buffer("orders", torch.stack(drawn))

    orders: Tensor

    @classmethod
    def as_large_as(cls, other: RandomFeatures, orders: int = 0, rng: torch.Generator | None = None) -> "RandomNetwork":
        """Returns the network with as many learned values: M(d + 1) neurons for M attention heads."""
        return cls(other.d, other.n_keys, other.size, orders, rng, len(other.intercept))

    @property
    def cost(self) -> int:
        return 2

    @inputs_in
    def features(
        self, xs: Float[Tensor, "batch tokens d"], weights: Float[Tensor, "heads width"] | None = None
    ) -> Float[Tensor, "batch p"]:
        weights, query = (self.weights if weights is None else weights).to(xs), xs[:, :1]
        seen = (torch.cat([query, xs[:, 1:][:, order]], dim=1).flatten(1) for order in self.orders)
        total = torch.zeros(len(xs), len(weights), dtype=xs.dtype, device=xs.device)
        for tokens in seen:  # one order of the keys at a time, so that memory does not grow with their number
            total += torch.addmm(weights[:, -1], tokens, weights[:, :-1].mT).relu_()
        return total / len(self.orders)


def query_key_products(
    heads: int, d: int, bias: float = 0.0, rng: torch.Generator | None = None
) -> Float[Tensor, "heads d_1 d_1"]:
    """Draws W_m: entries of variance 1/4, the first d of the diagonal of mean `bias`."""
    weights = torch.randn(heads, d + 1, d + 1, generator=rng, dtype=torch.float64) / 2
    weights.diagonal(dim1=1, dim2=2)[:, :d] += bias
    return weights


def with_one(tokens: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d_plus_1"]:
    """Returns x̃ = [x; 1]."""
    return torch.nn.functional.pad(tokens, (0, 1), value=1.0)


def _order_problems(orders: int) -> list[str]:
    return out_of_bounds({"orders": orders}, LARGEST, least=0)


# ---- as settings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FrozenModelConfig(ModelConfig):
    """The shape of a model with frozen weights, as large as `heads` attention heads.

    What it builds takes a query with its keys (prompts of n examples have n − 1), and no labels.
    """

    heads: int = 1000

    def __post_init__(self) -> None:
        refuse(type(self).__name__, wrong_fields(self))
        problems = out_of_bounds({"heads": self.heads}, LARGEST)
        refuse(type(self).__name__, problems + unknown_choices(self) + self._problems())

    def _problems(self) -> list[str]:
        return []

    @abstractmethod
    def build(self, d: int, n: int, rng: torch.Generator | None = None) -> RandomFeatures: ...


@dataclass(frozen=True, kw_only=True)
class RandomAttentionConfig(FrozenModelConfig):
    """RFA, and BRFA where `bias` is not 0: M (d + 1) learned values."""

    bias: float = 0.0
    activation: Activation = "relu"

    def build(self, d: int, n: int, rng: torch.Generator | None = None) -> RandomAttention:
        return RandomAttention(d, n - 1, self.heads, self.bias, self.activation, rng)


@dataclass(frozen=True, kw_only=True)
class RandomSelfAttentionConfig(FrozenModelConfig):
    """Self-attention without pooling: M n d learned values, if any are learned."""

    heads: int = 1
    activation: Activation = "softmax"

    def build(self, d: int, n: int, rng: torch.Generator | None = None) -> RandomSelfAttention:
        return RandomSelfAttention(d, n - 1, self.heads, self.activation, rng)


@dataclass(frozen=True, kw_only=True)
class RandomNetworkConfig(FrozenModelConfig):
    """RFMLP with M (d + 1) neurons, each averaged over so many `orders` of the keys where these are not 0."""

    orders: int = 0

    def _problems(self) -> list[str]:
        return _order_problems(self.orders)

    def build(self, d: int, n: int, rng: torch.Generator | None = None) -> RandomNetwork:
        return RandomNetwork(d, n - 1, self.heads * (d + 1), self.orders, rng)
