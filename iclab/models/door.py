"""Validation of prompts: the arguments of a model become tensors of the right kind, or are refused in one line; and a
number that is not known yet keeps away from all that was answered before it.

Arrays of NumPy become tensors, whole numbers become floating-point ones, and axes are counted.

Attention sums over all tokens, those that are masked with the weight 0, and 0·NaN and 0·∞ are not numbers: an unknown
label would reach the answers before it. A token that is not finite is therefore read in as zero, and what is answered
at it and at all tokens that may see it, at one remove or more (masks are transitive), is not a number:

    lost_t = token t is not finite, or some token s that t may see is not
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclab.arrays import axes, prompts, real
from iclab.errors import refuse

Method = TypeVar("Method", bound=Callable[..., Any])


def examples_in(method: Method) -> Method:
    """Decorates a method of (xs, ys, ...), which then receives floating-point tensors [batch n d] and [batch n] or
    [batch n c]. Raises ``ValueError`` for other shapes, and for what is of no numbers."""

    @wraps(method)
    def entered(self: object, xs: Any, ys: Any, *more: Any, **named: Any) -> Any:
        what = type(self).__name__
        xs, ys = map(_floating, real(what, xs=xs, ys=ys))
        refuse(what, prompts(xs, ys))
        return method(self, xs, ys, *more, **named)

    return cast(Method, entered)


def inputs_in(method: Method) -> Method:
    """Decorates a method of inputs alone in the same way, [batch tokens d]."""

    @wraps(method)
    def entered(self: object, xs: Any, *more: Any, **named: Any) -> Any:
        what = type(self).__name__
        xs = _floating(*real(what, xs=xs))
        refuse(what, axes(xs, "xs", "batch tokens d", (3,)))
        return method(self, xs, *more, **named)

    return cast(Method, entered)


def tokens_in(method: Method) -> Method:
    """Decorates a method of (tokens, ...), which then receives a tensor [batch n], or [batch n width] of vectors: whole
    numbers as int64, floating-point ones as they are. Raises ``ValueError`` for other axes."""

    @wraps(method)
    def entered(self: object, tokens: Any, *more: Any, **named: Any) -> Any:
        what = type(self).__name__
        (tokens,) = real(what, tokens=tokens)
        refuse(what, axes(tokens, "tokens", "batch n", (2, 3)))
        return method(self, tokens if tokens.is_floating_point() else tokens.long(), *more, **named)

    return cast(Method, entered)


def _floating(given: Tensor) -> Tensor:
    return given if given.is_floating_point() else given.to(torch.get_default_dtype())


def known(
    tokens: Float[Tensor, "b t width"], mask: Bool[Tensor, "*prefixes t t"], shared: bool = False
) -> tuple[Float[Tensor, "b t width"], Bool[Tensor, "b t 1"]]:
    """Returns tokens with zeros for those that are not finite, and the mask of those that depend on these. Where all
    tokens of a sequence see the same (`shared`), one row of the mask serves all. No number is looked at, so that a GPU
    need not be waited for, and replicas can be mapped over."""
    bad = (0.0 * tokens).sum(-1, keepdim=True).isnan()  # 0·x is 0, but for what is not finite
    rows = mask[..., :1, :] if shared else mask
    rows = rows.squeeze(1) if rows.ndim == 4 else rows
    seen = rows.to(tokens.dtype) @ bad.to(tokens.dtype)  # how many; there is no such product of booleans
    return tokens.masked_fill(bad, 0.0), bad | (seen > 0)
