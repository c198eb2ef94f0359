"""Learning in closed form: one ridge regression of labels on the features of a model that is linear in its parameters,

    θ = argmin ½ Σ (φ·θ − y)² + ½ penalty |θ|² = (G + penalty·I)⁻¹ c,      G = Σ φ φᵀ,   c = Σ φ y

over prompts. With penalty 0 it is the solution of least norm, G⁺ c. Only G and c are kept, so that memory does not grow
with the number of prompts, and one eigendecomposition of G gives θ for any number of penalties.

Forming G squares the condition number of the features: directions in which their singular value is less than
√(p·eps) ≈ 1e-8 √p of the largest are taken as never seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse, unknown_choices
from iclab.learning.training import Learner, Place
from iclab.models import LinearModel, LinearModelConfig, ModelConfig
from iclab.tasks import Task

CHUNK = 2**22  # numbers that are formed at once, inputs and features


@dataclass(frozen=True, kw_only=True)
class RidgeFit(Learner):
    """Learns from `prompts` fresh prompts by one ridge regression, on the labels of all positions or of the last one.

    `penalty` is that of the sum objective ½ Σ (ŷ − y)² + ½ penalty |θ|²: the λ of Lu et al. 2024 (arXiv 2405.11751,
    eq. 12) is penalty · d / prompts. With 0 the solution of least norm is taken.
    """

    prompts: int
    penalty: float = 0.0

    def __post_init__(self) -> None:
        problems = [] if self.prompts >= 1 else [f"prompts must be at least 1, given {self.prompts}"]
        if not 0 <= self.penalty < float("inf"):
            problems.append(f"penalty must be 0 or more and finite, given {self.penalty}")
        refuse("RidgeFit", problems + unknown_choices(self))

    def problems_for(self, task: Task, model: ModelConfig) -> list[str]:
        linear = isinstance(model, LinearModelConfig)
        return (
            [] if linear else [f"RidgeFit needs a model that is linear in its parameters, given {type(model).__name__}"]
        )

    def learn(self, model: LinearModel, task: Task, place: Place) -> None:
        seen = self.fit(model, task, place.generator("train"))
        place.log(
            f"fitted {len(model.theta)} parameters to {seen.count} labels: mean loss {seen.loss(model.theta):.4g}"
        )

    def fit(self, model: LinearModel, task: Task, rng: torch.Generator) -> "Moments":
        """Fits `theta` in place; returns the moments, from which other penalties can be solved for."""
        moments = Moments.of(model, task, self, rng)
        with torch.no_grad():
            model.theta.copy_(moments.solve(self.penalty))
        return moments


@dataclass(frozen=True, eq=False)
class Moments:
    """Sufficient statistics of a ridge regression on `count` examples: G = Σ φ φᵀ, c = Σ φ y and Σ y², float64."""

    gram: Float[Tensor, "p p"]
    moment: Float[Tensor, " p"]
    labels: float
    count: int

    @classmethod
    def of(cls, model: LinearModel, task: Task, fit: RidgeFit, rng: torch.Generator) -> "Moments":
        """Takes sums over fresh prompts, some of them at a time. Raises ``ValueError`` where features or labels are not
        finite, as those of a task may be whose scale is extreme."""
        p = len(model.theta)
        gram, moment = (torch.zeros(*shape, dtype=torch.float64, device=rng.device) for shape in ((p, p), (p,)))
        labels, count, bad = 0.0, 0, 0
        for features, ys in _examples(model, task, fit, rng):
            bad += int((~features.isfinite().all(-1) | ~ys.isfinite()).sum())
            gram.addmm_(features.mT, features)
            moment.addmv_(features.mT, ys)
            labels, count = labels + ys.square().sum().item(), count + len(ys)
        refuse("RidgeFit", [f"features or labels are not finite in {bad} of {count} examples"] if bad else [])
        sound = gram.isfinite().all() and moment.isfinite().all() and labels < float("inf")
        refuse("RidgeFit", [] if sound else ["features or labels are too large for their squares to be summed"])
        return cls(gram, moment, labels, count)

    @cached_property
    def spectrum(self) -> tuple[Float[Tensor, " p"], Float[Tensor, "p p"]]:
        """Returns eigenvalues and eigenvectors of G."""
        values, vectors = torch.linalg.eigh(self.gram)
        return values, vectors

    def solve(self, penalty: float = 0.0) -> Float[Tensor, " p"]:
        """Returns θ for a penalty; the solution of least norm for 0."""
        values, vectors = self.spectrum
        seen = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
        inverse = torch.where(seen, 1 / (values + penalty), 0.0)
        return vectors @ (inverse * (vectors.mT @ self.moment))

    def loss(self, theta: Float[Tensor, " p"]) -> float:
        """Returns the mean of (φ·θ − y)² over the examples of the fit."""
        total = theta @ self.gram @ theta - 2 * theta @ self.moment + self.labels
        return max(0.0, total.item()) / self.count


def _examples(
    model: LinearModel, task: Task, fit: RidgeFit, rng: torch.Generator
) -> Iterator[tuple[Float[Tensor, "examples p"], Float[Tensor, " examples"]]]:
    """Features and labels of all prompts in turn. Each chunk is drawn by itself, so that the size of a chunk is part of
    the definition of a fit and not a matter of the machine."""
    at = slice(task.n - 1, task.n) if fit.query_only else slice(None)
    size = task.n * task.d + len(range(task.n)[at]) * len(model.theta)
    batch = max(1, CHUNK // size)
    for start in range(0, fit.prompts, batch):
        prompts = task.sample(min(batch, fit.prompts - start), rng, torch.float64)
        features = model.features(prompts.xs, prompts.ys, at)
        yield features.flatten(0, 1), prompts.ys[:, at].flatten()
