"""Attention trained as a whole: its equation, its gradients' direction, and what early stopping keeps."""

from dataclasses import replace

import pytest
import torch

from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.attention_training import AttentionDescent, Best, TrainedAttention, asked, untrained
from iclab.learning.random_feature_ridge import FrozenRidge
from iclab.measures import measure
from iclab.models import RandomAttention, RandomAttentionConfig, RandomNetwork, RandomNetworkConfig
from iclab.tasks import KeyAverage, Power, QueryAndKeys
from tests.conftest import generator

TASK = QueryAndKeys(4, 5, targets=(("key", KeyAverage(Power(1))), ("correlation", KeyAverage(correlation=Power(1)))))
LEARNER = AttentionDescent(sizes=(20, 300), steps=400, lr=0.02)


def sample(n=300, seed=0):
    return TASK.tokens(n, generator(seed))


def model(heads=20):
    return RandomAttention(4, 4, heads, rng=generator(1))


@pytest.fixture(scope="module")
def layers():
    xs, ys, _ = sample()
    return LEARNER.trained(model(), xs, ys)


def test_a_stack_of_layers_answers_as_frozen_models_with_the_same_weights():
    xs, frozen = sample(7)[0], model(3)
    values = torch.randn(2, 3, 5, generator=generator(4))
    stack = replace(untrained(frozen, 2), values=values, intercepts=torch.tensor([0.5, -1.0]))
    for t in range(2):
        wanted = frozen.features(xs) @ values[t].flatten().double() + stack.intercepts[t]
        torch.testing.assert_close(stack(xs.float())[:, t].double(), wanted, rtol=1e-4, atol=1e-5)
    scaled = stack.scaled(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(
        scaled(xs.float()), stack(xs.float()) * torch.tensor([2.0, 3.0]) + torch.tensor([1.0, 0])
    )


def test_training_learns_and_more_inputs_teach_more(layers):
    others, _, fs = sample(500, 5)
    errors = (asked(layers, others) - fs).square().mean(1) / fs.var(0)
    assert (errors[1] < 0.2).all() and (errors[1] < errors[0]).all()


def test_heads_turn_to_the_identity_by_the_signs_of_their_values_and_only_where_the_target_is_a_correlation(layers):
    signed = (layers[1].coefficients * layers[1].signs).mean(1)
    before = untrained(model(), 2).coefficients
    assert signed[1] > 0.3 > 3 * signed[0].abs()
    grown = (layers[1].coefficients - before)[1].detach()
    assert (grown.sign() == layers[1].signs[1]).float().mean() > 0.8


def test_training_starts_from_the_frozen_products_and_from_no_values():
    start, frozen = untrained(model(), 2), model()
    torch.testing.assert_close(start.products[1], frozen.weights.float())
    assert not start(sample(3)[0].float()).any()


def test_what_is_kept_is_the_best_of_each_target_alone():
    layers = TrainedAttention(torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3), torch.zeros(2))
    errors = iter([[1.0, 1.0], [0.5, 2.0], [0.7, 0.9]])
    best = Best(lambda: torch.tensor(next(errors)), layers)
    for value in (1.0, 2.0):
        layers.intercepts.fill_(value)
        best.look()
    assert best.layers.intercepts.tolist() == [1.0, 2.0]


def test_on_the_inputs_held_out_it_is_never_worse_than_the_mean_label():
    xs, ys, _ = sample(60)
    noise = torch.randn(ys.shape, generator=generator(8), dtype=torch.float64) + 5
    (found,) = AttentionDescent(sizes=(60,), steps=100, lr=0.1).trained(model(), xs, noise)
    held = (asked([found], xs[48:])[0] - noise[48:]).square().mean(0)
    assert (held < 1.0001 * (noise.mean(0) - noise[48:]).square().mean(0)).all()


def test_an_experiment_tells_the_products_and_fits_what_stays_frozen_by_ridge():
    beside = (("frozen", RandomNetworkConfig(heads=10)),)
    learner = AttentionDescent(sizes=(20, 40), steps=5, beside=beside)
    experiment = Experiment(TASK, RandomAttentionConfig(heads=6), learner, Evaluation(prompts=50))
    found = measure(experiment, None)
    told = {row["quantity"]: row for row in found if row["distribution"] == "key" and row.get("step") is None}
    assert told["final_identity"]["value"] == pytest.approx(0.0, abs=0.6)
    assert {"final_identity_signed", "final_error"} <= told.keys()
    ridge = replace(experiment, train=FrozenRidge(sizes=(20, 40), beside=beside))
    plain = [row for row in measure(ridge, None) if row["predictor"] == "frozen"]
    assert [r for r in found if r["predictor"] == "frozen" and r["quantity"] == "error"] == [
        r for r in plain if r["quantity"] == "error"
    ]


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match=r"steps must be at least 1, given 0; lr must be positive"):
        AttentionDescent(steps=0, lr=-1.0)
    (problem,) = AttentionDescent().problems_for(TASK, RandomNetworkConfig())
    assert problem == "AttentionDescent trains ReLU attention, given RandomNetworkConfig"
    assert AttentionDescent().problems_for(TASK, RandomAttentionConfig(activation="softmax"))
    with pytest.raises(ValueError, match="only attention can be trained"):
        LEARNER.trained(RandomNetwork(4, 4, 3, rng=generator()), *sample(20)[:2])
