"""Learning curves of frozen random features as experiments: their rows, the task behind them, and what is refused."""

from dataclasses import replace
from math import isnan, log2
from pathlib import Path

import pytest
import torch

from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.random_feature_ridge import FrozenRidge
from iclab.learning.training import TrainingConfig, train
from iclab.measures.curves import predicted_levels
from iclab.models import RandomAttentionConfig, RandomNetworkConfig, TransformerConfig
from iclab.runs.perform import perform
from iclab.tasks import Alternating, KeyAverage, NoisyLabels, Power, QueryAndKeys, Uniform, labels
from iclab.theory.random_features import half_error
from tests.conftest import generator

TARGETS = (("key", KeyAverage(Power(1))), ("control", Alternating()))
TASK = QueryAndKeys(4, 5, targets=TARGETS)
LEARNER = FrozenRidge(sizes=(10, 40, 160), beside=(("network", RandomNetworkConfig(heads=60)),))
EXPERIMENT = Experiment(TASK, RandomAttentionConfig(heads=60), LEARNER, Evaluation(prompts=200), device="cpu")


def rows(experiment):
    return perform(experiment, Path(), lambda point: None, lambda line: None)


@pytest.fixture(scope="module")
def measured():
    return rows(EXPERIMENT)


def values(rows, target, predictor, quantity):
    """By the number of inputs."""
    asked = {"distribution": target, "predictor": predictor, "quantity": quantity}
    return {row.get("step"): row["value"] for row in rows if all(row[k] == v for k, v in asked.items())}


# ---- the task ------------------------------------------------------------------------------------------------------


def test_the_label_of_a_prompt_is_the_target_of_its_query_and_keys_and_keys_have_none():
    prompts = TASK.sample(50, generator(), torch.float64)
    assert not prompts.ys[:, :-1].any() and TASK.query_only
    both = labels([target for _, target in TARGETS], prompts.xs.roll(1, 1))
    torch.testing.assert_close(both.gather(1, prompts.truth.chosen.unsqueeze(1)), prompts.fs[:, -1:])
    assert set(prompts.truth.chosen.tolist()) == {0, 1}
    torch.testing.assert_close(prompts.truth(prompts.xs[:, -1:]), prompts.fs[:, -1:])
    torch.testing.assert_close(prompts[3:5].truth(prompts.xs[3:5, -1:]), prompts.fs[3:5, -1:])


def test_noise_is_on_the_labels_that_are_learned_from_alone():
    noisy = replace(TASK, noise=0.5)
    _, ys, fs = noisy.tokens(4000, generator())
    assert (ys - fs).std().item() == pytest.approx(0.5, rel=0.05)
    prompts = noisy.sample(4000, generator())
    assert (prompts.ys - prompts.fs)[:, -1].std().item() == pytest.approx(0.5, rel=0.05)
    assert not prompts.ys[:, :-1].any()


def test_a_transformer_can_be_trained_on_it_as_on_any_task():
    config = TransformerConfig(n_layer=1, d_model=16, layout="encoder", attention="relu")
    model = config.build(4, 5, generator())
    train(model, TASK, TrainingConfig(steps=2, batch=4, positions="last"), generator())
    assert model(*[getattr(TASK.sample(3, generator()), name) for name in ("xs", "ys")]).isfinite().all()


def test_what_is_no_task_is_refused():
    with pytest.raises(ValueError, match=r"n counts a query and keys: 2 or more, given 1; targets must not be empty"):
        QueryAndKeys(4, 1, targets=())
    with pytest.raises(ValueError, match=r"turned: KeyAverage with an overlap of 0.5 needs an even d, given 3"):
        QueryAndKeys(3, 4, targets=(("turned", KeyAverage(overlap=0.5)),))
    with pytest.raises(ValueError, match="no task is derived from QueryAndKeys"):
        NoisyLabels(TASK, 1.0)


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_errors_are_those_of_the_answers_of_every_model(measured):
    xs, ys, _ = TASK.tokens(160, torch.Generator())  # of another seed: only the size of an error is compared
    assert xs.shape == (160, 5, 4) and ys.shape == (160, 2)
    for name in ("transformer", "network"):
        errors = values(measured, "key", name, "error")
        assert list(errors) == [10, 40, 160] and errors[10] > errors[160]
        assert values(measured, "key", name, "final_error") == {None: errors[160]}
    own, network = (values(measured, "key", name, "error") for name in ("transformer", "network"))
    times = values(measured, "key", "network", "error_over_transformer")
    assert times == pytest.approx({n: network[n] / own[n] for n in own})
    assert values(measured, "key", "transformer", "error_over_transformer") == {}


def test_attention_learns_the_average_and_not_the_control_and_the_network_both(measured):
    assert values(measured, "key", "transformer", "final_error")[None] < 0.02
    assert values(measured, "control", "transformer", "final_error")[None] > 0.95
    assert values(measured, "control", "network", "final_error")[None] < 0.3


def test_theory_is_told_where_it_is_known(measured):
    assert list(values(measured, "key", "transformer", "predicted_error")) == [10, 40, 160]
    assert values(measured, "control", "network", "predicted_error") == {}
    half, predicted = (values(measured, "key", "network", f"{k}half_error")[None] for k in ("", "predicted_"))
    assert values(measured, "key", "network", "half_error_over_predicted")[None] == pytest.approx(half / predicted)
    assert half == pytest.approx(predicted, rel=0.5)
    assert values(measured, "key", "theory", "norm")[None] == pytest.approx(3.26, abs=0.01)
    for other in (RandomAttentionConfig(bias=1.0), RandomAttentionConfig(activation="softmax")):
        assert predicted_levels(other, TASK, TARGETS[0][1]) is None
    assert predicted_levels(RandomNetworkConfig(orders=2), TASK, TARGETS[0][1]) is None
    assert predicted_levels(RandomAttentionConfig(), replace(TASK, inputs=Uniform()), TARGETS[0][1]) is None


def test_the_same_experiment_gives_the_same_rows_and_models_beside_change_none_of_the_models():
    alone = rows(replace(EXPERIMENT, train=replace(LEARNER, beside=())))
    again = [row for row in rows(EXPERIMENT) if row["predictor"] == "transformer"]
    assert [row for row in alone if row["predictor"] == "transformer"] == again
    other = rows(replace(EXPERIMENT, seed=1))
    assert values(other, "key", "transformer", "error") != values(alone, "key", "transformer", "error")


def test_a_curve_of_several_draws_is_their_mean_with_a_smaller_error():
    few, many = (rows(replace(EXPERIMENT, train=replace(LEARNER, draws=draws))) for draws in (1, 8))
    one, mean = (values(found, "key", "network", "error") for found in (few, many))
    assert one != mean and mean[40] == pytest.approx(one[40], rel=0.5)
    told = [[row for row in found if row["quantity"] == "error" and row["step"] == 40] for found in (few, many)]
    assert told[0][0]["stderr"] > 1.5 * told[1][0]["stderr"]
    halves = [
        next(row for row in found if row["quantity"] == "half_error" and row["predictor"] == "network")
        for found in (few, many)
    ]
    assert halves[0]["stderr"] is None and 0 < halves[1]["stderr"] < 0.3 * halves[1]["value"]


def test_exponents_are_those_of_half_errors_of_two_tasks():
    learner = replace(LEARNER, sizes=(8, 12, 20, 30, 45, 70, 100), doublings=True)
    found = rows(replace(EXPERIMENT, train=learner))
    wide = rows(replace(EXPERIMENT, task=replace(TASK, d=8), train=replace(learner, doublings=False)))
    half = [values(rows_, "key", "network", "half_error")[None] for rows_ in (found, wide)]
    assert values(found, "key", "network", "exponent_d")[None] == pytest.approx(log2(half[1] / half[0]))
    assert values(found, "key", "network", "predicted_exponent_keys")[None] == pytest.approx(1, abs=0.3)
    assert isnan(values(found, "control", "transformer", "exponent_d")[None]), "never half learned"


def test_half_of_the_error_is_found_between_two_sizes_or_told_to_lie_beyond():
    assert half_error((10, 20, 40), (1.0, 0.5, 0.1)) == (20, True)
    n, found = half_error((10, 1000), (1.0, 0.25))
    assert n == pytest.approx(100) and found
    assert half_error((10, 20), (1.0, 0.9)) == (20, False)
    assert half_error((10, 20), (0.4, 0.3)) == (10, False)
    n, found = half_error((10, 20, 40, 80), (0.4, 0.8, 0.6, 0.3))
    assert 40 < n < 80 and found, "it counts where it stays below"


def test_what_a_learning_curve_would_leave_out_is_refused():
    with pytest.raises(ValueError, match=r"eval.analyses has nothing to say of FrozenRidge"):
        replace(EXPERIMENT, eval=Evaluation(analyses=("weights",)))
    with pytest.raises(ValueError, match="takes a query with its keys"):
        replace(EXPERIMENT, train=TrainingConfig())
