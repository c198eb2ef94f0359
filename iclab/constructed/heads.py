"""Transformers from heads and linear maps: what constructions with ReLU attention share.

The layout is `encoder` unless given: tokens (x_j, y_j, 1) for the examples and (x, 0, 0) for the query; all see the
examples and none the query. With ReLU attention two heads make a linear one, and two hidden units pass
a value on, both exactly:

    relu(s) − relu(−s) = s.

What is not linear is a sum of ReLUs, a head or a hidden unit for each: exact for functions with kinks (`Kinked`), and
within h²/8 max|g″| for smooth g, where h is the distance of the kinks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.constructed.bounded import Bounded
from iclab.models import TransformerConfig


class Kinked(NamedTuple):
    """f(s) = constant + Σ_i gains_i relu(s − kinks_i)."""

    constant: float
    gains: Sequence[float]
    kinks: Sequence[float]

    @classmethod
    def interpolating(cls, g: Callable[[Tensor], Tensor], reach: float, pieces: int) -> "Kinked":
        """Returns the function that is straight from knot to knot of g, `pieces` of them on [−reach, reach]; constant
        before, straight on after."""
        at = torch.linspace(-reach, reach, pieces + 1, dtype=torch.float64)
        slopes = g(at).diff() / at.diff()
        gains = slopes.diff(prepend=torch.zeros(1, dtype=at.dtype))
        return cls(float(g(at[:1])), gains.tolist(), at[:-1].tolist())


class Head(NamedTuple):
    """Σ_j relu(q_t·k_j) v_j goes to `write`; q, k and v are linear forms of the stream and of the constant 1."""

    q: Float[Tensor, "score rows_1"]
    k: Float[Tensor, "score rows_1"]
    v: Float[Tensor, "value rows_1"]
    write: Float[Tensor, "rows value"]


@dataclass(frozen=True)
class Rows:
    """Layout of the rows of the stream: the projected token, then the registers.

    That is x, y and the mark of an example, or y and x (`interleaved`), or x alone (`lagged`).
    """

    d: int
    registers: Mapping[str, int]
    layout: Literal["encoder", "interleaved", "lagged"] = "encoder"

    @property
    def token(self) -> dict[str, int]:
        """Returns the first channels of a token."""
        known = {"encoder": {"x": self.d, "y": 1, "example": 1}, "interleaved": {"y": 1, "x": self.d}}
        return known.get(self.layout, {"x": self.d})

    @property
    def places(self) -> dict[str, slice]:
        """Returns where each stands."""
        places, first = {}, 0
        for name, count in {**self.token, **self.registers}.items():
            places[name], first = slice(first, first + count), first + count
        return places

    @property
    def width(self) -> int:
        """Returns the number of rows."""
        return sum(self.token.values()) + sum(self.registers.values())

    def marked(self, marks: Mapping[str, Float[Tensor, " n"]]) -> Float[Tensor, "n rows"]:
        """Returns what registers hold in the tokens of examples 0, 1, … of an encoder's prompt and in the query's, the
        last; its place is the first."""
        table = torch.zeros(len(next(iter(marks.values()))), self.width, dtype=torch.float64)
        for name, values in marks.items():
            table[:, self.places[name]] = values.roll(1).unsqueeze(1)
        return table

    def form(self, name: str) -> Float[Tensor, "entries rows_1"]:
        """Returns the linear forms that are the content of a register; "one" is the constant 1."""
        eye = torch.eye(self.width + 1, dtype=torch.float64)
        return eye[-1:] if name == "one" else eye[self.places[name]]

    def write(self, name: str) -> Float[Tensor, "rows entries"]:
        """Returns what adds values to a register."""
        return torch.eye(self.width, dtype=torch.float64)[:, self.places[name]]


@dataclass
class Block:
    """One layer: heads, and what the MLP adds linearly after them."""

    heads: list[Head] = field(default_factory=list)
    hidden: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def relu(self, q: Tensor, k: Tensor, v: Tensor, write: Tensor) -> "Block":
        """Adds Σ_j relu(q_t·k_j) v_j, by one head."""
        self.heads.append(Head(q, k, v, write))
        return self

    def attend(self, q: Tensor, k: Tensor, v: Tensor, write: Tensor) -> "Block":
        """Adds Σ_j (q_t·k_j) v_j, by two heads."""
        self.heads += [Head(q, k, v, write), Head(-q, k, v, -write)]
        return self

    def count(self, v: Tensor, write: Tensor) -> "Block":
        """Adds Σ_j v_j, by one head."""
        return self.relu(_one(v), _one(v), v, write)

    def attend_kinked(self, f: Kinked, q: Tensor, k: Tensor, v: Tensor, write: Tensor) -> "Block":
        """Adds Σ_j f(q_t·k_j) v_j, by a head for the constant and one for each kink."""
        self.count(f.constant * v, write)
        for gain, kink in zip(f.gains, f.kinks, strict=True):
            self.relu(torch.cat([q, _one(q)]), torch.cat([k, -kink * _one(k)]), gain * v, write)
        return self

    def add(self, form: Tensor, write: Tensor) -> "Block":
        """Adds a linear form of what attention left, by two hidden units for each entry."""
        return self.unit(form, write).unit(-form, -write)

    def unit(self, form: Tensor, write: Tensor) -> "Block":
        """Adds relu of a linear form of what attention left, by one hidden unit for each entry."""
        self.hidden.append((form, write))
        return self

    def add_kinked(self, f: Kinked, form: Tensor, write: Tensor) -> "Block":
        """Adds f of a linear form, by a hidden unit for the constant and one for each kink."""
        self.unit(_one(form), f.constant * write)
        for gain, kink in zip(f.gains, f.kinks, strict=True):
            self.unit(form - kink * _one(form), gain * write)
        return self


def _one(like: Tensor) -> Float[Tensor, "one rows_1"]:
    """The constant 1, as a form beside others."""
    return torch.eye(like.shape[1], dtype=like.dtype)[-1:]


@torch.no_grad()
def assemble(
    rows: Rows,
    n: int,
    blocks: Sequence[Block],
    answer: str,
    normaliser: Literal["seen", "none"] = "none",
    start: Mapping[str, Tensor] | None = None,
    table: Float[Tensor, "positions rows"] | None = None,
) -> Bounded:
    """Builds the transformer (float64) of these blocks for prompts of at most n positions, which answers with a row.

    `start` is what registers hold in all tokens at first; `table` is what positions add to the stream, where there are
    any (see `Rows.marked`).
    """
    heads = [head for block in blocks for head in block.heads]
    model = Bounded(
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
    for name, value in (start or {}).items():
        weights["read_in.bias"] += rows.write(name) @ value
    if table is not None:
        weights["position"].copy_(table[: len(weights["position"])])
    weights["read_out.weight"].copy_(rows.form(answer)[:, :-1])
    for i, block in enumerate(blocks):
        _set_attention(weights, f"blocks.{i}.attn", block.heads, model.config.head_width)
        if block.hidden:
            forms, writes = torch.cat([f for f, _ in block.hidden]), torch.cat([w for _, w in block.hidden], dim=1)
            weights[f"blocks.{i}.mlp_in.weight"][: len(forms)] = forms[:, :-1]
            weights[f"blocks.{i}.mlp_in.bias"][: len(forms)] = forms[:, -1]
            weights[f"blocks.{i}.mlp_out.weight"][:, : len(forms)] = writes
    return model


def _set_attention(weights: Mapping[str, Tensor], name: str, heads: Sequence[Head], width: int) -> None:
    for h, head in enumerate(heads):
        at = h * width
        for letter, forms in (("q", head.q), ("k", head.k), ("v", head.v)):
            weights[f"{name}.{letter}.weight"][at : at + len(forms)] = forms[:, :-1]
            weights[f"{name}.{letter}.bias"][at : at + len(forms)] = forms[:, -1]
        weights[f"{name}.out.weight"][:, at : at + len(head.v)] = head.write
