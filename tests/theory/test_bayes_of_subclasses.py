"""What is known of a class of tasks is not said of a subclass that may have changed it; and a predictor that is called
Bayes and is beaten is told."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import iclab
from iclab.analysis import answer, references
from iclab.analysis.risk import below, squared
from iclab.errors import UsageError
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.experiments.findings import beaten
from iclab.learning.training import TrainingConfig
from iclab.measures import measure
from iclab.models import TransformerConfig
from iclab.predictors import Posterior, Predictor, Ridge
from iclab.runs.perform import perform
from iclab.tasks import (
    Derived,
    FinitePool,
    LinearRegression,
    NoisyLabels,
    OneOf,
    Prompts,
    QueryShift,
    RepresentationRegression,
    ScaledWeights,
    SkewedInputs,
    SparseLinearRegression,
    WhitenedLinearRegression,
    law,
    same_labels,
)
from iclab.theory import posterior
from iclab.theory.posterior import components, posterior_variance, same_posterior, scale, source, weight_variance
from tests.conftest import generator


@dataclass(frozen=True)
class HeavyTailed(LinearRegression):
    """Noise of Student's law with three degrees of freedom, `noise` its scale."""

    def sample(self, batch: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Prompts:
        plain = super().sample(batch, rng, dtype)
        chi = torch.distributions.Chi2(torch.tensor(3.0)).sample(plain.ys.shape) / 3
        return Prompts(plain.xs, plain.fs + (plain.ys - plain.fs) / chi.sqrt().to(dtype), plain.fs, plain.truth)


@same_labels
@dataclass(frozen=True)
class Cut(LinearRegression):
    """Inputs are cut at two; the labels of those there are have the law of the base."""

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
        return super().draw_inputs(batch, rng, dtype).clamp(-2, 2)


@same_labels
@dataclass(frozen=True)
class Mirrored(QueryShift):
    """The query has its sign changed."""

    def draw_inputs(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
        xs = super().draw_inputs(batch, rng, dtype)
        return torch.cat([xs[:, :-1], -xs[:, -1:]], dim=1)


@dataclass(frozen=True)
class Rounded(Derived):
    """The labels are rounded: another law, which no one has said anything of."""

    def _problems(self) -> list[str]:
        return []


@dataclass(frozen=True)
class Uneven(OneOf):
    """The first of the tasks far more often than the others."""


@dataclass(frozen=True)
class FurtherCut(Cut):
    """A subclass of one that declared something declares nothing."""


BASE = LinearRegression(3, 8, noise=0.5)
TASK = HeavyTailed(3, 8, noise=0.5)

# ---- which class is meant ------------------------------------------------------------------------------------------


def subclass_of(kind: type) -> type:
    """One that adds nothing, and so could have changed anything."""
    return dataclass(frozen=True)(type("Subclassed", (kind,), {"__annotations__": {}}))


@pytest.mark.parametrize(
    "task",
    [
        TASK,
        FurtherCut(3, 8, 0.5),
        Rounded(BASE),
        NoisyLabels(TASK, 0.1),
        SkewedInputs(Rounded(BASE)),
        Uneven((BASE, BASE)),
        OneOf((TASK, BASE)),
        subclass_of(WhitenedLinearRegression)(3, 8, 0.5),
        subclass_of(SparseLinearRegression)(3, 8, 0.5),
        subclass_of(RepresentationRegression)(3, 8, 0.5),
        subclass_of(FinitePool)(BASE, 4),
        subclass_of(ScaledWeights)(BASE, 2.0),
        subclass_of(SkewedInputs)(BASE),
    ],
    ids=lambda task: type(task).__name__,
)
def test_nothing_is_said_of_a_subclass(task):
    with pytest.raises(UsageError, match=r"no closed form of the Bayes predictor is known for \w+") as told:
        iclab.bayes(task)
    assert "\n" not in str(told.value)
    found = references(task)
    assert "bayes" not in found and "half_split" not in found


def test_the_refusal_says_how_a_predictor_is_given():
    with pytest.raises(UsageError, match=r"iclab.theory.posterior.register\(HeavyTailed\) .* iclab.tasks.same_labels"):
        iclab.bayes(TASK)


def test_variances_of_a_subclass_are_not_known_either():
    prompts = TASK.sample(4, generator())
    with pytest.raises(UsageError, match="known for HeavyTailed"):
        posterior_variance(TASK, prompts)


@pytest.mark.parametrize("wrapped", [lambda task: task, SkewedInputs, Mirrored, lambda task: NoisyLabels(task, 0.2)])
def test_a_subclass_that_changes_inputs_alone_says_so_in_a_line(wrapped):
    task = wrapped(Cut(3, 8, 0.5, prior=2.0))
    assert iclab.bayes(task) == Ridge((task.noise / 2) ** 2)
    assert law(Cut(3, 8)) is LinearRegression and law(Mirrored(BASE)) is Derived
    assert same_posterior(Mirrored(BASE), BASE)
    assert (posterior_variance(task, task.sample(3, generator())) > 0).all()


def test_what_is_derived_is_followed_as_before():
    task = SkewedInputs(ScaledWeights(NoisyLabels(BASE, 0.1), -3.0))
    assert source(task) == BASE and scale(task) == -3.0 and components(task) == (task,)
    mixed = SkewedInputs(OneOf((BASE, LinearRegression(3, 8, noise=0.1))))
    assert [part.noise for part in components(mixed)] == [0.5, 0.1]


def test_weights_of_a_subclass_are_those_that_it_states():
    assert weight_variance(HeavyTailed(3, 8, 0.5, prior=3.0)) == 9.0


def test_a_task_is_given_a_predictor_of_its_own_which_derived_tasks_take_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(posterior._posterior, "rules", dict(posterior._posterior.rules))

    @posterior.register(HeavyTailed)
    def _(task: HeavyTailed, scale: float, noise: float) -> Predictor:
        return Ridge(noise / abs(scale))

    assert iclab.bayes(TASK) == Ridge(0.5) == references(TASK)["bayes"]
    assert iclab.bayes(ScaledWeights(TASK, -2.0)) == Ridge(0.25)
    with pytest.raises(UsageError):
        iclab.bayes(subclass_of(HeavyTailed)(3, 8, noise=0.5))


# ---- who beats Bayes -----------------------------------------------------------------------------------------------


class Reweighted(Predictor):
    """Ridge in which an example counts the less the worse it fits: the likeliest weights under Student's noise of three
    degrees of freedom and scale ½, by expectation and maximisation. Answers at the last position alone."""

    def __call__(self, xs: Tensor, ys: Tensor) -> Tensor:
        X, y = xs[:, :-1].double(), ys[:, :-1].double()
        eye, counts = torch.eye(X.shape[-1], dtype=X.dtype), torch.ones_like(y)
        for _ in range(30):
            gram = X.mT @ (counts.unsqueeze(-1) * X) + 0.25 * eye
            w = torch.linalg.solve(gram, (X.mT @ (counts * y).unsqueeze(-1)))
            counts = 4 / (3 + (y - (X @ w).squeeze(-1)).square() / 0.25)
        last = (xs[:, -1].double() * w.squeeze(-1)).sum(-1)
        return torch.nn.functional.pad(last.unsqueeze(-1), (ys.shape[1] - 1, 0)).to(xs.dtype)


def test_a_robust_regression_beats_the_ridge_that_was_called_bayes_under_heavy_tails():
    torch.manual_seed(0)
    prompts = HeavyTailed(3, 16, noise=0.5).sample(3000, generator())
    answers = answer({"robust": Reweighted(), "bayes": iclab.bayes(LinearRegression(3, 16, noise=0.5))}, prompts)
    errors = {k: squared(f, prompts.fs)[:, -1] for k, f in answers.items()}
    assert list(below({"robust": errors["robust"]}, errors["bayes"])) == ["robust"]


def test_a_difference_within_chance_or_rounding_is_not_told():
    best = torch.randn(500, generator=generator(), dtype=torch.float64) ** 2
    wobble = torch.randn(500, generator=generator(1), dtype=torch.float64)
    wobble = (wobble - wobble.mean()) / wobble.std()
    shifted = {t: {"other": best + wobble - t / 500**0.5} for t in (2.9, 3.1, 4.5)}
    assert [bool(below(errors, best)) for errors in shifted.values()] == [False, True, True]
    many = {str(k): best + 1 for k in range(20)}
    assert not below(shifted[3.1] | many, best) and below(shifted[4.5] | many, best)
    assert below({"other": best - 1e-9}, best) and not below({"other": best - 1e-9}, best, rounding=1e-8)
    assert not below({"same": best.clone()}, best) and not below({"one": best[:1] - 1}, best[:1])


def measured(task, **named: Predictor) -> list[dict]:
    evaluation = Evaluation(prompts=300, predictors=tuple(named.items()))
    experiment = Experiment(task, TransformerConfig(n_layer=1, n_head=1, d_model=8), eval=evaluation)
    return measure(experiment, experiment.build(generator()))


def test_a_wrong_bayes_predictor_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch):
    assert not list(beaten(measured(BASE, mine=Ridge(2.5))))
    monkeypatch.setitem(posterior._posterior.rules, LinearRegression, lambda *facts: Ridge(25.0))
    lines = list(beaten(measured(BASE, mine=Ridge(0.25))))
    assert any(line.startswith("own: mine beats bayes by ") for line in lines)
    assert all("\n" not in line and "±" in line for line in lines)


def test_a_run_notes_it_in_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(posterior._posterior.rules, LinearRegression, lambda *facts: Ridge(25.0))
    evaluation = Evaluation(prompts=300, predictors=(("mine", Ridge(0.25)),))
    model, lines = TransformerConfig(n_layer=1, n_head=1, d_model=8), []
    experiment = Experiment(BASE, model, train=TrainingConfig(steps=2, batch=4, warmup=0.0), eval=evaluation)
    perform(experiment, tmp_path, lambda point: None, lines.append)
    assert sum(line.startswith("own: mine beats bayes by ") for line in lines) == 1


def test_the_oracle_of_a_mixture_may_beat_bayes():
    task = OneOf((LinearRegression(3, 8, 0.1), LinearRegression(3, 8, 0.1, prior=5.0)))
    found = measured(task)
    risks = {row["predictor"]: row["value"] for row in found if row["quantity"] == "risk" and row["position"] is None}
    assert risks["oracle"] < risks["bayes"] and not list(beaten(found))


def test_a_posterior_with_another_covariance_is_beaten_by_the_right_one():
    prompts = BASE.sample(400, generator(3))
    wrong = Posterior(torch.diag(torch.tensor([4.0, 0.1, 0.1], dtype=torch.float64)), 0.5)
    answers = answer({"bayes": iclab.bayes(BASE), "wrong": wrong}, prompts)
    errors = {k: squared(f, prompts.ys).mean(-1) for k, f in answers.items()}
    assert not below({"wrong": errors["wrong"]}, errors["bayes"])
    assert list(below({"bayes": errors["bayes"]}, errors["wrong"])) == ["bayes"]
