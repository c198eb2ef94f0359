"""Relations of risks: a peak where there are as many examples as dimensions, and who is nearer than Bayes."""

from dataclasses import replace

import pytest
from torch import nn

from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.training import TrainingConfig
from iclab.measures import measure
from iclab.models import TransformerConfig
from iclab.predictors import GradientDescent, LeastSquares, Ridge
from iclab.tasks import LinearRegression

TASK = LinearRegression(4, 9, noise=0.5)
EXPERIMENT = Experiment(
    TASK,
    TransformerConfig(n_layer=1, n_head=1, d_model=8),
    TrainingConfig(steps=2, batch=4),
    Evaluation(prompts=2048, bootstrap=5, predictors=(("ridge_2", Ridge(2.0)), ("one_step", GradientDescent(1, 0.05)))),
    device="cpu",
)


class As(nn.Module):
    """A predictor in the place of a trained model."""

    def __init__(self, predictor):
        super().__init__()
        self.predictor = predictor

    def forward(self, xs, ys):
        return self.predictor(xs, ys)


@pytest.fixture(scope="module")
def measured():
    """Values by predictor, quantity and position, of a model that is ridge with eight times the right penalty."""
    rows = [row for row in measure(EXPERIMENT, As(Ridge(2.0))) if row["layer"] is None]
    return {(row["predictor"], row["quantity"], row["position"]): row["value"] for row in rows}


def test_a_peak_is_the_risk_with_d_examples_relative_to_that_with_half_as_many(measured):
    for name in ("transformer", "bayes", "one_step"):
        risks = [measured[name, "risk", position] for position in (4, 2)]
        assert measured[name, "risk_peak", None] == pytest.approx(risks[0] / risks[1])


def test_least_squares_descends_twice_on_noisy_labels_and_the_right_ridge_does_not(measured):
    assert measured["least_squares", "risk_peak", None] > 2 and measured["bayes", "risk_peak", None] < 1


def test_without_noise_nothing_descends_twice():
    """Nor does least squares: with d examples it errs by rounding alone."""
    rows = measure(replace(EXPERIMENT, task=LinearRegression(4, 9)), As(LeastSquares()))
    peaks = {row["predictor"]: row["value"] for row in rows if row["quantity"] == "risk_peak"}
    assert peaks["transformer"] < 1e-4 and peaks["ridge_2"] < 1


def test_a_prompt_that_ends_before_d_examples_has_no_peak():
    rows = measure(replace(EXPERIMENT, task=LinearRegression(4, 4, noise=0.5)), As(Ridge(2.0)))
    assert "risk_peak" not in {row["quantity"] for row in rows}


def test_who_is_nearer_to_the_model_than_bayes_has_a_ratio_below_one(measured):
    """The model is one of the named: 0 for itself, 1 for Bayes, more for what is further away."""
    ratios = {name: measured[name, "spd_over_bayes", None] for name in ("ridge_2", "bayes", "one_step")}
    assert ratios["ridge_2"] == 0 and ratios["bayes"] == 1 and ratios["one_step"] > 1


def test_a_model_that_is_bayes_has_no_such_ratio():
    rows = measure(EXPERIMENT, As(Ridge(0.25)))
    assert "spd_over_bayes" not in {row["quantity"] for row in rows}
