"""Which slots a channel can point at: normal cones against plain geometry, sampling, and numbers known in advance."""

from math import pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls
from scipy.spatial import ConvexHull

from iclab.analysis.heads.reach import (
    ceiling,
    circle,
    circle_attention,
    circle_capacity,
    legendre,
    reach,
    sampled_reach,
    slot_margins,
)
from tests.conftest import generator


def keys(N, r, seed=0):
    return torch.randn(N, r, generator=generator(seed), dtype=torch.float64)


@given(seed=st.integers(0, 2**31), N=st.integers(1, 12), r=st.integers(1, 2))
def test_reach_is_a_share_of_directions_and_does_not_see_shifts_scale_or_order(seed, N, r):
    k, rng = keys(N, r, seed), generator(seed)
    found, order = reach(k), torch.randperm(N, generator=rng)
    assert found.sum().item() == pytest.approx(1)
    torch.testing.assert_close(reach(3 * k + 5), found, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(reach(k[order]), found[order], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(sampled_reach(k, rng, 20000), found, atol=5 * 0.5 / 20000**0.5, rtol=0)


@given(seed=st.integers(0, 2**31), N=st.integers(4, 12))
def test_slots_that_are_reached_are_the_corners_of_the_convex_hull(seed, N):
    k = keys(N, 2, seed)
    hull = ConvexHull(k.numpy())
    assert set((reach(k) > 0).nonzero().flatten().tolist()) == set(hull.vertices.tolist())
    corners = k[torch.from_numpy(hull.vertices).long()]  # anticlockwise: the cone is the angle by which the edges turn
    edges = corners.roll(-1, 0) - corners
    before = edges.roll(1, 0)
    turns = torch.atan2(before[:, 0] * edges[:, 1] - before[:, 1] * edges[:, 0], (before * edges).sum(1))
    torch.testing.assert_close(reach(k)[torch.from_numpy(hull.vertices).long()], turns / (2 * pi))


@given(seed=st.integers(0, 2**31), N=st.integers(2, 12))
def test_in_one_dimension_the_ends_alone_are_reached(seed, N):
    k = keys(N, 1, seed)
    found = reach(k)
    assert found[k.argmax()] == found[k.argmin()] == 0.5 and found.sum() == 1
    assert ceiling(found) == pytest.approx(2 / N)
    flat = torch.cat([k, 2 * k], 1)  # the same on a line in the plane
    torch.testing.assert_close(reach(flat), found)


def test_equal_keys_share_and_a_single_key_has_all():
    assert reach(torch.tensor([[1.0], [0.0], [1.0], [0.5]])).tolist() == [0.25, 0.5, 0.25, 0]
    assert reach(torch.tensor([[1.0, 1.0], [1.0, 1.0]])).tolist() == [0.5, 0.5]
    assert reach(torch.tensor([[3.0]])).tolist() == [1]


def test_a_key_within_the_hull_of_the_others_is_never_attended_to_and_one_outside_is():
    square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1], [0.9, 0.0]])
    assert reach(square).tolist() == pytest.approx([0.25] * 4 + [0])
    assert reach(square + torch.tensor([[0.0, 0]] * 4 + [[0.2, 0]]))[4] > 0
    assert sampled_reach(square, generator(), 2000)[4] == 0
    assert ceiling(reach(square)) == 0.8


# First plus last, and the smallest cone in between, as found by another program from random queries.
MEASURED = {
    2: {3: (0.69, 0.31), 4: (0.65, 0.175), 5: (0.63, 0.081), 8: (0.62, 0.024), 10: (0.61, 0.017), 20: (0.61, 0.0057)},
    3: {3: (0.74, 0.26), 4: (0.66, 0.168), 5: (0.65, 0.116), 8: (0.62, 0.038), 10: (0.61, 0.024), 20: (0.60, 0.0077)},
}


@pytest.mark.parametrize(("r", "N"), [(r, N) for r in MEASURED for N in MEASURED[r]])
def test_on_a_legendre_curve_the_ends_keep_their_share_and_the_middle_is_crowded(r, N):
    found = reach(legendre(N, r)) if r == 2 else sampled_reach(legendre(N, r), generator(), 100_000)
    ends, least = MEASURED[r][N]
    assert (found[0] + found[-1]).item() == pytest.approx(ends, abs=0.012)
    assert found[1:-1].min().item() == pytest.approx(least, abs=0.004 if N < 8 else 0.0015)


def test_crowding_grows_with_the_list_and_every_slot_of_a_curve_in_the_plane_is_reached():
    least = [reach(legendre(N, 2))[1:-1].min().item() for N in range(3, 20)]
    assert least == sorted(least, reverse=True) and least[-1] > 0
    assert all(ceiling(reach(legendre(N, 1))) == pytest.approx(2 / N) for N in range(2, 10))


def test_the_curve_is_made_of_legendre_polynomials():
    t = torch.linspace(-1, 1, 7).double()
    expected = torch.stack([t, (3 * t**2 - 1) / 2, (5 * t**3 - 3 * t) / 2], 1)
    torch.testing.assert_close(legendre(7, 3), expected - expected.mean(0))


@pytest.mark.parametrize("N", [2, 3, 8, 20])
def test_on_a_circle_all_slots_are_reached_equally_with_the_margin_of_their_neighbours(N):
    torch.testing.assert_close(reach(circle(N)), torch.full((N,), 1 / N).double())
    k = circle(N)
    weights = (7.0 * k @ k.mT).softmax(1).diagonal()
    torch.testing.assert_close(weights, torch.full((N,), circle_attention(N, 7.0)).double())


def test_capacity_of_a_circle_is_the_last_list_that_fits_and_grows_like_the_root_of_the_gain():
    for b in (2.0, 30.0, 500.0):
        N = circle_capacity(b)
        assert circle_attention(N, b) >= 0.5 > circle_attention(N + 1, b)
    assert circle_capacity(40000.0) / circle_capacity(10000.0) == pytest.approx(2, rel=0.02)
    assert circle_capacity(0.0, 0.4) == 1


def test_what_has_no_exact_answer_is_refused():
    with pytest.raises(ValueError, match="exact for r = 1 and 2, given r = 3"):
        reach(keys(4, 3))
    with pytest.raises(ValueError, match="no keys"):
        reach(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="N must be at least 1, given 0; r must be at least 1, given 0"):
        legendre(0, 0)
    with pytest.raises(ValueError, match="needs b ≥ 0"):
        circle_capacity(-1.0)


def farthest_query(k, j):
    """The margin of slot j by least squares with weights ≥ 0 (Lawson and Hanson 1974, ch. 23: least |q| with all
    q·(k_j − k_i) ≥ 1), a method that shares nothing with a projected gradient."""
    apart = (k[j] - np.delete(k, j, 0)).T
    system = np.vstack([apart, np.ones(apart.shape[1])])
    goal = np.eye(len(system))[-1]
    rest = goal - system @ nnls(system, goal)[0]
    return 0.0 if np.linalg.norm(rest) < 1e-9 else rest[-1] / np.linalg.norm(rest[:-1])


@given(seed=st.integers(0, 2**31), N=st.integers(2, 9), r=st.integers(1, 6))
def test_margins_are_those_of_another_method_and_shown_by_no_longer_query(seed, N, r):
    k = keys(N, r, seed)
    found = slot_margins(k)
    expected = [farthest_query(k.numpy(), j) for j in range(N)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    torch.testing.assert_close(slot_margins(3 * k + 5), 3 * found, atol=1e-5, rtol=1e-5)


@given(seed=st.integers(0, 2**31), N=st.integers(6, 12))
def test_slots_with_a_margin_are_the_corners_of_the_hull_in_three_dimensions_and_those_with_reach_in_two(seed, N):
    k = keys(N, 3, seed)
    assert set(slot_margins(k).nonzero().flatten().tolist()) == set(ConvexHull(k.numpy()).vertices.tolist())
    flat = k[:, :2]
    assert ((slot_margins(flat) > 0) == (reach(flat) > 0)).all()


def test_margins_known_in_advance():
    square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1], [1.0, 0.0]])  # the last on an edge
    assert slot_margins(square).tolist() == pytest.approx([2 / 5**0.5] * 2 + [2**0.5] * 2 + [0])
    around = 1 - torch.cos(torch.tensor(2 * pi / 8, dtype=torch.float64))
    torch.testing.assert_close(slot_margins(circle(8)), around.expand(8), atol=1e-6, rtol=1e-6)
    assert slot_margins(torch.tensor([[2.0, 3.0]])).tolist() == [float("inf")]
    assert slot_margins(torch.ones(3, 2)).tolist() == [0, 0, 0]
    assert slot_margins(torch.tensor([[0.0], [0.0], [1.0]])).tolist() == pytest.approx([0, 0, 1])
    with pytest.raises(ValueError, match="no keys"):
        slot_margins(torch.zeros(0, 2))
