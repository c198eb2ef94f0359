"""A transformer over sequences of vectors, which enter its stream without an embedding.

    h ← (vector, 0) + position          the blocks of `iclab.models.tokens` follow, and at last
    logits ← three hidden ReLU layers and a linear map of norm(h)

After the network of Reddy 2023, arXiv 2312.03002, §2: two layers of attention alone, one head each, then a classifier
that is deep enough to learn in weights; there positions are one-hot in channels of their own, and there is no
LayerNorm.
"""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn.functional import pad

from iclab.errors import out_of_bounds
from iclab.models.architecture import LARGEST
from iclab.models.door import known
from iclab.models.tokens import TokenTransformer, TokenTransformerConfig
from iclab.models.transformer import linear_map


@dataclass(frozen=True, kw_only=True)
class VectorTransformerConfig(TokenTransformerConfig):
    """The shape of a transformer over vectors of at most `d_model` channels, with a classifier of `d_classifier` hidden
    units a layer."""

    n_head: int = 1
    d_model: int = 64
    d_classifier: int = 128
    position_spread: float = 0.1

    def _problems(self) -> list[str]:
        problems = super()._problems() + out_of_bounds({"d_classifier": self.d_classifier}, LARGEST)
        return problems + (["tied_embedding: vectors have no embedding"] if self.tied_embedding else [])

    def problems_for(self, vocab: int, n: int, width: int = 0) -> list[str]:
        if not width:
            return ["tokens that are numbers need a TokenTransformerConfig"]
        fits = width <= self.d_model
        return [] if fits else [f"vectors of {width} channels need a d_model as large, given {self.d_model}"]

    def build(self, vocab: int, n: int, rng: Generator | None = None) -> "VectorTransformer":
        return VectorTransformer(vocab, n, self, rng)


class VectorTransformer(TokenTransformer):
    """A transformer over sequences of at most n vectors that answers with one of `vocab`."""

    kind = "vector transformer"
    shape = VectorTransformerConfig
    config: VectorTransformerConfig

    def _add_read_in(self) -> None:
        """Nothing."""

    def _add_read_out(self) -> None:
        widths = [self.config.d_model, *[self.config.d_classifier] * 3]
        hidden = [linear_map(a, b, self.config) for a, b in pairwise(widths)]
        layers = [layer for linear in hidden for layer in (linear, nn.ReLU())]
        self.read_out = nn.Sequential(*layers, linear_map(widths[-1], self.vocab, self.config))

    def _known(self, tokens: Float[Tensor, "batch n width"]) -> tuple[Tensor, Bool[Tensor, "batch n 1"]]:
        return known(tokens.to(next(self.parameters()).dtype), self._mask(tokens))

    def _embedded(self, tokens: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n d_model"]:
        return pad(tokens, (0, self.config.d_model - tokens.shape[2]))

    def _unreadable(self, tokens: Tensor) -> list[str]:
        if tokens.ndim == 3 and tokens.is_floating_point() and tokens.shape[2] <= self.config.d_model:
            return []
        given = f"given {tokens.dtype} of the shape {tuple(tokens.shape)}"
        return [f"tokens are vectors [batch n width] of at most {self.config.d_model} channels, {given}"]
