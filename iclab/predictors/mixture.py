"""Mixtures: the labels come from one of several models, and the past says from which.

With prior weights π_c, components of predictive density p_c and posterior means w_c,

    log e_{i,c} = log π_c + Σ_{j<i} log p_c(y_j | past, x_j)        (evidence: exclusive, so y_i plays no part)
    w_i = Σ_c e_{i,c} w_{i,c} / Σ_c e_{i,c},        log p(y_i | past, x_i) = log Σ_c e_{i+1,c} − log Σ_c e_{i,c}.

Two mixtures of disjoint sets of components merge into one by their evidence, so a long list is worked off in blocks.
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.posterior import Posterior
from iclab.predictors.predictor import Bayesian, exclusive_cumsum, in_double
from iclab.predictors.prefixes import in_chunks

Mixed = tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n d"]]  # log Σ_c e_{i,c} and w_i


class EvidenceWeighted(Bayesian):
    """A posterior mean over several models. Finals implement `mixed`; the weights and the density follow from it."""

    @abstractmethod
    def mixed(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Mixed:
        """log Σ_c e_{i,c} and w_i at every position i, in float64."""

    def numbers(self, n: int, d: int) -> int:
        """How many float64 numbers one prompt keeps in memory at once, beside the components' own."""
        return 4 * n * d

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        return in_chunks(lambda x, y: self.mixed(x, y)[1], xs, ys, self.numbers(*xs.shape[1:]))

    @in_double(label=True)
    def log_density(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """log p(y_i | past, x_i). A blank last example makes room for the evidence of all n labels."""
        xs, ys = torch.nn.functional.pad(xs, (0, 0, 0, 1)), torch.nn.functional.pad(ys, (0, 1))
        return in_chunks(lambda x, y: self.mixed(x, y)[0], xs, ys, self.numbers(*xs.shape[1:])).diff(dim=1)


def merge(one: Mixed, other: Mixed) -> Mixed:
    """The mixture of two mixtures."""
    evidence = torch.logaddexp(one[0], other[0])
    share = (other[0] - evidence).exp().unsqueeze(-1)
    return evidence, torch.lerp(one[1], other[1], share)


def merged(parts: Iterable[Mixed]) -> Mixed:
    """The mixture of all of them; one at a time is held."""
    return reduce(merge, parts)


def pooled(log_evidence: Float[Tensor, "batch n c"], ws: Float[Tensor, "c d"]) -> Mixed:
    """The mixture of components whose weights do not change with the position."""
    total = log_evidence.logsumexp(-1)
    return total, (log_evidence - total.unsqueeze(-1)).exp() @ ws


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
        found = [] if self.components else ["components must not be empty"]
        if self.log_weights is not None and len(self.log_weights) != len(self.components):
            found.append(f"log_weights has {len(self.log_weights)} entries for {len(self.components)} components")
        return found

    def mixed(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Mixed:
        return merged(
            (log_weight + exclusive_cumsum(component.log_density(xs, ys)), component.weights(xs, ys))
            for log_weight, component in zip(self._prior(), self.components, strict=True)
        )

    @in_double
    def variance(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Var(y_i | x_i and the first i examples), label noise included: Σ_c share_c (v_c + (ŷ_c − ŷ)²), the variance
        within components and that between them. Σ_c share_c (v_c + ŷ_c²) − ŷ² is the same and loses all digits where
        labels are large beside their noise.

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
