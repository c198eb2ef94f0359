"""Markov chains learned in context: each prompt is a walk on a transition matrix of its own.

    rows P_i ~ Dirichlet(α, …, α),   x_0 ~ the stationary law of P,   x_{t+1} ~ P_{x_t}

Asked is every next token. Source: Edelman et al. 2024, arXiv 2402.11004, §2 (α = 1). A *circulant* P has P_ij = p_{j−i}
for one p ~ Dirichlet(α): it is doubly stochastic, so that how often tokens occurred tells nothing (the paper draws
other doubly stochastic matrices).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.limits import admit
from iclab.tasks.tokens import TokenPrompts, TokenTask, too_small


@dataclass(frozen=True)
class MarkovChain(TokenTask):
    """Walks of n tokens on `states` states; α is a whole number; place t is the position t."""

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
        """Transition matrices: row i holds the law of what follows i."""
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
        """One walk on each matrix, from its stationary law. For every step a successor of each state is drawn at once;
        the walk is the composition of these maps, of which all prefixes are formed in log₂ n rounds."""
        batch, k = len(matrices), self.states
        draws = torch.multinomial(matrices.flatten(0, 1), self.n - 1, replacement=True, generator=rng)
        maps = draws.unflatten(0, (batch, k)).mT  # maps[b, t, i] is where step t leads from i
        reach = 1
        while reach < self.n - 1:
            maps = torch.cat([maps[:, :reach], maps[:, reach:].gather(2, maps[:, :-reach])], dim=1)
            reach *= 2
        first = torch.multinomial(stationary(matrices), 1, generator=rng)
        later = maps.gather(2, first.unsqueeze(1).expand(-1, self.n - 1, 1)).squeeze(2)
        return self.prompts(torch.cat([first, later], dim=1))

    def prompts(self, tokens: Int[Tensor, "batch n"]) -> TokenPrompts:
        """The questions of a walk: what comes next, everywhere but at its end."""
        at = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        anything = torch.ones(len(tokens), self.states, dtype=torch.bool, device=tokens.device)
        return TokenPrompts(tokens, tokens.roll(-1, 1), at < tokens.shape[1] - 1, at, anything)


def stationary(matrices: Float[Tensor, "batch k k"]) -> Float[Tensor, "batch k"]:
    """The law π with π P = π, Σ π_i = 1: the last equation of π (P − I) = 0 follows from the others and makes room."""
    k = matrices.shape[-1]
    system = (matrices - torch.eye(k, dtype=matrices.dtype, device=matrices.device)).mT.clone()
    system[:, -1] = 1.0
    right = torch.zeros(len(matrices), k, dtype=matrices.dtype, device=matrices.device)
    right[:, -1] = 1.0
    law = torch.linalg.solve(system, right).clamp(min=0.0)
    return law / law.sum(-1, keepdim=True)
