"""A transformer that refuses what its weights were not set for, and knows how far its answers may be off."""

from functools import partial
from math import inf

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from iclab.errors import refuse
from iclab.models import Transformer
from iclab.models.activations import HookContext


class Bounded(Transformer):
    """A transformer whose hand-set weights keep their promise for inputs and labels of bounded size, refusing others.

    The weights are those of a plain `Transformer`, which computes the same and refuses nothing. `largest_x` bounds each
    entry of an input, `largest_y` each label that is read (the last is not); `answers_from` is the first position that
    is answered. `made` bounds the error that each MLP makes in each channel when what it reads is exact, `reading` the
    error that it makes there for an error of 1 in everything that it reads, and `answer_size` bounds an answer.
    """

    largest_x: float = inf
    largest_y: float = inf
    answers_from: int = 0
    made: Float[Tensor, "layers width"] | None = None
    reading: Float[Tensor, "layers width"] | None = None
    answer_size: float = inf

    def tolerance(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Returns a bound on the error of each answer: Σ |∂ŷ_i/∂r| ε_r over what all MLPs write, ε_r being the error
        made in r.

        It is of first order in the errors made, and doubled for the rest. Reading a channel of at most 1 through
        LayerNorm, with pads ±N beside channels h, has an error of (s²/2 + Σh²)/(4N²) with s = Σh; rounding adds N·eps
        for the sum that makes the mean, and N·eps/L for each of the four times that a layer writes to a pad.
        """
        if self.made is None or self.reading is None:
            raise ValueError("tolerance: the errors that the layers make are not known")
        like, shape = next(self.parameters()), (len(xs), 2 * xs.shape[1] - 1, self.config.d_model)
        shifts = [like.new_zeros(shape, requires_grad=True) for _ in range(self.config.n_layer)]
        names = [f"blocks.{i}.resid_mid" for i in range(self.config.n_layer)]
        moved = {f"blocks.{i}.mlp_out": partial(torch.add, shift) for i, shift in enumerate(shifts)}
        hooks = HookContext(frozenset(names), moved)
        answers = self._answer(xs, ys, hooks)
        read = torch.stack([self._read_error(hooks.values[name].detach().double()) for name in names])
        per_layer = "layers width -> layers 1 1 width"
        made, reading = (rearrange(each.to(read), per_layer) for each in (self.made, self.reading))
        carried = torch.stack(
            [_carried(answer, shifts, made + read.unsqueeze(-1) * reading) for answer in answers.sum(0)], dim=1
        )
        last = self.answer_size * (read.amax((0, 2)) + 4 * torch.finfo(like.dtype).eps)
        return (2 * carried + last.unsqueeze(-1)).to(xs.dtype)

    def _read_error(self, h: Float[Tensor, "batch t width"]) -> Float[Tensor, "batch t"]:
        if not self.config.norm:
            return torch.zeros_like(h[..., 0])
        pad, content = (h[..., -2] - h[..., -1]) / 2, h[..., :-2]
        bent = (content.sum(-1).square() / 2 + content.square().sum(-1)) / (4 * pad.square())
        eps = torch.finfo(next(self.parameters()).dtype).eps
        return bent + pad * eps * (1 + 4 * self.config.n_layer / self.config.d_model)

    def _check(self, xs: Tensor, ys: Tensor, hooks: HookContext) -> None:
        super()._check(xs, ys, hooks)
        sizes = {"inputs": (xs, self.largest_x), "labels": (ys[:, :-1], self.largest_y)}
        problems = [
            f"the weights were set for {name} of at most {bound:.4g} in size, given {_largest(values):.4g}"
            for name, (values, bound) in sizes.items()
            if bound < inf  # else what is unknown may stand among later examples
            and not values.le(bound).logical_and(values.ge(-bound)).all()  # the bound too is rounded to their precision
        ]
        if xs.shape[1] <= self.answers_from:
            problems.append(f"n = {xs.shape[1]}: the first position that is answered is {self.answers_from}")
        refuse("Bounded", problems)


def _carried(
    answer: Float[Tensor, ""], shifts: list[Tensor], made: Float[Tensor, "layers batch t width"]
) -> Float[Tensor, " batch"]:
    gradients = torch.stack(torch.autograd.grad(answer, shifts, retain_graph=True))
    return (gradients.abs() * made).sum((0, 2, 3))


def _largest(values: Tensor) -> float:
    return float(values.detach().abs().max()) if values.numel() else 0.0
