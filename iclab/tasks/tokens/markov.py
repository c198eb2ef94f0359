"""Markov chains learned in context: each prompt is a walk on a transition matrix of its own.

    rows P_i ~ Dirichlet(α, …, α),   x_0 ~ the stationary distribution of P,   x_{t+1} ~ P_{x_t}

Every position is a target position. Source: Edelman et al. 2024, arXiv 2402.11004, §2 (α = 1). A *circulant* P has P_ij
= p_{j−i} for one p ~ Dirichlet(α): it is doubly stochastic, so that token frequencies are uninformative (the paper
draws other doubly stochastic matrices). Their code starts walks on fewer than 5 states uniformly, not by that
distribution.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.errors import refuse
from iclab.limits import admit
from iclab.tasks.tokens.prompts import TokenPrompts, TokenTask, too_small


@dataclass(frozen=True)
class MarkovChain(TokenTask):
    """Walks of n tokens on `states` states; α is a whole number; place t is the position t.

    >>> import torch
    >>> prompts = MarkovChain(states=3, n=8).sample(2, torch.Generator().manual_seed(0))
    >>> prompts.tokens.shape, int(prompts.tokens.max()) < 3
    (torch.Size([2, 8]), True)
    >>> torch.equal(prompts.targets[:, :-1], prompts.tokens[:, 1:])
    True
    """

    states: int = 3
    n: int = 64
    alpha: int = 1
    circulant: bool = False

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def held(self) -> dict[str, int]:
        steps = {"the steps of a walk": self.n * self.states}
        return super().held() | {"a matrix": self.alpha * self.states**2} | steps

    def _problems(self) -> list[str]:
        least = {"states": 2, "n": 2, "alpha": 1}
        return too_small({k: getattr(self, k) for k in least}, least)

    @property
    def vocab(self) -> int:
        return self.states

    def draw(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        return self.walks(self.matrices(batch, rng), rng)

    def matrices(self, batch: int, rng: torch.Generator) -> Float[Tensor, "batch states states"]:
        """Draws transition matrices: row i holds the distribution of what follows i."""
        k = self.states
        rows = 1 if self.circulant else k
        shape = (self.alpha, batch, rows, k)  # a sum of α exponentials is Gamma(α), and shares of such are Dirichlet
        weights = torch.empty(shape, dtype=torch.float64, device=rng.device).exponential_(generator=rng).sum(0)
        laws = weights / weights.sum(-1, keepdim=True)
        if not self.circulant:
            return laws
        at = torch.arange(k, device=rng.device)
        return laws[:, 0, (at - at.unsqueeze(1)) % k]

    def walks(self, matrices: Float[Tensor, "batch states states"], rng: torch.Generator) -> TokenPrompts:
        """Draws one walk on each matrix, from its stationary distribution. For every step a successor of each state is
        drawn at once; the walk is the composition of these maps, of which all prefixes are formed in log₂ n rounds.
        Raises ``ValueError`` where rows are no distributions, and where a chain has no single stationary
        distribution."""
        law, batch, k = stationary(matrices), len(matrices), self.states
        draws = torch.multinomial(matrices.flatten(0, 1), self.n - 1, replacement=True, generator=rng)
        maps = draws.unflatten(0, (batch, k)).mT  # maps[b, t, i] is where step t leads from i
        reach = 1
        while reach < self.n - 1:
            maps = torch.cat([maps[:, :reach], maps[:, reach:].gather(2, maps[:, :-reach])], dim=1)
            reach *= 2
        first = torch.multinomial(law, 1, generator=rng)
        later = maps.gather(2, first.unsqueeze(1).expand(-1, self.n - 1, 1)).squeeze(2)
        return self.prompts(torch.cat([first, later], dim=1))

    def prompts(self, tokens: Int[Tensor, "batch n"]) -> TokenPrompts:
        """Returns the questions of a walk: what comes next, everywhere but at its end."""
        at = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        anything = torch.ones(len(tokens), self.states, dtype=torch.bool, device=tokens.device)
        return TokenPrompts(tokens, tokens.roll(-1, 1), at < tokens.shape[1] - 1, at, anything)


def stationary(matrices: Float[Tensor, "batch k k"]) -> Float[Tensor, "batch k"]:
    """Returns the distribution π with π P = π, Σ π_i = 1. Raises ``ValueError`` where rows are no distributions, and
    where there is more than one such π.

    One state after the other, from the last, is left out, and what goes to it is handed on to where it leads; the law
    is then built up from state 0, where π_n times what leaves n to those before it is what comes to n from them.
    Nothing is subtracted, so that states that are left once in 10²⁰ steps have their share to rounding (Grassmann,
    Taksar, Heyman 1985, Oper. Res. 33). A state that is never left for those before it takes all that they have.

    >>> import torch
    >>> stationary(torch.tensor([[[0.9, 0.1], [0.3, 0.7]]], dtype=torch.float64)).round(decimals=4)
    tensor([[0.7500, 0.2500]], dtype=torch.float64)
    """
    _refuse_what_is_no_law(matrices)
    chain, k = matrices.clone(), matrices.shape[-1]
    for n in range(k - 1, 0, -1):
        left = chain[:, n, :n].sum(-1, keepdim=True)
        onwards = chain[:, n, :n] / left.where(left > 0, 1.0)
        chain[:, :n, :n] += chain[:, :n, n : n + 1] * onwards.unsqueeze(1)
    law = torch.ones_like(matrices[:, :1, 0])
    for n in range(1, k):
        left, comes = chain[:, n, :n].sum(-1, keepdim=True), (law * chain[:, :n, n]).sum(-1, keepdim=True)
        several = int(((left == 0) & (comes == 0)).sum())
        refuse(
            "stationary",
            [f"{several} of {len(matrices)} chains have no single stationary distribution"] if several else [],
        )
        law = torch.cat([law.where(left > 0, 0.0), (comes / left).where(left > 0, 1.0)], dim=1)
        law = law / law.sum(-1, keepdim=True)
    return law


def _refuse_what_is_no_law(matrices: Float[Tensor, "batch k k"]) -> None:
    sums, rounding = matrices.sum(-1), 10 * matrices.shape[-1] * torch.finfo(matrices.dtype).eps
    wrong = int((~((matrices >= 0).all(-1) & ((sums - 1).abs() <= rounding))).any(-1).sum())
    problem = f"rows of a transition matrix must be 0 or more and must sum to 1; {wrong} of {len(matrices)} differ"
    refuse("stationary", [problem] if wrong else [])
