"""The QK and OV circuits of an attention head, as matrices of low rank (row vectors: x M).

    W_QK = W_Q W_Kᵀ    what attends to what: score_ts = h_t W_QK h_sᵀ
    W_OV = W_V W_O     what a token that is attended to writes: h_s W_OV

Neither sees the biases of queries and keys; those of values are not in W_OV, but can be folded into the bias of the
output (`iclab.analysis.heads.folding`), as can the gain of a LayerNorm into what reads it. With rotary positions a
score depends on the distance of the tokens as well, and there is no one W_QK.

Source: Elhage et al. 2021 (transformer-circuits.pub/2021/framework), transposed to the row vectors of Merullo et al.
2024 (arXiv 2406.09519).
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.heads.low_rank import LowRank
from iclab.errors import refuse


@runtime_checkable
class HasHeads(Protocol):
    """Anything with the weights of its heads: our transformers, and those of other libraries that use these names."""

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]: ...
    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]: ...
    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]: ...
    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]: ...


def qk(model: HasHeads) -> LowRank:
    """Returns W_QK [layer head d_model d_model] of every head, in float64."""
    W_Q, W_K = (part.detach().double() for part in (model.W_Q, model.W_K))
    refuse("qk", _unlike({"W_Q": W_Q, "W_K": W_K}, W_Q.shape))
    return LowRank(W_Q, W_K.mT)


def ov(model: HasHeads) -> LowRank:
    """Returns W_OV [layer head d_model d_model] of every head, in float64."""
    W_V, W_O = (part.detach().double() for part in (model.W_V, model.W_O))
    refuse("ov", _unlike({"W_V": W_V, "W_O, transposed,": W_O.mT}, W_V.shape))
    return LowRank(W_V, W_O)


def _unlike(parts: dict[str, Tensor], shape: torch.Size) -> list[str]:
    wanted = "must be [layer head d_model d_head]"
    if len(shape) != 4:
        return [f"{next(iter(parts))} {wanted}, given {tuple(shape)}"]
    wrong = {name: tuple(part.shape) for name, part in parts.items() if part.shape != shape}
    return [f"{name} {wanted} = {tuple(shape)}, given {given}" for name, given in wrong.items()]
