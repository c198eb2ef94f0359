"""Gaussian quadrature from three-term recurrences (Golub, Welsch 1969): the nodes are the eigenvalues of the symmetric
tridiagonal matrix of a recurrence. A rule with n nodes is exact for polynomials of degree 2n − 1. Weights sum to 1.

The weight of a node x is 1 / Σ_{k<n} p_k(x)², with the orthonormal polynomials p_k. It is also the squared first entry
of an eigenvector, but known up to eps there; as a sum of squares it keeps its digits where it is 1e-100, in the tails,
where polynomials are large. The distributions are symmetric, and so are the rules: what is odd has the mean 0.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

Rule = tuple[Float[Tensor, " nodes"], Float[Tensor, " nodes"]]


@lru_cache
def legendre(count: int) -> Rule:
    """Returns nodes and weights for the uniform distribution on [−1, 1]."""
    k = torch.arange(1, count, dtype=torch.float64)
    return _rule(k**2 / (4 * k**2 - 1))


@lru_cache
def hermite(count: int) -> Rule:
    """Returns nodes and weights for the standard normal distribution."""
    return _rule(torch.arange(1, count, dtype=torch.float64))


@lru_cache
def gegenbauer(d: int, count: int) -> Rule:
    """Returns nodes and weights for one coordinate of a uniform point of the unit sphere of ℝᵈ, d ≥ 3."""
    k = torch.arange(1, count, dtype=torch.float64)
    return _rule(k * (k + d - 3) / ((2 * k + d - 2) * (2 * k + d - 4)))


def _rule(squares: Float[Tensor, " nodes_minus_1"]) -> Rule:
    """The rule of a symmetric distribution whose monic orthogonal polynomials obey p_{k+1} = x p_k − squares_k
    p_{k−1}."""
    off = squares.sqrt()
    nodes = torch.linalg.eigvalsh(off.diag(1) + off.diag(-1))
    nodes = (nodes - nodes.flip(0)) / 2
    before, last = torch.zeros_like(nodes), torch.ones_like(nodes)
    total, step = last.square(), 0.0
    for following in off:
        before, last = last, (nodes * last - step * before) / following
        total, step = total + last.square(), following
    weights = 1 / total
    return nodes, weights / weights.sum()
