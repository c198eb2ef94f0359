"""A loss and its gradient as one compiled graph: `train.compile = true`.

    (θ, xs, ys, targets) ↦ loss, ∇_θ loss          for each vector θ of the parameters

`torch.compile` fuses what is small in such models, and leaves out the bookkeeping of each operation. It takes a C++
compiler, a minute at first, and seconds once the graph is in its cache. Numbers are those of the model to rounding.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from iclab.learning.flat import Flat
from iclab.learning.losses import Loss, terms

Graph = Callable[[list[Tensor], Tensor, Tensor, Tensor], tuple[list[Tensor], Tensor]]


def graph_of(model: nn.Module, flats: Sequence[Flat], m: int | None = None, kind: Loss = "squared") -> Graph:
    """Returns a function of (thetas, xs, ys, targets), compiled by its first call: the gradients of the mean loss
    with respect to each θ [P], and the loss. The last m positions count, or all."""
    asked = () if m is None else (m,)

    def loss(thetas: list[Tensor], xs: Tensor, ys: Tensor, targets: Tensor) -> Float[Tensor, ""]:
        answers = functional_call(model, named(flats, thetas), (xs, ys, *asked))
        return terms(kind, answers, targets).mean()

    return torch.compile(grad_and_value(loss), dynamic=False)


def named(flats: Sequence[Flat], vectors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Returns the parts of vectors that are like θ, by the names of the parameters."""
    pairs = zip(flats, vectors, strict=True)
    return {
        name: part for flat, vector in pairs for name, part in zip(flat.parameters, flat.parts(vector), strict=True)
    }
