"""Activation patching: ablation of heads, and patching along a single path.

Both give what `replaced` and `read` of a model take. An ablated head writes nothing ("zero"), what it writes on
average over reference prompts at the same position ("mean"), or what it writes in another of them ("resample"). Zero
may be far from all that a model ever sees, and what needs it is a statement about zero.

A path runs from one head (the sender) straight into the queries, keys or values of one later head (the receiver):
these are computed from the stream with what the sender writes exchanged, and everything else, attention and MLPs
between the two and all other heads, stays as it was. The LayerNorm of the receiver sees the exchanged stream, or with
`frozen` keeps its scale.

Source: Wang et al. 2022 (arXiv 2211.00593), §3.1 and App. B; Goldowsky-Dill et al. 2023 (arXiv 2304.05969).
"""

from collections.abc import Iterable
from typing import Literal, cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclab.analysis.heads.roles import last_norm
from iclab.errors import refuse
from iclab.models import TokenTransformer
from iclab.models.activations import Replacement
from iclab.models.transformer import Block

Head = tuple[int, int]  # layer and number
Part = Literal["q", "k", "v"]


@torch.no_grad()
def ablation(
    model: TokenTransformer,
    heads: Iterable[Head],
    how: Literal["zero", "mean", "resample"] = "mean",
    reference: Int[Tensor, "b t"] | None = None,
    rng: torch.Generator | None = None,
) -> dict[str, Replacement]:
    """Returns what silences heads. "mean" and "resample" need `reference` prompts, as long as those to be answered;
    "resample" needs as many of them, and takes them in an order drawn from `rng`."""
    chosen = list(heads)
    problems = missing(model, *chosen)
    if how != "zero" and reference is None:
        problems.append(f"ablation by {how} needs reference prompts")
    refuse("ablation", problems + ([f"{how} needs a generator"] if how == "resample" and rng is None else []))
    layers = sorted({layer for layer, _ in chosen})
    names = {layer: f"blocks.{layer}.attn.z" for layer in layers}
    read = {} if reference is None or how == "zero" else model.read(reference, names.values())
    if how == "resample":
        order = torch.randperm(len(cast(Tensor, reference)), generator=rng)
        read = {name: z[order] for name, z in read.items()}
    if how == "mean":
        read = {name: z.mean(0, keepdim=True) for name, z in read.items()}
    own = {layer: [head for at, head in chosen if at == layer] for layer in layers}
    return {name: with_heads(own[layer], read.get(name)) for layer, name in names.items()}


def with_heads(heads: list[int], other: Float[Tensor, "#b a t c"] | None) -> Replacement:
    """Returns what exchanges queries, keys, values or outputs of which those of some heads are taken from `other`, or
    are zero."""

    def exchanged(value: Tensor) -> Tensor:
        new = value.clone()
        new[:, heads] = 0.0 if other is None else other[:, heads]
        return new

    return exchanged


@torch.no_grad()
def path(
    model: TokenTransformer,
    tokens: Int[Tensor, "b t"],
    sender: Head,
    receiver: Head,
    z: Float[Tensor, "b t c"],
    into: Part = "q",
    frozen: bool = False,
) -> dict[str, Replacement]:
    """Returns what the receiver reads if the sender, for it alone, had the output z (before W_O) on these tokens.

    Raises ``ValueError`` where there is no such path: no such head, or the receiver not in a later layer.
    """
    problems = missing(model, sender, receiver)
    late = [] if sender[0] < receiver[0] else [f"the receiver must be in a later layer than {sender}, given {receiver}"]
    refuse("path", problems + late)
    before, after = f"blocks.{sender[0]}.attn.z", f"blocks.{receiver[0]}.resid_pre"
    read = model.read(tokens, [before, after])
    delta = (z - read[before][:, sender[1]]) @ model.W_O[sender]
    block = cast(Block, model.blocks[0 if model.config.tied else receiver[0]])
    seen = _normed(block.norm_attn, read[after], delta, frozen)
    new = rearrange(getattr(block.attn, into)(seen), "b t (a c) -> b a t c", a=model.config.n_head)
    return {f"blocks.{receiver[0]}.attn.{into}": with_heads([receiver[1]], new)}


def _normed(norm: nn.Module, stream: Tensor, delta: Tensor, frozen: bool) -> Float[Tensor, "b t d_model"]:
    if not frozen:
        return norm(stream + delta)
    divide, _ = last_norm(norm, stream)
    return norm(stream) + divide(delta)


def missing(model: TokenTransformer, *heads: Head) -> list[str]:
    """Returns which of these heads the model does not have."""
    layers, width = model.config.n_layer, model.config.n_head
    wrong = [head for head in heads if not (0 <= head[0] < layers and 0 <= head[1] < width)]
    return [f"no head {head} in a model of {layers} layers of {width} heads" for head in wrong]
