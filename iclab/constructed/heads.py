"""Transformers from heads and linear maps: what constructions with ReLU attention share.

The layout is `encoder` unless given: tokens (x_j, y_j, 1) for the examples and (x, 0, 0) for the query; all see the
examples and none the query. With ReLU attention two heads make a linear one, and two hidden units pass
a value on, both exactly:

    relu(s) − relu(−s) = s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.models import Transformer, TransformerConfig


class Head(NamedTuple):
    """Σ_j relu(q_t·k_j) v_j goes to `write`; q, k and v are linear forms of the stream and of the constant 1."""

    q: Float[Tensor, "score rows_1"]
    k: Float[Tensor, "score rows_1"]
    v: Float[Tensor, "value rows_1"]
    write: Float[Tensor, "rows value"]


@dataclass(frozen=True)
class Rows:
    """Which rows of the stream hold what: what is read of a token, then the registers.

    That is x, y and the mark of an example, or y and x (`interleaved`), or x alone (`lagged`).
    """

    d: int
    registers: Mapping[str, int]
    layout: Literal["encoder", "interleaved", "lagged"] = "encoder"

    @property
    def token(self) -> dict[str, int]:
        """The first channels of a token."""
        known = {"encoder": {"x": self.d, "y": 1, "example": 1}, "interleaved": {"y": 1, "x": self.d}}
        return known.get(self.layout, {"x": self.d})

    @property
    def places(self) -> dict[str, slice]:
        """Where each stands."""
        found, first = {}, 0
        for name, count in {**self.token, **self.registers}.items():
            found[name], first = slice(first, first + count), first + count
        return found

    @property
    def width(self) -> int:
        """The number of rows."""
        return sum(self.token.values()) + sum(self.registers.values())

    def form(self, name: str) -> Float[Tensor, "entries rows_1"]:
        """The linear forms that are the content of a register; "one" is the constant 1."""
        eye = torch.eye(self.width + 1, dtype=torch.float64)
        return eye[-1:] if name == "one" else eye[self.places[name]]

    def write(self, name: str) -> Float[Tensor, "rows entries"]:
        """What adds values to a register."""
        return torch.eye(self.width, dtype=torch.float64)[:, self.places[name]]


@dataclass
class Block:
    """One layer: heads, and what the MLP adds linearly after them."""

    heads: list[Head] = field(default_factory=list)
    hidden: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, write: Tensor) -> "Block":
        """Adds Σ_j (q_t·k_j) v_j, by two heads."""
        self.heads += [Head(q, k, v, write), Head(-q, k, v, -write)]
        return self

    def count(self, v: Tensor, write: Tensor) -> "Block":
        """Adds Σ_j v_j, by one head."""
        one = torch.zeros(1, v.shape[1], dtype=v.dtype)
        one[0, -1] = 1.0
        self.heads.append(Head(one, one, v, write))
        return self

    def add(self, form: Tensor, write: Tensor) -> "Block":
        """Adds a linear form of what attention left, by two hidden units for each entry."""
        self.hidden += [(form, write), (-form, -write)]
        return self


@torch.no_grad()
def assemble(
    rows: Rows,
    n: int,
    blocks: Sequence[Block],
    answer: str,
    normaliser: Literal["seen", "none"] = "none",
    table: Float[Tensor, "positions rows"] | None = None,
) -> Transformer:
    """The transformer (float64) of these blocks for prompts of at most n positions, which answers with a row; `table`
    is what positions add to the stream, where there are any."""
    heads = [head for block in blocks for head in block.heads]
    model = Transformer(
        rows.d,
        n,
        TransformerConfig(
            n_layer=len(blocks),
            n_head=max(len(block.heads) for block in blocks),
            d_model=rows.width,
            d_head=max(max(len(head.q), len(head.v)) for head in heads),
            d_mlp=max(sum(len(form) for form, _ in block.hidden) for block in blocks),
            layout=rows.layout,
            attention="relu",
            activation="relu",
            normaliser=normaliser,
            scale=1.0,
            norm=False,
            positions=table is not None,
        ),
    ).double()
    weights = {name: each.zero_() for name, each in model.named_parameters()}
    weights["read_in.weight"].fill_diagonal_(1.0)[sum(rows.token.values()) :] = 0.0
    if table is not None:
        weights["position"].copy_(table[: len(weights["position"])])
    weights["read_out.weight"].copy_(rows.form(answer)[:, :-1])
    for i, block in enumerate(blocks):
        for h, head in enumerate(block.heads):
            at = h * model.config.head_width
            for letter, forms in (("q", head.q), ("k", head.k), ("v", head.v)):
                weights[f"blocks.{i}.attn.{letter}.weight"][at : at + len(forms)] = forms[:, :-1]
                weights[f"blocks.{i}.attn.{letter}.bias"][at : at + len(forms)] = forms[:, -1]
            weights[f"blocks.{i}.attn.out.weight"][:, at : at + len(head.v)] = head.write
        if block.hidden:
            forms, writes = torch.cat([f for f, _ in block.hidden]), torch.cat([w for _, w in block.hidden], dim=1)
            weights[f"blocks.{i}.mlp_in.weight"][: len(forms)] = forms[:, :-1]
            weights[f"blocks.{i}.mlp_in.bias"][: len(forms)] = forms[:, -1]
            weights[f"blocks.{i}.mlp_out.weight"][:, : len(forms)] = writes
    return model
