"""A transformer over tokens that answers by pointing: its unembedding is one head of attention to the slots of a list.

    s_ij = q_i·k_j / √r        q_i = W_q norm(h_i),   slots j ≤ i
    logits_i[v] = log Σ_j e^{s_ij} [token j is v]                so that the softmax of the logits points

Slots are the tokens from position 1 on, up to the first that is none of the `items` (tokens 0 .. items − 1). Keys have
rank r and are read from the stream at the slot ("content"), or are a learned vector of its position alone
("positional"): the query then selects a slot, whatever is in it, in r numbers. With r = d_model that is a softmax with
one output for each place, the control of Vinyals et al. 2015, §4; that of a place beyond those of training has learned
nothing. In one dimension only the slots with the largest and the smallest key can have the largest weight; in r
dimensions those at the corners of the convex hull of the keys.

Sources: Vinyals, Fortunato, Jaitly 2015, arXiv 1506.03134, eq. 3 (pointing as the unembedding; with additive
attention); Merullo, Eickhoff, Pavlick 2024, arXiv 2406.09519, §5 (the mover head that a signal of few dimensions
steers). Ranks and positional keys are this project's.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from iclab.errors import out_of_bounds
from iclab.models.activations import HookContext
from iclab.models.architecture import LARGEST
from iclab.models.tokens import TokenTransformer, TokenTransformerConfig
from iclab.models.transformer import linear_map

LEAST = 1e-30  # beside the largest exponential, which is 1: the logit of a token that is in no slot is −69


@dataclass(frozen=True, kw_only=True)
class PointerTransformerConfig(TokenTransformerConfig):
    """The shape of a pointing transformer: `items` tokens can be pointed at, by keys of `rank` dimensions. With
    `closes` position 0 is a slot too, which stands for the end, the last token of the vocabulary."""

    items: int = 22
    rank: int = 16
    keys: Literal["content", "positional"] = "content"
    closes: bool = False

    def _problems(self) -> list[str]:
        problems = super()._problems() + out_of_bounds({"items": self.items, "rank": self.rank}, LARGEST)
        return problems + (["tied_embedding: what points reads nothing out"] if self.tied_embedding else [])

    @property
    def bounded(self) -> bool:
        return self.positions or self.keys == "positional"

    def problems_for(self, vocab: int, n: int, width: int = 0) -> list[str]:
        fits = self.items <= vocab
        problems = (
            [] if fits else [f"items = {self.items} tokens that can be pointed at, and the task has {vocab} tokens"]
        )
        return super().problems_for(vocab, n, width) + problems

    def build(self, vocab: int, n: int, rng: torch.Generator | None = None) -> "PointerTransformer":
        return PointerTransformer(vocab, n, self, rng)


class PointerTransformer(TokenTransformer):
    """A transformer whose answers are pointed at. Further activations: "pointer.q" and "pointer.scores"."""

    kind = "pointer transformer"
    shape = PointerTransformerConfig
    config: PointerTransformerConfig

    def _add_read_out(self) -> None:
        self.query = linear_map(self.config.d_model, self.config.rank, self.config)
        if self.config.keys == "content":
            self.key = linear_map(self.config.d_model, self.config.rank, self.config)
        else:
            self.slot_keys = nn.Parameter(torch.empty(self.n, self.config.rank, device="meta"))

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draws weights as other stacks do; positional keys N(0, init_scale²)."""
        super().initialise(rng)
        if self.config.keys == "positional":
            nn.init.normal_(self.slot_keys, std=self.config.init_scale, generator=rng)

    def activations(self) -> list[str]:
        return [*super().activations()[:-1], "pointer.q", "pointer.scores", "prediction"]

    def _read_out(
        self, tokens: Int[Tensor, "batch n"], h: Float[Tensor, "batch n d_model"], hooks: HookContext, m: int | None
    ) -> Float[Tensor, "batch m vocab"]:
        n = tokens.shape[1]
        keys = self.key(h) if self.config.keys == "content" else self.slot_keys[:n].expand(len(tokens), -1, -1)
        q = hooks("pointer.q", self.query(h))
        seen = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril() & self.slots(tokens).unsqueeze(1)
        scores = hooks("pointer.scores", q @ keys.mT / self.config.rank**0.5)
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)[:, -(m or n) :]
        weights = (scores - scores.amax(-1, keepdim=True).detach()).exp() * seen[:, -(m or n) :]
        meant = torch.cat([torch.full_like(tokens[:, :1], self.vocab - 1), tokens[:, 1:]], dim=1)
        return (weights @ one_hot(meant, self.vocab).to(weights.dtype) + LEAST).log()

    def slots(self, tokens: Int[Tensor, "batch n"]) -> Tensor:
        """Returns which positions are slots of the list."""
        items = tokens < self.config.items
        first = torch.full_like(items[:, :1], self.config.closes)
        return torch.cat([first, items[:, 1:].long().cumprod(1).bool()], dim=1)
