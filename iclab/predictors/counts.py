"""Next tokens by counting: answers to sequences of tokens, as log-probabilities at every position.

    unigram    (c_j + α) / (t + kα)            c_j: how often j has occurred, t tokens so far
    bigram     (c_ij + α) / (N_i + kα)         c_ij: how often j has followed the current token i, N_i = Σ_j c_ij

The second is the posterior mean of the row P_i of a transition matrix whose rows are Dirichlet(α, …, α), given the
transitions seen: Edelman et al. 2024, arXiv 2402.11004, §2. (If a walk starts from the stationary distribution, its
first token is further evidence, which no count sees.) Law (causality): answer i does not change when a later token
does.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from iclab.errors import refuse


@runtime_checkable
class TokenPredictor(Protocol):
    """Answers at every position i with logits of the next token, from the tokens 0 .. i alone."""

    def __call__(self, tokens: Int[Tensor, "batch n"], /) -> Float[Tensor, "batch n vocab"]: ...


@dataclass(frozen=True)
class Counting:
    """Base of the predictors by counts: the vocabulary and the Dirichlet prior."""

    vocab: int
    alpha: float = 1.0

    def __post_init__(self) -> None:
        problems = [] if self.vocab >= 1 else [f"vocab must be at least 1, given {self.vocab}"]
        positive = 0 < self.alpha < float("inf")
        problems += [] if positive else [f"alpha must be positive and finite, given {self.alpha}"]
        refuse(type(self).__name__, problems)

    def _log(self, counts: Float[Tensor, "batch n vocab"]) -> Float[Tensor, "batch n vocab"]:
        smoothed = counts + self.alpha
        return (smoothed / smoothed.sum(-1, keepdim=True)).log()


@dataclass(frozen=True)
class Unigram(Counting):
    """Tokens are as likely as they were frequent.

    >>> import torch
    >>> Unigram(vocab=2)(torch.tensor([[0, 0, 0]])).exp()[0]  # (count + α) / (t + α vocab)
    tensor([[0.6667, 0.3333],
            [0.7500, 0.2500],
            [0.8000, 0.2000]], dtype=torch.float64)
    """

    def __call__(self, tokens: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n vocab"]:
        return self._log(one_hot(tokens, self.vocab).double().cumsum(1))


@dataclass(frozen=True)
class Bigram(Counting):
    """Tokens are as likely as they followed the current one.

    >>> import torch
    >>> Bigram(vocab=2)(torch.tensor([[0, 1, 0]])).exp()[0, 2].round(decimals=3)  # 0 was once followed by 1
    tensor([0.3330, 0.6670], dtype=torch.float64)
    """

    def __call__(self, tokens: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n vocab"]:
        return self._log(followers(tokens, self.vocab))


def followers(tokens: Int[Tensor, "batch n"], vocab: int) -> Float[Tensor, "batch n vocab"]:
    """Returns c: how often each token has followed the current one, up to and including the current one."""
    n = tokens.shape[1]
    seen = torch.ones(n, n - 1, dtype=torch.bool, device=tokens.device).tril(-1)  # of pairs (s, s + 1), s < t
    matches = seen & (tokens.unsqueeze(2) == tokens[:, None, :-1])
    return matches.double() @ one_hot(tokens[:, 1:], vocab).double()
