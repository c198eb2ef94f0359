"""Weights of a head changed along its components, or along a direction that it reads.

    writer    W_OV = Σ_i s_i u_i v_iᵀ  →  Σ_i c_i s_i u_i v_iᵀ,    set as W_V = U √(cS), W_O = √(cS) Vᵀ
    reader    W  →  (I + (c − 1) v vᵀ) W     for its W_Q, W_K or W_V: it sees c times what is written along v

With c = 1 a model is refactored and computes the same; with c = 0 a component is cut, or alone kept. The scores of
composition follow:

    CS′² = Σ c_i² s_i² CS_i² / Σ c_i² s_i²           writer: c_i > 1 raises CS where CS_i > CS, lowers it elsewhere
    CS_v′ = c CS_v / √(1 + (c² − 1) CS_v²)           reader: from 0 to 1 as c grows

Biases of values must be moved out of the way first: what b_V W_O writes would change with W_O. Where the weights of
attention sum to 1 it goes into the bias of the output, whatever c; elsewhere a bias is refused.

Source: Merullo et al. 2024 (arXiv 2406.09519), §3.3.2. (The text there gives U √S to the output and √S Vᵀ to the
values; for row vectors it is the other way round.)
"""

from copy import deepcopy
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.heads.circuits import ov
from iclab.analysis.heads.patching import Head, missing
from iclab.analysis.scale import unit
from iclab.errors import refuse
from iclab.models import TokenTransformer


@torch.no_grad()
def with_components(model: TokenTransformer, head: Head, factors: Float[Tensor, " e"]) -> TokenTransformer:
    """Returns a copy whose head writes each component of its W_OV, of which the first has the largest singular value,
    times a factor. Raises ``ValueError`` for a head that is not there, and for one whose biases of values cannot be
    moved."""
    refuse("with_components", _obstacles(model, head))
    components = ov(model)[head].svd()
    wrong = (
        []
        if len(factors) == len(components.S)
        else [f"the head has {len(components.S)} components, given {len(factors)}"]
    )
    refuse("with_components", wrong)
    parts = components.scaled(factors.to(components.S)).low_rank()
    made = deepcopy(model)
    attn, rows = made.attention(head[0]), _rows(model, head)
    if attn.v.bias is not None:
        attn.out.bias.add_(attn.out.weight[:, rows] @ attn.v.bias[rows])
        attn.v.bias[rows] = 0.0
    spare = (0, model.config.head_width - len(factors))  # channels that a head wider than the stream does not need
    attn.v.weight[rows] = F.pad(parts.A, spare).mT.to(attn.v.weight)
    attn.out.weight[:, rows] = F.pad(parts.B.mT, spare).to(attn.out.weight)
    return made


@torch.no_grad()
def with_reading(
    model: TokenTransformer,
    head: Head,
    part: Literal["q", "k", "v"],
    direction: Float[Tensor, " d_model"],
    factor: float,
) -> TokenTransformer:
    """Returns a copy whose head reads what lies along a direction, of any length, times a factor, in its queries, keys
    or values. Raises ``ValueError`` for a head that is not there and for a direction of length zero."""
    zero = [] if direction.norm() > 0 else ["a direction of length 0"]
    refuse("with_reading", missing(model, head) + zero)
    made = deepcopy(model)
    attn, rows = made.attention(head[0]), _rows(model, head)
    weight = {"q": attn.q, "k": attn.k, "v": attn.v}[part].weight
    v = unit(direction.to(weight))
    weight[rows] += (factor - 1) * torch.outer(weight[rows] @ v, v)
    return made


def _rows(model: TokenTransformer, head: Head) -> slice:
    width = model.config.head_width
    return slice(head[1] * width, (head[1] + 1) * width)


def _obstacles(model: TokenTransformer, head: Head) -> list[str]:
    problems, config = missing(model, head), model.config
    if config.tied and config.n_layer > 1:
        problems.append("tied layers share their heads: none can be changed alone")
    if problems or (config.attention == "softmax" and not config.null_slot):
        return problems
    bias = model.attention(head[0]).v.bias
    kept = bias is not None and bool(bias[_rows(model, head)].any())
    return ["weights of attention that do not sum to 1 leave biases of values where they are"] if kept else []
