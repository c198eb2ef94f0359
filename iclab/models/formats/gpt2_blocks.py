"""The blocks of GPT-2 without an embedding, as models of examples have them: our names and those of GPT-2.

Garg et al. 2022      W @ h [out in] except in the blocks, where the library transformers has h @ W [in out]
Raventós et al. 2023  h @ W [in out] everywhere, as flax has it, and gains called `scale`
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor

from iclab.models.mapping import Source
from iclab.models.transformer import Transformer, TransformerConfig

NORMS = {"norm_attn": "ln_1", "norm_mlp": "ln_2"}
MAPS = {"attn.out": "attn.c_proj", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj"}


def blocks(layers: int, prefix: str, block: str, weight: str = "weight", gain: str = "weight") -> Iterator[Source]:
    """Yields the sources of so many blocks and of the last norm. `block` is the name of block 0 with {} for its number;
    `weight` and `gain` are what the file calls the weight of a map and the gain of a norm."""
    for own, leaf in (("weight", gain), ("bias", "bias")):
        yield Source([f"norm.{own}"], [f"{prefix}ln_f.{leaf}"])
        for i in range(layers):
            for ours, theirs in NORMS.items():
                yield Source([f"blocks.{i}.{ours}.{own}"], [f"{prefix}{block.format(i)}.{theirs}.{leaf}"])
    for own, leaf in (("weight", weight), ("bias", "bias")):
        for i in range(layers):
            for ours, theirs in MAPS.items():
                yield Source([f"blocks.{i}.{ours}.{own}"], [f"{prefix}{block.format(i)}.{theirs}.{leaf}"], turned)
            qkv = [f"blocks.{i}.attn.{letter}.{own}" for letter in "qkv"]
            yield Source(qkv, [f"{prefix}{block.format(i)}.attn.c_attn.{leaf}"], thirds)


def gpt2(d: int, n: int, size: Mapping[str, Any], layout: Literal["overlaid", "interleaved"]) -> Transformer:
    """Returns GPT-2 between linear maps, of the sizes that its settings call n_layer, n_head and n_embd."""
    config = TransformerConfig(
        n_layer=size["n_layer"],
        n_head=size["n_head"],
        d_model=size["n_embd"],
        d_mlp=4 * size["n_embd"],
        attention="softmax",
        activation="gelu_tanh",
        layout=layout,
    )
    return Transformer(d, n, config)


def turned(weight: Tensor) -> list[Tensor]:
    """Returns a map [in out] as [out in]; a bias as it is."""
    return [weight.transpose(0, -1)]


def thirds(weight: Tensor) -> list[Tensor]:
    """Returns queries, keys and values, which stand side by side."""
    return list(weight.transpose(0, -1).tensor_split(3))
