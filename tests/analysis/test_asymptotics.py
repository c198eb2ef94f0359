"""The risk of linear attention: exact at finite dimension, and in the limit of large dimension."""

from dataclasses import replace
from math import inf
from statistics import mean

import pytest
import torch

from iclab.analysis import icl_risk, risk
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.fitting import RidgeFit
from iclab.measures.exact_risk import exact, limit
from iclab.models import LinearAttention, LinearAttentionConfig
from iclab.tasks import FinitePool, LinearRegression, Normal, TruePrior, UnitNormal
from iclab.theory import asymptotics
from iclab.theory.asymptotics import resolvent
from tests.conftest import generator

BASE = LinearRegression(3, 6, noise=0.7, inputs=UnitNormal())


def fitted(d, tau, alpha, kappa, noise, seed=0):
    """An experiment of the theory and its model: κ = ∞ is a task vector for each prompt."""
    base = LinearRegression(d, alpha * d + 1, noise=noise, inputs=UnitNormal())
    task = base if kappa == inf else FinitePool(base, round(kappa * d), seed)
    fit = RidgeFit(prompts=round(tau * d**2), positions="last")
    model = LinearAttention(d, task.n)
    fit.fit(model, task, generator(seed))
    new = task if kappa == inf else TruePrior(task)
    return Experiment(task, LinearAttentionConfig(), fit, Evaluation(shifts=(("new", new),))), model, new


def gap(*setting, repeats):
    """How far the exact risk is above the limit, relative to it; the mean over fits."""
    made = [fitted(*setting, seed) for seed in range(repeats)]
    return mean(exact(model, new) / limit(experiment, model, new) - 1 for experiment, model, new in made)


# ---- exact ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", [BASE, FinitePool(BASE, 2), TruePrior(FinitePool(BASE, 2))], ids=lambda t: type(t).__name__
)
def test_the_exact_risk_is_that_of_many_prompts(task):
    model = LinearAttention(3, 6)
    with torch.no_grad():
        model.theta.copy_(torch.randn(12, generator=generator(5), dtype=torch.float64))
        drawn = task.sample(200_000, generator(1), torch.float64)
        found = risk(model(drawn.xs, drawn.ys)[:, -1:], drawn.ys[:, -1:])
    off = abs(exact(model, task) - found.value.item()) / found.stderr.item()
    assert off < 4
    other = FinitePool(BASE, 2, seed=1) if isinstance(task, FinitePool) else replace(BASE, noise=0.8)
    assert abs(exact(model, other) - found.value.item()) > 8 * found.stderr.item()  # so that 4 says something


def test_a_model_that_has_learned_nothing_has_the_risk_of_zero():
    assert exact(LinearAttention(3, 6), BASE) == pytest.approx(1 + 0.49)


# ---- the limit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [0.2, 0.9, 1.0, 1.3, 7.0])
@pytest.mark.parametrize("sigma", [1e-6, 0.05, 1.0, 4.0])
def test_the_resolvent_solves_its_equation_and_is_that_of_a_large_random_matrix(kappa, sigma):
    m = resolvent(sigma, kappa)
    assert m * (sigma + kappa / (kappa + m)) == pytest.approx(1, rel=1e-9)
    if sigma >= 0.05:
        ws = torch.randn(round(kappa * 600), 600, generator=generator(), dtype=torch.float64)
        eigenvalues = torch.linalg.eigvalsh(ws.mT @ ws / len(ws)).clamp(min=0)
        assert (1 / (eigenvalues + sigma)).mean().item() == pytest.approx(m, rel=0.03)


@pytest.mark.parametrize(("alpha", "rho"), [(0.5, 0.0), (2.0, 0.01), (10.0, 0.5)])
def test_with_many_prompts_and_tasks_the_limit_is_the_risk_of_the_best_matrix(alpha, rho):
    """Of the multiples γ of the identity, since all is isotropic: 1 + ρ − 2γ + γ² (1 + (1 + ρ)/α) at its vertex."""
    best = min(1 + rho - 2 * g / 1e4 + (g / 1e4) ** 2 * (1 + (1 + rho) / alpha) for g in range(10_001))
    for kappa in (1e9, inf):
        assert icl_risk(1e9, alpha, kappa, rho) == pytest.approx(best, rel=1e-6)


def test_with_few_prompts_the_limit_is_the_risk_of_answering_zero():
    assert icl_risk(1e-9, 2.0, 5.0, 0.3) == pytest.approx(1.3)


@pytest.mark.parametrize(("alpha", "kappa", "rho"), [(2, 5, 0.01), (1, 0.5, 0.25), (8, inf, 0.1)])
def test_it_diverges_at_one_with_the_same_strength_on_both_sides(alpha, kappa, rho):
    below, above = (icl_risk(1 + side * 1e-6, alpha, kappa, rho) * 1e-6 for side in (-1, 1))
    assert below == pytest.approx(above, rel=1e-4)
    assert icl_risk(1, alpha, kappa, rho) == inf
    assert icl_risk(0.5, alpha, kappa, rho) < icl_risk(0.9, alpha, kappa, rho) > icl_risk(4, alpha, kappa, rho)


def test_an_infinite_number_of_tasks_is_the_limit_of_a_finite_one():
    for tau in (0.3, 3.0):
        assert icl_risk(tau, 2, 1e10, 0.1) == pytest.approx(icl_risk(tau, 2, inf, 0.1), rel=1e-8)


def test_long_contexts_and_many_prompts_part_at_one_task_per_dimension():
    for kappa in (0.2, 0.5, 0.9):
        assert icl_risk(1e9, 1e6, kappa, 0.1) == pytest.approx(1.1 - kappa, abs=1e-3)
    for kappa in (1.1, 3, inf):
        assert icl_risk(1e9, 1e6, kappa, 0.1) == pytest.approx(0.1, abs=1e-3)


def test_longer_contexts_do_not_always_help():
    risks = [icl_risk(2, alpha, 1, 0.25) for alpha in (1, 8, 64)]
    assert risks[0] > risks[1] < risks[2]


SETTINGS = [(0.5, 2, 5, 0.1), (2, 2, 5, 0.1), (3, 2, inf, 0.1)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_fits_approach_the_limit_as_the_dimension_grows(setting):
    gaps = [abs(gap(d, *setting, repeats=repeats)) for d, repeats in ((6, 12), (12, 8), (24, 4))]
    assert gaps[2] < 0.75 * gaps[0]
    assert gaps[2] < 0.2


@pytest.mark.parametrize("setting", SETTINGS)
def test_with_its_two_branches_swapped_the_limit_is_not_approached(setting, monkeypatch):
    few, many = asymptotics._few_prompts, asymptotics._many_prompts
    monkeypatch.setattr(asymptotics, "_few_prompts", many)
    monkeypatch.setattr(asymptotics, "_many_prompts", few)
    assert abs(gap(24, *setting, repeats=2)) > 0.4


def test_ratios_that_are_none_are_refused():
    with pytest.raises(ValueError, match="tau must be positive, given 0") as error:
        icl_risk(0, 1, -2, -0.1)
    assert "kappa must be positive" in str(error.value) and "rho must be 0 or more" in str(error.value)


# ---- where it applies ----------------------------------------------------------------------------------------------


def test_it_is_said_only_where_it_applies():
    experiment, model, new = fitted(4, 2, 2, 5, 0.1)
    assert limit(experiment, model, new) == icl_risk(2, 2, 5, 0.1**2)
    assert limit(experiment, model, experiment.task) is None
    at_peak = replace(experiment, train=replace(experiment.train, prompts=16))
    penalised = replace(experiment, train=replace(experiment.train, penalty=0.1))
    everywhere = replace(experiment, train=replace(experiment.train, positions="all"))
    for other in (at_peak, penalised, everywhere):
        assert limit(other, model, new) is None
    assert exact(model, new) is not None
    for base in (LinearRegression(4, 9, inputs=Normal()), LinearRegression(4, 9, inputs=UnitNormal(), prior=2.0)):
        assert exact(model, base) is None
        assert limit(replace(experiment, task=base, eval=Evaluation()), model, base) is None
