"""Random-feature attention equals its formula, and its representers represent what they should, at the rate V/M."""

from dataclasses import replace
from math import pi, sqrt

import pytest
import torch
from scipy import integrate, stats

from iclab.constructed import Case
from iclab.constructed.random_features import REPRESENTERS, THEOREMS, random_feature_attention, represented
from iclab.predictors.kernels import arc_cosine, mean_relu
from tests.conftest import generator

NAMES = list(REPRESENTERS)


def tokens(batch, n, d, seed=0):
    """Keys and a query on the unit sphere."""
    xs = torch.randn(batch, n, d, generator=generator(seed)).double()
    return xs / xs.norm(dim=-1, keepdim=True)


def single(name, d=3, heads=3000, batch=8, n=5):
    """What each of many heads adds, f* and V, for some prompts."""
    xs, one = tokens(batch, n, d), REPRESENTERS[name]
    model = represented(name, heads, d, n, generator(1))
    last = model.read(xs, xs[..., 0], "blocks.0.attn.z")["blocks.0.attn.z"].detach().unflatten(0, (batch, n))
    return heads * last[:, -1, :, -1, 0], one.target(xs), one.variance(xs)


def test_the_layer_equals_its_formula_in_loops():
    xs, n, d, heads = tokens(2, 4, 3), 4, 3, 6
    w, v = torch.randn(heads, d + 1, d + 1, generator=generator()).double(), torch.randn(heads, d + 1).double()
    model = random_feature_attention(w, v, n)
    assert (model.config.n_layer, model.config.n_head) == (1, heads)
    for x, answers in zip(xs, model(xs, xs[..., 0]), strict=True):
        lifted = torch.cat([x, torch.ones(n, 1).double()], dim=1)
        for i in range(n):  # position i has i keys
            said = sum(
                (lifted[i] @ w[m] @ lifted[j]).clamp(min=0) * (v[m] @ lifted[j]) / i
                for m in range(heads)
                for j in range(i)
            )
            assert abs(answers[i] - said) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_keys_may_change_places_and_their_labels_are_not_read(name):
    model, xs = represented(name, 50, 3, 5, generator()), tokens(4, 5, 3)
    said = model(xs, xs[..., 0], 1)
    turned = xs[:, [2, 0, 3, 1, 4]]
    torch.testing.assert_close(model(turned, torch.zeros(4, 5).double(), 1), said, atol=1e-12, rtol=1e-12)
    assert not torch.allclose(model(xs[:, [4, 1, 2, 3, 0]], xs[..., 0], 1), said), "the query is no key"
    assert not model(xs[:, -1:], xs[:, -1:, 0]).any(), "a query without keys"


@pytest.mark.parametrize("name", NAMES)
def test_heads_add_the_target_on_average_with_the_exact_variance(name):
    added, target, variance = single(name)
    assert (added.mean(-1) - target).abs().div((variance / 3000).sqrt()).max() < 5
    torch.testing.assert_close(added.var(-1), variance, atol=0, rtol=0.35)


@pytest.mark.parametrize("name", NAMES)
def test_the_law_can_fail(name):
    """Values of another size miss f* by many standard errors; a wrong constant misses V."""
    added, target, variance = single(name)
    assert (4 * added.mean(-1) - target).abs().div((variance / 3000).sqrt()).max() > 5
    assert not torch.allclose((1.5 * added).var(-1), variance, atol=0, rtol=0.35)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda each: each.name)
def test_the_theorems_fail_of_values_of_the_wrong_sign_or_size(name, theorem, monkeypatch):
    one = REPRESENTERS[name]
    sizes = [(1, 1), (2, 3), (3, 4)]
    cases = [Case(seed=d, d=d, n=n, heads=theorem.ranges["heads"].high, variant=name) for d, n in sizes]
    times = -1 if theorem.name.endswith("representer") else 2  # the sign of a head does not change its variance
    monkeypatch.setitem(REPRESENTERS, name, replace(one, values=lambda products: times * one.values(products)))
    assert not theorem.tried(cases).holds


def test_without_the_bias_the_biased_target_is_missed():
    xs, one = tokens(8, 5, 3), REPRESENTERS["biased"]
    blind = REPRESENTERS["key"].products(3000, 3, generator(1))
    said = random_feature_attention(blind, one.values(blind) / 3000, 5)(xs, xs[..., 0], 1)[:, 0]
    assert (said - one.target(xs)).abs().div((one.variance(xs) / 3000).sqrt()).max() > 8


def test_off_the_sphere_nothing_is_promised():
    xs, one = 3 * tokens(8, 5, 3), REPRESENTERS["key"]
    said = represented("key", 3000, 3, 5, generator(1))(xs, xs[..., 0], 1)[:, 0]
    assert (said / one.target(xs) - 1).abs().min() > 0.5, "scores are no longer of variance 1"


def test_closed_forms_equal_integrals():
    for a, b, rho in ((0.3, -0.7, 0.4), (1.0, 0.2, 0.9), (-0.5, -0.9, 0.0)):
        density = stats.multivariate_normal([a, b], [[1, rho], [rho, 1]]).pdf
        exact = integrate.dblquad(lambda y, x, p=density: x * y * p([x, y]), 0, 9, 0, 9, epsabs=1e-7)[0]
        both = torch.tensor([[a, b]], dtype=torch.float64)
        correlations = torch.tensor([[[1.0, rho], [rho, 1.0]]], dtype=torch.float64)
        found = REPRESENTERS["biased"].moment(both, both, correlations, 3)[0]
        assert found[0, 1].item() == pytest.approx(exact, abs=1e-6)
        alone = (a**2 + 1) * stats.norm.cdf(a) + a * stats.norm.pdf(a)
        assert found[0, 0].item() == pytest.approx(alone, abs=1e-9)
    none = torch.zeros(1, 2).double()
    at_zero = REPRESENTERS["biased"].moment(none, none, correlations, 3)
    torch.testing.assert_close(at_zero, arc_cosine(correlations), atol=1e-9, rtol=0)
    assert mean_relu(torch.zeros(1).double()).item() == pytest.approx(1 / sqrt(2 * pi))
    assert arc_cosine(torch.ones(1).double()).item() == pytest.approx(0.5)


def test_the_constants_at_sixteen_dimensions_and_keys():
    xs = tokens(200, 17, 16)
    found = {name: REPRESENTERS[name].variance(xs).mean().item() for name in NAMES}
    assert found == pytest.approx({"key": 0.0126, "inner": 81.4, "biased": 0.158}, rel=0.03)


def test_what_is_no_layer_of_random_features_is_refused():
    with pytest.raises(ValueError, match=r"unknown representer 'iner'\. Did you mean 'inner'"):
        represented("iner", 3, 2, 4, generator())
    with pytest.raises(ValueError, match="heads must be at least 1, given 0; d must be at least 1, given 0"):
        represented("key", 0, 0, 4, generator())
    with pytest.raises(ValueError, match="n must be at least 1, given 0"):
        represented("key", 1, 1, 0, generator())
