"""Linear CKA: similarity of the layers of two networks, invariant under rotation and scale.

With n rows of features X ∈ ℝ^{n×D} and Y ∈ ℝ^{n×E} of the same examples, without their means,

    CKA(X, Y) = HSIC(X, Y) / √(HSIC(X, X) HSIC(Y, Y))        HSIC(X, Y) = ‖Yᵀ X‖² = ⟨X Xᵀ, Y Yᵀ⟩

It does not change when X or Y is rotated, reflected or multiplied by a number, and it does under other linear maps.
Where rows are few beside features it is far from 0 for features that have nothing to do with each other; the unbiased
estimate of HSIC (Song et al. 2012), with K = X Xᵀ and L = Y Yᵀ but zeros on their diagonals,

    n (n − 3) HSIC₁ = tr K L + (1ᵀK 1)(1ᵀL 1) / ((n − 1)(n − 2)) − 2 (1ᵀK L 1) / (n − 2)

is 0 for these in expectation, and may be negative. Both are sums over features, or over pairs of rows, whichever are
fewer: K itself is formed only where there are more features than rows.

Source: Kornblith et al. 2019, arXiv 1905.00414, §3; with the unbiased estimate: Nguyen et al. 2020, arXiv 2010.15327.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.scale import ROUNDING
from iclab.errors import refuse

LEAST = 4  # rows: HSIC₁ divides by n − 3


def linear_cka(
    one: Float[Tensor, "layers n D"], other: Float[Tensor, "others m E"], unbiased: bool = False
) -> Float[Tensor, "layers others"]:
    """Returns CKA of every layer of one network with every layer of another, on the same n examples (row by row).

    To compare streams, lay out their tokens in rows: ``features(model, prompts).flatten(1, 2)``. Tokens of one prompt
    are no independent examples; the unbiased estimate is unbiased for rows that are. Not a number for a layer that
    does not vary. Raises ``ValueError`` where the examples are not as many, or fewer than 4.

    Args:
        one: Activations of each layer of a network, on n examples.
        other: Activations of each layer of another network, on the same examples.
        unbiased: Use the unbiased estimate of HSIC, whose expectation is 0 for independent features.

    >>> x = torch.randn(1, 20, 3, generator=torch.Generator().manual_seed(0))  # one layer of a network, 20 examples
    >>> linear_cka(x, 5 * x.flip(-1)).round(decimals=6)  # another order of channels, and another scale
    tensor([[1.]], dtype=torch.float64)
    """
    n, m = one.shape[1], other.shape[1]
    problems = [] if n == m else [f"needs the same examples for both networks, given {n} and {m}"]
    refuse("linear_cka", problems + ([] if min(n, m) >= LEAST else [f"needs at least {LEAST} rows, given {min(n, m)}"]))
    x, y = (_centred(h.double()) for h in (one, other))
    hsic = _unbiased_hsic if unbiased else _alignment
    own = [torch.cat([hsic(layer, layer) for layer in h.split(1)]).flatten() for h in (x, y)]
    return hsic(x, y) / own[0].sqrt().unsqueeze(1) / own[1].sqrt()


def _centred(h: Float[Tensor, "layers n D"]) -> Float[Tensor, "layers n D"]:
    """Rows without their mean, in units of what is left; zero in a layer that does not vary but by rounding."""
    x = h - h.mean(1, keepdim=True)
    spread, size = (each.square().mean((1, 2), keepdim=True).sqrt() for each in (x, h))
    return torch.where(spread > ROUNDING * size, x / spread, 0.0)


def _alignment(x: Float[Tensor, "layers n D"], y: Float[Tensor, "others n E"]) -> Float[Tensor, "layers others"]:
    """⟨X Xᵀ, Y Yᵀ⟩ of all pairs of layers."""
    n, d, e = x.shape[1], x.shape[2], y.shape[2]
    if d * e > n * n:
        return (x @ x.mT).flatten(1) @ (y @ y.mT).flatten(1).mT
    return torch.stack([(layer.mT @ y).square().sum((-2, -1)) for layer in x])


def _unbiased_hsic(x: Float[Tensor, "layers n D"], y: Float[Tensor, "others n E"]) -> Float[Tensor, "layers others"]:
    """n (n − 3) HSIC₁ of all pairs of layers. Rows of X Xᵀ sum to 0 where X has no means, so that rows of K sum to
    minus the diagonal that was taken off: p = ‖x_i‖² and q = ‖y_i‖² are all that is needed beside ⟨X Xᵀ, Y Yᵀ⟩."""
    n, p, q = x.shape[1], x.square().sum(-1), y.square().sum(-1)
    totals = p.sum(1, keepdim=True) * q.sum(1) / ((n - 1) * (n - 2))
    return _alignment(x, y) - n / (n - 2) * p @ q.mT + totals
