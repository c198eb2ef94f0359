"""Models that are linear in their parameters, and their fit in closed form."""

import pytest
import torch
from safetensors.torch import load_file

from iclab.learning.fitting import Moments, RidgeFit
from iclab.learning.training import TrainingConfig, train
from iclab.models import LinearAttention, LinearAttentionConfig, LinearModel, TransformerConfig
from iclab.tasks import DecisionTree, FinitePool, LinearRegression, UnitNormal
from tests.conftest import generator

TASK = LinearRegression(3, 7, noise=0.3, inputs=UnitNormal())


def prompts(batch=5, seed=0):
    return TASK.sample(batch, generator(seed), torch.float64)


def random(model, seed=3):
    with torch.no_grad():
        model.theta.copy_(torch.randn(len(model.theta), generator=generator(seed), dtype=torch.float64))
    return model


class Peeking(LinearAttention):
    """A cheat: its sums hold the pair of the query."""

    def context(self, xs, ys):
        return torch.cat([super().context(xs, ys)[:, 1:], super().context(xs, ys)[:, -1:]], dim=1)


def future_moves(model):
    """How far an answer moves when its own label and all that comes after are replaced."""
    one, other, i = prompts(), prompts(seed=1), 4
    xs = torch.cat([one.xs[:, : i + 1], other.xs[:, i + 1 :]], dim=1)
    ys = torch.cat([one.ys[:, :i], other.ys[:, i:]], dim=1)
    return (model(one.xs, one.ys) - model(xs, ys))[:, : i + 1].abs().max().item()


# ---- linear attention ----------------------------------------------------------------------------------------------


def test_linear_attention_is_the_equation_of_the_paper_as_plain_loops():
    model, drawn = random(LinearAttention(3, 7)), prompts()
    gamma, said = model.theta.detach().reshape(3, 4), model(drawn.xs, drawn.ys)
    for b in range(5):
        assert said[b, 0] == 0
        for i in range(1, 7):
            moment = sum(3 / i * drawn.ys[b, j] * drawn.xs[b, j] for j in range(i))
            power = sum(drawn.ys[b, j] ** 2 / i for j in range(i))
            h = torch.outer(drawn.xs[b, i], torch.cat([moment, power.reshape(1)]))
            torch.testing.assert_close(said[b, i], (gamma * h).sum())


def test_its_answers_are_its_features_times_its_parameters_at_every_position():
    model, drawn = random(LinearAttention(3, 7)), prompts()
    for at in (slice(None), slice(6, 7), slice(2, 5)):
        features = model.features(drawn.xs, drawn.ys, at)
        torch.testing.assert_close(features @ model.theta, model(drawn.xs, drawn.ys)[:, at])
    torch.testing.assert_close(LinearModel.forward(model, drawn.xs, drawn.ys), model(drawn.xs, drawn.ys))


def test_it_does_not_see_the_future_and_one_that_does_is_found_out():
    assert future_moves(random(LinearAttention(3, 7))) == 0
    assert future_moves(random(Peeking(3, 7))) > 0.1


def test_it_is_saved_with_its_shape(tmp_path):
    model = random(LinearAttentionConfig().build(3, 7))
    model.save(tmp_path / "weights.safetensors")
    assert torch.equal(load_file(tmp_path / "weights.safetensors")["theta"], model.theta)


def test_it_can_be_trained_by_gradient_descent_as_well():
    recipe = TrainingConfig(steps=400, batch=64, lr=0.05)
    trained = train(LinearAttention(3, 7), TASK, recipe, generator())
    fitted = LinearAttention(3, 7)
    RidgeFit(prompts=20_000).fit(fitted, TASK, generator(1))
    drawn = prompts(4000, seed=2)
    risks = [
        (f(drawn.xs, drawn.ys) - drawn.ys).square().mean().item() for f in (fitted, trained, LinearAttention(3, 7))
    ]
    assert risks[0] < risks[1] < 1.05 * risks[0] < risks[2]


# ---- the fit -------------------------------------------------------------------------------------------------------


def solved(fit, chunk, monkeypatch, task=TASK):
    """θ of a fit, and the features and labels that it saw: the same generator draws the same prompts in one piece."""
    monkeypatch.setattr("iclab.learning.fitting.CHUNK", chunk)
    model = LinearAttention(task.d, task.n)
    moments = fit.fit(model, task, generator())
    rng, pieces = generator(), []
    at = slice(task.n - 1, task.n) if fit.query_only else slice(None)
    size = task.n * task.d + len(range(task.n)[at]) * len(model.theta)
    left = fit.prompts
    while left:
        drawn = task.sample(min(left, max(1, chunk // size)), rng, torch.float64)
        pieces.append((model.features(drawn.xs, drawn.ys, at).flatten(0, 1), drawn.ys[:, at].flatten()))
        left -= len(drawn.ys)
    return model.theta.detach(), moments, torch.cat([p for p, _ in pieces]), torch.cat([y for _, y in pieces])


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize("chunk", [1, 300, 2**22])
def test_without_a_penalty_it_is_the_least_squares_of_least_norm_at_any_chunk(count, chunk, monkeypatch):
    """5 labels for 12 parameters are interpolated, 40 are not; a library solves the same system without squaring it."""
    theta, moments, features, ys = solved(RidgeFit(prompts=count, positions="last"), chunk, monkeypatch)
    assert moments.count == count == len(ys)
    torch.testing.assert_close(theta, torch.linalg.pinv(features) @ ys, rtol=1e-6, atol=1e-8)
    assert moments.loss(theta) == pytest.approx((features @ theta - ys).square().mean().item(), abs=1e-9)
    assert (moments.loss(theta) < 1e-9) is (count == 5)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_penalty_is_that_of_the_sum_objective(positions, monkeypatch):
    fit = RidgeFit(prompts=9, penalty=0.4, positions=positions)
    theta, moments, features, ys = solved(fit, 300, monkeypatch)
    assert moments.count == (9 if positions == "last" else 63)
    gradient = features.mT @ (features @ theta - ys) + 0.4 * theta
    assert gradient.abs().max() < 1e-9 * (features.mT @ ys).abs().max()
    wrong = features.mT @ (features @ theta - ys) + 0.4 * len(ys) * theta  # that of the mean objective
    assert wrong.abs().max() > 1e-3 * (features.mT @ ys).abs().max()


def test_one_fit_gives_every_penalty_and_ridge_tends_to_the_least_norm_linearly():
    fit = RidgeFit(prompts=6, positions="last")
    moments = fit.fit(LinearAttention(3, 7), TASK, generator())
    for penalty in (0.1, 3.0):
        alone = LinearAttention(3, 7)
        RidgeFit(prompts=6, penalty=penalty, positions="last").fit(alone, TASK, generator())
        assert torch.equal(moments.solve(penalty), alone.theta)
    gaps = [(moments.solve(p) - moments.solve(0)).norm() for p in (1e-5, 1e-6)]
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.05)


def test_the_memory_of_a_fit_is_that_of_its_moments(monkeypatch):
    """No sample of prompts is larger than the chunk allows."""
    sizes = []

    def counted(self, batch, *more):
        sizes.append(batch)
        return sample(self, batch, *more)

    sample = LinearRegression.sample
    monkeypatch.setattr(LinearRegression, "sample", counted)
    monkeypatch.setattr("iclab.learning.fitting.CHUNK", 1000)
    fit = RidgeFit(prompts=100, positions="last")
    Moments.of(LinearAttention(3, 7), TASK, fit, generator())
    assert sum(sizes) == 100 and max(sizes) == 1000 // (7 * 3 + 12)


def test_what_cannot_be_fitted_is_refused():
    assert RidgeFit(prompts=3).problems_for(TASK, LinearAttentionConfig()) == []
    (problem,) = RidgeFit(prompts=3).problems_for(TASK, TransformerConfig())
    assert "linear in its parameters, given TransformerConfig" in problem
    assert TrainingConfig().problems_for(FinitePool(TASK, 2), LinearAttentionConfig()) == []
    (problem,) = TrainingConfig(targets="posterior_mean").problems_for(DecisionTree(3, 3), LinearAttentionConfig())
    assert "posterior_mean" in problem
    with pytest.raises(ValueError, match=r"prompts must be at least 1, given 0") as error:
        RidgeFit(prompts=0, penalty=-1.0)
    assert "penalty must be 0 or more" in str(error.value)
    with pytest.raises(ValueError, match="d must be at least 1, given 0"):
        LinearAttention(0, 3)
