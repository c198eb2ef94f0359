"""Spectra, norms and learning curves of infinitely many frozen heads, against sampling and against printed numbers.

Numbers that are not derived in the test are of an independent computation in NumPy.
"""

from itertools import product
from math import exp, factorial, log

import pytest
import torch

from iclab.constructed.random_features import REPRESENTERS
from iclab.learning.random_feature_ridge import least_errors
from iclab.models import RandomAttention
from iclab.predictors import AttentionKernel, NetworkKernel
from iclab.predictors.quadrature import gegenbauer
from iclab.tasks import (
    Alternating,
    Arctangent,
    Cosine,
    KeyAverage,
    Power,
    QueryFunction,
    Sphere,
    labels,
)
from iclab.theory import random_features as theory
from iclab.theory.random_features import (
    attention_levels,
    attention_spectrum,
    best_predicted_error,
    energies,
    harmonics,
    inputs_to_learn,
    interpolation_norms,
    network_levels,
    polynomials,
    predicted_error,
    rkhs_norm,
    shapes,
    tensor_norm,
)
from tests.conftest import generator


def key(p):
    return KeyAverage(Power(p))


def cor(p):
    return KeyAverage(correlation=Power(p))


def inputs(batch, n_keys, d, seed=0):
    return Sphere().sample(batch, n_keys + 1, d, generator(seed), torch.float64)


# ---- harmonics and spectra -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [3, 4, 16])
def test_polynomials_are_orthogonal_and_1_at_1_and_harmonics_are_counted(d):
    nodes, weights = gegenbauer(d, 40)
    ps = polynomials(d, 6, nodes)
    counts = torch.tensor([float(harmonics(d, b)) for b in range(7)], dtype=torch.float64)
    torch.testing.assert_close((ps * weights) @ ps.mT, (1 / counts).diag(), rtol=0, atol=1e-12)
    torch.testing.assert_close(polynomials(d, 6, torch.ones(1)), torch.ones(7, 1))
    assert [harmonics(3, b) for b in range(5)] == [1, 3, 5, 7, 9]


def test_the_spectrum_of_attention_is_positive_falls_and_sums_to_one():
    spectrum = attention_spectrum(16, 12)
    counts = torch.tensor([float(harmonics(16, b)) for b in range(13)], dtype=torch.float64)
    assert (spectrum[:5, :5] > 0).all() and (spectrum[:5, :5].diff(dim=1) < 0).all()
    assert (counts @ spectrum @ counts).item() == pytest.approx(0.99957, abs=1e-5)
    printed = [[2.319e-1, 1.882e-2, 5.472e-4, 5.952e-6], [4.902e-3, 6.148e-4, 4.076e-5, 7.5e-7]]
    torch.testing.assert_close(spectrum[:2, :4], torch.tensor(printed, dtype=torch.float64), rtol=5e-3, atol=0)


def regressed(kernel, zonal):
    """The coefficients of a kernel on zonal functions over all pairs of different inputs."""
    two = ~torch.eye(len(kernel), dtype=torch.bool)
    return torch.linalg.lstsq(torch.stack([z[two] for z in zonal], dim=1), kernel[two].unsqueeze(1)).solution[:, 0]


def test_eigenvalues_of_attention_are_those_of_sampled_inputs():
    """By the addition theorem K = Σ_ab λ_ab N_a N_b (1/N²) Σ_ij P_a(⟨x_0,x'_0⟩) P_b(⟨x_i,x'_j⟩)."""
    n_keys, d, degree = 3, 8, 3
    xs = inputs(300, n_keys, d)
    query = polynomials(d, degree, (xs[:, 0] @ xs[:, 0].mT).flatten()).view(-1, 300, 300)
    inner = torch.einsum("nid,mjd->nmij", xs[:, 1:], xs[:, 1:])
    keys = polynomials(d, degree, inner.flatten()).view(-1, 300, 300, n_keys**2).mean(-1)
    chosen = [(a, b) for a in range(degree + 1) for b in range(degree + 1)]
    found = regressed(AttentionKernel()(xs), [query[a] * keys[b] for a, b in chosen])
    for (a, b), coefficient in zip(chosen, found.tolist(), strict=True):
        if a + b <= degree:
            wanted = attention_spectrum(d, degree)[a, b].item() * harmonics(d, a) * harmonics(d, b)
            assert coefficient == pytest.approx(wanted, rel=0.02, abs=2e-5)


def test_eigenvalues_of_the_network_are_those_of_sampled_inputs():
    """K = Σ over degrees of each token of the eigenvalue times Π N P(⟨x_i, x'_i⟩)."""
    n_keys, d, degree = 2, 4, 4
    xs = inputs(400, n_keys, d)
    inner = torch.einsum("nid,mid->inm", xs, xs)
    ps = polynomials(d, degree, inner.flatten()).view(-1, *inner.shape)
    chosen = [c for c in product(range(degree + 1), repeat=3) if sum(c) <= degree]
    found = regressed(NetworkKernel()(xs), [ps[a, 0] * ps[b, 1] * ps[c, 2] for a, b, c in chosen])
    for (a, b, c), coefficient in zip(chosen, found.tolist(), strict=True):
        shape = (a, *sorted((k for k in (b, c) if k), reverse=True))
        if sum(shape) <= 2:
            count = harmonics(d, a) * harmonics(d, b) * harmonics(d, c)
            wanted = theory._network_value(shape, d, n_keys) * count
            assert coefficient == pytest.approx(wanted, rel=0.05, abs=1e-4)


def test_the_network_has_as_many_harmonics_as_there_are_and_all_of_its_trace():
    assert shapes(2, 2) == [(1,), (0, 1), (2,), (1, 1), (0, 2), (0, 1, 1)]
    assert [theory._multiplicity(shape, 4, 3) for shape in shapes(3, 1)] == [4, 12]
    assert theory._multiplicity((0, 2, 1, 1), 4, 5) == 30 * 9 * 16  # 5!/(2! 2!) placements
    assert network_levels(key(1), 16, 16).tail == pytest.approx(0.0025, abs=1e-4)
    assert attention_levels(key(1), 16, 16).tail < 1e-4


# ---- norms ---------------------------------------------------------------------------------------------------------

DIMENSIONS = (4, 8, 16, 32, 64)
NORMS = {
    key(1): (3.26, 3.30, 3.32, 3.33, 3.34),
    key(2): (9.36, 11.0, 11.9, 12.4, 12.6),
    key(3): (69.6, 113, 146, 166, 178),
    key(4): (515, 1568, 3067, 4466, 5459),
    cor(1): tuple(d * b for d, b in zip(DIMENSIONS, (6.18, 6.29, 6.35, 6.39, 6.41), strict=True)),
    cor(2): tuple(d**2 * b for d, b in zip(DIMENSIONS, (30.5, 31.0, 30.7, 30.4, 30.2), strict=True)),
    cor(3): tuple(d**3 * b for d, b in zip(DIMENSIONS, (90, 101, 107, 111, 113), strict=True)),
    cor(4): tuple(d**4 * b for d, b in zip(DIMENSIONS, (55, 62, 68, 72, 74), strict=True)),
}


@pytest.mark.parametrize("target", NORMS, ids=str)
def test_norms_are_the_printed_ones_in_every_dimension(target):
    assert [rkhs_norm(target, d) for d in DIMENSIONS] == pytest.approx(NORMS[target], rel=0.01)


def test_norms_of_functions_of_the_query_are_the_printed_ones():
    found = [rkhs_norm(QueryFunction(Power(p)), 16) for p in (1, 2, 3, 4)]
    assert found == pytest.approx([12.7, 151, 3962, 9890], rel=0.01)


def test_norms_are_below_their_bound_for_tensors_and_approach_it_in_many_dimensions():
    for p in (1, 2, 3, 4):
        norms = [rkhs_norm(key(p), d) for d in (8, 64, 512)]
        assert norms == sorted(norms) and norms[-1] < tensor_norm(0, p)
        assert norms[-1] > 0.95 * tensor_norm(0, p)
        assert rkhs_norm(QueryFunction(Power(p)), 64) < tensor_norm(p, 0)
        assert rkhs_norm(cor(p), 512) / 512**p == pytest.approx(tensor_norm(p, p) / factorial(p), rel=0.03)
    assert [round(tensor_norm(0, s), 2) for s in (1, 2)] == [3.34, 12.87]


def test_the_norm_of_a_correlation_is_not_monotone_in_its_degree_beside_that_of_the_dimension():
    """The arc-cosine kernel has no third power, so that degree 3 costs more than degree 4."""
    scaled = [rkhs_norm(cor(p), 64) / 64**p for p in (1, 2, 3, 4)]
    assert scaled[0] < scaled[1] < scaled[3] < scaled[2]


def test_rising_least_norms_tend_to_the_exact_norm_and_a_wrong_function_exceeds_it():
    targets, xs = [key(1), key(2), cor(1), cor(2)], inputs(800, 3, 4)
    ys, gram = labels([*targets, Alternating()], xs), AttentionKernel()(xs)
    norms = interpolation_norms(gram, ys)
    exact = torch.tensor([rkhs_norm(target, 4) for target in targets], dtype=torch.float64)
    for n in (50, 300):
        jitter = 1e-9 * torch.eye(n, dtype=torch.float64)
        direct = (ys[:n] * torch.linalg.solve(gram[:n, :n] + jitter, ys[:n])).sum(0)
        torch.testing.assert_close(norms[n - 1], direct, rtol=1e-4, atol=0)
    assert (norms.diff(dim=0) >= 0).all()
    assert (norms[-1, :4] < exact).all() and (norms[-1, :3] > 0.99 * exact[:3]).all()
    assert 0.8 * exact[3] < norms[-1, 3]
    assert norms[-1, 4] > 20 * norms[49, 4] > 100  # outside of the space: no bound


@pytest.mark.parametrize(
    "target",
    [
        key(2),
        KeyAverage(Power(1), Power(1)),
        KeyAverage(Power(2), Power(1), 0.3),
        QueryFunction(Power(3)),
        KeyAverage(Cosine(2)),
    ],
    ids=str,
)
def test_energies_sum_to_the_second_moment_of_one_term(target):
    """E F² by sampling one key alone; a key function and a correlation share degrees in their product."""
    xs = inputs(400_000, 1, 4)
    terms = target(xs) ** 2
    assert abs(energies(target, 4, 10).sum() - terms.mean()) < 5 * terms.std() / len(terms) ** 0.5


def test_the_norm_of_a_rotated_correlation_is_that_of_the_plain_one():
    assert rkhs_norm(KeyAverage(correlation=Power(2), overlap=0.3), 8) == rkhs_norm(cor(2), 8)


def test_arctangents_have_a_norm_free_of_the_dimension_beyond_the_root_of_three():
    """Σ a_k² h(0, k) with a_{2j+2} = (−1)^j / ((2j+1) η^{2j+1}). The paper has η > 2, by its bound C_k = k^{9/2} 4^k;
    as h grows with 3^k, √3 is enough. At a finite d all norms are finite."""

    def terms(eta, cost, count):
        return [cost(2 * j + 2) / ((2 * j + 1) * eta ** (2 * j + 1)) ** 2 for j in range(count)]

    def exact(s):
        return tensor_norm(0, s)

    def bound(s):
        return s**4.5 * 4**s

    assert [sum(terms(1.8, exact, k)) for k in (4, 8, 12)] == pytest.approx([73, 163, 229], rel=0.01)
    for eta, cost, converges in ((1.6, exact, False), (1.9, exact, True), (1.9, bound, False), (2.3, bound, True)):
        found = terms(eta, cost, 60)
        assert (found[-1] < found[-2]) is converges
    for eta, limit in ((2.1, 22.5), (2.5, 6.33), (3, 2.62), (5, 0.564)):
        assert sum(terms(eta, exact, 40)) == pytest.approx(limit, rel=0.02)
    wanted = {1.8: 13.8, 2.1: 6.5, 2.5: 3.19, 3.0: 1.74, 5.0: 0.494}
    for eta, norm in wanted.items():
        assert rkhs_norm(KeyAverage(Arctangent(eta)), 16, 6) == pytest.approx(norm, rel=0.01)


@pytest.mark.parametrize("p", [0, 1, 3])
def test_the_bias_expresses_powers_of_the_correlation_up_to_the_error_of_the_paper(p):
    """t^p = √2π p(t) t^p exp(t²/2), the exponential cut off at order L: within 1 / (2^{L+1} (L+1)!) on [−1, 1]."""
    t = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    for order, largest in enumerate((0.393, 0.0902, 0.0144, 0.00175, 0.000172)):
        cut = sum((t * t / 2) ** m / factorial(m) for m in range(order + 1))
        error = (t**p * (1 - (-t * t / 2).exp() * cut)).abs().max().item()
        assert error == pytest.approx(largest, rel=0.01)
        assert error <= 1 / (2 ** (order + 1) * factorial(order + 1))


# ---- explicit values -----------------------------------------------------------------------------------------------

CONSTANTS = {"key": 0.0133, "inner": 64.0, "biased": 0.134}  # M times the mean square error, of an independent run


@pytest.mark.parametrize("name", CONSTANTS)
def test_explicit_values_are_unbiased_with_an_error_of_one_over_the_heads(name):
    """The values that are proved to represent a target, on the features of the models that are fitted elsewhere."""
    one, xs, errors = REPRESENTERS[name], inputs(100, 16, 16), {}
    target = one.target(torch.cat([xs[:, 1:], xs[:, :1]], dim=1))  # there the query comes last
    for heads in (100, 800):
        draws = []
        for seed in range(100 if heads == 100 else 40):
            model = RandomAttention(16, 16, heads, one.bias, rng=generator(seed))
            draws.append(model.features(xs) @ one.values(model.weights).flatten() / heads - target)
        draws = torch.stack(draws)
        errors[heads] = draws.square().mean().item()
        assert draws.mean(0).square().mean() < 5 * errors[heads] / len(draws)  # unbiased: what is left is of the draws
    assert errors[100] / errors[800] == pytest.approx(8, rel=0.5)
    assert 100 * errors[100] == pytest.approx(CONSTANTS[name], rel=0.5)


# ---- learning curves -----------------------------------------------------------------------------------------------

SIZES = (64, 128, 256, 512, 1024, 2048)
PREDICTED = {
    ("attention", key(2)): (1.00, 1.00, 0.784, 0.438, 0.137, 0.025),
    ("attention", key(3)): (0.635, 0.479, 0.411, 0.381, 0.358, 0.350),
    ("attention", cor(1)): (1.00, 1.00, 0.740, 0.392, 0.116, 0.020),
    ("attention", cor(3)): (1.00, 1.00, 0.942, 0.745, 0.575, 0.464),
    ("network", key(1)): (0.802, 0.602, 0.307, 0.078, 0.014, 0.003),
    ("network", key(3)): (0.916, 0.822, 0.684, 0.535, 0.435, 0.384),
}
LEVELS = {"attention": attention_levels, "network": network_levels}


@pytest.mark.parametrize(("model", "target"), PREDICTED, ids=str)
def test_predicted_curves_are_the_printed_ones(model, target):
    levels = LEVELS[model](target, 16, 16)
    found = [best_predicted_error(levels, n) for n in SIZES]
    assert found == pytest.approx(PREDICTED[model, target], rel=0.03, abs=0.003)


def test_the_effective_penalty_solves_its_equation_and_a_large_penalty_learns_nothing():
    levels = attention_levels(key(2), 8, 4)
    k = theory._effective_penalty(levels, 100, 1e-3)
    seen = (levels.multiplicities @ (levels.values / (levels.values + k))).item() + 1e-3 / k
    assert seen == pytest.approx(100, rel=1e-9)
    assert predicted_error(levels, 100, 1e4) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kernel", [AttentionKernel(), NetworkKernel()], ids=["RFA", "RFMLP"])
def test_kernel_ridge_learns_as_predicted_for_its_own_kernel_and_not_for_the_other(kernel):
    """The exact kernels at d = 6 with 4 keys, five seeds."""
    targets, sizes, measured = [key(1), key(2), cor(1)], (50, 200), []
    for seed in range(5):
        xs = inputs(1200, 4, 6, seed)
        ys = labels(targets, xs)
        gram, rows = kernel(xs[:200]), kernel(xs[200:], xs[:200])
        measured.append(least_errors(gram, ys[:200], rows, ys[200:], sizes))
    measured = torch.stack(measured).mean(0)
    for levels, own in ((attention_levels, AttentionKernel), (network_levels, NetworkKernel)):
        wanted = torch.tensor([[best_predicted_error(levels(t, 6, 4), n) for t in targets] for n in sizes])
        off = (measured - wanted).abs()
        assert (off < 0.02 + 0.12 * wanted).all() if isinstance(kernel, own) else off.max() > 0.3


def test_noise_leaves_an_error_that_is_that_of_the_noise():
    levels = attention_levels(key(1), 8, 4)
    clean, noisy = (predicted_error(levels, 200, 1e-3, noise) for noise in (0.0, 0.3))
    assert noisy > clean
    assert best_predicted_error(levels, 200, 0.3) < noisy


# ---- sample complexity ---------------------------------------------------------------------------------------------

COMPONENTS = {"key1": (0, 1), "key2": (0, 2), "cor1": (1, 1), "cor2": (2, 2)}


def needed(component, n_keys, d):
    """Inputs that attention, and the network, need for half of a component."""
    a, b = COMPONENTS[component]
    attention, network = attention_levels(key(1), d, n_keys), network_levels(key(1), d, n_keys)
    return (
        inputs_to_learn(attention.only(a * 9 + b - 1)),
        inputs_to_learn(network.only(shapes(n_keys, 6).index((a, b)))),
    )


def test_inputs_to_learn_are_the_printed_numbers():
    printed = {"key1": (39, 166), "key2": (454, 2.26e4), "cor1": (415, 2.03e4), "cor2": (3.4e4, 2.3e8)}
    for component, wanted in printed.items():
        assert needed(component, 16, 16) == pytest.approx(wanted, rel=0.06)


@pytest.mark.parametrize(("component", "total"), [("key1", 1), ("key2", 2), ("cor1", 2), ("cor2", 4)])
def test_inputs_grow_with_the_dimension_for_both_and_with_the_keys_for_the_network_alone(component, total):
    """Exponents between 32 and 64: d^total for both; N^total for the network and nearly none for attention."""
    small, wide, many = needed(component, 16, 32), needed(component, 16, 64), needed(component, 64, 32)
    half = needed(component, 32, 32)
    in_d = [log(w / s) / log(2) for w, s in zip(wide, small, strict=True)]
    in_n = [log(m / h) / log(2) for m, h in zip(many, half, strict=True)]
    assert in_d == pytest.approx([total, total], abs=0.25)
    assert in_n[0] < 0.3 and in_n[1] == pytest.approx(total, abs=0.15)


def test_norms_grow_geometrically_with_the_degree_in_keys_and_as_a_power_in_correlations():
    growth = [tensor_norm(0, p + 2) / tensor_norm(0, p) / (1 + 2 / p) ** 2.5 for p in (10, 20, 40)]
    assert growth == pytest.approx([9, 9, 9], rel=0.12) and abs(growth[2] - 9) < abs(growth[0] - 9)
    assert tensor_norm(40, 40) / tensor_norm(20, 20) < 2**4
    ratios = [needed("key2", n, 16)[1] / needed("key2", n, 16)[0] for n in (8, 16)]
    assert ratios[1] > 2 * ratios[0] > 20  # and the network needs the more for its degree the more keys there are


def test_attention_learns_faster_than_the_bound_on_its_excess_risk():
    """The bound √(B/n) falls with the exponent −1/2 at most; the predicted and the measured error fall faster."""
    levels = attention_levels(key(1), 16, 16)
    ends = [predicted_error(levels, n) for n in (64, 512)]
    assert log(ends[1] / ends[0]) / log(8) < -0.5
    xs = inputs(1000, 8, 8)
    ys, model = labels([key(1)], xs), RandomAttention(8, 8, 300, rng=generator(1))
    gram, rows = model.kernel(xs[:256]), model.kernel(xs[256:], xs[:256])
    few, many = least_errors(gram, ys[:256], rows, ys[256:], (32, 256))[:, 0].tolist()
    assert log(many / few) / log(8) < -0.5
    assert many < exp(-1)


def test_what_theory_does_not_know_is_refused():
    with pytest.raises(ValueError, match="known for KeyAverage and QueryFunction, not for Alternating"):
        energies(Alternating(), 8, 3)
    with pytest.raises(ValueError, match="is no polynomial: give a degree"):
        rkhs_norm(KeyAverage(Cosine()), 8)
    with pytest.raises(ValueError, match="d must be at least 3 and at most 4096, given 2"):
        rkhs_norm(key(1), 2)
