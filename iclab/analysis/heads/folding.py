"""The same function by weights that can be compared: LayerNorms and biases moved to where weights are read off.

    gain and bias of a LayerNorm    into the maps that read it:      W ← diag(γ) W,  b ← b + β W  (RMSNorm: the gain)
    mean of what a map reads        is zero behind a LayerNorm:      W ← W − its mean over d_model
    mean of what is written         no LayerNorm lets it through:    embedding, positions, W_O, MLP ← minus their means
    bias of values                  weights of attention sum to 1:   b_O ← b_O + Σ_heads b_V W_O,  b_V ← 0

The first two are done wherever there is a LayerNorm, the third where all that reads the stream has one, the fourth for
softmax where every token sees one (and none of its weight falls on a null slot). What is left of a LayerNorm is one
positive factor for each token, to which no composition score is sensitive. Directions shared by all writers and readers
just because of a mean would be taken for communication, and biases of values would be lost where W_OV is edited.
"""

from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from iclab.models import TokenTransformer, Transformer
from iclab.models.transformer import Attention, Block

Model = TypeVar("Model", Transformer, TokenTransformer)


@torch.no_grad()
def folded(model: Model) -> Model:
    """Returns a model with the same logits or answers whose LayerNorms have gain 1 and bias 0, centred as above."""
    made = _copy(model)
    config = made.config
    for block in (cast(Block, each) for each in made.blocks):
        _fold(block.norm_attn, [block.attn.q, block.attn.k, block.attn.v])
        if config.d_mlp:
            _fold(block.norm_mlp, [block.mlp_in, block.mlp_gate] if config.gated else [block.mlp_in])
        if config.attention == "softmax" and not config.null_slot and not config.shared:
            _fold_values(block.attn)
    if hasattr(made, "read_out"):
        _fold(made.norm, [made.read_out])
        if config.centred:
            _centre_writers(made)
    return made


def _copy(model: Model) -> Model:
    """The model with ends of its own and with biases, zero where it had none."""
    changes = {"bias": True} | ({"tied_embedding": False} if isinstance(model, TokenTransformer) else {})
    sizes = {size: getattr(model, size) for size in model.sizes}
    made = cast(Any, type(model))(**sizes, config=replace(model.config, **changes))
    made.to(next(model.parameters()))
    made.load_state_dict(model.state_dict(), strict=False)  # what it does not have are biases, and they begin at zero
    return made


def _fold(norm: nn.Module, readers: list[nn.Linear]) -> None:
    if not isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        return
    for part in readers:
        if isinstance(norm, nn.LayerNorm):
            part.bias.add_(part.weight @ norm.bias)
        part.weight.mul_(norm.weight)
        if isinstance(norm, nn.LayerNorm):
            part.weight.sub_(part.weight.mean(1, keepdim=True))
    norm.weight.fill_(1.0)
    if isinstance(norm, nn.LayerNorm):
        norm.bias.zero_()


def _fold_values(attn: Attention) -> None:
    attn.out.bias.add_(attn.out.weight @ attn.v.bias)
    attn.v.bias.zero_()


def _centre_writers(model: Transformer | TokenTransformer) -> None:
    if isinstance(model, TokenTransformer):
        written: list[Tensor] = [model.read_in.weight]  # [vocab d_model]
    else:
        written = [model.read_in.weight.mT, model.read_in.bias]
    for block in (cast(Block, each) for each in model.blocks):
        parts = [block.attn.out] + ([block.mlp_out] if model.config.d_mlp else [])
        written += [each for part in parts for each in (part.weight.mT, part.bias)]
    for each in written + ([model.position] if model.config.positions else []):
        each.sub_(each.mean(-1, keepdim=True))
