"""The checks of shapes under test see what is wrong with arguments, with answers, and between them."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from iclab.analysis import risk
from tests.conftest import unchecked
from tests.typechecker import checked, now


@checked
def turned(x: Float[Tensor, "n d"], scale: float = 1.0, answer: Tensor | None = None) -> Float[Tensor, "d n"]:
    """The transpose, or any other answer."""
    return scale * x.mT if answer is None else answer


@checked
def joined(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> int:
    """How many there are of either."""
    return len(x) + len(y)


def test_what_is_right_passes():
    for n in (2, 3):  # sizes of one call bind no other one
        assert turned(torch.ones(n, 4), 2).shape == (4, n)
        assert joined(torch.ones(n), torch.ones(n)) == 2 * n


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (turned, (torch.ones(2),)),
        (turned, (torch.ones(2, 3).int(),)),
        (turned, (torch.ones(2, 3), "1")),
        (joined, (torch.ones(2), torch.ones(3))),
    ],
)
def test_wrong_arguments_are_refused(function, given):
    with pytest.raises(TypeCheckError, match="parameter"):
        function(*given)


@pytest.mark.parametrize("answer", [torch.ones(2, 3), torch.ones(3), torch.ones(3, 3), torch.ones(3, 2).int()])
def test_answers_whose_shape_is_not_that_of_the_arguments_are_refused(answer):
    assert turned(torch.ones(2, 3), 1.0, torch.ones(3, 2)).shape == (3, 2)
    with pytest.raises(TypeCheckError, match="return"):
        turned(torch.ones(2, 3), 1.0, answer)


def test_all_that_the_hook_decorates_is_checked():
    @checked
    class Plain:
        @checked
        @classmethod
        def of(cls, n: int) -> int:
            return n

        @checked
        @staticmethod
        def told(n: int) -> str:
            return n

        @property
        @checked
        def wrong(self) -> int:
            return "1"

    @checked
    @dataclass
    class Pair:
        x: Float[Tensor, " n"]
        y: Float[Tensor, " n"]

    assert Plain.of(1) == 1 and len(Pair(torch.ones(2), torch.ones(2)).x) == 2
    for call in (
        lambda: Plain.of("1"),
        lambda: Plain.told(1),
        lambda: Plain().wrong,
        lambda: Pair(torch.ones(2), torch.ones(3)),
    ):
        with pytest.raises(TypeCheckError):
            call()


def test_sizes_of_a_generator_are_those_of_its_own_call():
    @checked
    def each(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Iterator[float]:
        yield from (x * y).tolist()

    @checked
    def total(x: Float[Tensor, " n"], m: int) -> float:
        return sum(each(x[:m], x[:m]))

    assert total(torch.ones(3), 2) == 2
    with pytest.raises(TypeCheckError, match="parameter"):
        each(torch.ones(2), torch.ones(3))


def test_a_name_for_readers_alone_asks_for_nothing_and_its_neighbours_are_checked():
    @checked
    def function(x: "Nowhere", n: int) -> "Nowhere":
        return x

    assert function(1, 2) == 1
    with pytest.raises(TypeCheckError, match="parameter"):
        function(1, "2")


def test_of_many_calls_in_a_test_the_first_are_checked_and_some_of_the_others(monkeypatch):
    monkeypatch.setattr(now, "first", 3)
    monkeypatch.setattr(now, "then", 5)

    @checked
    def function(n: int, x: Float[Tensor, " n"] | None = None) -> int:
        return n

    def refused():
        try:
            function("1")
        except TypeCheckError:
            return True
        return False

    assert [refused() for _ in range(8)] == [True, True, True, False, True, False, False, False]
    monkeypatch.setattr(now, "test", now.test + 1)
    assert refused()


def test_functions_of_the_package_are_checked():
    with pytest.raises(TypeCheckError, match="parameter"):
        risk(torch.ones(2, 3), torch.ones(2, 3).int())
    with unchecked():
        assert risk(torch.ones(2, 3), torch.ones(2, 3).int()).value.tolist() == [0, 0, 0]
