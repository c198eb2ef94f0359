"""Nothing is floored or cancels where a number is known: closed forms against fifty digits over eleven orders of noise,
kernels' spectra and norms against their series in many dimensions and high degrees."""

from functools import cache
from itertools import product

import mpmath as mp
import pytest
import torch

from iclab.predictors import DiscreteMMSE, Mixture, Posterior, SparsePosterior
from iclab.predictors.quadrature import gegenbauer, hermite, legendre
from iclab.tasks import Arctangent, Cosine, KeyAverage, Power, Profile, QueryFunction
from iclab.theory.random_features import _triples, attention_spectrum, harmonics, rkhs_norm
from tests.conftest import generator
from tests.exact import mixture, normal, pooled, supports

NOISES = (1e-8, 1e-5, 1e-3, 0.1, 1.0, 1e3)
DIGITS = 1e-6  # relative: what is promised over this range of noise

# ---- posteriors ----------------------------------------------------------------------------------------------------


def inputs(kind: str, n: int = 6, d: int = 4) -> torch.Tensor:
    xs = torch.randn(n, d, generator=generator(0), dtype=torch.float64)
    if kind == "repeated":
        xs[2:4] = xs[1]
    return xs.sign() if kind == "signs" else xs


def labels(xs: torch.Tensor, scale: float, noise: float) -> torch.Tensor:
    ws = scale * torch.tensor([1.0, -0.5, 0.0, 0.0], dtype=torch.float64)[: xs.shape[1]]
    return xs @ ws + noise * torch.randn(len(xs), generator=generator(1), dtype=torch.float64)


def off(found: torch.Tensor, wanted: list | float, least: float = 0.0) -> float:
    """The distance relative to what is wanted, or to `least` where that is more."""
    target = torch.tensor(wanted, dtype=torch.float64)
    return ((found - target).norm() / target.norm().clamp(min=least)).item()


def agrees_with_fifty_digits(predictor, models, xs: torch.Tensor, ys: torch.Tensor) -> None:
    """Weights at the first positions and the last, and the log density of the labels before."""
    ws, densities = predictor.weights(xs[None], ys[None])[0], predictor.log_density(xs[None], ys[None])[0].cumsum(0)
    for i in (1, 2, len(xs) - 1):
        density, wanted, _ = mixture(xs[: i + 1], ys[: i + 1], models)
        assert off(ws[i], wanted) < DIGITS
        assert off(densities[i - 1], density, least=1.0) < DIGITS


def sparse_models(sparsity: int, prior: float, noise: float) -> list[tuple[torch.Tensor, float]]:
    kept = torch.tensor(supports(4, sparsity), dtype=torch.float64)
    return [(prior**2 * one.diag(), noise) for one in kept]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", ["normal", "signs", "repeated"])
def test_sparse_weights_and_densities_are_those_of_fifty_digits(kind: str, noise: float):
    xs = inputs(kind)
    for sparsity, scale in ((2, 1.0), (3, 1.0), (2, 1e-4)):  # labels may be small beside what the prior says
        std = max(1e-8, noise * scale)
        found = SparsePosterior(4, sparsity, 1.0, std)
        agrees_with_fifty_digits(found, sparse_models(sparsity, 1.0, std), xs, labels(xs, scale, std))


def test_an_older_floor_of_the_penalty_is_noticed(monkeypatch: pytest.MonkeyPatch):
    def floored(self, system):
        size = system.diagonal()[..., :4].mean(-1)
        lam = (2.0**-26 * size).clamp_min(self.noise**2)
        return lam, lam

    monkeypatch.setattr(SparsePosterior, "_floored", floored)
    xs = inputs("normal")
    with pytest.raises(AssertionError):
        agrees_with_fifty_digits(
            SparsePosterior(4, 2, 1.0, 1e-5), sparse_models(2, 1.0, 1e-5), xs, labels(xs, 1.0, 1e-5)
        )


@pytest.mark.parametrize("noise", [0.0, 1e-6, 0.5])
@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_units_of_labels_scale_the_answers_and_nothing_else(unit: float, noise: float):
    xs = inputs("normal")
    ys, kept = labels(xs, 1.0, noise), torch.randn(7, 4, generator=generator(2), dtype=torch.float64)
    cases = {
        "sparse": lambda s: SparsePosterior(4, 2, s, s * noise),
        "pool": lambda s: DiscreteMMSE(s * kept, s * noise),
    }
    for make in cases.values():
        plain, scaled = (make(s).weights(xs[None], s * ys[None])[0] for s in (1.0, unit))
        assert off(scaled / unit, plain.tolist()) < DIGITS


def test_sparse_weights_without_noise_do_not_depend_on_the_prior_once_they_are_determined():
    """Labels of 1e-8 of what the prior says are as good as any: the support that fits is the only one."""
    xs = inputs("normal")
    for unit in (1e-8, 1.0, 1e8):
        ws = SparsePosterior(4, 2, 1.0).weights(xs[None], unit * labels(xs, 1.0, 0.0)[None])[0]
        assert off(ws[3:] / unit, [[1.0, -0.5, 0.0, 0.0]] * 3) < DIGITS


@pytest.mark.parametrize("noise", [1e-30, 1e-14, *NOISES, 1e30])
def test_weights_and_densities_of_a_pool_are_those_of_fifty_digits(noise: float):
    """Labels in units of 1/8 are exact, so that noise of 1e-30 means something."""
    pool = (8 * torch.randn(6, 3, generator=generator(3), dtype=torch.float64)).round() / 8
    xs = (8 * torch.randn(6, 3, generator=generator(4), dtype=torch.float64)).round() / 8
    ys = xs @ pool[2] + noise * torch.randn(6, generator=generator(5), dtype=torch.float64)
    found = DiscreteMMSE(pool, noise)
    ws, densities = found.weights(xs[None], ys[None])[0], found.log_density(xs[None], ys[None])[0].cumsum(0)
    for i in range(1, 6):
        density, wanted = pooled(xs[:i], ys[:i], pool, noise)
        assert off(ws[i], wanted) < DIGITS and off(densities[i - 1], density, least=1.0) < DIGITS


# ---- mixtures ------------------------------------------------------------------------------------------------------


def of_moments(mixed: Mixture, xs: torch.Tensor, ys: torch.Tensor) -> list[float]:
    """Variances in fifty digits, from what the components themselves say."""
    parts = [part for part in mixed.components if isinstance(part, Posterior)]
    each = [(part.log_density(xs, ys)[0], part(xs, ys)[0], part.variance(xs)[0]) for part in parts]
    variances = []
    for i in range(xs.shape[1]):
        odds = [mp.e ** mp.fsum(density[:i].tolist()) for density, _, _ in each]
        shares = [p / mp.fsum(odds) for p in odds]
        mean = mp.fsum(p * mp.mpf(m[i].item()) for p, (_, m, _) in zip(shares, each, strict=True))
        spread = [v[i].item() + (m[i].item() - mean) ** 2 for _, m, v in each]
        variances.append(float(mp.fsum(p * v for p, v in zip(shares, spread, strict=True))))
    return variances


class Told(Posterior):
    """A component that says what it was told to say."""

    def __call__(self, xs, ys):
        return self.mean * torch.ones_like(ys)

    def variance(self, xs):
        return self.noise**2 * torch.ones_like(xs[..., 0])

    def log_density(self, xs, ys):
        return -((ys - self(xs, ys)) / self.noise).square() / 2 - torch.as_tensor(self.noise, dtype=ys.dtype).log()


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_the_variance_of_a_mixture_is_that_within_and_that_between(noise: float, scale: float):
    """Whatever the components say: here means of `scale`, some of the noise apart."""
    xs = inputs("normal")[None, :, :1]
    one = torch.ones(1, 1, dtype=torch.float64)
    middle = scale * one[0]
    parts = (Told(one, noise, middle), Told(one, 2 * noise, middle + 3 * noise), Told(one, noise, middle - 2 * noise))
    ys = scale + noise * torch.randn(1, 6, generator=generator(6), dtype=torch.float64)
    mixed = Mixture(parts)
    found = mixed.variance(xs, ys)[0]
    for value, wanted in zip(found, of_moments(mixed, xs, ys), strict=True):
        assert off(value, wanted) < DIGITS
    assert (found >= noise**2 * (1 - DIGITS)).all()


@pytest.mark.parametrize("noise", [1e-8, 1e-5, 1e-3, 0.1, 1.0, 1e3])
def test_densities_and_variances_of_a_mixture_are_those_of_fifty_digits(noise: float):
    xs = inputs("normal")
    ys, eye = labels(xs, 1.0, noise), torch.eye(4, dtype=torch.float64)
    models = [(eye, noise), (eye, 3 * noise), (eye / 4, noise)]
    mixed = Mixture(tuple(Posterior(*model) for model in models))
    agrees_with_fifty_digits(mixed, models, xs, ys)
    variances = [mixture(xs[: i + 1], ys[: i + 1], models)[2] for i in range(6)]
    assert off(mixed.variance(xs[None], ys[None])[0], variances) < DIGITS


# ---- quadrature and spectra ----------------------------------------------------------------------------------------


def beta_means(d: int, k: int, a: int) -> mp.mpf:
    """E[(1 + z)^k P_a(z)], by parts and the moments of a beta law."""
    if k < a:
        return mp.mpf(0)
    h, half, m = mp.mpf(d + 2 * a - 1) / 2, mp.mpf(d) / 2, k - a
    parts = mp.gamma(half) / (mp.mpf(2) ** a * mp.gamma(a + half)) * mp.factorial(k) / mp.factorial(m)
    return parts * mp.mpf(2) ** m * mp.rf(h, m) / mp.rf(2 * h, m)


def eigenvalue(d: int, a: int, b: int, terms: int) -> float:
    def mu(k: int) -> mp.mpf:
        if k < 2:
            return 1 / (2 * mp.pi) if k == 0 else mp.mpf(1) / 4
        return (
            mp.mpf(0)
            if k % 2
            else mp.binomial(k - 2, k // 2 - 1) / mp.mpf(4) ** (k // 2 - 1) / (2 * mp.pi * (k - 1) * k)
        )

    kept = [0, 1, *range(2, terms, 2)]
    return float(mp.fsum(mu(k) / mp.mpf(4) ** k * beta_means(d, k, a) * beta_means(d, k + 1, b) for k in kept))


@pytest.mark.parametrize(("d", "terms"), [(16, 800), (100, 300), (200, 300)])
def test_eigenvalues_of_attention_are_those_of_their_series(d: int, terms: int):
    found = attention_spectrum(d, 12)
    assert (found > 0).all()
    for a, b in ((0, 0), (3, 9), (12, 0), (12, 12)):
        assert found[a, b].item() == pytest.approx(eigenvalue(d, a, b, terms), rel=DIGITS)


@pytest.mark.parametrize("degree", [12, 24])
def test_eigenvalues_in_few_dimensions_do_not_end_with_their_series(degree: int, monkeypatch: pytest.MonkeyPatch):
    """In 3 dimensions terms fall as the power −4.5 of their number: twice as many change nothing."""
    found = attention_spectrum(3, degree)
    monkeypatch.setattr("iclab.theory.random_features.LONG", 2**17)
    torch.testing.assert_close(attention_spectrum.__wrapped__(3, degree), found, rtol=DIGITS, atol=0)


@cache
def polynomial(d: int, b: int) -> list[mp.mpf]:
    """The coefficients of P_b, the lowest first."""
    if b < 2:
        return [mp.mpf(0)] * b + [mp.mpf(1)]
    found = [mp.mpf(0), *((2 * b + d - 4) * c for c in polynomial(d, b - 1))]
    for i, c in enumerate(polynomial(d, b - 2)):
        found[i] -= (b - 1) * c
    return [c / (b + d - 3) for c in found]


def mean(d: int, *factors: list[mp.mpf]) -> mp.mpf:
    """E of a product of polynomials of a coordinate."""
    total = [mp.mpf(1)]
    for factor in factors:
        longer = [mp.mpf(0)] * (len(total) + len(factor) - 1)
        for (i, one), (j, other) in product(enumerate(total), enumerate(factor)):
            longer[i + j] += one * other
        total = longer
    half = mp.mpf(d) / 2
    return mp.fsum(c * mp.rf(0.5, k // 2) / mp.rf(half, k // 2) for k, c in enumerate(total) if k % 2 == 0)


@pytest.mark.parametrize("d", [3, 16, 200, 4096])
def test_means_of_three_polynomials_keep_their_digits(d: int):
    triples = _triples(d, 12)
    for a, b, c in ((1, 1, 2), (6, 6, 12), (4, 12, 8), (12, 12, 12), (11, 12, 1)):
        wanted = mean(d, polynomial(d, a), polynomial(d, b), polynomial(d, c))
        assert triples[a, b, c].item() == pytest.approx(float(wanted), rel=DIGITS)
    assert triples[2, 3, 4] == 0 and triples[2, 3, 7] == 0


def norm(d: int, p: int) -> float:
    """B of (1/N) Σ_i ⟨β, x_i⟩^p: Σ_b c_b²/N_b / λ_0b, with c_b = N_b E z^p P_b."""
    power = [mp.mpf(0)] * p + [mp.mpf(1)]
    parts = [harmonics(d, b) * mean(d, power, polynomial(d, b)) ** 2 for b in range(p + 1)]
    return float(mp.fsum(c / mp.mpf(eigenvalue(d, 0, b, 200 if d > 50 else 600)) for b, c in enumerate(parts)))


@pytest.mark.parametrize(("d", "p"), [(16, 5), (200, 12)])
def test_norms_of_high_powers_in_many_dimensions_are_those_of_fifty_digits(d: int, p: int):
    assert rkhs_norm(KeyAverage(Power(p)), d) == pytest.approx(norm(d, p), rel=DIGITS)


def test_the_printed_norm_of_the_twelfth_power_in_a_hundred_dimensions():
    assert rkhs_norm(KeyAverage(Power(12)), 100) == pytest.approx(2.41045e8, rel=1e-5)


def transcendental(profile, d: int, degree: int) -> float:
    """B of (1/N) Σ_i ψ(⟨β, x_i⟩) up to a degree, by adaptive integration."""
    half, total = mp.mpf(d - 3) / 2, mp.beta(mp.mpf(1) / 2, mp.mpf(d - 1) / 2)

    def coefficient(b: int) -> mp.mpf:
        def weighed(z: mp.mpf) -> mp.mpf:
            return profile(z) * mp.polyval(polynomial(d, b)[::-1], z) * (1 - z * z) ** half / total

        return mp.quad(weighed, [-1, -0.5, 0, 0.5, 1])

    return float(
        mp.fsum(
            harmonics(d, b) * coefficient(b) ** 2 / mp.mpf(eigenvalue(d, 0, b, 200 if d > 50 else 600))
            for b in range(degree + 1)
        )
    )


@pytest.mark.parametrize(
    ("profile", "formula"),
    [
        (Cosine(), lambda z: mp.cos(z)),
        (Cosine(20.0), lambda z: mp.cos(20 * z)),
        (Arctangent(3.0), lambda z: z * mp.atan(z / 3)),
        (Arctangent(0.5), lambda z: z * mp.atan(2 * z)),
    ],
    ids=lambda one: str(one) if isinstance(one, Profile) else "",
)
def test_norms_of_functions_that_are_no_polynomials_are_those_of_adaptive_integration(profile: Profile, formula):
    for d, degree in ((16, 4), (100, 4)):
        assert rkhs_norm(KeyAverage(profile), d, degree) == pytest.approx(
            transcendental(formula, d, degree), rel=DIGITS
        )


class Odd(Profile):
    """A function without a power series, whose parts of high degree are nearly 0."""

    def __call__(self, z):
        return z.abs() * 1e-20 + z


def test_a_norm_that_rounding_makes_up_is_refused_with_its_degree():
    with pytest.raises(ValueError, match="in 200 dimensions rounding leaves no norm up to degree 12"):
        rkhs_norm(KeyAverage(Odd()), 200, 12)
    with pytest.raises(ValueError, match=r"degree must lie in 0..24, given 40"):
        rkhs_norm(QueryFunction(Power(40)), 8)
    with pytest.raises(ValueError, match="at most 4096, given 10000000000"):
        attention_spectrum(10**10, 3)


@pytest.mark.parametrize("rule", [legendre, hermite, lambda n: gegenbauer(200, n)], ids=["uniform", "normal", "sphere"])
def test_rules_of_symmetric_laws_are_symmetric(rule):
    nodes, weights = rule(30)
    assert (weights > 0).all() and torch.equal(nodes, -nodes.flip(0))
    assert abs(weights @ nodes**29) < 1e-14 * (weights @ nodes.abs() ** 29)


def test_high_moments_are_those_of_the_law():
    for k in (20, 40, 58):
        nodes, weights = hermite(30)
        assert (weights @ nodes**k).item() == pytest.approx(float(mp.fac2(k - 1)), rel=1e-11)
        nodes, weights = gegenbauer(200, 30)
        wanted = float(mp.rf(0.5, k // 2) / mp.rf(100, k // 2))
        assert (weights @ nodes**k).item() == pytest.approx(wanted, rel=1e-11)


def test_the_mean_of_a_normal_law_is_that_of_its_definition():
    """What posteriors are held against is itself held against a density that is written out."""
    density = normal([1.0, 2.0], [[2.0, 0.5], [0.5, 1.0]])
    assert float(density) == pytest.approx(-float(mp.log(2 * mp.pi * mp.sqrt(1.75)) + mp.mpf(7) / 3.5), rel=1e-12)
