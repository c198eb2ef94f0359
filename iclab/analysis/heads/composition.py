"""Composition scores: how much a head reads of what an earlier head writes, for heads and for their components.

    CS(W₁, W₂) = ‖W₁ W₂‖ / (‖W₁‖ ‖W₂‖)        Frobenius, row vectors; 0 ≤ CS ≤ 1

with W₁ the W_OV of the writer and, for the reader, W₂ = W_QK ("Q": its queries), W_QKᵀ ("K": its keys) or W_OV ("V":
its values). A component i of the writer, the rank-1 term s_i u_i v_iᵀ of its SVD, has the score of v_i alone:

    CS_i = ‖v_iᵀ W₂‖ / ‖W₂‖ = ‖v_iᵀ U₂ S₂‖ / ‖S₂‖,        CS(W₁, W₂)² = Σ_i s_i² CS_i² / Σ_i s_i².

One component that stands out among 64 disappears in the score of its head.

Chance. For W₁ turned at random, whatever the singular values s of W₁ and t of W₂,

    E CS² = 1/D,    Var CS² = 2 (D A − 1)(D B − 1) / (D² (D − 1)(D + 2)),    A = Σ s⁴/(Σ s²)²,  B = Σ t⁴/(Σ t²)²,

D being d_model, or d_model − 1 where writers and readers are centred, or the dimension of a subspace in which W₁ is
known to write (`chance`, `chance_within`). A component has A = 1. Trained heads exceed this just because all of them
share directions, so that other nulls come from the model: the score with the same reader of components that cannot
reach it, those of its own layer and of later ones, and of the other components of the same head; or the score of the
same writer with the coordinates permuted that it writes to.

Source: Elhage et al. 2021 (transformer-circuits.pub/2021/framework), whose figure of compositions had factors in the
wrong order (as they note there); Merullo et al. 2024 (arXiv 2406.09519), eqs. (1), (2). The variance is this project's:
O_ij of a random rotation has E O_ij⁴ = 3/(D(D+2)), E O_ij² O_ik² = 1/(D(D+2)), E O_ij² O_kl² = (D+1)/((D−1)D(D+2)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import Literal, NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from iclab.analysis.heads.circuits import HasHeads, ov, qk
from iclab.analysis.heads.low_rank import Components, LowRank
from iclab.analysis.heads.patching import Head
from iclab.errors import refuse, unknown
from iclab.models import TokenTransformer

Way = Literal["Q", "K", "V"]
WAYS: tuple[Way, ...] = ("Q", "K", "V")


def composition_score(first: LowRank, second: LowRank) -> Float[Tensor, "*batch"]:
    """Returns CS(W₁, W₂); 0 where one of them is zero."""
    size = first.norm() * second.norm()
    return (first @ second).norm() / torch.where(size > 0, size, torch.inf)


def component_scores(writers: Float[Tensor, "*writers d e"], readers: Components) -> Float[Tensor, "*scores"]:
    """Returns CS_i of every direction v_i, a column of `writers`, into every reader: [*writers e *readers]."""
    size = readers.S.norm(dim=-1, keepdim=True)
    R = readers.U * (readers.S / torch.where(size > 0, size, torch.inf)).unsqueeze(-2)
    G = rearrange(writers, "... d e -> (... e) d") @ rearrange(R, "... d f -> d (... f)")
    scores = reduce(G.square(), "w (r f) -> w r", "sum", f=R.shape[-1]).sqrt()
    return scores.reshape(*writers.shape[:-2], writers.shape[-1], *readers.S.shape[:-1])


# ---- chance --------------------------------------------------------------------------------------------------------


class Chance(NamedTuple):
    """Mean and variance of CS² of matrices that know nothing of each other."""

    mean: Float[Tensor, "*batch"]
    variance: Float[Tensor, "*batch"]

    def z(self, scores: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Returns by how many standard deviations CS² is above its mean."""
        return (scores.square() - self.mean) / self.variance.clamp(min=torch.finfo(self.variance.dtype).tiny).sqrt()


def chance(first: Float[Tensor, "*#batch e"], second: Float[Tensor, "*#batch f"], D: int) -> Chance:
    """Returns mean and variance of CS² for W₁ with singular values `first` (a component: [1]) turned at random in D
    dimensions, and W₂ of `second`."""
    A, B = ((each / each.norm(dim=-1, keepdim=True)).pow(4).sum(-1) for each in (first.double(), second.double()))
    variance = 2 * (D * A - 1) * (D * B - 1) / (D**2 * max(1, D - 1) * (D + 2))
    return Chance(torch.full_like(variance, 1 / D), variance.clamp(min=0))


def chance_within(basis: Float[Tensor, "d r"], second: LowRank) -> Chance:
    """Returns mean and variance of CS² for a component that writes somewhere in the span of r orthonormal columns, and
    one W₂."""
    seen = LowRank(basis.mT.to(second.A) @ second.A, second.B)
    share = (seen.norm() / second.norm()).square()
    inside = chance(torch.ones(1), seen.svd().S, basis.shape[1])
    return Chance(share * inside.mean, share.square() * inside.variance)


def written_span(writers: Components, share: float = 1e-6) -> Float[Tensor, "d r"]:
    """Returns an orthonormal basis of all directions in which heads write, leaving out singular values below a share of
    the largest."""
    W = rearrange(writers.V * writers.S.unsqueeze(-2), "... d e -> d (... e)")
    U, S, _ = torch.linalg.svd(W, full_matrices=False)
    return U[:, share * S[0] < S]


# ---- a whole model -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compositions:
    """All scores of a model. The writer's axes are layer, head, component; then those of the reader, layer and head."""

    writers: Components  # of W_OV
    readers: dict[Way, Components]  # by what they read with
    scores: dict[Way, Float[Tensor, "l a e m h"]]
    D: int

    def heads(self, way: Way) -> Float[Tensor, "l a m h"]:
        """Returns CS of whole heads."""
        weights = self.writers.shares()
        return torch.einsum("lae,laemh->lamh", weights, self.scores[way].square()).sqrt()

    def heads_z(self, way: Way) -> Float[Tensor, "l a m h"]:
        """Returns by how many standard deviations CS² of whole heads is above chance."""
        S, T = self.writers.S[:, :, None, None], self.readers[way].S
        return chance(S, T, self.D).z(self.heads(way))

    def permuted_z(
        self, way: Way, writer: Head, reader: Head, rng: torch.Generator, draws: int
    ) -> Float[Tensor, " draws"]:
        """Returns z of a pair [draws] after the coordinates of what the writer writes were permuted at random: it has
        the same entries and singular values, and knows nothing of the reader."""
        heads, V = self.writers[writer], self.writers[writer].directions()
        orders = torch.stack([torch.randperm(len(V), generator=rng) for _ in range(draws)])
        squares = component_scores(V[orders], self.readers[way][reader]).square()
        scores = torch.einsum("e,re->r", heads.shares(), squares).sqrt()
        return chance(heads.S, self.readers[way][reader].S, self.D).z(scores)

    def chance(self, way: Way) -> Chance:
        """Returns the chance of a component, for each reader [m h]."""
        S = self.readers[way].S
        return chance(torch.ones(1), S, self.D)


def ways_of(model: HasHeads) -> tuple[Way, ...]:
    """Returns how heads of a model compose. With rotary positions what a query or a key reads depends on the
    distance."""
    return ("V",) if isinstance(model, TokenTransformer) and model.config.rotary else WAYS


def compositions(model: HasHeads, ways: Sequence[Way] | None = None, centred: bool = False) -> Compositions:
    """Scores every component of every head into every head, also those that it cannot reach. `centred` weights, as
    those of a folded model with LayerNorms are, leave one dimension less to chance. Raises ``ValueError`` for a way
    that the model does not have."""
    able = ways_of(model)
    wrong = [unknown("way", w, able) for w in ways or () if w not in able]
    refuse("compositions", wrong)
    OV, QK = ov(model), qk(model)
    parts = {"Q": lambda: QK.svd(), "K": lambda: _swapped(QK.svd()), "V": lambda: writers}
    writers = OV.svd()
    readers: dict[Way, Components] = {way: parts[way]() for way in ways or able}
    scores: dict[Way, Tensor] = {
        way: torch.stack([component_scores(V, each) for V in writers.directions()])  # layer by layer, for memory
        for way, each in readers.items()
    }
    return Compositions(writers, readers, scores, OV.A.shape[-2] - centred)


def _swapped(components: Components) -> Components:
    """Of the transpose."""
    return Components(components.V, components.S, components.U)


# ---- the search ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Channel:
    """A component of a head, and a head of a later layer that reads it, with its statistics relative to chance.

    The z are in standard deviations: `z` above random rotations, `z_unreachable` above the components that cannot reach
    this reader, `z_head` above the components of the same head, and `z_robust` the same by median and median deviation
    (1.4826 times). `whole` is the score of the whole head. `reads` is the component of the reader that is nearest, with
    the cosine between the two; `share` that of s_i² in the writer's Σ s². A `gap` near zero means that the component
    may be any mixture with its neighbour.
    """

    way: Way
    writer: tuple[int, int]
    component: int
    reader: tuple[int, int]
    score: float
    whole: float
    z: float
    z_unreachable: float
    z_head: float
    z_robust: float
    share: float
    gap: float
    reads: int
    cosine: float


ORDERS = ("z", "z_unreachable", "z_head", "z_robust", "score")


def channels(compositions: Compositions, count: int = 20, order: str = "z") -> list[Channel]:
    """Returns the strongest channels of a model, in each `way` of composing that it has, by one of the fields of
    `Channel`.

    Raises ``ValueError`` for an order that is not in `ORDERS`.
    """
    refuse("channels", ordering_problems(count, order))
    best = [channel for way in compositions.scores for channel in _best(compositions, way, count, order)]
    return sorted(best, key=lambda channel: _last_if_nan(-getattr(channel, order)))[:count]


def _last_if_nan(value: float) -> float:
    return inf if isnan(value) else value


def ordering_problems(count: int, order: str) -> list[str]:
    """Returns the problems of so many channels in this order."""
    problems = [] if order in ORDERS else [unknown("order", order, ORDERS)]
    return problems + ([] if count >= 1 else [f"count must be at least 1, given {count}"])


def _best(compositions: Compositions, way: Way, count: int, order: str) -> list[Channel]:
    """The strongest of one way."""
    values = _standings(compositions, way)
    layers = compositions.scores[way].shape[0]
    ahead = earlier(layers)[:, None, None, :, None].expand_as(values[order])
    least = torch.finfo(values[order].dtype).min  # of what has no standing, behind all others that are ahead
    ranked = values[order].nan_to_num(least).masked_fill(~ahead, -torch.inf).flatten()
    top = ranked.topk(min(count, int(ahead.sum()))).indices
    places = torch.stack(torch.unravel_index(top, values[order].shape), -1).tolist()
    whole = compositions.heads(way)
    scored = [{name: each[tuple(at)].item() for name, each in values.items()} for at in places]
    return [_channel(compositions, way, at, whole, each_value) for at, each_value in zip(places, scored, strict=True)]


def _standings(compositions: Compositions, way: Way) -> dict[str, Float[Tensor, "l a e m h"]]:
    """All that channels may be ordered by, for every writer, component and reader."""
    scores = compositions.scores[way]
    others = scores - scores.median(2, keepdim=True).values
    deviation = 1.4826 * others.abs().median(2, keepdim=True).values
    mean, std = _unreachable(scores)
    return {
        "score": scores,
        "z": compositions.chance(way).z(scores),
        "z_unreachable": (scores - mean) / std,
        "z_head": (scores - scores.mean(2, keepdim=True)) / scores.std(2, keepdim=True),
        "z_robust": others / deviation,
    }


def _unreachable(scores: Float[Tensor, "l a e m h"]) -> tuple[Float[Tensor, "m h"], Float[Tensor, "m h"]]:
    """Mean and standard deviation, for each reader, of the scores of components in its own layer or a later one."""
    mask = ~earlier(scores.shape[0])[:, None, None, :, None].expand_as(scores)
    weights = mask.to(scores.dtype) / mask.sum((0, 1, 2))  # a ratio of integers would be float32
    mean = (weights * scores).sum((0, 1, 2))
    return mean, (weights * (scores - mean).square()).sum((0, 1, 2)).sqrt()


def earlier(layers: int) -> Bool[Tensor, "l m"]:
    """Returns whether layer l comes before layer m."""
    return torch.ones(layers, layers, dtype=torch.bool).triu(1)


def _channel(
    compositions: Compositions, way: Way, at: Sequence[int], whole: Tensor, values: dict[str, float]
) -> Channel:
    layer, head, component, *reader = at
    writer, by = compositions.writers[layer, head], compositions.readers[way][reader[0], reader[1]]
    cosines = (writer.V[:, component] @ by.U).abs()
    return Channel(
        way=way,
        writer=(layer, head),
        component=component,
        reader=(reader[0], reader[1]),
        whole=whole[layer, head, reader[0], reader[1]].item(),
        share=writer.shares()[component].item(),
        gap=writer.gaps()[component].item(),
        reads=int(cosines.argmax()),
        cosine=cosines.max().item(),
        **values,
    )
