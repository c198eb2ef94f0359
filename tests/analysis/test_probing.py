"""Probes: equal to a library's ridge, sure of what was planted, blind to what is not there."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge

from iclab.analysis import (
    AttentionProbes,
    ProbeRecipe,
    algorithm_state,
    attention_probes,
    bare_prompt,
    bootstrap_weights,
    estimate,
    features,
    layer_readouts,
    probe,
    probe_terms,
    ratio,
    visible,
)
from iclab.analysis.layers.probing import fit_map
from iclab.measures.probes import Probing, best_rows, lengths_of, r2_by_layer
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import LeastSquares, Ridge
from iclab.tasks import LinearRegression
from tests.conftest import generator

TASK = LinearRegression(3, 6, noise=0.5)


def prompts(batch, seed=0):
    return TASK.sample(batch, generator(seed), torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@given(
    seed=st.integers(0, 2**31),
    layers=st.integers(1, 3),
    n=st.integers(1, 3),
    width=st.integers(1, 40),
    m=st.integers(1, 3),
)
def test_a_probe_is_the_ridge_regression_of_scikit_learn(seed, layers, n, width, m):
    h, v, lam = normal(layers, 30, n, width, seed=seed), normal(30, n, m, seed=seed + 1), 0.3
    fitted = fit_map(h, v, lam)
    answers = fitted(h)
    for layer in range(layers):
        for i in range(n):
            oracle = SklearnRidge(alpha=lam).fit(h[layer, :, i].numpy(), v[:, i].numpy())
            slope = torch.as_tensor(oracle.coef_.reshape(m, width).T)
            torch.testing.assert_close(fitted.slope[layer, i], slope, atol=1e-8, rtol=1e-8)
            expected = torch.as_tensor(oracle.predict(h[layer, :, i].numpy()).reshape(30, m))
            torch.testing.assert_close(answers[layer, :, i], expected, atol=1e-8, rtol=1e-8)


def dependent(kind):
    """Features of 30 prompts at two positions that do not determine a slope."""
    h = normal(1, 30, 2, 40 if kind == "more than prompts" else 5)
    if kind == "constant":
        h[:, :, 0] = 2.0
    if kind == "double":
        h[..., 4] = 3 * h[..., 0] - h[..., 1]
    return h


@pytest.mark.parametrize("kind", ["constant", "double", "more than prompts"])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_without_penalty_the_slope_is_that_of_least_norm(kind, unit):
    h, v = unit * dependent(kind), normal(30, 2, 3, seed=1)
    slope = fit_map(h, v, 0.0).slope[0]
    for i in range(2):
        expected = np.linalg.pinv((h[0, :, i] - h[0, :, i].mean(0)).numpy(), rcond=1e-9) @ v[:, i].numpy()
        np.testing.assert_allclose(unit * slope[i].numpy(), unit * expected, atol=1e-9)


def test_that_the_slope_is_of_least_norm_can_fail():
    h, v = dependent("double"), normal(30, 2, 3, seed=1)
    expected = np.linalg.pinv((h[0, :, 0] - h[0, :, 0].mean(0)).numpy(), rcond=1e-9) @ v[:, 0].numpy()
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(fit_map(h, v, 1e-5).slope[0, 0].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_features_that_are_no_numbers_spoil_the_probe_of_their_layer_and_position_alone(penalty):
    h, v = normal(2, 30, 2, 4), normal(30, 2, 1, seed=1)
    whole = fit_map(h, v, penalty).slope
    h[1, 7, 0, 2] = float("nan")
    found = fit_map(h, v, penalty).slope
    assert found[1, 0].isnan().all()
    torch.testing.assert_close(found[0], whole[0])
    torch.testing.assert_close(found[1, 1], whole[1, 1])


def test_a_planted_vector_is_found_where_it_is_and_nowhere_else():
    target = normal(800, 4, 2)
    h = normal(3, 800, 4, 6, seed=1)
    h[1, :, 2] = h[1, :, 2] + 10 * target[:, 2] @ normal(2, 6, seed=2)
    found = probe(h, target)
    assert found.value[1, 2] > 0.97
    found.value[1, 2] = 0
    assert found.value.max() < 0.05


def test_noise_lowers_r2_as_it_should_and_the_error_covers_it():
    """v = h + ε with unit variances: R² = 1/2. Of 60 estimates nearly all lie within three standard errors."""
    inside = 0
    for seed in range(60):
        h = normal(1, 600, 1, 1, seed=seed)
        found = probe(h, h[0] + normal(600, 1, 1, seed=1000 + seed), penalty=1e-6)
        inside += abs(found.value[0, 0] - 0.5) < 3 * found.stderr[0, 0]
    assert inside >= 56


def test_more_features_than_prompts_do_not_fool_a_probe():
    assert probe(normal(1, 64, 1, 200), normal(64, 1, 1, seed=1)).value.max() < 0.3


def test_a_target_that_does_not_vary_has_no_r2():
    drawn = prompts(64)
    found = probe(bare_prompt(drawn), algorithm_state(drawn, 0.25)["moment"]).value
    assert found[0, 0].isnan() and found[0, 1:].isfinite().all()


def test_the_bare_prompt_holds_what_was_seen_and_nothing_else():
    drawn, other = prompts(5), prompts(5, seed=1)
    base = bare_prompt(drawn)[0]
    for i in range(6):
        changed = type(drawn)(drawn.xs.clone(), drawn.ys.clone(), drawn.fs, drawn.truth)
        changed.xs[:, i + 1 :], changed.ys[:, i:] = other.xs[:, i + 1 :], other.ys[:, i:]
        assert torch.equal(bare_prompt(changed)[0][:, i], base[:, i])
    assert probe(bare_prompt(prompts(400)), prompts(400).xs).value.min() > 0.999


def test_targets_are_what_they_are_called():
    drawn = prompts(4)
    state = algorithm_state(drawn, 0.25)
    for i in range(1, 6):
        x, y = drawn.xs[:, :i], drawn.ys[:, :i]
        torch.testing.assert_close(state["moment"][:, i], (x.mT @ y.unsqueeze(-1)).squeeze(-1) / i)
    torch.testing.assert_close(state["ridge"], Ridge(0.25).weights(drawn.xs, drawn.ys))
    torch.testing.assert_close(state["least_squares"], LeastSquares().weights(drawn.xs, drawn.ys))
    assert "ridge" not in algorithm_state(drawn, 0.0)


def test_features_are_the_stream_at_the_answering_tokens():
    model = Transformer(3, 6, TransformerConfig(layout="interleaved", n_layer=2, norm=False), generator())
    drawn = prompts(4)
    found = features(model, drawn)
    assert found.shape == (3, 4, 6, 32)
    read = model.read(drawn.xs, drawn.ys, ["blocks.1.resid_post"])["blocks.1.resid_post"]
    torch.testing.assert_close(found[2], read[:, ::2].double())
    own = probe(features(model, prompts(400)), model(prompts(400).xs, prompts(400).ys).detach().unsqueeze(-1))
    assert own.value[2].min() > 0.999  # without LayerNorm the prediction is linear in the last layer


def test_too_few_prompts_are_refused():
    with pytest.raises(ValueError, match="at least 16 prompts, given 4"):
        probe(normal(1, 4, 1, 1), normal(4, 1, 1))


def test_the_terms_of_r2_carry_its_error_and_that_of_averages():
    h, v = normal(2, 400, 3, 2), normal(400, 3, 2, seed=1)
    v = v + h[0]
    found, terms = probe(h, v, 0.1), probe_terms(h, v, 0.1)
    fitted = fit_map(h[:, :200], v[:200], 0.1)(h[:, 200:])
    errors = (fitted - v[200:]).square().sum(-1).transpose(0, 1)
    spread = (v[200:] - v[200:].mean(0)).square().sum(-1).unsqueeze(1).expand_as(errors)
    oracle = ratio(errors, spread)
    torch.testing.assert_close(found.value, 1 - oracle.value)
    torch.testing.assert_close(found.stderr, oracle.stderr)
    torch.testing.assert_close(estimate(terms.mean(-1)).value, found.value.mean(-1))
    assert (estimate(terms.mean(-1)).stderr <= found.stderr.mean(-1)).all()
    assert (terms[..., 0] - terms[..., 0]).eq(0).all()  # paired: a probe beside itself differs by nothing, for sure


@pytest.mark.parametrize("layout", ["interleaved", "lagged", "paired"])
def test_a_token_can_know_as_many_examples_as_its_layout_says(layout):
    model = Transformer(3, 6, TransformerConfig(layout=layout, n_layer=2, attention="softmax"), generator())
    drawn, seen = prompts(4), model.layout.seen(6, torch.device("cpu"))
    before = features(model, drawn, "all")
    assert before.shape[2] == len(seen)
    for k in range(6):
        changed = type(drawn)(drawn.xs, drawn.ys.clone(), drawn.fs, drawn.truth)
        changed.ys[:, k] += 1
        moved = (features(model, changed, "all")[-1] - before[-1]).abs().amax((0, 2)) > 1e-9
        assert (moved == (seen > k)).all()


def test_what_a_token_can_know_is_read_there_with_the_state_after_its_examples():
    """In the interleaved layout the token of y_j holds y_j itself, which the state at x_j does not know."""
    model = Transformer(1, 6, TransformerConfig(layout="interleaved", n_layer=0), generator())
    drawn = LinearRegression(1, 6).sample(400, generator(), torch.float64)
    last = torch.cat([torch.zeros(400, 1), drawn.ys], dim=1)[:, model.layout.seen(6, torch.device("cpu"))]
    found = probe(features(model, drawn, "all"), last.double().unsqueeze(-1)).value[0]
    assert found[1::2].min() > 0.999 and found[2::2].max() < 0.1


def test_unknown_tokens_are_refused():
    with pytest.raises(ValueError, match=r"unknown choice of tokens 'answer'\. Did you mean 'answers'\?"):
        features(Transformer(3, 6), prompts(4), "answer")


def test_all_layers_and_positions_are_probed_at_once():
    task = LinearRegression(5, 17, noise=0.5)
    drawn = task.sample(256, generator())
    hidden = features(Transformer(5, 17, TransformerConfig(n_layer=4, layout="interleaved"), generator()), drawn)
    target = algorithm_state(drawn, 0.25)["ridge"]
    found = probe(hidden, target, 0.1)
    assert found.value.shape == (5, 17)
    alone = probe(hidden[3:4, :, 8:9], target[:, 8:9], 0.1)
    torch.testing.assert_close(found.value[3:4, 8:9], alone.value)


# ---- probes that attend --------------------------------------------------------------------------------------------

HEADS = ["linear", "mlp"]
QUICK = ProbeRecipe(width=16, steps=200)
ALL = torch.ones(1, 7, dtype=torch.bool)


@pytest.mark.parametrize("head", HEADS)
def test_a_target_planted_in_one_token_of_one_layer_is_found_there_and_looked_at(head):
    target = normal(1600, 1, 2)
    h = normal(3, 1600, 7, 6, seed=1)
    h[1, :, 4, :2] = target[:, 0]  # where the other tokens have noise, so that looking at them does harm
    found = attention_probes(h, target, ALL, head, QUICK, generator())
    assert found.r2.value[1, 0] > 0.95 and found.attention[1, 0, 4] > 0.9
    assert found.r2.value[[0, 2]].max() < 0.05
    spread = target[800:].var(0).mean()
    torch.testing.assert_close(found.mse.value, (1 - found.r2.value) * spread, rtol=0.01, atol=0)


def test_a_target_scattered_over_tokens_is_found_by_looking_at_all_of_them():
    """v = Σ_t h_t: a token alone has R² = 1/7, as an exact probe says, and together they have all of it."""
    h = normal(1, 1600, 7, 3)
    target = h[0].sum(1, keepdim=True)
    found = attention_probes(h, target, ALL, "linear", QUICK, generator())
    assert found.r2.value[0, 0] > 0.99
    torch.testing.assert_close(found.attention[0, 0], torch.full((7,), 1 / 7, dtype=torch.float64), atol=0.05, rtol=0)
    assert probe(h, target.expand(-1, 7, -1)).value.max() < 0.3


@pytest.mark.parametrize("head", HEADS)
def test_random_features_hold_nothing(head):
    found = attention_probes(normal(2, 1600, 7, 6), normal(1600, 1, 2, seed=1), ALL, head, QUICK, generator())
    assert found.r2.value.abs().max() < 0.05


@pytest.mark.parametrize("head", HEADS)
def test_a_probe_that_is_tested_on_what_it_was_trained_on_looks_better_than_it_is(head):
    """The cheat: the second half of the prompts is the first once more."""
    h, target = normal(1, 60, 7, 20), normal(60, 1, 1, seed=1)
    long = ProbeRecipe(width=16, steps=200, look=200)  # no choice among weights by the validation set
    leaked = attention_probes(torch.cat([h, h], 1), torch.cat([target, target]), ALL, head, long, generator())
    honest = attention_probes(h, target, ALL, head, long, generator())
    assert honest.r2.value.max() < 0.2
    assert leaked.r2.value.max() > honest.r2.value.max() + 0.2


def test_a_product_is_read_by_an_mlp_and_not_linearly():
    h = normal(1, 4000, 2, 2)
    target = h[0, :, :1, :1] * h[0, :, :1, 1:]
    linear, mlp = (attention_probes(h, target, ALL[:, :2], head, None, generator()).r2.value.item() for head in HEADS)
    assert linear < 0.05 and mlp > 0.9


def test_with_one_token_to_look_at_a_linear_probe_is_the_exact_one():
    h = normal(2, 800, 5, 6)
    target = h[0, :, :, :2] + normal(800, 5, 2, seed=1)
    found = attention_probes(h, target, torch.eye(5, dtype=torch.bool), "linear", QUICK, generator())
    torch.testing.assert_close(found.r2.value, probe(h, target).value, atol=0.01, rtol=0)
    torch.testing.assert_close(found.attention, torch.eye(5, dtype=torch.float64).expand(2, 5, 5))


@pytest.mark.parametrize("head", HEADS)
def test_what_a_length_may_not_see_is_not_found(head):
    target = normal(1600, 1, 2)
    h = normal(1, 1600, 7, 6, seed=1)
    h[0, :, 4:6, :2] = target
    shut = ALL.clone()
    shut[0, 4:6] = False
    found = attention_probes(h, target, shut, head, QUICK, generator())
    assert found.r2.value.max() < 0.05 and found.attention[0, 0, 4:6].eq(0).all()
    assert attention_probes(h, target, ALL, head, QUICK, generator()).r2.value.max() > 0.9


def test_probes_of_one_pack_do_not_know_of_each_other():
    h, target = normal(2, 200, 7, 4), normal(200, 2, 1, seed=1)
    both = ALL.expand(2, 7)
    first = attention_probes(h, target, both, "mlp", QUICK, generator())
    target[:, 1], h[1] = normal(200, 1, seed=2), normal(200, 7, 4, seed=3)
    second = attention_probes(h, target, both, "mlp", QUICK, generator())
    torch.testing.assert_close(first.terms[:, 0, 0], second.terms[:, 0, 0])
    torch.testing.assert_close(first.attention[0, 0], second.attention[0, 0])
    assert not torch.equal(first.attention[1, 1], second.attention[1, 1])


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_layer_of_no_numbers_spoils_no_probe_of_another(head):
    h, target = normal(2, 64, 7, 4), normal(64, 1, 1, seed=1)
    whole = attention_probes(h, target, ALL, head, QUICK, generator())
    h[1, 3, 2, 1] = float("nan")
    found = attention_probes(h, target, ALL, head, QUICK, generator())
    torch.testing.assert_close(found.terms[:, 0], whole.terms[:, 0])
    assert found.r2.value[1].isnan().all()


def test_a_target_that_does_not_vary_has_no_r2_for_probes_that_attend():
    target = torch.cat([torch.zeros(64, 1, 2), normal(64, 1, 2)], dim=1)
    found = attention_probes(normal(1, 64, 7, 4, seed=1), target, ALL.expand(2, 7), "mlp", QUICK, generator())
    assert found.r2.value[0, 0].isnan() and found.r2.value[0, 1].isfinite()
    torch.testing.assert_close(found.mean_r2.value, found.r2.value[:, 1])


def test_bad_probes_are_refused():
    h, target = normal(1, 32, 7, 4), normal(32, 1, 1)
    with pytest.raises(ValueError, match="at least 16 prompts, given 8"):
        attention_probes(h[:, :8], target[:8], ALL)
    with pytest.raises(ValueError, match=r"length 0 sees no token; unknown head 'MLP'\. Known: linear, mlp"):
        attention_probes(h, target, ~ALL, "MLP")
    with pytest.raises(
        ValueError, match=r"width must be at least 1, given 0; lr must be positive and finite, given inf"
    ):
        ProbeRecipe(width=0, lr=float("inf"))


def test_the_lengths_are_powers_of_two_and_the_last():
    assert [lengths_of(n) for n in (1, 2, 3, 8, 9)] == [[0], [1], [1, 2], [1, 2, 4, 7], [1, 2, 4, 8]]


# ---- rows of probes ------------------------------------------------------------------------------------------------


def planted_r2(*by_layer, seed=0):
    """Probes of 400 prompts after 1 and 4 examples, with these R² by layer."""
    terms = torch.tensor(by_layer, dtype=torch.float64).view(1, -1, 1) + 0.1 * normal(400, len(by_layer), 2, seed=seed)
    terms = terms - terms.mean(0) + torch.tensor(by_layer, dtype=torch.float64).view(1, -1, 1)
    attention = torch.arange(len(by_layer), dtype=torch.float64).view(-1, 1, 1).expand(-1, 2, 3)
    return AttentionProbes(terms, estimate(terms), attention)


def test_the_best_layer_is_told_with_its_depth_and_its_lead_over_controls():
    found = {"": planted_r2(0.1, 0.3, 0.8, 0.5, 0.2), "_untrained": planted_r2(0.1, 0.6, seed=1)}
    rows = list(best_rows("moment", "p", found, [1, 4], bootstrap_weights(400, 100, generator())))
    value = {row["quantity"]: row["value"] for row in rows}
    expected = {"p_best": 0.8, "p_rise": 0.7, "p_over_untrained": 0.2, "p_depth": 0.5}
    assert {k: round(value[k], 9) for k in expected} == expected
    looks = [row for row in rows if row["quantity"] == "p_looks_4"]
    assert [(row["layer"], row["position"], row["value"]) for row in looks] == [(2, t, 2.0) for t in range(3)]
    assert next(row["stderr"] for row in rows if row["quantity"] == "p_depth") == 0
    doubtful = list(
        best_rows("moment", "p", {"": planted_r2(0.1, 0.501, 0.5)}, [1, 4], bootstrap_weights(400, 100, generator()))
    )
    assert next(row["stderr"] for row in doubtful if row["quantity"] == "p_depth") > 0.1


def test_the_lead_of_the_moment_is_the_difference_of_depths():
    rows = {(r["quantity"], r["predictor"]): r["value"] for r in rows_of_probes("lagged")}
    for head in HEADS:
        late, soon = (rows[f"attention_probe_{head}_depth", k] for k in ("least_squares", "moment"))
        assert rows[f"attention_probe_{head}_lead", "least_squares"] == late - soon


def rows_of_probes(layout):
    task = LinearRegression(2, 5, noise=0.5)
    shape = TransformerConfig(layout=layout, n_layer=1)
    model, untrained = Transformer(2, 5, shape, generator()), Transformer(2, 5, shape, generator(1))
    probing = Probing(model, untrained, task.sample(64, generator()), 0.25)
    return [*probing.exact(), *probing.attending(ProbeRecipe(width=4, steps=2), generator(), 10)]


@pytest.mark.parametrize("layout", ["interleaved", "lagged", "paired"])
def test_every_table_of_probes_has_its_controls(layout):
    rows = rows_of_probes(layout)
    told = {(row["quantity"], row["predictor"]) for row in rows}
    targets = {"moment", "least_squares", "w", "ridge", "prediction"}
    for control in ("", "_untrained", "_bare"):
        assert {target for name, target in told if name == f"probe_r2{control}"} == targets
        in_tokens = {target for name, target in told if name == f"probe_r2_tokens{control}"}
        assert in_tokens == (set() if layout == "lagged" else targets - {"prediction"})
        for head in HEADS:
            assert (f"attention_probe_{head}{control}", "moment") in told
    layers = {row["quantity"]: set() for row in rows}
    for row in rows:
        layers[row["quantity"]].add(row["layer"])
    assert layers["probe_r2"] == layers["attention_probe_mlp"] == layers["attention_probe_mlp_mse"] == {0, 1}
    assert layers["probe_r2_bare"] == layers["attention_probe_mlp_bare"] == {0}
    positions = {row["position"] for row in rows if row["quantity"] == "attention_probe_linear"}
    assert positions == {1, 2, 4, None}
    for target in ("moment", "least_squares"):
        found = [row for row in rows if (row["quantity"], row["predictor"]) == ("attention_probe_mlp_looks_4", target)]
        assert len(found) == (5 if layout == "lagged" else 9)
        assert sum(row["value"] for row in found) == pytest.approx(1)


def test_the_model_reads_its_own_answer_in_its_last_layer():
    model = Transformer(3, 6, TransformerConfig(n_layer=2, norm=False), generator())
    found = r2_by_layer(model, prompts(400), 0.25)
    assert found["prediction"][-1] > 0.999 > found["prediction"][0]
    assert all(len(by_layer) == 3 for by_layer in found.values())


def test_the_mean_over_positions_is_told_beside_each_position():
    rows = [row for row in rows_of_probes("lagged") if (row["quantity"], row["predictor"]) == ("probe_r2", "moment")]
    by_position = [row["value"] for row in rows if row["layer"] == 1 and row["position"] is not None]
    (mean,) = [row["value"] for row in rows if row["layer"] == 1 and row["position"] is None]
    assert len(by_position) == 4 and mean == pytest.approx(sum(by_position) / 4)  # no moment before the first example


def test_the_answer_sees_its_own_token_and_those_of_earlier_examples():
    model = Transformer(2, 3, TransformerConfig(layout="interleaved"), generator())
    assert visible(model, 3).int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


# ---- layers as predictors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["interleaved", "lagged", "paired"])
def test_a_layer_read_out_is_a_causal_predictor_that_no_later_block_touches(layout):
    model = Transformer(3, 6, TransformerConfig(layout=layout, n_layer=2), generator())
    first, second, third = layer_readouts(model, prompts(50))
    drawn, other = prompts(4), prompts(4, seed=1)
    before = [readout(drawn.xs, drawn.ys) for readout in (first, second, third)]
    changed = drawn.ys.clone()
    changed[:, 3:] = other.ys[:, 3:]
    for readout, answers in zip((first, second, third), before, strict=True):
        torch.testing.assert_close(readout(drawn.xs, changed)[:, :4], answers[:, :4])
    with torch.no_grad():
        model.blocks[1].attn.out.weight.mul_(2)
    assert torch.equal(second(drawn.xs, drawn.ys), before[1])
    assert not torch.equal(third(drawn.xs, drawn.ys), before[2])


def test_the_last_layer_read_out_is_the_best_linear_read_out_of_the_model():
    """Without LayerNorm the model's own read-out is one linear map of the last layer: the fitted one is no worse."""
    model = Transformer(3, 6, TransformerConfig(n_layer=2, norm=False), generator())
    drawn = prompts(2000)
    last = layer_readouts(model, drawn, penalty=1e-9)[-1]
    fitted, own = ((f(drawn.xs, drawn.ys) - drawn.ys).square().mean() for f in (last, model))
    assert fitted < own
    tokens = features(model, drawn)[-1].flatten(0, 1)
    basis = torch.cat([tokens, torch.ones(len(tokens), 1, dtype=torch.float64)], dim=1)
    exact = torch.linalg.lstsq(basis, drawn.ys.flatten().unsqueeze(1)).solution
    torch.testing.assert_close(fitted, (basis @ exact - drawn.ys.flatten().unsqueeze(1)).square().mean())
