"""How prompts come in: what a model is given becomes tensors of the right kind, or is refused in a line; and a number
that is not known yet keeps away from all that was answered before it.

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

from iclab.errors import refuse

Method = TypeVar("Method", bound=Callable[..., Any])


def examples_in(method: Method) -> Method:
    """Lets a method of (xs, ys, ...) see floating-point tensors [batch n d] and [batch n] or [batch n c] alone. Raises
    ``ValueError`` for what has other axes, or is of no numbers."""

    @wraps(method)
    def entered(self: object, xs: Any, ys: Any, *more: Any, **named: Any) -> Any:
        what = type(self).__name__
        given = {"xs": _floating(what, "xs", xs), "ys": _floating(what, "ys", ys)}
        refuse(what, _axes(given["xs"], "xs", "batch n d", (3,)) + _axes(given["ys"], "ys", "batch n", (2, 3)))
        return method(self, given["xs"], given["ys"], *more, **named)

    return cast(Method, entered)


def inputs_in(method: Method) -> Method:
    """The same for a method of inputs alone, [batch tokens d]."""

    @wraps(method)
    def entered(self: object, xs: Any, *more: Any, **named: Any) -> Any:
        what = type(self).__name__
        xs = _floating(what, "xs", xs)
        refuse(what, _axes(xs, "xs", "batch tokens d", (3,)))
        return method(self, xs, *more, **named)

    return cast(Method, entered)


def tokens_in(method: Method) -> Method:
    """Lets a method of (tokens, ...) see a tensor [batch n], or [batch n width] of vectors: whole numbers as int64,
    floating-point ones as they are. Raises ``ValueError`` for other axes."""

    @wraps(method)
    def entered(self: object, tokens: Any, *more: Any, **named: Any) -> Any:
        what = type(self).__name__
        tokens = _tensor(what, "tokens", tokens)
        refuse(what, _axes(tokens, "tokens", "batch n", (2, 3)))
        return method(self, tokens if tokens.is_floating_point() else tokens.long(), *more, **named)

    return cast(Method, entered)


def _tensor(what: str, name: str, given: Any) -> Tensor:
    try:
        made = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):  # words, or rows of different lengths
        made = None
    numbers = made is not None and not made.is_complex()
    refuse(what, [] if numbers else [f"{name} must be a tensor or an array of real numbers, given {_kind(given)}"])
    return cast(Tensor, made)


def _kind(given: Any) -> str:
    """The type of what was given, and of what is in it."""
    inside = getattr(given, "dtype", None)
    return type(given).__name__ + (f" of {inside}" if inside is not None else "")


def _floating(what: str, name: str, given: Any) -> Tensor:
    made = _tensor(what, name, given)
    return made if made.is_floating_point() else made.to(torch.get_default_dtype())


def _axes(given: Tensor, name: str, wanted: str, counts: tuple[int, ...]) -> list[str]:
    shape = tuple(given.shape)
    return [] if given.ndim in counts else [f"{name} must have the axes [{wanted}], given the shape {shape}"]


def known(
    tokens: Float[Tensor, "b t width"], mask: Bool[Tensor, "*prefixes t t"], shared: bool = False
) -> tuple[Float[Tensor, "b t width"], Bool[Tensor, "b t 1"]]:
    """Tokens with zeros for those that are not finite, and which are lost by these. Where all tokens of a sequence see
    the same (`shared`), one row of the mask tells it of all. No number is looked at, so that a GPU need not be waited
    for, and replicas can be mapped over."""
    bad = ~tokens.isfinite().all(-1, keepdim=True)
    rows = mask[..., :1, :] if shared else mask
    rows = rows.squeeze(1) if rows.ndim == 4 else rows
    seen = rows.to(tokens.dtype) @ bad.to(tokens.dtype)  # how many; there is no such product of booleans
    return tokens.masked_fill(bad, 0.0), bad | (seen > 0)
