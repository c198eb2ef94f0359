"""Averaging: w_i = (1/i) Xᵀy, which is E[y x] = w when E xxᵀ = I.

For x ~ N(0, I_d) and y = w·x its clean risk at a fresh query is |w|²(d + 1)/i, above that of answering 0 while i ≤ d.
Source: Garg, Tsipras, Liang, Valiant 2022, arXiv 2208.01066, §3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.predictors.predictor import Linear, exclusive_cumsum, in_double


@dataclass(frozen=True)
class Averaging(Linear):
    """w_i is the mean of y_j x_j over the first i examples, and 0 before any.

    >>> import torch
    >>> xs, ys = torch.tensor([[[1.0], [2.0], [1.0]]]), torch.tensor([[1.0, 2.0, 1.0]])
    >>> Averaging()(xs, ys)  # w_2 = (1·1 + 2·2)/2 at the last position
    tensor([[0.0000, 2.0000, 2.5000]])
    """

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        seen = torch.arange(xs.shape[1], dtype=xs.dtype, device=xs.device).clamp_min(1)
        return exclusive_cumsum(xs * ys.unsqueeze(-1)) / seen.unsqueeze(-1)
