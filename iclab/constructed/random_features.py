"""Fu, Guo, Bai, Mei 2023 (arXiv 2307.11353): functions represented by random-feature attention, and the 1/M law.

Keys x_1, …, x_N and a query x_0 lie on the unit sphere of R^d, and x̃ = (x, 1). A layer of M heads, whose products of
query and key matrices W_m are drawn and never trained, answers

    f_M = Σ_m (1/N) Σ_i relu(x̃_0ᵀ W_m x̃_i) v_m·x̃_i,        v_m = v(W_m)/M,

which is one layer of ReLU attention over the `encoder` layout: keys are the examples, whose labels are not read. With
entries of W that are N(0, 1/4) the scores z_i = x̃_0ᵀ W x̃_i are N(0, 1), as |x̃|² = 2, and of correlation
ρ_ij = (1 + x_i·x_j)/2. In the biased form W has mean diag(I, 0), and z_i ~ N(a_i, 1) with a_i = x_0·x_i. Then
E f_M = f* for

    key       v = √(2π) (β, 0)               f* = (1/N) Σ β·x_i                  as E relu(z) = 1/√(2π)
    inner     v = 8 tr(W_dd) (0, 1)          f* = (1/N) Σ x_0·x_i                as E relu(z_i) tr W_dd = ½·a_i/4
    biased    v = (0, 1), W biased           f* = (1/N) Σ G(x_0·x_i)             G(a) = E relu(a + z) = a Φ(a) + φ(a)

the second by Stein's lemma, W_dd being the first d rows and columns. Squared norms E|v|² are 2π, 16 d and 1.

The law. Heads are independent, so that for every prompt E (f_M − f*)² = V/M exactly, V = (1/N²) Σ_ij E_ij − f*², where
E_ij is the mean of the product of what heads i and j of one layer add, that is with κ(ρ) = E relu(z_i) relu(z_j)
= (√(1 − ρ²) + ρ (π/2 + asin ρ))/(2π),

    key       2π (β·x_i)(β·x_j) κ(ρ_ij)
    inner     64 [d/4 κ(ρ) + (a_i² + a_j²)/16 √(1 − ρ²)/(2π) + a_i a_j/8 (1/4 + asin ρ/(2π))]
    biased    G(a_i) G(a_j) + ρ Φ(a_i) Φ(a_j) + (1/2π) ∫_0^asin ρ (ρ − sin t) exp(−h(t)) dt
              with h(t) = (a_i² + a_j² − 2 a_i a_j sin t)/(2 cos² t).

The second is Stein's lemma twice, E τ²g = E τ² E g + Σ_kl c_k c_l E ∂_k∂_l g with τ = tr W_dd, c = a/4; in the third
relu((a + z)(b + z')) is integrated from ρ = 0 on, the derivative in ρ being P(z > −a, z' > −b).

With uniform tokens and d = N = 16 the mean of V is 0.0126, 81 and 0.16, beside E f*² = 1/256 for the first two: values
that are fitted to the heads that were drawn do far better than these, which are fixed functions of W.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.constructed.heads import Block, Head, Rows, assemble
from iclab.constructed.theorem import Case, Choices, Integers, Theorem
from iclab.errors import refuse, unknown
from iclab.models import Transformer
from iclab.models.random_features import query_key_products
from iclab.predictors.kernels import arc_cosine, biased_arc_cosine, mean_relu

PAPER = "Fu et al. 2023 (arXiv 2307.11353)"


def random_feature_attention(
    products: Float[Tensor, "heads d_1 d_1"], values: Float[Tensor, "heads d_1"], n: int
) -> Transformer:
    """Builds the layer f_M with these W_m and v_m, for prompts of at most n positions: n − 1 keys, then the query."""
    problems = [] if products.shape[1] > 1 else ["inputs have one dimension at least"]
    refuse("random_feature_attention", problems + ([] if n >= 1 else [f"n must be at least 1, given {n}"]))
    rows = Rows(products.shape[1] - 1, {"answer": 1})
    write = rows.write("answer")
    token = torch.cat([rows.form("x"), rows.form("one")])
    queries, reads = products.double().mT @ token, values.double().unsqueeze(1) @ token
    heads = [Head(q, token, v, write) for q, v in zip(queries, reads, strict=True)]
    return assemble(rows, n, [Block(heads)], "answer", normaliser="seen")


@dataclass(frozen=True)
class Representer:
    """A function of a query and keys, the values v(W) that represent it, and what two keys add to V: all by the inner
    products a_i = x_0·x_i, b_i = β·x_i with β the first unit vector, and ρ_ij."""

    bias: float
    values: Callable[[Float[Tensor, "heads d_1 d_1"]], Float[Tensor, "heads d_1"]]
    each: Callable[[Tensor, Tensor], Tensor]  # (a, b) -> what a key adds to f*
    moment: Callable[[Tensor, Tensor, Tensor, int], Tensor]  # (a, b, ρ, d) -> E_ij
    fourth: Callable[[Tensor, Tensor, int], Tensor]  # (a, b, d) -> a bound on E s⁴, s being what a head adds for a key

    def target(self, xs: Float[Tensor, "batch n d"]) -> Float[Tensor, " batch"]:
        """Returns f* of prompts whose last input is the query."""
        return self.each(*_products(xs)).mean(-1)

    def variance(self, xs: Float[Tensor, "batch n d"]) -> Float[Tensor, " batch"]:
        """Returns V."""
        keys = xs[:, :-1]
        rho = ((1 + keys @ keys.mT) / 2).clamp(0, 1)
        return self.moment(*_products(xs), rho, xs.shape[-1]).mean((-2, -1)) - self.target(xs).square()

    def spread(self, xs: Float[Tensor, "batch n d"]) -> Float[Tensor, " batch"]:
        """Returns a bound on the standard deviation of (s − f*)², s being what a head adds: E (s − f*)⁴ ≤
        (‖s‖₄ + |f*|)⁴."""
        fourth = self.fourth(*_products(xs), xs.shape[-1]).mean(-1)  # the mean over keys has no larger one
        return ((fourth**0.25 + self.target(xs).abs()) ** 4 - self.variance(xs).square()).sqrt()

    def products(self, heads: int, d: int, rng: torch.Generator) -> Float[Tensor, "heads d_1 d_1"]:
        """Draws W_m."""
        return query_key_products(heads, d, self.bias, rng)


def represented(name: str, heads: int, d: int, n: int, rng: torch.Generator) -> Transformer:
    """Builds M = `heads` random heads that represent "key", "inner" or "biased"."""
    refuse("represented", [] if name in REPRESENTERS else [unknown("representer", name, REPRESENTERS)])
    refuse("represented", [f"{k} must be at least 1, given {v}" for k, v in (("heads", heads), ("d", d)) if v < 1])
    one = REPRESENTERS[name]
    products = one.products(heads, d, rng)
    return random_feature_attention(products, one.values(products) / heads, n)


def _products(xs: Float[Tensor, "batch n d"]) -> tuple[Tensor, Tensor]:
    keys = xs[:, :-1]
    return (keys @ xs[:, -1:].mT).squeeze(-1), keys[..., 0]


def _constant(products: Float[Tensor, "heads d_1 d_1"], at: int) -> Float[Tensor, "heads d_1"]:
    """The unit vector of this coordinate, for every head."""
    values = torch.zeros_like(products[:, 0])
    values[:, at] = 1.0
    return values


def _traced(products: Float[Tensor, "heads d_1 d_1"]) -> Float[Tensor, "heads d_1"]:
    traces = products.diagonal(dim1=1, dim2=2)[:, :-1].sum(1, keepdim=True)
    return 8 * traces * _constant(products, -1)


def _inner_moment(a: Tensor, b: Tensor, rho: Tensor, d: int) -> Tensor:
    squares, product = (a**2).unsqueeze(-1) + (a**2).unsqueeze(-2), a.unsqueeze(-1) * a.unsqueeze(-2)
    both = 1 / 4 + rho.asin() / (2 * pi)
    return 64 * (d / 4 * arc_cosine(rho) + squares / 16 * (1 - rho**2).sqrt() / (2 * pi) + product / 8 * both)


def _inner_fourth(a: Tensor, b: Tensor, d: int) -> Tensor:
    """8⁴ E z⁴τ⁴/2, with E zτ = a/4 and E τ² = d/4."""
    variance, covariance = d / 4, a / 4
    return 8**4 / 2 * (9 * variance**2 + 72 * variance * covariance**2 + 24 * covariance**4)


REPRESENTERS = {
    "key": Representer(
        0.0,
        lambda products: sqrt(2 * pi) * _constant(products, 0),
        lambda a, b: b,
        lambda a, b, rho, d: 2 * pi * b.unsqueeze(-1) * b.unsqueeze(-2) * arc_cosine(rho),
        lambda a, b, d: (2 * pi) ** 2 * 3 / 2 * b**4,
    ),
    "inner": Representer(0.0, _traced, lambda a, b: a, _inner_moment, _inner_fourth),
    "biased": Representer(
        1.0,
        lambda products: _constant(products, -1),
        lambda a, b: mean_relu(a),
        lambda a, b, rho, d: biased_arc_cosine(*torch.broadcast_tensors(a.unsqueeze(-1), a.unsqueeze(-2), rho)),
        lambda a, b, d: a**4 + 6 * a**2 + 3,
    ),
}


# ---- theorems ------------------------------------------------------------------------------------------------------

DEVIATIONS = 7.0


def _prompts(case: Case) -> Float[Tensor, "batch n d"]:
    xs = torch.randn(4, case.n + 1, case.d, generator=case.rng(1)).double()
    return xs / xs.norm(dim=-1, keepdim=True)


def _error(case: Case) -> tuple[float, float]:
    """The error that is the largest part of what is allowed, and what is allowed there."""
    xs, one = _prompts(case), REPRESENTERS[case.variant]
    predictions = represented(case.variant, case.heads, case.d, case.n + 1, case.rng())(xs, xs[..., 0], 1)[:, 0]
    errors = (predictions - one.target(xs)).abs()
    allowed = DEVIATIONS * (one.variance(xs).clamp(min=0) / case.heads).sqrt() + 1e-12
    worst = (errors / allowed).argmax()
    return errors[worst].item(), allowed[worst].item()


def _spread(case: Case) -> tuple[float, float]:
    """The mean square of what single heads add, from f*, against V: M² and M times what f_M has."""
    xs, one = _prompts(case)[:1], REPRESENTERS[case.variant]
    model = represented(case.variant, case.heads, case.d, case.n + 1, case.rng())
    added = model.read(xs, xs[..., 0], "blocks.0.attn.z")["blocks.0.attn.z"].detach()
    squares = (case.heads * added[-1, :, -1, 0] - one.target(xs)).square()
    allowed = DEVIATIONS * one.spread(xs) / case.heads**0.5 + 1e-12
    return (squares.mean() - one.variance(xs)).abs().item(), allowed.item()


_PROMPTS = {"d": Integers(1, 6), "n": Integers(1, 8), "variant": Choices(list(REPRESENTERS))}

THEOREMS: list[Theorem] = [
    Theorem(
        "fu2023features_representer",
        f"{PAPER}, expressivity of random-feature attention; the representers and their constants are this project's",
        "M random heads answer with f* = E f_M, with a mean square error of V/M",
        {**_PROMPTS, "heads": Integers(512, 2048)},
        _error,
        "seven standard deviations √(V/M), V being exact for the prompt",
    ),
    Theorem(
        "fu2023features_law",
        f"{PAPER}, expressivity: the error is of order 1/M; its exact constant is this project's",
        "the error falls as 1/M, no faster and no slower: M times what a head adds is f* on average, of variance V",
        {**_PROMPTS, "heads": Integers(2048, 4096)},
        _spread,
        "seven standard errors of a mean of M squares, their fourth moment being bounded for the prompt",
    ),
]
