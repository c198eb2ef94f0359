"""Token layouts: how a prompt becomes a sequence, which tokens answer, and which tokens each may see.

    interleaved  x_0 y_0 x_1 y_1 ... x_{n-1}            2n − 1 tokens, answers at x_i; y_i must first be bound to x_i.
                 The layout of Akyürek et al. 2022 (arXiv 2211.15661, §3), and but for channels of Garg et al. 2022.
    copied       the same, but the token of y_i holds x_i too: nothing has to be bound. Guo et al. 2023 (arXiv
                 2310.10616, §5) copy by hand like this where a linear input projection could not do it.
    overlaid     the same as interleaved, but a token is no wider than x_i, and y_i stands in the first of its channels:
                 the tokens of the code of Garg et al. 2022 (arXiv 2208.01066). Whether a token holds x or y is marked
                 by its position alone.
    lagged       (x_i, x_{i-1}, y_{i-1})                n tokens; each holds a previous (x, y) pair and the next query,
    so
                 that nothing has to be bound: an easier problem than `interleaved`, at half the tokens.
    shifted      (x_i, y_{i-1})                         n tokens; y_{i-1} must be bound to the input before it.
    states       x_i                                    n tokens, for inputs that are each the label of the one before:
                 those of a dynamical system, as Guo et al. 2023 have it (§5.2).
    paired       (x_j, y_j) for j < n − 1, then (x_i, ·) one token per example and one per query, 2n − 1 tokens.
                 Query i sees itself and the examples j < i: the one-query prompts of von Oswald et al. 2022
                 (arXiv 2212.07677, §2), all prefixes at once; example j sees the examples before it and itself.
    encoder      (x_j, y_j) for all j < i, then (x_i, ·): one sequence of n tokens for each i. All tokens see all i
                 examples and never the query, as theorems about one-query prompts have it (von Oswald et al. 2022; Ahn
                 et al. 2023, arXiv 2306.00297). Each example is processed anew for each i, at n times the cost.

`m` asks for the last m positions alone (all n unless given). An encoder's sequences are [(batch m) n width]. Where a
label is a vector, its c coordinates stand where the number would.

Law (causality): what token i may see contains no x_j with j > i and no y_j with j ≥ i.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


class Layout(ABC):
    """A layout of prompts as tokens."""

    causal: bool  # whether the mask is the plain lower triangle
    shared: bool = False  # whether all tokens of a sequence see the same ones; each prefix is then a sequence
    label: int | None  # the channel of an answering token in which a number would stand, empty there (if any)

    @abstractmethod
    def width(self, d: int, c: int = 1) -> int:
        """Returns the channels of a token, where a label takes c of them."""

    @abstractmethod
    def tokens(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n *labels"], m: int | None = None
    ) -> Float[Tensor, "sequences length width"]:
        """Returns the sequence that is read in, or one for each of the last m positions."""

    @abstractmethod
    def positions(self, n: int, device: torch.device) -> Int[Tensor, " length"]:
        """Returns the position that each token reports."""

    @abstractmethod
    def mask(self, n: int, device: torch.device) -> Bool[Tensor, "*prefixes length length"]:
        """Returns true where the token of the row may see the token of the column; for each i where its sequences
        differ."""

    @abstractmethod
    def seen(self, n: int, device: torch.device) -> Int[Tensor, " length"]:
        """Returns how many examples each token can know, its own included where it holds a finished one."""

    @abstractmethod
    def answers(
        self, tokens: Float[Tensor, "sequences length d_model"], m: int | None = None
    ) -> Float[Tensor, "batch m d_model"]:
        """Returns the tokens at which the last m predictions are read out."""

    @abstractmethod
    def labels(self, tokens: Float[Tensor, "sequences length d_model"]) -> Float[Tensor, "batch labels d_model"]:
        """Returns the tokens that hold y_0, ..., y_{n-2}; in an encoder, of the sequence that answers for x_{n-1}."""


@dataclass(frozen=True)
class Interleaved(Layout):
    """x token = [0, x], y token = [y, 0], or [y, x] where it `copies`."""

    copies: bool = False

    causal = True
    label = 0

    def width(self, d: int, c: int = 1) -> int:
        return d + c

    def tokens(self, xs: Tensor, ys: Tensor, m: int | None = None) -> Tensor:
        labels = _channels(ys)
        labelled = torch.cat([labels, xs if self.copies else torch.zeros_like(xs)], dim=-1)
        pairs = torch.stack([F.pad(xs, (labels.shape[-1], 0)), labelled], dim=2)
        return rearrange(pairs, "batch n two width -> batch (n two) width")[:, :-1]

    def positions(self, n: int, device: torch.device) -> Tensor:
        return torch.arange(2 * n - 1, device=device)

    def mask(self, n: int, device: torch.device) -> Tensor:
        return _lower(2 * n - 1, device)

    def seen(self, n: int, device: torch.device) -> Tensor:
        return (torch.arange(2 * n - 1, device=device) + 1) // 2

    def answers(self, tokens: Tensor, m: int | None = None) -> Tensor:
        return _last(tokens[:, ::2], m)

    def labels(self, tokens: Tensor) -> Tensor:
        return tokens[:, 1::2]


class Overlaid(Interleaved):
    """x token = x, y token = [y, 0, …]."""

    label = None

    def width(self, d: int, c: int = 1) -> int:
        return max(d, c)

    def tokens(self, xs: Tensor, ys: Tensor, m: int | None = None) -> Tensor:
        labels = _channels(ys)
        width = self.width(xs.shape[-1], labels.shape[-1])
        pairs = torch.stack([F.pad(each, (0, width - each.shape[-1])) for each in (xs, labels)], dim=2)
        return rearrange(pairs, "batch n two width -> batch (n two) width")[:, :-1]


class Lagged(Layout):
    """Token i = [x_i, x_{i-1}, y_{i-1}], with zeros for the example before the first."""

    causal = True
    label = None

    def width(self, d: int, c: int = 1) -> int:
        return 2 * d + c

    def tokens(self, xs: Tensor, ys: Tensor, m: int | None = None) -> Tensor:
        finished = torch.cat([xs, _channels(ys)], dim=-1)
        return torch.cat([xs, F.pad(finished[:, :-1], (0, 0, 1, 0))], dim=-1)

    def positions(self, n: int, device: torch.device) -> Tensor:
        return torch.arange(n, device=device)

    def mask(self, n: int, device: torch.device) -> Tensor:
        return _lower(n, device)

    def seen(self, n: int, device: torch.device) -> Tensor:
        return torch.arange(n, device=device)

    def answers(self, tokens: Tensor, m: int | None = None) -> Tensor:
        return _last(tokens, m)

    def labels(self, tokens: Tensor) -> Tensor:
        return tokens[:, 1:]


class Shifted(Lagged):
    """Token i = [x_i, y_{i-1}], with a zero for the label before the first."""

    def width(self, d: int, c: int = 1) -> int:
        return d + c

    def tokens(self, xs: Tensor, ys: Tensor, m: int | None = None) -> Tensor:
        return torch.cat([xs, F.pad(_channels(ys)[:, :-1], (0, 0, 1, 0))], dim=-1)


class States(Lagged):
    """Token i = x_i, which is y_{i-1}: labels are not read a second time."""

    def width(self, d: int, c: int = 1) -> int:
        return d

    def tokens(self, xs: Tensor, ys: Tensor, m: int | None = None) -> Tensor:
        return xs


class Paired(Layout):
    """Example tokens [x_j, y_j, 1], then query tokens [x_i, 0, 0]; the last channel distinguishes them."""

    causal = False
    label = -2

    def width(self, d: int, c: int = 1) -> int:
        return d + c + 1

    def tokens(self, xs: Tensor, ys: Tensor, m: int | None = None) -> Tensor:
        examples = _finished(xs, ys)
        return torch.cat([examples, F.pad(xs, (0, examples.shape[-1] - xs.shape[-1]))], dim=1)

    def positions(self, n: int, device: torch.device) -> Tensor:
        return torch.cat([torch.arange(n - 1, device=device), torch.arange(n, device=device)])

    def mask(self, n: int, device: torch.device) -> Tensor:
        i = self.positions(n, device).unsqueeze(1)
        j = self.positions(n, device).unsqueeze(0)
        query = torch.arange(2 * n - 1, device=device) >= n - 1
        sees_example = torch.where(query.unsqueeze(1), j < i, j <= i) & ~query
        return sees_example | torch.eye(2 * n - 1, dtype=torch.bool, device=device)

    def seen(self, n: int, device: torch.device) -> Tensor:
        return torch.cat([torch.arange(1, n, device=device), torch.arange(n, device=device)])

    def answers(self, tokens: Tensor, m: int | None = None) -> Tensor:
        return _last(tokens[:, tokens.shape[1] // 2 :], m)

    def labels(self, tokens: Tensor) -> Tensor:
        return tokens[:, : tokens.shape[1] // 2]


class Encoder(Layout):
    """Example tokens [x_j, y_j, 1] and a query token [x_i, 0, 0], for each i; examples from i on are seen by none."""

    causal = False
    shared = True
    label = -2

    def width(self, d: int, c: int = 1) -> int:
        return d + c + 1

    def tokens(self, xs: Tensor, ys: Tensor, m: int | None = None) -> Tensor:
        n, examples = xs.shape[1], _finished(xs, ys)
        padded = F.pad(_last(xs, m), (0, examples.shape[-1] - xs.shape[-1]))
        queries = rearrange(padded, "batch m width -> (batch m) 1 width")
        return torch.cat([repeat(examples, "batch j width -> (batch m) j width", m=m or n), queries], dim=1)

    def positions(self, n: int, device: torch.device) -> Tensor:
        return (torch.arange(n, device=device) + 1) % n  # 0 is the query's, however many examples there are

    def mask(self, n: int, device: torch.device) -> Tensor:
        seen = _lower(n, device) & ~torch.eye(n, dtype=torch.bool, device=device)  # of prefix i: the examples j < i
        return repeat(seen, "i j -> i 1 t j", t=n)

    def seen(self, n: int, device: torch.device) -> Tensor:
        return torch.arange(n, device=device)  # sequence i, all tokens of it

    def answers(self, tokens: Tensor, m: int | None = None) -> Tensor:
        return rearrange(tokens[:, -1], "(batch m) width -> batch m width", m=m or tokens.shape[1])

    def labels(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        return tokens[n - 1 :: n, :-1]


def _channels(ys: Float[Tensor, "batch n *labels"]) -> Float[Tensor, "batch n c"]:
    """Labels as vectors: a number has one coordinate."""
    return ys.unsqueeze(-1) if ys.ndim == 2 else ys


def _finished(xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n *labels"]) -> Float[Tensor, "batch j width"]:
    """[x_j, y_j, 1] for all examples but the last, whose label is predicted."""
    return F.pad(torch.cat([xs, _channels(ys)], dim=-1)[:, :-1], (0, 1), value=1.0)


def _last(positions: Shaped[Tensor, "batch n width"], m: int | None) -> Shaped[Tensor, "batch m width"]:
    return positions if m is None else positions[:, -m:]


def _lower(length: int, device: torch.device) -> Bool[Tensor, "length length"]:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


LAYOUTS: dict[str, Layout] = {
    "interleaved": Interleaved(),
    "copied": Interleaved(copies=True),
    "overlaid": Overlaid(),
    "lagged": Lagged(),
    "shifted": Shifted(),
    "states": States(),
    "paired": Paired(),
    "encoder": Encoder(),
}
