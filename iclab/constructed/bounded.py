"""A transformer that refuses what its weights were not set for, and knows how far its answers may be off."""

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.models import Transformer
from iclab.models.activations import Taps


class Bounded(Transformer):
    """A transformer whose hand-set weights keep their promise for inputs and labels of bounded size, refusing others.

    The weights are those of a plain `Transformer`, which computes the same and refuses nothing. `largest_x` bounds each
    entry of an input, `largest_y` each label that is read (the last is not); `answers_from` is the first position that
    is answered. `made` bounds the error that each MLP makes in each channel when what it reads is exact, and
    `read_error` that of the read-out.
    """

    largest_x: float = float("inf")
    largest_y: float = float("inf")
    answers_from: int = 0
    made: Tensor | None = None
    read_error: float = 0.0

    def tolerance(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n"]:
        """A bound on the error of each answer: Σ |∂ŷ_i/∂r| ε_r over what all MLPs write, ε_r being the error made in r.

        It is of first order in the errors made, and doubled for the rest.
        """
        refuse("tolerance", [] if self.made is not None else ["the errors that the layers make are not known"])
        zeros = torch.zeros(len(xs), 2 * xs.shape[1] - 1, self.config.d_model, dtype=xs.dtype)
        shifts = {f"blocks.{i}.mlp_out": zeros.clone().requires_grad_() for i in range(self.config.n_layer)}
        answers = self.replaced(xs, ys, {name: _plus(shift) for name, shift in shifts.items()})
        bounds = [self._carried(answer, [*shifts.values()]) for answer in answers.sum(0)]
        return 2 * torch.stack(bounds, dim=1) + self.read_error

    def _carried(self, answer: Float[Tensor, ""], shifts: list[Tensor]) -> Float[Tensor, " batch"]:
        gradients = torch.stack(torch.autograd.grad(answer, shifts, retain_graph=True))
        return torch.einsum("l b t c, l c -> b", gradients.abs().double(), self.made).to(answer.dtype)

    def _check(self, xs: Tensor, ys: Tensor, taps: Taps) -> None:
        super()._check(xs, ys, taps)
        sizes = {"inputs": (xs, self.largest_x), "labels": (ys[:, :-1], self.largest_y)}
        found = [
            f"the weights were set for {name} of at most {bound:.4g} in size, given {_largest(values):.4g}"
            for name, (values, bound) in sizes.items()
            if not _largest(values) <= bound
        ]
        if xs.shape[1] <= self.answers_from:
            found.append(f"n = {xs.shape[1]}: the first position that is answered is {self.answers_from}")
        refuse("Bounded", found)


def _plus(shift: Tensor):
    return lambda value: value + shift


def _largest(values: Tensor) -> float:
    return float(values.detach().abs().max()) if values.numel() else 0.0
