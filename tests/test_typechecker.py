"""The checks of shapes under test see what is wrong with arguments, with answers, and between them."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor
from typechecker import checked


@jaxtyped(typechecker=checked)
def turned(x: Float[Tensor, "n d"], scale: float = 1.0, answer: Tensor | None = None) -> Float[Tensor, "d n"]:
    """The transpose, or any other answer."""
    return scale * x.mT if answer is None else answer


@jaxtyped(typechecker=checked)
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
    with pytest.raises(TypeCheckError, match="parameters"):
        function(*given)


@pytest.mark.parametrize("answer", [torch.ones(2, 3), torch.ones(3), torch.ones(3, 3), torch.ones(3, 2).int()])
def test_answers_whose_shape_is_not_that_of_the_arguments_are_refused(answer):
    assert turned(torch.ones(2, 3), 1.0, torch.ones(3, 2)).shape == (3, 2)
    with pytest.raises(TypeCheckError, match="return value"):
        turned(torch.ones(2, 3), 1.0, answer)
