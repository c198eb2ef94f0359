"""Roles of heads on given tokens: attention, copying, and contributions to the logits.

    score of a head = mean over queries t of Σ_{s in S(t)} A_ts,        over the t that have such places at all

    previous     S(t) = {t − 1}                         duplicate    S(t) = {s < t: token s is token t}
    induction    S(t) = {s ≤ t: token s − 1 is token t, s − 1 < t}

    inhibition   A_{t,target} − mean over the others of A_{t,other}     of a mover, at the query t of each prompt:
                 1 all on the target, −1 all on the others; of scores before the softmax the same difference
    copying      how often a token is among the first k of the logits of its own h W_OV, h being the stream after the
                 first block; with sign −1 the head writes against it

Attribution. The last LayerNorm divides by a number that depends on the whole stream; with that number as it is,

    logits = Σ_c γ (x_c − mean x_c)/σ W_U + (β W_U + b_U)

is a sum over all that was written to the stream: the embedding, every head, the biases of attention, every MLP.

Source: Olsson et al. 2022 (arXiv 2209.11895); Wang et al. 2022 (arXiv 2211.00593), §3; Merullo et al. 2024
(arXiv 2406.09519), §3, whose inhibition score has one other name. More than one, and the mean over them, is ours.
"""

from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from iclab.errors import refuse
from iclab.models import TokenTransformer

Tokens = Int[Tensor, "b t"]
Places = Bool[Tensor, "b t s"]


# ---- where heads look ----------------------------------------------------------------------------------------------


@torch.no_grad()
def patterns(model: TokenTransformer, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "layer a b t s"]:
    """Returns the weights of attention of every head, without the null slot where there is one. Raises ``ValueError``
    for a model without layers."""
    refuse("patterns", [] if model.config.n_layer else ["a model without layers has no heads"])
    names = [f"blocks.{i}.attn.pattern" for i in range(model.config.n_layer)]
    read = model.read(tokens, names, m=1)  # logits at one position alone, as they are not needed
    return torch.stack([read[name] for name in names]).transpose(1, 2)[..., -tokens.shape[1] :]


def previous(tokens: Int[Tensor, "b t"]) -> Bool[Tensor, "b t s"]:
    """Returns the place just before."""
    n = tokens.shape[1]
    return torch.eye(n, dtype=torch.bool, device=tokens.device).roll(-1, 1).tril(-1).expand(len(tokens), n, n)


def duplicate(tokens: Int[Tensor, "b t"]) -> Bool[Tensor, "b t s"]:
    """Returns earlier places of the same token."""
    return (tokens.unsqueeze(2) == tokens.unsqueeze(1)).tril(-1)


def induction(tokens: Int[Tensor, "b t"]) -> Bool[Tensor, "b t s"]:
    """Returns the places that follow those."""
    return F.pad(duplicate(tokens), (1, 0))[..., :-1]


PLACES: dict[str, Callable[[Tensor], Tensor]] = {"previous": previous, "duplicate": duplicate, "induction": induction}


def attention_to(
    pattern: Float[Tensor, "*heads b t s"], places: Bool[Tensor, "b t s"], asked: Bool[Tensor, "b t"] | None = None
) -> Float[Tensor, "*heads"]:
    """Returns the mean mass that falls on the places, over the queries selected by `asked` (default: those that have
    such a place). Raises ``ValueError`` if there is none."""
    asked = places.any(-1) if asked is None else asked
    refuse("attention_to", [] if asked.any() else ["no query has such a place: no token is repeated, or there is one"])
    return ((pattern * places).sum(-1) * asked).sum((-2, -1)) / asked.sum()


def roles(model: TokenTransformer, tokens: Int[Tensor, "b t"]) -> dict[str, Float[Tensor, "layer a"]]:
    """Returns the scores of every head for all of `PLACES`."""
    seen = patterns(model, tokens)
    return {name: attention_to(seen, places(tokens)) for name, places in PLACES.items()}


def inhibition(
    pattern: Float[Tensor, "*heads b t s"],
    at: Int[Tensor, " b"],
    target: Int[Tensor, " b"],
    others: Int[Tensor, "b k"],
) -> Float[Tensor, "*heads b"]:
    """Returns what query `at` of each prompt gives to place `target` beyond the mean of places `others`."""
    row = pattern[..., torch.arange(len(at)), at, :]
    wide = others.expand(*row.shape[:-1], -1)
    return row.gather(-1, target.expand(row.shape[:-1]).unsqueeze(-1)).squeeze(-1) - row.gather(-1, wide).mean(-1)


def beyond(values: Float[Tensor, "*w b k"], index: Int[Tensor, " b"]) -> Float[Tensor, "*w b"]:
    """Returns what one of k, by its index, has beyond the mean of the others."""
    own = values.gather(-1, index.expand(values.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return own - (values.sum(-1) - own) / (values.shape[-1] - 1)


# ---- what heads write ----------------------------------------------------------------------------------------------


@torch.no_grad()
def copying(
    model: TokenTransformer, tokens: Int[Tensor, "b t"], layer: int, head: int, top: int = 5, sign: float = 1.0
) -> float:
    """Returns the share of tokens that the head copies if it attends to them, or with sign −1 speaks against."""
    h = model.read(tokens, "blocks.0.resid_post")["blocks.0.resid_post"]
    logits = model.read_out(model.norm(sign * h @ model.W_V[layer, head] @ model.W_O[layer, head]))
    own = logits.gather(-1, tokens.unsqueeze(-1))
    return ((logits >= own).sum(-1) <= top).double().mean().item()  # where all are equal, none is first


@torch.no_grad()
def attribution(
    model: TokenTransformer, tokens: Int[Tensor, "b t"], m: int | None = None, to: Int[Tensor, " k"] | None = None
) -> dict[str, Float[Tensor, "b m k"]]:
    """Returns what each part adds to the logits of the tokens `to` (all unless given) at the last m positions.

    The parts are "embed", "blocks.l.head.a", "blocks.l.attn_bias", "blocks.l.mlp_out" and "bias"; logits are their sum.
    """
    m, to = m or tokens.shape[1], torch.arange(model.vocab, device=tokens.device) if to is None else to
    parts = {name: part[:, -m:] for name, part in _written(model, tokens)}
    weight, bias = model.read_out.weight[to], model.read_out.bias
    divide, constant = last_norm(model.norm, torch.stack(list(parts.values())).sum(0))
    read = {name: divide(part) @ weight.mT for name, part in parts.items()}
    shift = constant @ weight.mT + (0 if bias is None else bias[to])
    return read | {"bias": shift.expand(next(iter(read.values())).shape)}


def _written(model: TokenTransformer, tokens: Tensor) -> Iterator[tuple[str, Float[Tensor, "b t d_model"]]]:
    """All that is ever added to the residual stream."""
    layers, mlp = range(model.config.n_layer), model.config.d_mlp > 0
    names = [f"blocks.{i}.{name}" for i in layers for name in ["attn.z"] + ["mlp_out"] * mlp]
    read = model.read(tokens, ["embed", *names])
    yield "embed", read["embed"]
    for i in layers:
        z, W_O, bias = read[f"blocks.{i}.attn.z"], model.W_O[i], model.attention(i).out.bias
        yield from ((f"blocks.{i}.head.{a}", z[:, a] @ W_O[a]) for a in range(len(W_O)))
        if bias is not None:
            yield f"blocks.{i}.attn_bias", bias.expand_as(read["embed"])
        if mlp:
            yield f"blocks.{i}.mlp_out", read[f"blocks.{i}.mlp_out"]


def last_norm(norm: nn.Module, stream: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Returns the LayerNorm or RMSNorm as a linear map, with the scale that it has on this stream, and the vector that
    it adds."""
    if isinstance(norm, nn.RMSNorm):
        scale = norm.weight / (stream.square().mean(-1, keepdim=True) + cast(float, norm.eps)).sqrt()
        return lambda x: x * scale, stream.new_zeros(stream.shape[-1])
    if not isinstance(norm, nn.LayerNorm):
        return lambda x: x, stream.new_zeros(stream.shape[-1])
    gain = norm.weight / (stream.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    return lambda x: (x - x.mean(-1, keepdim=True)) * gain, cast(Tensor, norm.bias)
