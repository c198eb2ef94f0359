"""Greedy regression trees on every prefix, and their boosted sum.

A node holds the examples A that reach it, with targets t_j of mean t̄. It is split where coordinate c is at most a
threshold, at the place where the squared error falls most:

    Σ_A (t_j − t̄)² − Σ_L (t_j − t̄_L)² − Σ_R (t_j − t̄_R)²  =  S²/N_L + S²/N_R,    S = Σ_L (t_j − t̄)

since the other side has −S. With the examples in the order of a coordinate N_L and S are running sums, so that all
thresholds of all coordinates of all prefixes are compared at once. The threshold is half way between two neighbours.
Where several splits are equally good (two examples are parted by any coordinate) the first coordinate and its lowest
threshold is taken, so that the order of the examples plays no part. A leaf answers the mean of its targets.

Boosting, from f = ȳ:    f ← f + rate · tree(y − f)        some rounds of it, in each prefix

Breiman, Friedman, Olshen, Stone 1984 (CART); Friedman 2001 (Ann. Statist. 29, Algorithm 1, squared error).
Among in-context baselines: Garg, Tsipras, Liang, Valiant 2022, arXiv 2208.01066, §4, who split the signs of inputs too.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.predictor import in_double
from iclab.predictors.prefixes import in_chunks

TIE = 1e-9  # relative to the squared error in the node: splits nearer than that differ by rounding alone
COPIES = 8  # of [n d n] numbers, in the search for a split


class Inputs(NamedTuple):
    """Inputs; along each coordinate whose value comes when, in ascending order, and where a larger one follows."""

    xs: Float[Tensor, "batch n d"]
    order: Int[Tensor, "batch 1 d n"]
    rises: Bool[Tensor, "batch 1 d n"]

    @classmethod
    def of(cls, xs: Float[Tensor, "batch n d"]) -> "Inputs":
        values, order = xs.mT.sort(dim=-1)
        rises = torch.nn.functional.pad(values.diff(dim=-1) > 0, (0, 1))
        return cls(xs, order.unsqueeze(1), rises.unsqueeze(1))


@dataclass(frozen=True)
class GreedyTree:
    """The mean label of the leaf that the query falls into, in a tree of at most `depth` that is grown on the examples
    so far, on the signs of their inputs where `signs`; 0 before any. A leaf may hold one example."""

    depth: int
    signs: bool = False

    def __post_init__(self) -> None:
        refuse("GreedyTree", [] if self.depth >= 0 else [f"depth must be at least 0, given {self.depth}"])

    @in_double
    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        n, d = xs.shape[1:]
        return in_chunks(self._answers, xs.sign() if self.signs else xs, ys, COPIES * n * n * d)

    def _answers(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Only the nodes on the way of each prefix's query are split."""
        inputs, targets, here = Inputs.of(xs), _of_each_prefix(ys), _past(ys)
        for _ in range(min(self.depth, xs.shape[1])):  # every split parts at least one example from the rest
            left = split(inputs, targets, here)
            here = here & (left == left.diagonal(dim1=1, dim2=2).unsqueeze(-1))
        return mean(targets, here).squeeze(-1)


@dataclass(frozen=True)
class BoostedTrees:
    """The sum of the mean label and of `rounds` trees of `depth`, each grown on what is left by those before it and
    shrunk by `rate`; 0 before any example."""

    rounds: int = 50
    depth: int = 4
    rate: float = 0.1

    def __post_init__(self) -> None:
        given = {"rounds": self.rounds, "depth": self.depth}
        problems = [f"{name} must be at least 0, given {value}" for name, value in given.items() if value < 0]
        refuse("BoostedTrees", problems + ([] if self.rate > 0 else [f"rate must be positive, given {self.rate}"]))

    @in_double
    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        n, d = xs.shape[1:]
        return in_chunks(self._answers, xs, ys, COPIES * n * n * d)

    def _answers(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        inputs, targets, past = Inputs.of(xs), _of_each_prefix(ys), _past(ys)
        f = mean(targets, past).expand_as(targets)
        for _ in range(self.rounds):
            left_over = (targets - f).where(past, 0.0)
            f = f + self.rate * fitted(inputs, left_over, past, min(self.depth, xs.shape[1]))
        return f.diagonal(dim1=1, dim2=2)


def fitted(
    inputs: Inputs, targets: Float[Tensor, "batch p n"], here: Bool[Tensor, "batch p n"], depth: int
) -> Float[Tensor, "batch p n"]:
    """Returns the answers to all n inputs of trees that are grown on the examples `here`, one tree for each p."""
    if depth == 0:
        return mean(targets, here).expand_as(targets)
    left = split(inputs, targets, here)
    return fitted(inputs, targets, here & left, depth - 1).where(left, fitted(inputs, targets, here & ~left, depth - 1))


def split(
    inputs: Inputs, targets: Float[Tensor, "batch p n"], here: Bool[Tensor, "batch p n"]
) -> Bool[Tensor, "batch p n"]:
    """Returns which of all n inputs go left at the best split of the examples `here`; all of them where there is no
    split."""
    centred = (targets - mean(targets, here)).where(here, 0.0)
    s, count = (_along(inputs.order, terms).cumsum(-1) for terms in (centred, here.to(targets.dtype)))
    others = count[..., -1:] - count
    parts = inputs.rises & (count > 0) & (others > 0)
    gain = (s.square() * (1 / count + 1 / others)).where(parts, -torch.inf).flatten(-2)
    best = _first_best(gain, TIE * centred.square().sum(-1, keepdim=True))
    values = inputs.xs.mT.take_along_dim(best.div(here.shape[-1], rounding_mode="floor"), dim=1)
    last = inputs.order.flatten(-2).expand(-1, here.shape[1], -1).gather(-1, best)
    left = values <= values.gather(-1, last)
    threshold = _middle(values.where(here & left, -torch.inf).amax(-1), values.where(here & ~left, torch.inf).amin(-1))
    return (values <= threshold.unsqueeze(-1)) | ~parts.flatten(-2).gather(-1, best)


def mean(targets: Float[Tensor, "batch p n"], here: Bool[Tensor, "batch p n"]) -> Float[Tensor, "batch p 1"]:
    """Returns the mean target of the examples `here`, 0 where there is none."""
    return targets.where(here, 0.0).sum(-1, keepdim=True) / here.sum(-1, keepdim=True).clamp_min(1)


def _first_best(gain: Float[Tensor, "batch p k"], tie: Float[Tensor, "batch p 1"]) -> Int[Tensor, "batch p 1"]:
    near = gain >= gain.amax(-1, keepdim=True) - tie
    return near.byte().argmax(-1, keepdim=True)


def _middle(low: Tensor, high: Tensor) -> Tensor:
    """Half way between two neighbours; the lower one where rounding makes it the upper."""
    middle = low + (high - low) / 2
    return middle.where(middle < high, low)


def _along(order: Int[Tensor, "batch 1 d n"], terms: Tensor) -> Tensor:
    """[batch p n] in the order of each coordinate: [batch p d n]."""
    batch, p, n = terms.shape
    return terms.unsqueeze(2).expand(batch, p, order.shape[2], n).gather(-1, order.expand(-1, p, -1, -1))


def _past(ys: Float[Tensor, "batch n"]) -> Bool[Tensor, "batch n n"]:
    """Which examples each prefix holds."""
    return torch.ones_like(ys, dtype=torch.bool).unsqueeze(1).expand(-1, ys.shape[1], -1).tril(-1)


def _of_each_prefix(ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n n"]:
    return ys.unsqueeze(1).where(_past(ys), 0.0)
