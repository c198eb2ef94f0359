"""Closed forms in fifty digits, by mpmath and in the plainest form there is: what float64 answers are held against."""

from collections.abc import Sequence
from itertools import combinations

import mpmath as mp
from torch import Tensor

mp.mp.dps = 50


def normal(y: Sequence[float], covariance: Sequence[Sequence[float]]) -> mp.mpf:
    """log N(y; 0, covariance)."""
    labels, kernel = mp.matrix(y), mp.matrix(covariance)
    return -((labels.T * mp.lu_solve(kernel, labels))[0] + mp.log(mp.det(kernel)) + len(labels) * mp.log(2 * mp.pi)) / 2


def gaussian(X: Tensor, y: Tensor, covariance: Tensor, noise: float) -> tuple[mp.mpf, mp.matrix, mp.mpf]:
    """log N(y; 0, X S Xᵀ + σ²I) of the examples before the last, E w given them, and the variance of the last label."""
    S, rows = mp.matrix(covariance.tolist()), mp.matrix(X.tolist())
    query, seen = rows[X.shape[0] - 1, :], X.shape[0] - 1
    own = (query * S * query.T)[0] + mp.mpf(noise) ** 2
    if not seen:
        return mp.mpf(0), mp.zeros(X.shape[1], 1), own
    past, labels = rows[:seen, :], mp.matrix(y[:seen].tolist())
    kernel = past * S * past.T + mp.mpf(noise) ** 2 * mp.eye(seen)
    across = past * S * query.T
    mean = S * past.T * mp.lu_solve(kernel, labels)
    return normal(labels, kernel), mean, own - (across.T * mp.lu_solve(kernel, across))[0]


def mixture(X: Tensor, y: Tensor, models: Sequence[tuple[Tensor, float]]) -> tuple[float, list[float], float]:
    """log p(y) of the examples before the last, E w given them, and the variance of the last label, where each of the
    models (the covariance of the weights, the noise) is as likely."""
    parts = [gaussian(X, y, covariance, noise) for covariance, noise in models]
    top = max(log_density for log_density, _, _ in parts)
    odds = [mp.e ** (log_density - top) for log_density, _, _ in parts]
    shares, query = [p / mp.fsum(odds) for p in odds], mp.matrix(X[-1:].tolist())
    ws = sum((p * w for p, (_, w, _) in zip(shares, parts, strict=True)), mp.zeros(X.shape[1], 1))
    middle = (query * ws)[0]
    spreads = [v + ((query * w)[0] - middle) ** 2 for _, w, v in parts]
    variance = mp.fsum(p * v for p, v in zip(shares, spreads, strict=True))
    return float(top + mp.log(mp.fsum(odds) / len(models))), [float(w) for w in ws], float(variance)


def pooled(X: Tensor, y: Tensor, pool: Tensor, noise: float) -> tuple[float, list[float]]:
    """log p(y) and E w, where w is one row of the pool, each as likely."""
    sigma, rows = mp.mpf(noise), [[mp.mpf(v) for v in row] for row in pool.tolist()]
    fits = [
        mp.fsum((mp.mpf(b) - mp.fdot(a, w)) ** 2 for a, b in zip(X.tolist(), y.tolist(), strict=True)) for w in rows
    ]
    logs = [-r / (2 * sigma**2) - len(y) * mp.log(2 * mp.pi * sigma**2) / 2 for r in fits]
    odds = [mp.e ** (one - max(logs)) for one in logs]
    ws = [mp.fsum(p * w[k] for p, w in zip(odds, rows, strict=True)) / mp.fsum(odds) for k in range(pool.shape[1])]
    return float(max(logs) + mp.log(mp.fsum(odds) / len(rows))), [float(w) for w in ws]


def supports(d: int, s: int) -> list[list[float]]:
    """Which coordinates are not 0, as ones and zeros."""
    return [[float(j in kept) for j in range(d)] for kept in combinations(range(d), s)]
