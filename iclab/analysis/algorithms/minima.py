"""Bounded minima of many functions of one number at once, by parabolas through three points and golden sections.

Each function is known at a ≤ b ≤ c with its least value at b, so that there is a minimum between a and c. The next
point is where the parabola through the three is least, or where that is no new point between a and c the golden section
of the longer side; so it is in every third round, for parabolas alone may creep along one side. The best two points and
the next one on the other side of the best stay: a value that was found is never given up for a worse one (Brent 1973,
Algorithms for Minimization Without Derivatives, ch. 5). At an end of the range, where a = b or b = c, a point beside it
is tried, and if that is worse the end is the minimum.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SECTION = (3 - 5**0.5) / 2  # of the longer side, from the best point
BESIDE = 1e-3  # of the bracket, from an end of the range
ROUNDS = 60  # at most; six are enough where the least value is not zero
SETTLED = 1e-8  # of a value: a parameter is then known to 1e-4 of where the value doubles


def minima(
    of: Callable[[Float[Tensor, " m"]], Float[Tensor, " m"]],
    bracket: Float[Tensor, "3 m"],
    values: Float[Tensor, "3 m"],
    zero: Float[Tensor, " m"],
) -> Float[Tensor, " m"]:
    """Finds where m functions are least, within brackets a ≤ b ≤ c and from the values there. `of` is called once a
    round, and no more where no function would gain by it; values up to `zero` are as good as zero."""
    for k in range(ROUNDS):
        section = k % 3 == 2
        x = _next(bracket, values, section)
        at_x, before = of(x), (bracket, values)
        bracket, values = _narrowed(bracket, values, x, at_x)
        settled = (at_x - before[1][1]).abs() <= SETTLED * values[1]
        at_end = _at_end(before[0]) & _at_end(bracket)
        if (settled & (not section) | at_end | (values[1] <= zero)).all():
            break
    return bracket[1]


def _at_end(bracket: Float[Tensor, "3 m"]) -> Bool[Tensor, " m"]:
    return (bracket[1] == bracket[0]) | (bracket[1] == bracket[2])


def _next(bracket: Float[Tensor, "3 m"], values: Float[Tensor, "3 m"], section: bool) -> Float[Tensor, " m"]:
    """The least point of each parabola, or a section."""
    (a, b, c), (at_a, at_b, at_c) = bracket, values
    r, q = (b - a) * (at_b - at_c), (b - c) * (at_b - at_a)
    lowest = b - ((b - c) * q - (b - a) * r) / (2 * (q - r))
    longer = torch.where(c - b > b - a, c - b, a - b)
    cut = b + longer * torch.where(_at_end(bracket), BESIDE, SECTION)
    return cut if section else lowest.where((a < lowest) & (lowest < c) & (lowest != b), cut)


def _narrowed(
    bracket: Float[Tensor, "3 m"], values: Float[Tensor, "3 m"], x: Float[Tensor, " m"], at_x: Float[Tensor, " m"]
) -> tuple[Float[Tensor, "3 m"], Float[Tensor, "3 m"]]:
    """The brackets with one point more and one less."""
    (a, b, c), (at_a, at_b, at_c) = bracket, values
    better = at_x < at_b
    best, at_best = x.where(better, b), at_x.where(better, at_b)
    rest, at_rest = b.where(better, x), at_b.where(better, at_x)
    left, right = rest < best, rest > best
    return (
        torch.stack([rest.where(left, a), best, rest.where(right, c)]),
        torch.stack([at_rest.where(left, at_a), at_best, at_rest.where(right, at_c)]),
    )
