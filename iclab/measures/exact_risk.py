"""Theory of the risk of linear attention: its exact value, and its limit in high dimension."""

from collections.abc import Iterator
from math import inf
from typing import ClassVar

import torch

from iclab.experiments.analysis import Analysis, Row
from iclab.experiments.experiment import Experiment
from iclab.learning.fitting import RidgeFit
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, row
from iclab.models import LinearAttention
from iclab.tasks import FinitePool, LinearRegression, Task, TruePrior, UnitNormal
from iclab.theory.asymptotics import icl_risk
from iclab.theory.linear_attention import Moments, exact_risk, normal_moments, pool_moments


class ExactRisk(Analysis):
    """Computes the risk at the last position from the weights, and compares it with its limit in large dimension (Lu
    et al. 2024, arXiv 2405.11751)."""

    name = "theory"
    always = True
    quantities: ClassVar = {
        "exact_risk": "the risk of linear attention at the last position without sampling error, squared units of the "
        'label; of "asymptotic_theory" the limit that it tends to in large dimension',
        "theory_gap": "the exact risk relative to that limit, less 1",
    }

    def rows(self, of: Measurement) -> Iterator[Row]:
        risk, tends_to = exact(of.model, of.task), limit(of.experiment, of.model, of.task)
        if risk is not None:
            yield row(MODEL, "exact_risk", None, risk)
        if risk is not None and tends_to is not None:
            yield row("asymptotic_theory", "exact_risk", None, tends_to)
            yield row(MODEL, "theory_gap", None, risk / tends_to - 1)


def exact(model: object, task: Task) -> float | None:
    """Returns the risk at the last position of linear attention with the weights that it has, without any sampling
    error; none for other models, and for tasks that are not normal (or a pool of normal weights, or its prior)."""
    prior = _prior(task)
    if not (isinstance(model, LinearAttention) and _normal(prior) and task.n > 1):
        return None
    gamma, rho = model.gamma.detach().cpu(), task.noise**2
    return exact_risk(gamma, _moments(task, task.n - 1, rho), rho)


def _moments(task: Task, context: int, rho: float) -> Moments:
    pooled = isinstance(task, FinitePool)
    return pool_moments(task.pool(), context, rho) if pooled else normal_moments(task.d, context, rho)


def limit(experiment: Experiment, model: object, task: Task) -> float | None:
    """Returns the risk at the last position in the limit of large d (`iclab.analysis.icl_risk`), or none where it is
    not known: it is for linear attention fitted without a penalty at its last position, on new vectors of the prior
    that the training vectors are from. Without a pool each prompt has a vector of its own, κ = τ d, whose limit is
    ∞."""
    trained, fit = experiment.task, experiment.train
    pooled = isinstance(trained, FinitePool)
    new = TruePrior(trained) if pooled else trained
    if not isinstance(fit, RidgeFit) or fit.penalty or not fit.query_only or task != new or exact(model, task) is None:
        return None
    d, kappa = task.d, trained.size / task.d if pooled else inf
    result = icl_risk(fit.prompts / d**2, (task.n - 1) / d, kappa, task.noise**2)
    return result if result < inf else None


def _prior(task: Task) -> Task:
    """The task whose weights are drawn, or fill the pool."""
    pool = task.base if isinstance(task, TruePrior) else task
    return pool.base if isinstance(pool, FinitePool) else pool


def _normal(prior: Task) -> bool:
    """Whether w ~ N(0, I) and x ~ N(0, I/d)."""
    if type(prior) is not LinearRegression or not isinstance(prior.inputs, UnitNormal):
        return False
    isotropic = torch.eye(prior.d, dtype=torch.float64) / prior.d
    return prior.prior == 1 and torch.allclose(prior.input_second_moment(), isotropic)
