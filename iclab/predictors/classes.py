"""Two closed forms for the prompts x_1 l_1 … x_N l_N x of `GaussianClasses`: in-context and in-weights.

With z = √(1 + ε²) x = μ + ε η of d channels, and μ, η ~ N(0, 1/d) in each,

    from the context    p(l | x) ∝ m_l N(z; S_l / (m_l + ε²), ε²/d · (1 + 1/(m_l + ε²)))
                        for m_l items before it that have the label l, of which Σ z = S_l: Bayes for an item that is of
                        the class of one of these, each as likely, where nothing else is known of classes
    in weights          p(l | x) ∝ Σ_{k of label l} p_k N(z; μ_k, ε²/d): Bayes where all classes are known, and nothing
                        is taken from the context

Law (causality): answer i does not change when a later token does. The answer at a label is that at its item.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot, pad

from iclab.errors import refuse

LEAST = -1e4  # the logit of a label that the context does not have


@dataclass(frozen=True, eq=False)
class ContextClasses:
    """The label of the class that the items before it make likely; before there are any, each as likely."""

    label_vectors: Float[Tensor, "labels d"]
    within: float

    def __post_init__(self) -> None:
        refuse("ContextClasses", _problems(self.within))

    def __call__(self, tokens: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n labels"]:
        z = (1 + self.within**2) ** 0.5 * tokens[:, ::2].double()
        named = (tokens[:, 1::2] @ self.label_vectors.to(tokens).mT).argmax(-1)
        members = one_hot(named, len(self.label_vectors)).double()
        counts = _before(members, z.shape[1])
        sums = _before(torch.einsum("bnl,bnd->bnld", members, z[:, : members.shape[1]]), z.shape[1])
        shrink = 1 / (counts + self.within**2)
        spread = self.within**2 * (1 + shrink)
        distance = (z.unsqueeze(2) - shrink.unsqueeze(3) * sums).square().sum(-1)
        logs = counts.log() - 0.5 * z.shape[2] * (spread.log() + distance / spread)
        logs = (logs - logs.amax(-1, keepdim=True).nan_to_num(neginf=0.0)).clamp(min=LEAST)
        return _at_labels_too(logs, tokens.shape[1])


@dataclass(frozen=True, eq=False)
class KnownClasses:
    """The label of the class that the item is likely of, when class k of mean μ_k has the label k mod `labels`."""

    means: Float[Tensor, "classes d"]
    frequencies: Float[Tensor, " classes"]
    labels: int
    within: float

    def __post_init__(self) -> None:
        whole = len(self.means) % self.labels == 0
        problems = [] if whole else [f"{len(self.means)} classes are no multiple of {self.labels} labels"]
        refuse("KnownClasses", problems + _problems(self.within))

    def __call__(self, tokens: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n labels"]:
        z, means = (1 + self.within**2) ** 0.5 * tokens[:, ::2].double(), self.means.to(tokens.device).double()
        logs = self.frequencies.to(z).log() - 0.5 * z.shape[2] * torch.cdist(z, means).square() / self.within**2
        return _at_labels_too(logs.unflatten(-1, (-1, self.labels)).logsumexp(-2), tokens.shape[1])


def _problems(within: float) -> list[str]:
    fine = 0 < within < float("inf")
    return [] if fine else [f"within must be positive and finite, given {within}"]


def _before(terms: Float[Tensor, "batch pairs *rest"], items: int) -> Float[Tensor, "batch items *rest"]:
    """Sums over the pairs before each item."""
    return pad(terms.movedim(1, -1).cumsum(-1), (1, 0)).movedim(-1, 1)[:, :items]


def _at_labels_too(logs: Float[Tensor, "batch items labels"], n: int) -> Float[Tensor, "batch n labels"]:
    return logs.repeat_interleave(2, dim=1)[:, :n]
