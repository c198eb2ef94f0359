"""Validation of the arguments and results of every closed form.

promoted     NumPy arrays become tensors and integers floats; work is done in float64, the answer has the precision
             of the inputs
refused      other shapes than xs[batch n d] and ys[batch n] or ys[batch n c], in one line
apart        of labels that are vectors each coordinate is a prompt of its own
unknown      numbers that are not finite (the label of the query, say) count as 0 where they are not to be seen, and
             an answer that has seen one is not a number: neither other prompts nor earlier positions notice, which
             0 · nan would see to
folded       replicas of `torch.vmap` are so many more prompts of one batch, as what follows depends on the data
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar, cast, overload

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from iclab.arrays import prompts, real
from iclab.errors import refuse
from iclab.renamed import old_names

Method = TypeVar("Method", bound=Callable[..., Tensor])


@overload
def in_double(method: Method) -> Method: ...


@overload
def in_double(*, query: bool = True, label: bool = False) -> Callable[[Method], Method]: ...


def in_double(method: Callable[..., Tensor] | None = None, *, query: bool = True, label: bool = False) -> Any:
    """Decorates a method of inputs (and labels), whose result at position i depends on the first i examples
    and, where `query`, the input x_i and, where `label`, the label y_i.

    The method sees finite float64 tensors and labels that are numbers; prefixes of length near d are ill-conditioned,
    and float32 has no digits to lose there. Raises ``ValueError`` for other shapes.
    """
    if method is None:
        return partial(in_double, query=query, label=label)

    @wraps(method)
    def widened(self: object, xs: Any, *ys: Any) -> Tensor:
        doubles, precision = admitted(type(self).__name__, xs, *ys)
        if ys and doubles[1].ndim == 3:
            return merge_label_dims(widened(self, *split_label_dims(*doubles)), doubles[1].shape[-1]).to(precision)
        shielded = partial(_shielded, partial(method, self), [query, label])
        return (Folded.apply(shielded, *doubles) if _constant(doubles) else shielded(*doubles)).to(precision)

    return widened


def admitted(what: str, xs: Any, *ys: Any) -> tuple[list[Tensor], torch.dtype]:
    """Returns inputs (and labels) as float64 tensors of one device, and the precision they came in: that of the first
    which is of floats, PyTorch's default where none is.

    Raises ``ValueError`` where they are no numbers, or their shapes are not those of a batch of prompts.
    """
    tensors = real(what, xs=xs, **dict(zip(["ys"], ys, strict=False)))
    refuse(what, prompts(*tensors))
    floats = [each.dtype for each in tensors if each.is_floating_point()]
    precision = floats[0] if floats else torch.get_default_dtype()
    return [each.to(tensors[0].device, torch.float64) for each in tensors], precision


def _constant(tensors: list[Tensor]) -> bool:
    """Whether no derivative is needed."""
    return not (torch.is_grad_enabled() and any(each.requires_grad for each in tensors))


def _shielded(answer: Callable[..., Tensor], at_once: list[bool], *prompts: Tensor) -> Float[Tensor, "batch n ..."]:
    """The answer, not a number where it has seen one that is not finite."""
    if all(each.sum().isfinite() for each in prompts):  # one pass; where sums overflow the other way is as right
        return answer(*prompts)
    unknown = [~each.isfinite() for each in prompts]
    answers = answer(*(each.masked_fill(where, 0.0) for each, where in zip(prompts, unknown, strict=True)))
    lost = _lost(at_once, [where.flatten(2).any(-1) if where.ndim > 2 else where for where in unknown])
    return answers.masked_fill(lost.view(*lost.shape, *[1] * (answers.ndim - 2)), torch.nan)


def _lost(at_once: list[bool], unknown: list[Tensor]) -> Bool[Tensor, "batch n"]:
    """Where a result has seen what is unknown: in an earlier example, or in what it has seen `at_once`."""
    seen = torch.stack([each if now else _earlier(each) for now, each in zip(at_once, unknown, strict=False)])
    return seen.any(0).cumsum(1) > 0


def _earlier(unknown: Bool[Tensor, "batch n"]) -> Bool[Tensor, "batch n"]:
    return torch.cat([torch.zeros_like(unknown[:, :1]), unknown[:, :-1]], dim=1)


def split_label_dims(
    xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n c"]
) -> tuple[Float[Tensor, "prompts n d"], Float[Tensor, "prompts n"]]:
    """Returns each coordinate of the labels as a prompt of its own."""
    return xs.repeat_interleave(ys.shape[-1], dim=0), rearrange(ys, "batch n c -> (batch c) n")


def merge_label_dims(answers: Float[Tensor, "prompts n ..."], c: int) -> Float[Tensor, "batch n ..."]:
    """Returns what was found `split_label_dims`, with the coordinate as the last axis."""
    return rearrange(answers, "(batch c) n ... -> batch n ... c", c=c)


class Folded(torch.autograd.Function):
    """Calls a function of batches; under `torch.vmap` the replicas are folded into the batch and unfolded again."""

    @staticmethod
    def forward(call: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Returns the function's value."""
        return call(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keeps nothing: there is no derivative."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        """Returns the value for each replica."""
        call, *tensors = args
        replicas = info.batch_size
        whole = [
            each.unsqueeze(0).expand(replicas, *each.shape) if dim is None else each.movedim(dim, 0)
            for each, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        answers = cast(Tensor, Folded.apply(call, *[each.flatten(0, 1) for each in whole]))
        return answers.unflatten(0, (replicas, whole[0].shape[1])), 0


__getattr__ = old_names(__name__, apart="split_label_dims", together="merge_label_dims")
