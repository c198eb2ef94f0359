"""Mixtures: the labels come from one of several models, and the context identifies it.

With prior weights π_c, components of predictive density p_c and posterior means w_c,

    log e_{i,c} = log π_c + Σ_{j<i} log p_c(y_j | past, x_j)        (evidence: exclusive, so y_i plays no part)
    w_i = Σ_c e_{i,c} w_{i,c} / Σ_c e_{i,c},        log p(y_i | past, x_i) = log Σ_c e_{i+1,c} − log Σ_c e_{i,c}.

Two mixtures of disjoint sets of components merge into one by their evidence, so a long list is worked off in blocks.
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.posterior import Posterior
from iclab.predictors.predictor import Bayesian, exclusive_cumsum, in_double
from iclab.predictors.prefixes import in_chunks


class Mixed(NamedTuple):
    """log Σ_c e_{i,c} as `peak` + `rest`, and w_i. Labels that no component explains make the peak so large (10¹⁵ where
    noise is slight) that nothing smaller than 1 can be added to it; shares are given by the rest, and by differences of
    peaks."""

    peak: Float[Tensor, "batch n"]
    rest: Float[Tensor, "batch n"]
    ws: Float[Tensor, "batch n d"]


class EvidenceWeighted(Bayesian):
    """A posterior mean over several models. Subclasses implement `mixed`; the weights and the density follow from
    it."""

    @abstractmethod
    def mixed(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Mixed:
        """Returns the evidence and the weights at every position, in float64."""

    def numbers(self, n: int, d: int) -> int:
        """Returns how many float64 numbers one prompt keeps in memory at once, beside the components' own."""
        return 4 * n * d

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        return in_chunks(lambda x, y: self.mixed(x, y).ws, xs, ys, self.numbers(*xs.shape[1:]))

    @in_double(label=True)
    def log_density(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Returns log p(y_i | past, x_i). A blank last example makes room for the evidence of all n labels."""
        xs, ys = torch.nn.functional.pad(xs, (0, 0, 0, 1)), torch.nn.functional.pad(ys, (0, 1))

        def density(x: Float[Tensor, "batch n d"], y: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n_less_1"]:
            components = self.mixed(x, y)
            return components.peak.diff(dim=1) + components.rest.diff(dim=1)

        return in_chunks(density, xs, ys, self.numbers(*xs.shape[1:]))


def merge(one: Mixed, other: Mixed) -> Mixed:
    """Returns the mixture of two mixtures."""
    peak = torch.maximum(one.peak, other.peak)
    left, right = (each.rest + _difference(each.peak, peak) for each in (one, other))
    share = _difference(right, left).sigmoid().unsqueeze(-1)
    return Mixed(peak, torch.logaddexp(left, right), torch.lerp(one.ws, other.ws, share))


def _difference(one: Float[Tensor, "batch n"], other: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Of logarithms, those of two zeros included."""
    return (one - other).where(one != other, 0.0)


def merged(parts: Iterable[Mixed]) -> Mixed:
    """Returns the mixture of all of them; one at a time is held."""
    return reduce(merge, parts)


def pooled(log_evidence: Float[Tensor, "batch n c"], ws: Float[Tensor, "c d"]) -> Mixed:
    """Returns the mixture of components whose weights do not change with the position."""
    peak, rest, shares = weighed(log_evidence, -1)
    return Mixed(peak, rest, shares @ ws)


def weighed(log_evidence: Float[Tensor, "..."], dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the largest evidence, the logarithm of the sum relative to it, and the share of each component."""
    peak = log_evidence.amax(dim, keepdim=True)
    relative = log_evidence - peak
    return peak.squeeze(dim), relative.logsumexp(dim), relative.softmax(dim)


@dataclass(frozen=True, eq=False)
class Mixture(EvidenceWeighted):
    """The posterior mean when the labels come from component c with probability ∝ exp(log_weights[c]).

    Without `log_weights` every component is as likely. A mixture of mixtures is a mixture.
    """

    components: tuple[Bayesian, ...]
    log_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        refuse("Mixture", self._problems())

    def _problems(self) -> list[str]:
        problems = [] if self.components else ["components must not be empty"]
        if self.log_weights is not None and len(self.log_weights) != len(self.components):
            problems.append(f"log_weights has {len(self.log_weights)} entries for {len(self.components)} components")
        return problems

    def mixed(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Mixed:
        return merged(
            Mixed(
                log_weight + exclusive_cumsum(component.log_density(xs, ys)),
                torch.zeros_like(ys),
                component.weights(xs, ys),
            )
            for log_weight, component in zip(self._prior(), self.components, strict=True)
        )

    @in_double
    def variance(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Returns Var(y_i | x_i and the first i examples), label noise included: Σ_c share_c (v_c + (ŷ_c − ŷ)²), the
        variance within components and that between them. Σ_c share_c (v_c + ŷ_c²) − ŷ² is the same and loses all digits
        where labels are large beside their noise.

        Raises ``ValueError`` where a component reports no variance of its own.
        """
        parts = [component for component in self.components if isinstance(component, Posterior)]
        silent = [type(component).__name__ for component in self.components if component not in parts]
        refuse("variance", [f"{name} reports no variance" for name in silent])
        evidence = [exclusive_cumsum(part.log_density(xs, ys)) for part in parts]
        shares = (torch.stack(evidence, -1) + torch.tensor(self._prior(), dtype=xs.dtype, device=xs.device)).softmax(-1)
        means = torch.stack([part(xs, ys) for part in parts], -1)
        within = torch.stack([part.variance(xs) for part in parts], -1)
        apart = means - means[..., :1]
        between = (apart - (shares * apart).sum(-1, keepdim=True)).square()
        return (shares * (within + between)).sum(-1)

    def _prior(self) -> list[float]:
        """log π_c."""
        given = torch.tensor(self.log_weights or (0.0,) * len(self.components), dtype=torch.float64)
        return given.log_softmax(-1).tolist()
