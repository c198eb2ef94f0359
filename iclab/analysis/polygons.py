"""Polygons on a grid, given by corners in order: their area, and whether they are simple. Integers, hence exact.

Rows hold polygons of different numbers of corners, of which the first `corners` count.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Plane = Int[Tensor, "batch n"]


def area(x: Plane, y: Plane, corners: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Returns ½ |Σ_i (x_i y_{i+1} − x_{i+1} y_i)|: of a simple polygon, what it encloses."""
    after = _after(x.shape[1], corners)
    turns = (x * y.gather(1, after) - x.gather(1, after) * y).masked_fill(~_there(x.shape[1], corners), 0)
    return turns.sum(1).abs().double() / 2


def simple(x: Plane, y: Plane, corners: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """Returns whether there are three corners or more, no edge meets another but at the corner that they share, and no
    edge goes back along the one before."""
    n = x.shape[1]
    after, there = _after(n, corners), _there(n, corners)
    nx, ny = x.gather(1, after), y.gather(1, after)
    i, j = torch.arange(n, device=x.device).unsqueeze(1), torch.arange(n, device=x.device)
    apart = (i < j - 1) & ~((i == 0) & (j == corners[:, None, None] - 1)) & there.unsqueeze(1)
    crossed = _meet(x, y, nx, ny) & apart
    dx, dy = nx - x, ny - y
    ahead_x, ahead_y = dx.gather(1, after), dy.gather(1, after)
    back = (dx * ahead_y == dy * ahead_x) & (dx * ahead_x + dy * ahead_y <= 0) & there
    return (corners >= 3) & ~crossed.any(2).any(1) & ~back.any(1)


def _there(n: int, corners: Int[Tensor, " batch"]) -> Bool[Tensor, "batch n"]:
    return torch.arange(n, device=corners.device) < corners.unsqueeze(1)


def _after(n: int, corners: Int[Tensor, " batch"]) -> Int[Tensor, "batch n"]:
    """The corner that follows each."""
    return (torch.arange(n, device=corners.device) + 1) % corners.clamp(min=1).unsqueeze(1)


def _meet(x: Plane, y: Plane, nx: Plane, ny: Plane) -> Bool[Tensor, "batch n n"]:
    """Whether edge i meets edge j: each has an end on either side of the other, or on it, and their boxes overlap."""
    side = _side(x, y, nx, ny, x, y).sign(), _side(x, y, nx, ny, nx, ny).sign()  # of j's ends, seen from edge i
    across = side[0] * side[1] <= 0
    boxes = [(torch.minimum(a, b).unsqueeze(1) <= torch.maximum(a, b).unsqueeze(2)) for a, b in ((x, nx), (y, ny))]
    overlap = boxes[0] & boxes[1]
    return across & across.mT & overlap & overlap.mT


def _side(x: Plane, y: Plane, nx: Plane, ny: Plane, px: Plane, py: Plane) -> Int[Tensor, "batch n n"]:
    """[b, i, j]: on which side of the line along edge i the point j lies."""
    ox, oy = px.unsqueeze(1) - x.unsqueeze(2), py.unsqueeze(1) - y.unsqueeze(2)
    return (nx - x).unsqueeze(2) * oy - (ny - y).unsqueeze(2) * ox
