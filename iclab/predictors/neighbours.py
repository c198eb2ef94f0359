"""Nearest neighbours: the mean label of the k' = min(k, i) examples nearest to the query.

    ŷ_i = Σ_j ω_ij y_j / Σ_j ω_ij over the neighbours j < i, with r = |x_i − x_j| and ω = 1 | 1/r | 1/r².

With the last two, an example at distance 0 takes all the weight, and several share it. Where examples tie for the last
place they share it, so the order of the examples plays no part: the mean over ways to break the tie.
Akyürek et al. 2022 (arXiv 2211.15661, §4.1) weigh by 1/r², Garg et al. 2022 (arXiv 2208.01066, §3) uniformly, k = 3.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclab.errors import refuse, unknown_choices
from iclab.predictors.predictor import Predictor, in_double
from iclab.predictors.prefixes import in_chunks

POWERS = {"uniform": 0, "distance": 1, "squared distance": 2}


@dataclass(frozen=True)
class NearestNeighbours(Predictor):
    """Predicts the weighted mean label of the k nearest examples, fewer while fewer were seen, and 0 before any.

    >>> import torch
    >>> xs, ys = torch.tensor([[[0.0], [1.0], [0.1]]]), torch.tensor([[5.0, 7.0, 0.0]])
    >>> NearestNeighbours(k=1)(xs, ys)
    tensor([[0., 5., 5.]])
    >>> NearestNeighbours(k=2)(xs, ys)
    tensor([[0., 5., 6.]])
    """

    k: int = 3
    weighting: Literal["uniform", "distance", "squared distance"] = "uniform"

    def __post_init__(self) -> None:
        problems = [] if self.k >= 1 else [f"k must be at least 1, given {self.k}"]
        refuse("NearestNeighbours", problems + unknown_choices(self))

    @in_double
    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        return in_chunks(self._answers, xs, ys, 6 * xs.shape[1] ** 2)

    def _answers(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        # Differences, not |x|² − 2x·x' + |x'|²: equal inputs must be at distance 0.
        distances = torch.cdist(xs, xs, compute_mode="donot_use_mm_for_euclid_dist")
        past = torch.ones_like(distances, dtype=torch.bool).tril(-1)
        weights = self._weights(distances.where(past, torch.inf), past)
        total = weights.sum(-1)
        return (weights * ys.unsqueeze(1).where(past, 0.0)).sum(-1) / total.where(total > 0, 1.0)

    def _weights(self, distances: Float[Tensor, "batch n n"], past: Bool[Tensor, "batch n n"]) -> Tensor:
        """ω_ij times the chance that j is a neighbour: 1 inside the distance of the last place, a share of it there."""
        places = past.sum(-1, keepdim=True).clamp(1, self.k)
        nearest = distances.topk(min(self.k, distances.shape[-1]), largest=False).values
        last = nearest.gather(-1, places - 1)
        inside, edge = distances < last, (distances == last) & past
        left = (places - inside.sum(-1, keepdim=True)).to(distances.dtype)  # a ratio of integers would be float32
        share = left / edge.sum(-1, keepdim=True).clamp_min(1)
        return (inside + share * edge) * self._influence(distances, nearest[..., :1])

    def _influence(self, distances: Float[Tensor, "batch n n"], least: Float[Tensor, "batch n _"]) -> Tensor:
        """ω in units of the nearest example's: (r_min/r)^p, which is 1 at r = r_min = 0 and 0 at r > r_min = 0."""
        return (least / distances).where(distances > least, 1.0) ** POWERS[self.weighting]
