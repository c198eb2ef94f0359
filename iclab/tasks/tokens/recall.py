"""Recall: the target is the token that followed an earlier occurrence of the current one.

    repeated sequences     x_1 … x_m x_1 … x_m …                   from the second copy on each next token is certain
    multi-query recall     k_1 v_1 … k_p v_p   …  k_j  …           at a key, its value

Sources: Elhage et al. 2021 (transformer-circuits.pub/2021/framework) and Olsson et al. 2022, arXiv 2209.11895, for the
first; Arora et al. 2023 ("Zoology"), arXiv 2312.04927, for the second.
"""

from dataclasses import dataclass
from math import log10

import torch
from torch import Tensor

from iclab.limits import admit
from iclab.tasks.tokens.prompts import TokenPrompts, TokenTask, marked, too_small, without_replacement

STEEPEST = 100  # orders of magnitude that the weights of gaps may differ by: their ratios to random numbers are finite
GAPS = 2**24  # categories that PyTorch draws from


@dataclass(frozen=True)
class RepeatedSequence(TokenTask):
    """A block of distinct tokens, drawn anew for each prompt, again and again up to n = 2 · longest tokens.

    The block has `shortest` to `longest` tokens, each length as likely: were it always the same, one head that looks
    back by so many positions would do. Target positions begin with the second copy; place i is the i-th target, from 0.

    >>> import torch
    >>> prompts = RepeatedSequence(vocab=8, shortest=3, longest=3).sample(1, torch.Generator().manual_seed(0))
    >>> first, second = prompts.tokens.split(3, dim=1)
    >>> torch.equal(first, second)
    True
    """

    vocab: int = 32
    shortest: int = 8
    longest: int = 16

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def _problems(self) -> list[str]:
        problems = too_small({"shortest": self.shortest}, {"shortest": 2})
        if not self.shortest <= self.longest <= self.vocab:
            problems.append(
                f"longest must lie between shortest and vocab, {self.shortest}..{self.vocab}, given {self.longest}"
            )
        return problems

    @property
    def n(self) -> int:
        return 2 * self.longest

    def draw(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        lengths = torch.randint(self.shortest, self.longest + 1, (batch, 1), generator=rng, device=rng.device)
        at = torch.arange(self.n, device=rng.device).expand(batch, -1)
        block = without_replacement(batch, self.vocab, rng)
        tokens, targets = block.gather(1, at % lengths), block.gather(1, (at + 1) % lengths)
        asked = (at >= lengths) & (at < self.n - 1)
        return TokenPrompts(tokens, targets, asked, (at - lengths).clamp(min=0), marked(batch, self.vocab, tokens))


@dataclass(frozen=True)
class MultiQueryRecall(TokenTask):
    """`pairs` keys with their values, and then each key once more, where its value is the target.

    Token 0 is blank, keys are 1 .. V/2 − 1 and values V/2 .. V − 1, all of a prompt distinct. After the 2·pairs tokens
    of the pairs there are (n − 2·pairs)/2 gaps of two tokens; each key gets a gap of its own, gap g (from 0) with
    weight (g + 1)^(power − 1), and stands first in it. The value is the target there, and never shown. Everything else
    is blank, or with `filled` any token of the vocabulary. Place j is the j-th pair of the context.

    Source: Arora et al. 2023, arXiv 2312.04927, as in the released generator (power 0.01, and filled).
    """

    vocab: int = 64
    n: int = 32
    pairs: int = 4
    power: float = 0.01
    filled: bool = False

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def _problems(self) -> list[str]:
        problems = too_small({"pairs": self.pairs}, {"pairs": 1})
        if self.n % 2 or self.n < 4 * self.pairs:
            problems.append(f"n must be even and at least 4 · pairs = {4 * self.pairs}, given {self.n}")
        if self.vocab % 2 or self.vocab < 2 * self.pairs + 2:
            problems.append(f"vocab must be even and at least 2 · pairs + 2 = {2 * self.pairs + 2}, given {self.vocab}")
        if not 0 < self.power < float("inf"):
            problems.append(f"power must be positive and finite, given {self.power}")
        elif (self.power - 1) * log10(max(1, self.n / 2)) > STEEPEST:
            problems.append(f"power must leave weights of gaps below 1e{STEEPEST}, given {self.power} for n = {self.n}")
        if self.n > GAPS:
            problems.append(f"n must be at most {GAPS}, given {self.n}")
        return problems

    def draw(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        """Draws keys, values and the gaps after which each key is asked for."""
        half, context = self.vocab // 2, 2 * self.pairs
        keys = 1 + without_replacement(batch, half - 1, rng)[:, : self.pairs]
        values = half + without_replacement(batch, half, rng)[:, : self.pairs]
        queries = context + 2 * self._gaps(batch, rng)
        pairs = torch.stack([keys, values], dim=2).flatten(1)
        blank = torch.zeros(batch, self.n, dtype=torch.long, device=rng.device)
        tokens = torch.cat([pairs, blank[:, context:]], dim=1).scatter(1, queries, keys)
        if self.filled:
            other = torch.randint(self.vocab, tokens.shape, generator=rng, device=rng.device)
            tokens = torch.where(tokens == 0, other, tokens)
        asked = blank.scatter(1, queries, 1).bool()
        places = blank.scatter(1, queries, torch.arange(self.pairs, device=rng.device).expand(batch, -1))
        targets = blank.scatter(1, queries, values)
        return TokenPrompts(tokens, targets, asked, places, marked(batch, self.vocab, values))

    def _gaps(self, batch: int, rng: torch.Generator) -> Tensor:
        """Distinct gaps, drawn one after the other by weight among those that are left."""
        space = (self.n - 2 * self.pairs) // 2
        weights = torch.arange(1, space + 1, device=rng.device, dtype=torch.float64) ** (self.power - 1)
        return torch.multinomial(weights.expand(batch, -1), self.pairs, generator=rng)
