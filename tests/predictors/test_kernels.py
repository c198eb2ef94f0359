"""Kernels of infinitely many frozen heads: their closed forms against each other and against many heads."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import roots_gegenbauer, roots_hermitenorm, roots_legendre
from scipy.stats import multivariate_normal

from iclab.models import RandomAttention, RandomNetwork
from iclab.predictors import AttentionKernel, NetworkKernel, kernels
from iclab.predictors.kernels import arc_cosine, arc_cosine_coefficients, biased_arc_cosine, density, mean_relu, mehler
from iclab.predictors.quadrature import gegenbauer, hermite, legendre
from iclab.tasks import Sphere
from tests.conftest import generator

KERNELS = [NetworkKernel(), AttentionKernel(), AttentionKernel(1.0), AttentionKernel(4.0)]
Phi = torch.special.ndtr


def inputs(batch, n_keys=3, d=4, seed=0):
    return Sphere().sample(batch, n_keys + 1, d, generator(seed), torch.float64)


def numbers(*values):
    return [torch.tensor(v, dtype=torch.float64) for v in values]


# ---- quadrature ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 40])
def test_rules_are_those_of_a_library(count):
    pairs = [(legendre(count), roots_legendre), (hermite(count), roots_hermitenorm)]
    pairs += [(gegenbauer(d, count), lambda n, d=d: roots_gegenbauer(n, (d - 2) / 2)) for d in (3, 4, 16)]
    for (nodes, weights), roots in pairs:
        wanted, density = roots(count)
        assert np.allclose(nodes, wanted, atol=1e-12) and np.allclose(weights, density / density.sum(), atol=1e-12)


# ---- pairs of normal variables -------------------------------------------------------------------------------------


def textbook(a, b, r):
    """(ab + r) Φ₂ + a p(b) Φ((a − rb)/q) + b p(a) Φ((b − ra)/q) + q² p₂, with the library's Φ₂ and p₂."""
    cov, q = [[1, r], [r, 1]], (1 - r * r) ** 0.5
    joint = multivariate_normal.cdf([a, b], cov=cov, abseps=1e-12, releps=1e-12)
    a_, b_ = numbers(a, b)
    one = a * density(b_) * Phi((a_ - r * b) / q) + b * density(a_) * Phi((b_ - r * a) / q)
    return (a * b + r) * joint + one.item() + q * q * multivariate_normal.pdf([a, b], cov=cov)


def by_definition(a, b, r):
    """E_u[(a + u)₊ E_v[(b + v)₊ | u]] by adaptive integration."""
    q = (1 - r * r) ** 0.5

    def value(u):
        inner = q * mean_relu(torch.tensor((b + r * u) / q, dtype=torch.float64)).item()
        return (a + u) * inner * np.exp(-u * u / 2) / (2 * np.pi) ** 0.5

    return quad(value, -a, 12, epsabs=1e-12, epsrel=1e-12, limit=200)[0]


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (0.3, -0.8), (1.0, 1.0), (-1.0, 1.0), (-2.5, -0.4)])
@pytest.mark.parametrize("r", [-0.7, 0.0, 0.25, 0.6, 0.95])
def test_three_forms_of_the_biased_kernel_and_its_definition_agree(a, b, r):
    integral = biased_arc_cosine(*numbers(a, b, r)).item()
    assert integral == pytest.approx(textbook(a, b, r), abs=1e-8)
    assert integral == pytest.approx(by_definition(a, b, r), abs=1e-8)
    terms = 1200
    a_, b_, r_ = numbers(a, b, r)
    series = (mehler(a_, terms) * mehler(b_, terms) * r_ ** torch.arange(terms)).sum().item()
    assert integral == pytest.approx(series, abs=1e-8)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-1, 1))
def test_the_biased_kernel_has_the_values_that_are_known(a, b, r):
    a_, b_, r_ = numbers(a, b, r)
    zero, one = numbers(0.0, 1.0)
    assert biased_arc_cosine(zero, zero, r_).item() == pytest.approx(arc_cosine(r_).item(), abs=1e-9)
    assert biased_arc_cosine(a_, b_, zero).item() == pytest.approx((mean_relu(a_) * mean_relu(b_)).item(), abs=1e-12)
    end = ((a * a + 1) * Phi(a_) + a * density(a_)).item()
    assert biased_arc_cosine(a_, a_, one).item() == pytest.approx(end, abs=1e-12)
    assert biased_arc_cosine(a_, b_, r_).item() == pytest.approx(biased_arc_cosine(b_, a_, r_).item(), abs=1e-12)


@pytest.mark.parametrize("r", [0.0, 0.3, 0.8])
def test_its_derivative_is_the_bivariate_distribution_function(r):
    a, b, step = 0.4, -0.7, 1e-5
    ends = [biased_arc_cosine(*numbers(a, b, r + side * step)).item() for side in (-1, 1)]
    law = multivariate_normal(cov=[[1, r], [r, 1]])
    assert (ends[1] - ends[0]) / (2 * step) == pytest.approx(law.cdf([a, b]), abs=1e-6)


def test_it_is_continuous_at_correlation_one():
    a, b = numbers([0.0, 0.3, 1.0, -0.5], [0.0, 0.3, -0.2, 1.5])
    near = biased_arc_cosine(a, b, torch.full_like(a, 1 - 1e-13))
    torch.testing.assert_close(near, biased_arc_cosine(a, b, torch.ones_like(a)), rtol=0, atol=1e-8)


def test_coefficients_are_those_of_the_arc_cosine_kernel():
    mu = arc_cosine_coefficients(400)
    assert [round(m, 6) for m in mu[:9].tolist()] == [0.159155, 0.25, 0.079577, 0, 0.006631, 0, 0.001989, 0, 0.000888]
    r = torch.linspace(-0.95, 0.95, 9, dtype=torch.float64)
    torch.testing.assert_close((mu * r.unsqueeze(1) ** torch.arange(400)).sum(1), arc_cosine(r))
    torch.testing.assert_close(mehler(torch.zeros((), dtype=torch.float64), 400) ** 2, mu)
    assert arc_cosine(torch.tensor(1.0)).item() == 0.5
    assert arc_cosine(torch.tensor(1.0 + 1e-6)).item() == 0.5  # what float32 may make of 1


# ---- kernels -------------------------------------------------------------------------------------------------------


def loops(kernel, x, other):
    """The formula of the kernel between two inputs as plain loops, κ by the integral alone."""
    n = len(x) - 1
    if isinstance(kernel, NetworkKernel):
        return arc_cosine((1 + (x * other).sum()) / (n + 2)).item()
    total = 0.0
    for i, j in product(range(1, n + 1), repeat=2):
        pair, s = 1 + x[i] @ other[j], kernel.bias
        means = (s * x[0] @ x[i], s * other[0] @ other[j])
        total += (pair * biased_arc_cosine(*means, (1 + x[0] @ other[0]) * pair / 4)).item() / n**2
    return total


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_kernels_are_their_formulas_as_plain_loops_in_any_blocks(kernel, monkeypatch):
    xs = inputs(7)
    xs[6] = xs[2]  # the same input twice: correlations of 1 off the diagonal
    wanted = torch.tensor([[loops(kernel, x, y) for y in xs] for x in xs], dtype=torch.float64)
    for block in (1, 60, 2**18):
        monkeypatch.setattr(kernels, "BLOCK", block)
        torch.testing.assert_close(kernel(xs), wanted, rtol=0, atol=1e-9)
        torch.testing.assert_close(kernel(xs, xs[:3]), wanted[:, :3], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_kernels_are_symmetric_and_positive(kernel):
    gram = kernel(inputs(60))
    torch.testing.assert_close(gram, gram.mT, rtol=0, atol=1e-15)
    assert torch.linalg.eigvalsh(gram)[0] > -1e-13


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_permuting_keys_changes_that_of_the_network_alone_and_exchanging_the_query_all(kernel):
    xs = inputs(6, d=5)
    moved = (kernel(xs[:, [0, 3, 1, 2]], xs) - kernel(xs)).abs().max().item()
    assert (moved < 1e-12) is isinstance(kernel, AttentionKernel)
    assert (kernel(xs[:, [1, 0, 2, 3]], xs) - kernel(xs)).abs().max() > 1e-3


@pytest.mark.parametrize("kernel", KERNELS[:3], ids=str)
def test_rotations_leave_kernels_as_they_are_apart_for_queries_and_keys_where_nothing_is_biased(kernel):
    xs = inputs(6)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator(3), dtype=torch.float64))[0]
    torch.testing.assert_close(kernel(xs @ turn), kernel(xs))
    apart = torch.cat([xs[:, :1] @ turn, xs[:, 1:]], dim=1)
    assert ((kernel(apart) - kernel(xs)).abs().max().item() < 1e-12) is (kernel != AttentionKernel(1.0))


@pytest.mark.parametrize(
    ("kernel", "draw"),
    [
        (AttentionKernel(), lambda m, rng: RandomAttention(8, 5, m, rng=rng)),
        (AttentionKernel(1.0), lambda m, rng: RandomAttention(8, 5, m, 1.0, rng=rng)),
        (AttentionKernel(3.0), lambda m, rng: RandomAttention(8, 5, m, 3.0, rng=rng)),
        (NetworkKernel(), lambda m, rng: RandomNetwork(8, 5, m, rng=rng)),
    ],
    ids=["attention", "biased", "more biased", "network"],
)
def test_the_kernel_of_many_heads_tends_to_the_closed_form_as_their_number_to_the_minus_half(kernel, draw):
    """z-scores over independent draws, and the root mean square error at two numbers of heads."""
    xs, rng = inputs(4, 5, 8), generator(1)
    errors = {m: torch.stack([draw(m, rng).kernel(xs) - kernel(xs) for _ in range(24)]) for m in (500, 8000)}
    for found in errors.values():
        z = found.mean(0) / (found.std(0) / 24**0.5)
        assert z.abs().max() < 4.5  # Student's t of 24 draws, ten pairs
    few, many = (found.square().mean().sqrt().item() for found in errors.values())
    assert few / many == pytest.approx(4, rel=0.25)


def test_another_bias_is_told_from_the_right_one_by_as_many_heads():
    xs = inputs(4, 5, 8)
    gram = RandomAttention(8, 5, 100_000, 1.0, rng=generator()).kernel(xs)
    assert (gram - AttentionKernel(1.0)(xs)).abs().max() < 0.01 < (gram - AttentionKernel(1.3)(xs)).abs().max()


def test_tokens_that_are_no_unit_vectors_are_refused_and_rounded_ones_are_mended():
    xs = inputs(3)
    with pytest.raises(ValueError, match=r"tokens must be unit vectors, and one is 0.5 off"):
        AttentionKernel()(1.5 * xs)
    torch.testing.assert_close(AttentionKernel(1.0)(xs.float()), AttentionKernel(1.0)(xs), rtol=0, atol=1e-6)
    assert torch.equal(NetworkKernel()(xs.float()).diagonal(), torch.full((3,), 0.5, dtype=torch.float64))
