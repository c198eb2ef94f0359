"""What must hold of answers that name the input's own tokens: exact solvers, found by other means."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull as Hull
from scipy.spatial import QhullError

from iclab.models import PointerTransformerConfig
from iclab.tasks import ConvexHull, Sorting
from iclab.tasks.tokens.ordering import walk
from tests.conftest import generator


def taken_apart(task, prompts):
    """Items and answer of each prompt, read from its tokens, and the questions: targets where they are asked."""
    lists = (x.tolist() for x in (prompts.tokens, prompts.answer_mask, prompts.targets))
    for row, asked, targets in zip(*lists, strict=True):
        at = row.index(task.items + 1)
        assert row[0] == task.items
        answer = row[at + 1 : row.index(task.vocab - 1)]
        assert [t for t, a in zip(targets, asked, strict=True) if a] == [*answer, task.vocab - 1]
        assert [i for i, a in enumerate(asked) if a] == list(range(at, at + len(answer) + 1))
        yield row[1:at], answer


@given(seed=st.integers(0, 2**31))
def test_sorted_numbers_are_those_of_python(seed):
    task = Sorting(shortest=1, longest=6, numbers=9)
    for items, answer in taken_apart(task, task.sample(16, generator(seed))):
        assert 1 <= len(items) <= 6 and answer == sorted(items)


def corners(points, grid):
    """By scipy: counter-clockwise from the lowest, of these the leftmost; two ends where all are on one line."""
    plane = np.array([(p % grid, p // grid) for p in points])
    try:
        around = [points[i] for i in Hull(plane).vertices]
    except QhullError:
        ends = sorted(points, key=lambda p: (p // grid, p % grid))
        return [ends[0], ends[-1]]
    start = around.index(min(around))
    return around[start:] + around[:start]


@given(seed=st.integers(0, 2**31), grid=st.integers(2, 6))
def test_hulls_are_those_of_scipy_also_with_points_on_edges_and_lines(seed, grid):
    task = ConvexHull(shortest=3, longest=min(9, grid**2), grid=grid)
    for points, answer in taken_apart(task, task.sample(16, generator(seed))):
        assert answer == corners(points, grid)


def test_points_on_one_line_have_two_corners():
    task = ConvexHull(grid=5)
    row = torch.tensor([[2, 12, 7], [0, 18, 6]])  # on a column, and on a diagonal
    for points, answer in taken_apart(task, task.prompts(row, torch.ones_like(row, dtype=torch.bool))):
        assert answer == [min(points), max(points)]


def test_a_walk_follows_the_map_to_its_end():
    order = walk(torch.tensor([[2, 4, 1, 4, 0]]))  # 0 → 2 → 1 → end, from 0; slot 3 is not named
    assert order.tolist() == [[0, 2, 1, 4, 4]]


def test_lists_can_grow_and_are_measured_by_size():
    task = Sorting(shortest=2, longest=4)
    assert [task.up_to(size).longest for size in (1, 3, 9)] == [2, 3, 4]
    assert list(task.parts()) == ["2_items", "3_items", "4_items"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Sorting(numbers=0), r"numbers must be at least 1, given 0; shortest ≤ longest must lie in 1\.\.0"),
        (lambda: ConvexHull(shortest=2), r"must lie in 3\.\.64, given 2 and 8"),
        (lambda: ConvexHull(grid=2), r"must lie in 3\.\.4, given 3 and 8"),
    ],
)
def test_what_cannot_be_ordered_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("keys", ["content", "positional"])
def test_a_pointer_that_closes_can_name_every_answer_and_one_that_does_not_never_ends(keys):
    task = ConvexHull(shortest=3, longest=4, grid=3)
    prompts = task.sample(40, generator())
    shape = PointerTransformerConfig(n_head=2, d_model=8, items=9, keys=keys, closes=True)
    for config, ends in ((shape, True), (replace(shape, closes=False), False)):
        said = config.build(task.vocab, task.n, generator())(prompts.tokens).exp()
        right = said.gather(2, prompts.targets.unsqueeze(2)).squeeze(2)
        at_end = prompts.targets == task.vocab - 1
        assert (right[prompts.answer_mask & ~at_end] > 1e-6).all()
        assert (right[prompts.answer_mask & at_end] > 1e-6).all() == ends
