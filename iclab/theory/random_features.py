"""Theory of attention and networks with infinitely many frozen heads on uniform unit tokens: the spectra of
their kernels, the norms of targets, and how many inputs these take to learn.

P_b is the Gegenbauer polynomial of degree b in d dimensions with P_b(1) = 1, and N_b the number of harmonics Y_b. The
kernels have the eigenfunctions and eigenvalues

    attention   √N (1/N) Σ_i Y_a(x_0) Y_b(x_i)      λ_ab/N, and λ_a0 for b = 0
                λ_ab = E[(1 + t) κ((1 + u)(1 + t)/4) P_a(u) P_b(t)],      u, t coordinates of uniform points
                     = Σ_k μ_k 4^{−k} E[(1 + u)^k P_a(u)] E[(1 + t)^{k+1} P_b(t)]
    network     Π_i Y_{a_i}(x_i), i = 0..N          Π_i r(a_i) · (N + 2)^{−m} E κ⁽ᵐ⁾(z),      m = Σ a_i
                r(a) = Γ(d/2) / (2^a Γ(a + d/2)),   z = (1 + Σ u_i)/(N + 2),   u_i a coordinate in d + 2a_i dimensions

By parts, E ψ P_a = r(a) E ψ⁽ᵃ⁾ with the mean on the right in d + 2a dimensions. So a power, and with it λ_ab, is a sum
of positive numbers: as small as d^{−a−b}, it is known to the last digits, while a quadrature of the product would leave
the rounding error of numbers of order 1.

The target f* = (1/N) Σ_i F(x_0, x_i), of which F_ab is the part of degree a in the query and b in the keys, has in the
space of the attention kernel the squared norm, which is that of the least values v(W) with f* = E_W ⟨φ_W, v(W)⟩,

    B(f*) = Σ_ab E F_ab² / λ_ab .

Kernel ridge regression on n inputs with eigenvalues l_i of multiplicity m_i and a penalty has the test error

    E₀ [Σ_i e_i (k/(l_i + k))² + σ²] − σ²,      E₀ = n / (n − Σ m_i (l_i/(l_i + k))²),
    n = Σ m_i l_i/(l_i + k) + (penalty + tail)/k,

where e_i is the energy of the target at l_i and the eigenvalues that are not counted, with the sum `tail`, act as a
penalty.

Sources: Fu, Guo, Bai, Mei 2023, arXiv 2307.11353 (the models, and bounds of the form B ≤ Σ C_k ‖f_k‖²); the learning
curve: Simon, Dickens, Karkada, DeWeese 2021, arXiv 2110.03922. The spectra and exact norms are this project's.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import comb, exp, factorial, lgamma, log, prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.kernels import arc_cosine, arc_cosine_coefficients
from iclab.predictors.quadrature import gegenbauer
from iclab.tasks import KeyAverage, Power, Profile, QueryFunction, Target

NODES = 160
LARGEST, HIGHEST = 4096, 24  # dimensions and degrees up to which six digits were checked
SHARE = 1e-6  # of a norm, which rounding may make up
HALF = 0.5  # the relative error at which a target counts as half learned
TERMS = 90  # of power series in z, whose moments fall fast: |z| is of order 1/√(d N)
SERIES = 1000  # terms of the power series of a profile, which fall geometrically
LONG = 2**16  # terms of series that only fall as a power of their number, in few dimensions

# ---- harmonics -----------------------------------------------------------------------------------------------------


def harmonics(d: int, b: int) -> int:
    """Returns N_b, the number of spherical harmonics of degree b in d dimensions."""
    return 1 if b == 0 else comb(d + b - 1, b) - (comb(d + b - 3, b - 2) if b > 1 else 0)


def polynomials(d: int, degree: int, t: Float[Tensor, " nodes"]) -> Float[Tensor, "degrees nodes"]:
    """Returns P_0(t), ..., P_degree(t)."""
    values = [torch.ones_like(t), t]
    for b in range(1, degree):
        values.append(((2 * b + d - 2) * t * values[b] - b * values[b - 1]) / (b + d - 2))
    return torch.stack(values[: degree + 1])


@lru_cache
def _rule(d: int, degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes, weights, and the polynomials at the nodes."""
    refuse("theory of random features", _problems(d, degree))
    nodes, weights = gegenbauer(d, NODES)
    return nodes, weights, polynomials(d, degree, nodes)


def _problems(d: int, degree: int) -> list[str]:
    """What is not known, or not to six digits."""
    problems = [] if 3 <= d <= LARGEST else [f"d must be at least 3 and at most {LARGEST}, given {d}"]
    return problems + ([] if 0 <= degree <= HIGHEST else [f"degree must lie in 0..{HIGHEST}, given {degree}"])


def _coefficients(profile: Profile, d: int, degree: int) -> tuple[Float[Tensor, " degrees"], Float[Tensor, " degrees"]]:
    """c_b of ψ = Σ_b c_b P_b, and what rounding may have made of them: by quadrature or, where that loses less, by the
    power series of ψ (whose terms cancel where ψ varies fast)."""
    nodes, weights, ps = _rule(d, degree)
    coefficients = [_summed(ps * (weights * profile(nodes)))]
    if (series := profile.powers(SERIES)) is not None:
        held = series.nonzero().flatten()
        coefficients.append(_summed(series[held] * torch.stack([_power_means(d, b, held) for b in range(degree + 1)])))
    values, errors = (torch.stack(each) * _numbers(d, degree) for each in zip(*coefficients, strict=True))
    best = errors.argmin(0, keepdim=True)
    return values.gather(0, best).squeeze(0), errors.gather(0, best).squeeze(0)


def _summed(terms: Float[Tensor, "degrees terms"]) -> tuple[Float[Tensor, " degrees"], Float[Tensor, " degrees"]]:
    """Sums, and the error that a rounding error of 16 units in each term may make."""
    return terms.sum(1), terms.abs().sum(1) * 16 * torch.finfo(terms.dtype).eps


def _by_parts(d: int, a: int, k: Int[Tensor, " terms"]) -> Float[Tensor, " terms"]:
    """log of r(a) k!/(k − a)!, −∞ for k < a: with E of the (k − a)-th power in d + 2a dimensions, E[z^k P_a(z)] and
    E[(1 + z)^k P_a(z)]."""
    falling = torch.lgamma(k.double() + 1) - torch.lgamma((k - a).clamp(min=0).double() + 1)
    return (lgamma(d / 2) - lgamma(a + d / 2) - a * log(2) + falling).where(k >= a, -torch.inf)


def _power_means(d: int, a: int, k: Int[Tensor, " terms"]) -> Float[Tensor, " terms"]:
    """E[z^k P_a(z)] of a coordinate, for even k − a by E z^{2m} = Γ(D/2) Γ(m + ½) / (√π Γ(D/2 + m)) with D = d + 2a."""
    half, m = d / 2 + a, ((k - a).clamp(min=0) / 2).double()
    means = lgamma(half) - lgamma(0.5) + torch.lgamma(m + 0.5) - torch.lgamma(half + m)
    return (_by_parts(d, a, k) + means).exp().where((k - a) % 2 == 0, 0.0)


def _shifted_means(d: int, a: int, k: Int[Tensor, " terms"]) -> Float[Tensor, " terms"]:
    """E[((1 + z)/2)^k P_a(z)] of a coordinate: (1 + z)/2 is Beta(h, h) with h = (D − 1)/2."""
    h, m = (d + 2 * a - 1) / 2, (k - a).clamp(min=0).double()
    means = torch.lgamma(h + m) - lgamma(h) + lgamma(2 * h) - torch.lgamma(2 * h + m)
    return (_by_parts(d, a, k) + means - a * log(2)).exp()


def _numbers(d: int, degree: int) -> Float[Tensor, " degrees"]:
    """N_0, ..., N_degree."""
    return torch.tensor([harmonics(d, b) for b in range(degree + 1)], dtype=torch.float64)


# ---- attention -----------------------------------------------------------------------------------------------------


@lru_cache
def attention_spectrum(d: int, degree: int) -> Float[Tensor, "query key"]:
    """Returns λ_ab for a, b ≤ degree. Their sum with multiplicities N_a N_b tends to (1 + t) κ at u = t = 1, which is
    1."""
    refuse("theory of random features", _problems(d, degree))
    mu = arc_cosine_coefficients(LONG)
    k = mu.nonzero().flatten()
    queries, keys = (torch.stack([_shifted_means(d, a, m) for a in range(degree + 1)]) for m in (k, k + 1))
    return 2 * (queries * mu[k]) @ keys.mT


def energies(target: Target, d: int, degree: int) -> Float[Tensor, "query key"]:
    """Returns E F_ab² of a target (1/N) Σ_i F(x_0, x_i), for a, b ≤ degree."""
    return _energies(target, d, degree, 0.0)


def _energies(target: Target, d: int, degree: int, slack: float) -> Float[Tensor, "query key"]:
    """Those of coefficients that are larger by so much of their rounding error, or smaller.

    With φ = Σ c_a P_a and ψ = Σ s_c P_c, by E_{x_0} P_a(⟨x_0,x⟩) P_a(⟨x_0,y⟩) = P_a(⟨x,y⟩)/N_a and the same for β,
    the part of F = φ(⟨x_0,x⟩) ψ(⟨β,x⟩) has the energy c_a² (N_b/N_a) Σ_c E[P_a P_b P_c] s_c²/N_c.
    """
    counts = _numbers(d, degree)

    def squares(profile: Profile) -> Float[Tensor, " degrees"]:
        value, error = _coefficients(profile, d, degree)
        return (value.abs() + slack * error).clamp(min=0) ** 2

    if isinstance(target, QueryFunction):
        alone = squares(target.profile) / counts
        return torch.nn.functional.pad(alone.unsqueeze(1), (0, degree))
    if not isinstance(target, KeyAverage):
        refuse("energies", [f"known for KeyAverage and QueryFunction, not for {type(target).__name__}"])
        raise AssertionError
    c, s = squares(target.correlation), squares(target.key)
    return (c / counts).unsqueeze(1) * counts * (_triples(d, degree) @ (s / counts))


@lru_cache
def _triples(d: int, degree: int) -> Float[Tensor, "degrees degrees degrees"]:
    """E[P_a P_b P_c]. It is 0 where one degree exceeds the sum of the others, or all three have an odd sum."""
    _, weights, ps = _rule(d, degree)
    a, b, c = torch.meshgrid(*[torch.arange(degree + 1)] * 3, indexing="ij")
    held = (a <= b + c) & (b <= a + c) & (c <= a + b) & ((a + b + c) % 2 == 0)
    return torch.einsum("aq,bq,cq,q->abc", ps, ps, ps, weights).where(held, 0.0)


def rkhs_norm(target: Target, d: int, degree: int | None = None) -> float:
    """Returns B(f*), the squared norm of a target in the space of the attention kernel; the number of keys does not
    matter. Exact for polynomials; of others the part up to `degree`. Raises ``ValueError`` where neither is known, and
    where rounding errors of coefficients, which are divided by tiny eigenvalues, could be more than `SHARE` of it."""
    known = polynomial_degree(target)
    refuse("rkhs_norm", [f"{target} is no polynomial: give a degree"] if known is None and degree is None else [])
    degree = max(degree or 0, known or 0, 1)
    least, value, most = (_norm(target, d, degree, slack) for slack in (-1.0, 0.0, 1.0))
    lost = f"of {target} in {d} dimensions rounding leaves no norm up to degree {degree}: take a lower one"
    refuse("rkhs_norm", [] if most - least <= SHARE * value else [lost])
    return value


def _norm(target: Target, d: int, degree: int, slack: float) -> float:
    return (_energies(target, d, degree, slack) / attention_spectrum(d, degree)).sum().item()


def polynomial_degree(target: Target) -> int | None:
    """Returns the degree of a target in one token, none where it is no polynomial."""
    profiles = [getattr(target, name) for name in ("key", "correlation", "profile") if hasattr(target, name)]
    degrees = [profile.degree for profile in profiles if isinstance(profile, Power)]
    return sum(degrees) if len(degrees) == len(profiles) else None


def tensor_norm(r: int, s: int, terms: int = 400) -> float:
    """Returns h(r, s): f* = (1/N) Σ_i ⟨x_0^⊗r ⊗ x_i^⊗s, T⟩ has B(f*) ≤ h(r,s) ‖T‖², in any dimension and for any unit
    tokens; 1/h = Σ_k μ_k C(k, r) C(k+1, s) 4^{−k}.

    Since Σ_k C(k, s) 4^{−k} ∝ 3^{−s}, h(0, s) grows as s^{5/2} 3^s, and h(p, p) only as a power of p: both far below
    the C_k = k^{9/2} 4^k of the paper, which is a bound.
    """
    mu = arc_cosine_coefficients(terms).tolist()
    return 1 / sum(m * comb(k, r) * comb(k + 1, s) / 4**k for k, m in enumerate(mu))


def interpolation_norms(
    gram: Float[Tensor, "n n"], ys: Float[Tensor, "n targets"], jitter: float = 1e-9
) -> Float[Tensor, "n targets"]:
    """Returns yᵀK⁻¹y of the first 1, 2, ..., n inputs: the squared norm of the least function through them. It rises to
    B(f*), and by one Cholesky factor: K = LLᵀ, whose leading blocks belong to fewer inputs, makes it Σ_j (L⁻¹y)_j²."""
    root = torch.linalg.cholesky(gram + jitter * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    return torch.linalg.solve_triangular(root, ys.to(gram), upper=False).square().cumsum(0)


# ---- spectra with targets ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Levels:
    """Eigenvalues of a kernel with their multiplicities and the energies of a target, the constant function left out
    (an intercept learns it). `tail` is the sum of the eigenvalues that are not among them."""

    values: Float[Tensor, " levels"]
    multiplicities: Float[Tensor, " levels"]
    energies: Float[Tensor, " levels"]
    tail: float

    def only(self, level: int) -> "Levels":
        """Returns the same for a target on one level alone, of energy 1."""
        alone = torch.zeros_like(self.energies)
        alone[level] = 1.0
        return replace(self, energies=alone)


def attention_levels(target: Target, d: int, n_keys: int, degree: int = 8) -> Levels:
    """Returns the levels of the attention kernel, in the order of λ_ab by rows, (0, 0) left out."""
    share = torch.full((degree + 1,), 1 / n_keys, dtype=torch.float64)
    share[0] = 1.0
    numbers = _numbers(d, degree)
    values, counts = (attention_spectrum(d, degree) * share).flatten(), torch.outer(numbers, numbers).flatten()
    tail = max(0.0, _attention_trace(d, n_keys) - (values @ counts).item())
    return Levels(values[1:], counts[1:], (energies(target, d, degree) * share).flatten()[1:], tail)


def _attention_trace(d: int, n_keys: int) -> float:
    """E K(X, X): 1 for a key with itself, E (1 + t) κ((1 + t)/2) for two."""
    t, weights = gegenbauer(d, NODES)
    two = (weights @ ((1 + t) * arc_cosine((1 + t) / 2))).item()
    return (1 + (n_keys - 1) * two) / n_keys


def network_levels(target: Target, d: int, n_keys: int, degree: int = 6) -> Levels:
    """Returns the levels of the kernel of the network, of total degree ≤ `degree`: (0,) left out, in the order of
    `shapes`."""
    parts = energies(target, d, degree)
    rows = [
        (_network_value(shape, d, n_keys), _multiplicity(shape, d, n_keys), _energy(shape, parts, n_keys))
        for shape in shapes(n_keys, degree)
    ]
    values, counts, levels = torch.tensor(rows, dtype=torch.float64).unbind(1)
    constant = _network_value((0,), d, n_keys)
    return Levels(values, counts, levels, max(0.0, 0.5 - constant - (values @ counts).item()))


def shapes(n_keys: int, degree: int) -> list[tuple[int, ...]]:
    """Returns the degree in the query, and those in the keys that are not 0, falling: all of total degree 1 to
    `degree`."""
    return [
        (query, *keys)
        for total in range(1, degree + 1)
        for query in range(total, -1, -1)
        for keys in _partitions(total - query, total, n_keys)
    ]


def _partitions(total: int, largest: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Falling sequences of at most so many positive numbers with a given sum."""
    if total == 0:
        yield ()
    elif parts > 0:
        for first in range(min(total, largest), 0, -1):
            yield from ((first, *rest) for rest in _partitions(total - first, first, parts - 1))


def _multiplicity(shape: tuple[int, ...], d: int, n_keys: int) -> float:
    """Placements of the degrees on keys, times the harmonics of each."""
    keys = shape[1:]
    placed = factorial(n_keys) / factorial(n_keys - len(keys)) / prod(map(factorial, Counter(keys).values()))
    return placed * prod(float(harmonics(d, a)) for a in shape)


def _energy(shape: tuple[int, ...], parts: Float[Tensor, "query key"], n_keys: int) -> float:
    """That of the target, an average over keys of functions of one each."""
    if len(shape) > 2:
        return 0.0
    return parts[shape[0], 0].item() if len(shape) == 1 else parts[shape].item() / n_keys


@lru_cache(maxsize=4096)
def _network_value(shape: tuple[int, ...], d: int, n_keys: int) -> float:
    """Π r(a_i) · (N + 2)^{−m} E κ⁽ᵐ⁾(z), by the power series of κ and the exact moments of z."""
    m, width = sum(shape), n_keys + 2
    inner = prod(exp(lgamma(d / 2) - lgamma(a + d / 2)) / 2**a for a in shape)
    generating = _rest(d, n_keys + 1 - len(shape))
    for a in shape:
        generating = _product(generating, _moments(d + 2 * a))
    mu = arc_cosine_coefficients(TERMS + m).tolist()
    terms = (mu[k + m] * exp(lgamma(k + m + 1)) * g / width**k for k, g in enumerate(generating.tolist()))
    return inner / width**m * sum(terms)


@lru_cache
def _rest(d: int, tokens: int) -> Float[Tensor, " terms"]:
    """E exp(s (1 + Σ u_i)) over so many tokens of degree 0, as a power series in s."""
    series = torch.tensor([exp(-lgamma(k + 1)) for k in range(TERMS)], dtype=torch.float64)
    for _ in range(tokens):
        series = _product(series, _moments(d))
    return series


@lru_cache
def _moments(d: int) -> Float[Tensor, " terms"]:
    """E exp(s u) of a coordinate of a uniform point in d dimensions: E u^{2k} = (2k−1)!! / (d (d+2) ... (d+2k−2))."""
    even = [exp(lgamma(d / 2) - lgamma(k + d / 2) - lgamma(k + 1)) / 4**k for k in range(TERMS // 2)]
    return torch.tensor([value for term in even for value in (term, 0.0)], dtype=torch.float64)


def _product(one: Float[Tensor, " terms"], other: Float[Tensor, " terms"]) -> Float[Tensor, " terms"]:
    """The product of two power series, cut off."""
    padded = torch.nn.functional.pad(one, (TERMS - 1, 0)).view(1, 1, -1)
    return torch.nn.functional.conv1d(padded, other.flip(0).view(1, 1, -1)).flatten()


# ---- learning curves -----------------------------------------------------------------------------------------------


def predicted_error(levels: Levels, n: float, penalty: float = 0.0, noise: float = 0.0) -> float:
    """Returns the test error E(f − f*)² of kernel ridge regression on n inputs, relative to the variance of the target;
    the penalty is that of K + penalty·I, and `noise` the standard deviation of the labels' noise."""
    penalty += levels.tail
    k = _effective_penalty(levels, n, penalty)
    learned, missed = levels.values / (levels.values + k), k / (levels.values + k)
    used = (levels.multiplicities @ learned**2).item()
    left = (levels.multiplicities @ (learned * missed)).item() + penalty / k  # n − used, of which nothing cancels
    error = (levels.energies * missed**2).sum().item()
    return (n / left * error + used / left * noise**2) / levels.energies.sum().item()


def best_predicted_error(levels: Levels, n: float, noise: float = 0.0) -> float:
    """Returns the least predicted error over penalties, half a decade apart."""
    unit = (levels.values @ levels.multiplicities).item() + levels.tail
    return min(predicted_error(levels, n, unit * 10 ** (k / 2), noise) for k in range(-18, 7))


def _effective_penalty(levels: Levels, n: float, penalty: float) -> float:
    """k with n = Σ m l/(l + k) + penalty/k, by bisection of log k: the right side falls in k."""
    low, high = log(1e-30), log(1e3)
    for _ in range(100):
        middle = (low + high) / 2
        k = exp(middle)
        seen = (levels.multiplicities @ (levels.values / (levels.values + k))).item() + penalty / k
        low, high = (middle, high) if seen > n else (low, middle)
    return exp(low)


def inputs_to_learn(levels: Levels, error: float = HALF) -> float:
    """Returns the number of inputs at which the predicted relative error without noise falls to `error`, by
    bisection."""
    low, high = 0.0, log(1e15)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if predicted_error(levels, exp(middle)) > error else (low, middle)
    return exp(high)


def half_error(sizes: Sequence[int], errors: Sequence[float], level: float = HALF) -> tuple[float, bool]:
    """Returns the number of inputs from which on the error stays at or below a level, interpolated in the logarithms of
    both, and true; the last one and false where it is not reached, the first one and false where it was there
    before."""
    above = [k for k, error in enumerate(errors) if error > level]
    if not above or above[-1] == len(sizes) - 1:
        return float(sizes[-1] if above else sizes[0]), False
    k = above[-1]
    share = log(errors[k] / level) / log(errors[k] / errors[k + 1])
    return sizes[k] * (sizes[k + 1] / sizes[k]) ** share, True
