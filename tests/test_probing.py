"""Probes: equal to a library's ridge, sure of what was planted, blind to what is not there, finished at once."""

import pytest
import torch
from conftest import generator
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge

from iclab.analysis import algorithm_state, bare_prompt, features, layer_readouts, probe
from iclab.analysis.probing import fit_map
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import LeastSquares, Ridge
from iclab.tasks import LinearRegression

TASK = LinearRegression(3, 6, noise=0.5)


def prompts(batch, seed=0):
    return TASK.sample(batch, generator(seed), torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@given(
    seed=st.integers(0, 2**31),
    layers=st.integers(1, 3),
    n=st.integers(1, 3),
    width=st.integers(1, 6),
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
