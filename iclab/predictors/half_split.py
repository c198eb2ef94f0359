"""Hold-out model selection: fit on the first half of the examples, select on the second.

After i examples each candidate is fitted to the first m = ⌈i/2⌉ of them, and the one with the least squared error on
the other i − m answers, with those weights; the first in the list where several are as good, as after one example.

    w_i = w_i^(k),    k = argmin_k Σ_{m ≤ j < i} (w_m^(k)·x_j − y_j)²

The weights of a candidate at all positions serve every split: those at m are what is fitted to m examples.
Source: Bai, Chen, Wang, Xiong, Mei 2023, arXiv 2306.04637, §4 ("post-ICL validation", Prop. 15 and Thm. 16).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.predictor import Linear, in_double
from iclab.predictors.prefixes import in_chunks


@dataclass(frozen=True)
class HalfSplit(Linear):
    """The candidate, fitted to the first half of the examples, that errs least on the second."""

    candidates: tuple[Linear, ...]

    def __post_init__(self) -> None:
        refuse("HalfSplit", [] if self.candidates else ["candidates must not be empty"])

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        n, d = xs.shape[1:]
        return in_chunks(self._chosen, xs, ys, 3 * n**2 + len(self.candidates) * n * d)

    def _chosen(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        half = (torch.arange(xs.shape[1], device=xs.device) + 1) // 2
        ws = torch.stack([candidate.weights(xs, ys)[:, half] for candidate in self.candidates])
        best = torch.stack([_errors(w, xs, ys, half) for w in ws]).argmin(0)
        return ws.take_along_dim(best[None, ..., None], 0).squeeze(0)


def _errors(
    ws: Float[Tensor, "batch n d"],
    xs: Float[Tensor, "batch n d"],
    ys: Float[Tensor, "batch n"],
    half: Int[Tensor, " n"],
) -> Float[Tensor, "batch n"]:
    """Σ (w_i·x_j − y_j)² over the second half of the first i examples."""
    j = torch.arange(xs.shape[1], device=xs.device)
    held_out = (j >= half.unsqueeze(-1)) & (j < j.unsqueeze(-1))
    return (ws @ xs.mT - ys.unsqueeze(1)).square().where(held_out, 0.0).sum(-1)
