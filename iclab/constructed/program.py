"""A program of operators, and the transformer that it makes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.constructed.bounded import Bounded
from iclab.constructed.operators import Head, Layer, Product, Stream, Value
from iclab.errors import refuse, unknown_choices
from iclab.models import TransformerConfig

SHARP = 1000.0  # B; exp(−B) is 0 in float32 and float64
SIGNS = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)  # of the two pads
Weights = Mapping[str, Tensor]


@dataclass
class Program:
    """Layers after each other, and the transformer that they make."""

    stream: Stream
    product: Product = field(default_factory=Product)
    dtype: torch.dtype = torch.float64
    pads: Literal["balanced", "published"] = "balanced"
    big: float | None = None  # N
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        refuse("Program", unknown_choices(self))

    @property
    def eps(self) -> float:
        """Returns the rounding of one operation."""
        return torch.finfo(self.dtype).eps

    @property
    def n_pads(self) -> float:
        """Returns N: where the error of LayerNorm, about 1/(2N²), is what rounding the pads costs, N·eps, unless
        given."""
        return (0.5 / self.eps) ** (1 / 3) if self.big is None else self.big

    @property
    def relative_error(self) -> float:
        """Returns about the error of a product of two rows, each at most 1 in size and read through LayerNorm."""
        reading = 1 / self.n_pads**2 + 2 * self.n_pads * self.eps if self.stream.norm else 0.0
        return self.product.error(self.eps) + 2 * reading

    def too_coarse(self, magnified: float) -> list[str]:
        """Returns the problems of a construction that magnifies errors so much: they would reach the first
        digit."""
        worst = magnified * self.relative_error
        if worst < 0.1:
            return []
        help = "smaller bounds on the prompts, a larger lam, a smaller lr, float64 or another scale of the product"
        return [f"errors could reach {worst:.2g} of the largest answer; what helps: {help}"]

    def layer(self) -> Layer:
        """Adds the next layer."""
        self.layers.append(Layer(self.stream, self.product, self.eps))
        return self.layers[-1]

    @torch.no_grad()
    def model(
        self, answer: str, start: Mapping[tuple[int, str], Tensor] | None = None, answers_from: int = 0
    ) -> Bounded:
        """Builds the transformer that answers with a row, `start` being what registers hold in given columns at
        first."""
        if self.layers[-1].divisor is not None:
            self.layer()  # takes the divisor off the pads
        layers = list(self._with_own_heads())
        n_head, d_mlp = max(len(heads) for _, heads in layers), max(len(each.units()[0]) for each, _ in layers)
        head_width = max([self.stream.columns + 1, *(len(h.forms) for _, heads in layers for h in heads)])
        config = TransformerConfig(
            n_layer=len(layers),
            n_head=n_head,
            d_model=self.stream.width,
            d_head=head_width,
            d_mlp=d_mlp,
            layout="interleaved",
            attention="softmax",
            scale=1.0,
            norm=self.stream.norm,
            norm_attention=False,
            null_slot=True,
        )
        model = Bounded(self.stream.d, self.stream.n, config).to(self.dtype)
        model.largest_x, model.largest_y = self.stream.largest_x, self.stream.largest_y
        model.answers_from = answers_from
        if self.pads == "balanced":  # what the published ones cost is of first order, and no promise is made
            model.made = torch.stack([layer.made for layer, _ in layers])
        model.reading = torch.stack([layer.reading for layer, _ in layers])
        model.answer_size = self.stream.layout[answer][2]
        weights = {name: each.zero_() for name, each in model.named_parameters()}
        self._set_ends(weights, answer, start or {})
        for i, (layer, heads) in enumerate(layers):
            self._set_attention(weights, f"blocks.{i}.attn", heads, head_width)
            self._set_mlp(weights, f"blocks.{i}.mlp", layer)
        for name in weights.keys() & {"norm.weight", *(f"blocks.{i}.norm_mlp.weight" for i in range(len(layers)))}:
            weights[name][: self.stream.content] = self.n_pads * (2 / self.stream.width) ** 0.5
        return model

    def _with_own_heads(self) -> Iterator[tuple[Layer, list[Head]]]:
        """Each layer with its heads and one more, in which columns read themselves: it clears targets, and it puts
        N(c − 1) onto the pads of a layer that divides by c, or takes it off again."""
        last: Value | None = None
        for layer in self.layers:
            own = [(self.stream.value(name).forms, -self.stream.write(name), 0.0) for name in layer.cleared]
            for by, sign in ((last, -1.0), (layer.divisor, 1.0)):
                if by is not None:
                    pads = torch.zeros(self.stream.width, 1, dtype=torch.float64)
                    pads[-2:] = sign * self.n_pads * SIGNS
                    own.append((by.forms, pads, -1.0))
            heads = list(layer.heads)
            if own:
                shift = torch.cat([torch.full((len(forms),), by, dtype=torch.float64) for forms, _, by in own])
                forms, write = torch.cat([f for f, _, _ in own]), torch.cat([w for _, w, _ in own], dim=1)
                heads.append(Head({t: t for t in range(self.stream.columns)}, forms, shift, write))
            last = layer.divisor
            yield layer, heads

    def _set_ends(self, weights: Weights, answer: str, start: Mapping[tuple[int, str], Tensor]) -> None:
        """Read-in, positions and output projection."""
        token = torch.cat([self.stream.write("y"), self.stream.write("x")], dim=1)
        weights["read_in.weight"].copy_(self._balanced(token))
        table = torch.zeros(self.stream.width, self.stream.columns, dtype=torch.float64)
        table[self.stream.rows("position")] = torch.eye(self.stream.columns, dtype=torch.float64)
        for (column, name), value in start.items():
            table[:, column] += self.stream.write(name) @ value.double()
        table = self._balanced(table)
        if self.stream.norm:
            table[-2:] += self.n_pads * SIGNS
        weights["position"].copy_(table.mT)
        weights["read_out.weight"].copy_(self.stream.form(answer))

    def _set_attention(self, weights: Weights, name: str, heads: Sequence[Head], head_width: int) -> None:
        columns, places = self.stream.columns, self.stream.rows("position")
        for h, head in enumerate(heads):
            at = h * head_width
            keys, inside = slice(at, at + columns), slice(at, at + len(head.forms))
            for t, s in head.sources.items():
                weights[f"{name}.q.weight"][at + s, places.start + t] = 2 * SHARP
            weights[f"{name}.q.bias"][at + columns] = -SHARP
            weights[f"{name}.k.weight"][keys, places] = torch.eye(columns, dtype=self.dtype)
            weights[f"{name}.k.bias"][at + columns] = 1.0
            weights[f"{name}.v.weight"][inside] = head.forms.to(self.dtype)
            weights[f"{name}.v.bias"][inside] = head.shift.to(self.dtype)
            weights[f"{name}.out.weight"][:, inside] = self._balanced(head.write).to(self.dtype)

    def _set_mlp(self, weights: Weights, name: str, layer: Layer) -> None:
        forms, write = layer.units()
        weights[f"{name}_in.weight"][: len(forms)] = forms.to(self.dtype)
        weights[f"{name}_out.weight"][:, : len(forms)] = self._balanced(write).to(self.dtype)
        weights[f"{name}_out.bias"].copy_(self._balanced(layer.bias.unsqueeze(-1)).squeeze(-1))

    def _balanced(self, write: Float[Tensor, "width entries"]) -> Float[Tensor, "width entries"]:
        """The same write with what it does to the sum of all rows taken off the pads."""
        if not self.stream.norm:
            return write
        share = torch.tensor([[0.5], [0.5]] if self.pads == "balanced" else [[0.0], [1.0]], dtype=write.dtype)
        balanced = write.clone()
        balanced[-2:] -= share * write.sum(0)
        return balanced
