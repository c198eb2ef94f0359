"""Which limit of a theory an experiment approaches, where one is known."""

import torch

from iclab.analysis import icl_risk
from iclab.experiments.experiment import Experiment
from iclab.fitting import RidgeFit
from iclab.models import LinearAttentionConfig
from iclab.tasks import FinitePool, LinearRegression, Task, TruePrior, UnitNormal


def asymptotic_risk(experiment: Experiment, task: Task) -> float | None:
    """The risk at the last position in the limit of large d (`iclab.analysis.icl_risk`), or none where it is not known:
    it is for linear attention fitted without a penalty at its last position, on new vectors of the prior that the
    training vectors are from. Without a pool each prompt has a vector of its own, κ = τ d, whose limit is ∞."""
    fit, trained = experiment.train, experiment.task
    prior = trained.base if isinstance(trained, FinitePool) else trained
    new = TruePrior(trained) if isinstance(trained, FinitePool) else trained
    if not (isinstance(experiment.model, LinearAttentionConfig) and _ridgeless(fit) and _normal(prior) and task == new):
        return None
    assert isinstance(fit, RidgeFit)
    d, context = task.d, task.n - 1
    kappa = trained.size / d if isinstance(trained, FinitePool) else float("inf")
    if context == 0 or fit.prompts == d**2:  # no context at all, and where the limit is infinite
        return None
    return icl_risk(fit.prompts / d**2, context / d, kappa, task.noise**2)


def _ridgeless(fit: object) -> bool:
    return isinstance(fit, RidgeFit) and fit.at_query and fit.penalty == 0


def _normal(prior: Task) -> bool:
    """Whether w ~ N(0, I) and x ~ N(0, I/d)."""
    if type(prior) is not LinearRegression or not isinstance(prior.inputs, UnitNormal):
        return False
    isotropic = torch.eye(prior.d, dtype=torch.float64) / prior.d
    return prior.prior == 1 and torch.allclose(prior.input_second_moment(), isotropic)
