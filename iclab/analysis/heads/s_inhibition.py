"""S-inhibition heads, which steer the queries of a name-mover head, by component (the rank-1 terms of their outputs).

    s_inhibition_heads  the earlier heads that contribute most to the inhibition of the name-mover head by its queries
    composed            CS of every component of a head with the queries of a later one; the largest is the top one
    loss                the loss of inhibition of the name-mover head when a component is ablated
    slope               of the inhibition, by standard deviation of the output of a head along a direction at the end,
                        where that is all of its output; least squares over evenly spaced points
    chosen              the slots to which the name-mover head attends most, on average, along these points, in order

Name-mover heads and inhibition are those of `iclab.analysis.heads.movers`. Source: Merullo et al. 2024, arXiv
2406.09519, §3, 4 and Fig. 2, 4, 5; the numbers of heads, prompts and points are this project's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.analysis.heads.circuits import ov, qk
from iclab.analysis.heads.composition import component_scores
from iclab.analysis.heads.cuts import correlation
from iclab.analysis.heads.movers import Named, cut, pattern, s_inhibition, steered
from iclab.analysis.heads.patching import Head
from iclab.analysis.heads.roles import beyond, duplicate, roles
from iclab.analysis.heads.steering import Direction, projections
from iclab.errors import refuse
from iclab.models import TokenTransformer
from iclab.tasks.tokens.prompts import without_replacement

WIDEST = 4.0  # standard deviations of what is written by itself, to either side


@dataclass(frozen=True, kw_only=True)
class Dissection:
    """How much of the S-inhibition heads is taken apart: how many `heads`, on at most how many `prompts` (each ablation
    is a run of the whole model), and at how many `points` along a component."""

    heads: int = 4
    prompts: int = 40
    points: int = 9

    def __post_init__(self) -> None:
        least = {"heads": 1, "prompts": 8, "points": 2}
        given = {name: getattr(self, name) for name in least}
        refuse("Dissection", [f"{k} must be at least {least[k]}, given {v}" for k, v in given.items() if v < least[k]])


# ---- which heads ---------------------------------------------------------------------------------------------------


def duplicate_head(model: TokenTransformer, rng: torch.Generator, size: int = 10, batch: int = 16) -> Head:
    """Returns the head that looks most at an earlier token of the same kind, in random tokens that come twice, the
    second time in another order, so that looking back by a fixed distance or at what followed is of no use."""
    size = min(size, model.vocab, model.n // 2)
    block = without_replacement(batch, model.vocab, rng)[:, :size]
    again = block.gather(1, without_replacement(batch, size, rng))
    score = roles(model, torch.cat([block, again], 1))["duplicate"]
    return divmod(int(score.argmax()), model.config.n_head)


@torch.no_grad()
def second_to_first(model: TokenTransformer, prompts: Named, head: Head) -> Float[Tensor, " b"]:
    """Returns what a head gives from the second mention of an option to the first."""
    option = (prompts.tokens.unsqueeze(2) == prompts.options.unsqueeze(1)).any(-1, keepdim=True)
    return (pattern(model, prompts, head) * (duplicate(prompts.tokens) & option)).sum((-2, -1))


def s_inhibition_heads(model: TokenTransformer, prompts: Named, of: Head, count: int) -> list[Head]:
    """Returns the heads that give a name-mover head most of its inhibition, the strongest first."""
    fed = s_inhibition(model, prompts, of).mean(-1)
    places = fed.flatten().topk(min(count, fed.numel())).indices
    return [divmod(int(place), model.config.n_head) for place in places]


# ---- components ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def composed(model: TokenTransformer, head: Head, of: Head) -> Float[Tensor, " e"]:
    """Returns the composition score of every component of a head with the queries of a later one."""
    return component_scores(ov(model)[head].svd().directions(), qk(model)[of].svd())


def top_component(model: TokenTransformer, head: Head, of: Head) -> int:
    """Returns the component that composes most."""
    return int(composed(model, head, of).argmax())


@dataclass(frozen=True, eq=False)
class Losses:
    """What a name-mover head loses without each component of a head, with their composition scores."""

    lost: Float[Tensor, "e b"]
    scores: Float[Tensor, " e"]

    @classmethod
    def of(cls, model: TokenTransformer, prompts: Named, of: Head, head: Head) -> "Losses":
        """Cuts one component after the other."""
        lost = cut(model, prompts, of, head).double()
        return cls(lost, composed(model, head, of)[: len(lost)])

    @property
    def top(self) -> int:
        """Returns the component that composes most among those that were cut."""
        return int(self.scores.argmax())

    @property
    def of_top(self) -> Float[Tensor, " b"]:
        """Returns the loss without that one."""
        return self.lost[self.top]

    @property
    def of_others(self) -> Float[Tensor, " b"]:
        """Returns the loss without another one, on average."""
        return (self.lost.sum(0) - self.lost[self.top]) / max(1, len(self.lost) - 1)

    @property
    def correlation(self) -> float:
        """Returns that of composition score and loss over the components."""
        return correlation(self.scores, self.lost.mean(1))

    @property
    def agrees(self) -> bool:
        """Tells whether the component that composes most is the one that is missed most."""
        return int(self.lost.mean(1).argmax()) == self.top


# ---- along a direction ---------------------------------------------------------------------------------------------


@torch.no_grad()
def along(model: TokenTransformer, prompts: Named, direction: Direction, points: int) -> Float[Tensor, " p"]:
    """Returns evenly spaced points, in the units of the stream, by what is written along a direction at the end."""
    written = prompts.at_end(projections(model, prompts.tokens, direction))
    return torch.linspace(-WIDEST, WIDEST, points).to(written) * written.std()


def slopes(
    model: TokenTransformer, prompts: Named, of: Head, direction: Direction, points: Float[Tensor, " p"]
) -> Float[Tensor, " b"]:
    """Returns the slope of the inhibition of each prompt, by standard deviation."""
    score = beyond(steered(model, prompts, of, direction, points), prompts.index)
    x = torch.linspace(-WIDEST, WIDEST, len(points)).to(score)
    return x @ score / x.square().sum()


def chosen(
    model: TokenTransformer, prompts: Named, of: Head, direction: Direction, points: Float[Tensor, " p"]
) -> Int[Tensor, " p"]:
    """Returns the slot to which a name-mover head attends most, on average, at each point."""
    return steered(model, prompts, of, direction, points).mean(1).argmax(1)


def of_pairs(terms: Float[Tensor, "*w b"]) -> Float[Tensor, "*w pairs"]:
    """Returns the means over two prompts in a row, which tell of the same names: what is independent are pairs."""
    return terms.double().unflatten(-1, (-1, 2)).mean(-1)
