"""Area and simplicity of polygons, against plain loops, and of answers that are hulls."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull as Hull
from scipy.spatial import QhullError

from iclab.analysis.next_token import continued, decoded, whole
from iclab.analysis.polygons import area, simple
from iclab.measures.orderings import coverage, sequences
from iclab.tasks import ConvexHull, Sorting
from tests.conftest import generator

HULLS = ConvexHull(shortest=7, longest=7, grid=5)


def polygons(seed, n=6, size=4):
    rng = generator(seed)
    x, y = (torch.randint(size, (40, n), generator=rng) for _ in range(2))
    return x, y, torch.randint(n + 1, (40,), generator=rng)


def on(p, a, b):
    """Whether p lies on the segment from a to b."""
    turn = (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
    return turn == 0 and min(a[0], b[0]) <= p[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= p[1] <= max(a[1], b[1])


def proper_crossing(a, b, c, d):
    """Whether two segments cross within both, by solving for where."""
    u, v, w = (b[0] - a[0], b[1] - a[1]), (d[0] - c[0], d[1] - c[1]), (c[0] - a[0], c[1] - a[1])
    det = u[0] * v[1] - u[1] * v[0]
    if det == 0:
        return False
    s, t = (w[0] * v[1] - w[1] * v[0]) / det, (w[0] * u[1] - w[1] * u[0]) / det
    return 0 < s < 1 and 0 < t < 1


def simple_by_loops(points):
    """No corner lies on an edge that it does not belong to, and no two edges cross."""
    n = len(points)
    edges = [(points[i], points[(i + 1) % n]) for i in range(n)]
    if n < 3 or len(set(points)) < n:
        return False
    touched = any(on(p, *edge) for p in points for edge in edges if p not in edge)
    return not touched and not any(proper_crossing(*one, *other) for one, other in combinations(edges, 2))


@given(seed=st.integers(0, 2**31))
def test_simple_polygons_are_those_of_plain_loops(seed):
    x, y, corners = polygons(seed)
    rows = [list(zip(a, b, strict=True))[:c] for a, b, c in zip(x.tolist(), y.tolist(), corners.tolist(), strict=True)]
    assert simple(x, y, corners).tolist() == [simple_by_loops(points) for points in rows]


@pytest.mark.parametrize(
    ("points", "fine", "size"),
    [
        ([(0, 0), (2, 0), (2, 2), (0, 2)], True, 4),
        ([(0, 0), (2, 2), (2, 0), (0, 2)], False, 0),  # a bow
        ([(0, 0), (4, 0), (2, 0), (2, 2)], False, 2),  # goes back along an edge
        ([(0, 0), (4, 0), (4, 4), (2, 0), (0, 4)], False, 8),  # a corner on an edge
        ([(0, 0), (2, 0), (4, 0), (4, 2)], True, 4),  # a corner of 180°
        ([(0, 0), (1, 1), (3, 3)], False, 0),
        ([(0, 0), (3, 3)], False, 0),
        ([], False, 0),
    ],
    ids=["square", "bow", "back", "touching", "straight", "line", "two", "none"],
)
def test_polygons_known_in_advance(points, fine, size):
    x, y = torch.zeros(1, 5, dtype=torch.long), torch.full((1, 5), 3)
    for i, (a, b) in enumerate(points):
        x[0, i], y[0, i] = a, b
    corners = torch.tensor([len(points)])
    assert simple(x, y, corners).item() == fine and area(x, y, corners).item() == size


def answers(prompts, m=7):
    return prompts.targets[:, m + 1 : 2 * m + 2]


@given(seed=st.integers(0, 2**31))
def test_right_answers_cover_the_area_that_scipy_finds_and_others_less_or_are_not_simple(seed):
    prompts = HULLS.sample(20, generator(seed))
    right = answers(prompts)
    proper, share = coverage(HULLS, right, right)
    x, y, corners = right % 5, right // 5, (right < 25).long().cumprod(1).sum(1)
    assert (proper == (corners > 2)).all() and (share == 1).all()
    for p, found in zip(prompts.tokens[:, 1:8].tolist(), area(x, y, corners).tolist(), strict=True):
        try:
            assert found == pytest.approx(Hull([(i % 5, i // 5) for i in p]).volume)
        except QhullError:
            assert found == 0
    cut = torch.cat([right[:, 1:], right[:, -1:]], dim=1)  # without the first corner
    smaller = coverage(HULLS, cut, right)
    assert (smaller[0] <= (corners > 3)).all() and (smaller[1] < 1).all()
    endless = right.masked_fill(right == HULLS.vocab - 1, HULLS.vocab - 2)
    assert not coverage(HULLS, endless, right)[0].any()


class Sorter:
    """Names the next larger number of the list, or the end; lists with a 0 it never ends."""

    def __init__(self, task):
        self.task = task

    def __call__(self, tokens):
        m = self.task.longest
        listed = tokens[:, 1 : m + 1]
        least = torch.where(tokens < self.task.items, tokens, -1).unsqueeze(2)
        larger = listed.unsqueeze(1).masked_fill(listed.unsqueeze(1) <= least, self.task.vocab - 1).amin(2)
        wrong = (listed == 0).any(1, keepdim=True) & (larger == self.task.vocab - 1)
        return torch.nn.functional.one_hot(larger.masked_fill(wrong, 0), self.task.vocab).double()


def test_answers_that_are_right_as_a_whole_are_those_that_are_read_back_right():
    task = Sorting(shortest=4, longest=4, numbers=8)
    prompts, sorter = task.sample(200, generator()), Sorter(task)
    right = whole(continued({"": sorter}, prompts)[""], prompts)
    read = decoded(sorter, prompts.tokens[:, :6], 5)
    assert ((read == prompts.targets[:, 5:10]).all(1) == right.bool()).all()
    assert (right.bool() == (prompts.tokens[:, 1:5] != 0).all(1)).all() and 0 < right.mean() < 1


def test_a_token_that_is_not_of_the_prompt_is_unlisted():
    task = Sorting(shortest=4, longest=4, numbers=8)
    prompts = task.sample(200, generator())
    for made_up, share in ((0, 0.5), (task.vocab - 1, 0.0)):  # a number that half of the lists have, or the end
        logs = torch.zeros(*prompts.tokens.shape, task.vocab, dtype=torch.float64)
        logs[..., made_up] = 1
        rows = {row["quantity"]: row["value"] for row in sequences(torch.nn.Identity(), task, prompts, logs)}
        assert rows["unlisted"] == pytest.approx(share, abs=0.15) and rows["whole_answer"] == 0
