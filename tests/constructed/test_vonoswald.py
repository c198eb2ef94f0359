"""Von Oswald et al. 2022 (arXiv 2212.07677): the constructions are the algorithms, weights are read and averaged in any
scale, and each check can fail."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.analysis import (
    answer,
    implicit_weights,
    interpolated,
    linearity,
    products,
    query_gradients,
    read_off,
    tuned_descent,
    weight_cosine,
)
from iclab.constructed import named, vonoswald
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.training import TrainingConfig
from iclab.measures import measure
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import GradientDescent, GradientDescentPlusPlus, Ridge
from iclab.tasks import LinearRegression, ScaledInputs, Uniform
from iclab.theory.one_layer import best_step
from tests.conftest import generator

EXACT = {"atol": 1e-12, "rtol": 1e-12}
SMALL = LinearRegression(3, 8, noise=0.3, inputs=Uniform())


def drawn(task=SMALL, batch=6, seed=0):
    return task.sample(batch, generator(seed), torch.float64)


def asked(predictor, prompts):
    return answer({"f": predictor}, prompts)["f"]


# ---- the constructions ---------------------------------------------------------------------------------------------


@given(
    d=st.integers(1, 5),
    n=st.integers(1, 9),
    steps=st.integers(1, 4),
    lr=st.floats(0.01, 0.3),
    gamma=st.sampled_from([0.0, 0.02, 0.1]),
    seed=st.integers(0, 99),
)
def test_the_construction_is_descent_at_every_position(d, n, steps, lr, gamma, seed):
    prompts = drawn(LinearRegression(d, n, noise=0.5), seed=seed)
    found = asked(vonoswald.gradient_descent(d, n, steps, lr, gamma), prompts)
    torch.testing.assert_close(found, asked(GradientDescentPlusPlus(steps, lr, gamma), prompts), **EXACT)
    if gamma == 0:
        torch.testing.assert_close(found, asked(GradientDescent(steps, lr), prompts), **EXACT)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_keys_that_hold_the_query_or_not_all_examples_spoil_every_step_but_the_first(steps):
    """The same weights on `paired` tokens: a query sees itself, and an example only those before it and itself."""
    right = vonoswald.gradient_descent(3, 8, steps, 0.2)
    wrong = Transformer(3, 8, replace(right.config, layout="paired")).double()
    wrong.load_state_dict(right.state_dict())
    with torch.no_grad():
        wrong.attention(0).out.weight.mul_(wrong.longest / right.longest)
    prompts = drawn()
    difference = (asked(wrong, prompts) - asked(GradientDescent(steps, 0.2), prompts)).abs().max()
    assert (difference < 1e-12) == (steps == 1)


def test_without_the_sign_of_the_residual_two_steps_are_no_descent():
    right = vonoswald.gradient_descent(3, 8, 2, 0.2)
    other = Transformer(3, 8, replace(right.config, negated=False)).double()
    other.load_state_dict(right.state_dict())
    prompts = drawn()
    torch.testing.assert_close(asked(other, prompts), -asked(right, prompts))
    with torch.no_grad():
        other.attention(0).out.weight.neg_()  # the only sign that tied layers have
    assert (asked(other, prompts) - asked(right, prompts)).abs().max() > 0.05


def test_several_labels_are_answered_at_once_unless_the_query_shows_one_or_values_leave_one_out():
    theorem = named("vonoswald2022_outputs")
    case = replace(theorem.case({name: 0.7 for name in theorem.ranges}), dtype="float64")
    assert (case.outputs, case.layers) == (3, 4)
    error, bound = theorem.measure(case)
    assert 0 < error <= bound
    prompts, name = drawn(), "blocks.1.resid_post"
    model = vonoswald.gradient_descent(2, 8, 2, 0.2, outputs=2)
    beside = prompts.xs[..., 2]  # the third input is another label
    hidden = prompts.xs.clone()
    hidden[:, -1, 2] = 0
    wanted = GradientDescent(2, 0.2)(prompts.xs[..., :2], beside)[:, -1]

    def said(xs):
        return -model.read(xs, prompts.ys, name)[name].reshape(6, 8, 8, 5)[:, -1, -1, 2]

    torch.testing.assert_close(said(hidden), wanted, **EXACT)
    torch.testing.assert_close(said(prompts.xs), wanted - beside[:, -1], **EXACT)
    with torch.no_grad():
        model.attention(0).v.weight[2, 2] = 0
    assert (said(hidden) - wanted).abs().max() > 0.05


def test_plus_plus_maps_each_eigenvalue_of_the_gram_matrix_as_published():
    gamma, prompts = 0.05, drawn()
    model = vonoswald.gradient_descent(3, 8, 1, 0.2, gamma)
    before, after = (h.reshape(6, 8, 8, 5)[:, -1, :-1, :3] for h in model.residual_stream(prompts.xs, prompts.ys))
    old, new = (torch.linalg.eigvalsh(xs.mT @ xs) for xs in (before, after))
    torch.testing.assert_close(new.sort().values, (old * (1 - gamma * old) ** 2).sort().values)
    assert not torch.allclose(new, old, rtol=0.01)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, given 0"):
        vonoswald.gradient_descent(3, 8, 0, 0.1)
    with pytest.raises(ValueError, match="steps must be at least 1, given 0"):
        vonoswald.feature_descent(torch.ones(4, 3), torch.ones(4), torch.ones(2, 4), 8, 0, 0.1)
    with pytest.raises(
        ValueError, match="sharpness must be positive and finite, given inf; n must be at least 1, given 0"
    ):
        vonoswald.merging(3, 0, sharpness=float("inf"))
    with pytest.raises(ValueError, match="negated is for read_in = identity"):
        TransformerConfig(negated=True)


@given(d=st.integers(1, 3), n=st.integers(1, 6), steps=st.integers(1, 3), m=st.integers(1, 4), seed=st.integers(0, 99))
def test_an_mlp_before_the_layers_makes_them_descend_on_its_features(d, n, steps, m, seed):
    rng = generator(seed)
    hidden, bias, out = (torch.randn(*shape, generator=rng).double() for shape in ((4, d), (4,), (m, 4)))
    prompts = drawn(LinearRegression(d, n, noise=0.5), 2, seed)
    model = vonoswald.feature_descent(hidden, bias, out, n, steps, 0.05)
    for x, y, said in zip(prompts.xs, prompts.ys, asked(model, prompts), strict=True):
        features = torch.stack([out @ torch.nn.functional.gelu(hidden @ each + bias) for each in x])
        for i in range(n):
            w = torch.zeros(m).double()
            for _ in range(steps):
                w = w + 0.05 * features[:i].T @ (y[:i] - features[:i] @ w)
            torch.testing.assert_close(said[i], w @ features[i], **EXACT)


def test_with_its_features_left_out_it_answers_nothing():
    hidden, bias, out = torch.ones(4, 3), torch.zeros(4), torch.zeros(2, 4)
    assert asked(vonoswald.feature_descent(hidden, bias, out, 8, 2, 0.1), drawn()).abs().max() == 0


@given(d=st.integers(1, 4), n=st.integers(1, 7), seed=st.integers(0, 99))
def test_separate_tokens_are_brought_together_and_descend_one_step(d, n, seed):
    prompts = drawn(LinearRegression(d, n, noise=0.5), seed=seed)
    model = vonoswald.separate_tokens(d, n, 0.1)
    torch.testing.assert_close(asked(model, prompts), asked(GradientDescent(1, 0.1), prompts), **EXACT)
    _, merged, _ = model.residual_stream(prompts.xs, prompts.ys)
    assert torch.equal(merged[..., 1 + d : 1 + 2 * d], prompts.xs.repeat_interleave(2, 1)[:, :-1])
    assert torch.equal(merged[:, 1::2, 0], prompts.ys[:, :-1]) and not merged[:, ::2, 0].any()


def test_a_softmax_copies_only_where_the_scores_are_large():
    prompts, place = drawn(), slice(4, 7)
    for sharpness, least, most in ((1.0, 0.1, 2.0), (10.0, 1e-5, 2e-3), (50.0, 0.0, 1e-15)):
        model = vonoswald.merging(3, 8, 1, "softmax", sharpness)
        *_, held = model.residual_stream(prompts.xs, prompts.ys)
        assert least <= (held[..., place] - prompts.xs.repeat_interleave(2, 1)[:, :-1]).abs().max() <= most


def test_prompts_without_examples_or_of_zeros_are_answered_with_nothing():
    network = torch.ones(4, 3), torch.zeros(4), torch.ones(2, 4)
    models = [
        vonoswald.gradient_descent(3, 8, 3, 0.1, 0.02),
        vonoswald.feature_descent(*network, 8, 2, 0.1),
        vonoswald.separate_tokens(3, 8, 0.1),
    ]
    prompts = drawn()
    for model in models:
        assert model(prompts.xs[:, :1], prompts.ys[:, :1]).abs().max() == 0
        assert model(0 * prompts.xs, prompts.ys).abs().max() == 0


@pytest.mark.parametrize("normaliser", ["seen", "longest", "none"])
@pytest.mark.parametrize("m", [1, 3, 8])
def test_one_sum_for_all_tokens_is_attention_by_its_pattern(normaliser, m):
    shape = replace(vonoswald.config(3, 2), n_head=2, d_head=4, normaliser=normaliser)
    model, prompts = Transformer(3, 8, shape, generator()).double(), drawn()
    by_pattern = model.read(prompts.xs, prompts.ys, ["blocks.0.attn.pattern", "blocks.1.attn.pattern", "prediction"])
    with torch.no_grad():
        found = model(prompts.xs, prompts.ys, m)
    torch.testing.assert_close(found, by_pattern["prediction"][:, -m:], **EXACT)
    assert found.abs().max() > 1e-6


# ---- products of weights -------------------------------------------------------------------------------------------


def disguised(model, seed=1):
    """The same function with other weights: W_Q and W_K, W_out and W_V turned against each other, S and O rescaled."""
    made, attn = Transformer(model.d, model.n, model.config).double(), model.attention(0)
    width = model.config.d_model
    turn, other = (torch.randn(width, width, generator=generator(seed + k), dtype=torch.float64) for k in (0, 1))
    with torch.no_grad():
        made.attention(0).q.weight.copy_(-3 * turn @ attn.q.weight)
        made.attention(0).k.weight.copy_(torch.linalg.inv(turn).mT @ attn.k.weight)
        made.attention(0).v.weight.copy_(other @ attn.v.weight)
        made.attention(0).out.weight.copy_(attn.out.weight @ torch.linalg.inv(other) / -3)
    return made


@pytest.mark.parametrize(("steps", "gamma"), [(1, 0.0), (3, 0.04)])
def test_half_way_between_two_disguises_of_one_function_is_that_function(steps, gamma):
    plain, prompts = vonoswald.gradient_descent(3, 8, steps, 0.2, gamma), drawn()
    hidden, wanted = disguised(plain), asked(plain, prompts)
    torch.testing.assert_close(asked(hidden, prompts), wanted, atol=1e-9, rtol=1e-9)
    for share in (0.0, 0.5, 1.0):
        torch.testing.assert_close(asked(interpolated(hidden, plain, share), prompts), wanted, atol=1e-9, rtol=1e-9)


def test_weights_and_products_that_are_averaged_as_they_stand_are_another_function():
    plain, prompts = vonoswald.gradient_descent(3, 8, 2, 0.2), drawn()
    hidden = disguised(plain)
    mixed = Transformer(3, 8, plain.config).double()
    mixed.load_state_dict({k: (v + hidden.state_dict()[k]) / 2 for k, v in plain.state_dict().items()})
    assert (asked(mixed, prompts) - asked(plain, prompts)).abs().max() > 0.05
    assert not torch.allclose(products(hidden).S, products(plain).S, rtol=0.1)


def test_half_way_between_two_step_sizes_is_the_step_between():
    prompts = drawn()
    found = interpolated(vonoswald.gradient_descent(3, 8, 1, 0.1), disguised(vonoswald.gradient_descent(3, 8, 1, 0.3)))
    torch.testing.assert_close(asked(found, prompts), asked(GradientDescent(1, 0.2), prompts), atol=1e-9, rtol=1e-9)


def test_models_that_products_do_not_tell_apart_are_refused():
    shape = vonoswald.config(3, 2)
    for change, told in {
        "n_head": ({"n_head": 2, "d_head": 5}, "n_head = 1, given 2"),
        "softmax": ({"attention": "softmax"}, "attention = linear, given softmax"),
        "untied": ({"tied": False}, "tied = False"),
        "narrow": ({"d_head": 2}, "d_head of 5 or more, given 2"),
    }.values():
        other = Transformer(3, 8, replace(shape, **change)).double()
        for broken in (lambda other=other: products(other), lambda other=other: interpolated(other, other)):
            with pytest.raises(ValueError, match=told):
                broken()
    scaled = Transformer(3, 8, replace(shape, normaliser="seen"))
    with pytest.raises(ValueError, match="needs normaliser = longest, given seen"):
        interpolated(scaled, vonoswald.gradient_descent(3, 8, 2, 0.1))


def test_the_constants_are_read_off_in_any_scale():
    for model in (
        vonoswald.gradient_descent(3, 8, 2, 0.21, 0.07),
        disguised(vonoswald.gradient_descent(3, 8, 2, 0.21, 0.07)),
    ):
        found = read_off(model)
        assert found.lr.value.item() == pytest.approx(0.21, rel=1e-9)
        assert found.gamma.value.item() == pytest.approx(0.07, rel=1e-9)
        assert found.gamma.stderr < 1e-9
    assert -products(model).O[0, 0] / model.longest != pytest.approx(0.07, rel=0.1)  # without the rescaling


def test_a_contraction_that_is_no_multiple_of_the_identity_shows_in_its_error():
    model = vonoswald.gradient_descent(3, 8, 2, 0.2, 0.1)
    with torch.no_grad():
        model.attention(0).out.weight[0, 0] *= 2
    found = read_off(model)
    assert found.gamma.value.item() == pytest.approx(0.4 / 3)
    assert found.gamma.stderr.item() == pytest.approx(0.1 / 3)


# ---- the best constants --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "published"), [(10, 0.179), (25, 0.099), (50, 0.056), (100, 0.029)])
def test_the_best_contraction_of_two_steps_is_the_one_that_trained_transformers_were_found_to_have(n, published):
    task = LinearRegression(10, n + 1, inputs=Uniform(half_width=0.5))
    found = tuned_descent(task, 2, generator(), contracting=True, prompts=8192)
    assert found.gamma == pytest.approx(published, rel=0.05)


def test_inputs_on_the_interval_of_the_text_have_another_contraction():
    found = tuned_descent(LinearRegression(10, 11, inputs=Uniform()), 2, generator(), contracting=True, prompts=4096)
    assert found.gamma == pytest.approx(0.179 / 4, rel=0.05)


def test_the_best_constants_have_the_least_risk():
    task = LinearRegression(10, 11, inputs=Uniform(half_width=0.5))
    one, two, plus = (tuned_descent(task, k, generator(), c, 4096) for k, c in ((1, False), (2, False), (2, True)))
    assert one.lr == pytest.approx(best_step(task, torch.tensor(10.0)).item(), rel=0.03)
    assert two.gamma == 0.0
    fitted = drawn(task, 4096)

    def risk(lr, gamma):
        return (asked(GradientDescentPlusPlus(2, lr, gamma), fitted)[:, -1] - fitted.ys[:, -1]).square().mean()

    least = risk(plus.lr, plus.gamma)
    assert risk(two.lr, 0.0) > 1.3 * least
    for lr, gamma in ((0.97, 1), (1.03, 1), (1, 0.97), (1, 1.03)):
        assert risk(lr * plus.lr, gamma * plus.gamma) > least
    assert risk(0.97 * two.lr, 0.0) > risk(two.lr, 0.0) < risk(1.03 * two.lr, 0.0)


# ---- implied weights -----------------------------------------------------------------------------------------------


def test_at_the_last_positions_weights_and_gradients_are_those_of_all_positions():
    model, prompts = vonoswald.gradient_descent(3, 8, 2, 0.2, 0.05), drawn()
    queries = torch.randn(7, 3, generator=generator(3), dtype=torch.float64)
    wanted = GradientDescentPlusPlus(2, 0.2, 0.05).weights(prompts.xs, prompts.ys)
    for m in (1, 3, 8):
        for found in (implicit_weights(model, prompts, queries, m), query_gradients(model, prompts, m)):
            torch.testing.assert_close(found, wanted[:, -m:], atol=1e-9, rtol=1e-9)
        assert implicit_weights(Ridge(0.3), prompts, queries, m).shape == (6, m, 3)
        torch.testing.assert_close(linearity(model, prompts, queries, m), torch.ones(6, m, dtype=torch.float64))
    torch.testing.assert_close(query_gradients(model, prompts), wanted, atol=1e-9, rtol=1e-9)


def test_the_last_position_costs_one_sequence_for_each_query(monkeypatch):
    model, prompts, seen = vonoswald.gradient_descent(3, 8, 1, 0.2), drawn(), []
    stream = Transformer._stream
    monkeypatch.setattr(
        Transformer,
        "_stream",
        lambda self, xs, ys, hooks, m=None: seen.append(len(xs) * (m or 8)) or stream(self, xs, ys, hooks, m),
    )
    implicit_weights(model, prompts, torch.eye(3, dtype=torch.float64), 1)
    assert sum(seen) == 6 * 3


def test_the_cosine_is_of_the_angle_alone_and_of_no_number_without_weights():
    f = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.0, 0.0]]])
    g = torch.tensor([[[3.0, 0.0], [5.0, 0.0], [-2.0, -2.0], [1.0, 0.0]]])
    found = weight_cosine(f, g)[0]
    torch.testing.assert_close(found[:3], torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64))
    assert found[3].isnan()


# ---- an experiment -------------------------------------------------------------------------------------------------

STUDY = Experiment(
    LinearRegression(3, 8, inputs=Uniform(half_width=0.5)),
    vonoswald.config(3, 2),
    TrainingConfig(steps=1, batch=2, positions="last"),
    Evaluation(
        24,
        (("scaled", ScaledInputs(LinearRegression(3, 8, inputs=Uniform(half_width=0.5)), 2.0)),),
        bootstrap=5,
        analyses=("weights", "descent"),
    ),
)


def value(rows, predictor, quantity, distribution="own"):
    wanted = {"predictor": predictor, "quantity": quantity, "distribution": distribution, "position": None}
    (row,) = [row for row in rows if all(row[k] == v for k, v in wanted.items())]
    return row["value"]


def test_the_construction_is_measured_to_be_what_it_is_on_every_distribution():
    from iclab.measures.descent import tuned

    best = tuned(STUDY, 2)["tuned_gradient_descent_plus_plus"]
    model = disguised(vonoswald.gradient_descent(3, 8, 2, best.lr, best.gamma))
    rows = measure(STUDY, model)
    name = "tuned_gradient_descent_plus_plus"
    assert value(rows, "transformer", "gamma") == pytest.approx(best.gamma) == value(rows, name, "gamma")
    assert value(rows, "transformer", "lr") == pytest.approx(best.lr) == value(rows, name, "lr")
    for distribution in ("own", "scaled"):
        for each in (name, "interpolated"):
            assert value(rows, each, "risk_over_transformer", distribution) == pytest.approx(1, abs=1e-5)
        assert value(rows, name, "weight_cosine", distribution) == pytest.approx(1, abs=1e-6)
        assert value(rows, name, "spd", distribution) < 1e-10
        assert value(rows, "tuned_gradient_descent", "weight_cosine", distribution) < 0.999
        assert value(rows, "tuned_gradient_descent", "spd", distribution) > 1e-4


def test_an_experiment_whose_weights_cannot_be_read_is_refused_before_it_starts():
    with pytest.raises(
        ValueError, match=r"'descent' needs n_head = 1, given 2.*'descent' needs layout = encoder, given"
    ):
        Experiment(LinearRegression(3, 8), eval=Evaluation(analyses=("descent",)))
    with pytest.raises(ValueError, match=r"'descent' needs n of 2 or more, given 1"):
        replace(STUDY, task=LinearRegression(3, 1), eval=replace(STUDY.eval, shifts=()))
