"""Arrays: arguments of models and predictors become tensors of numbers, or are refused in one line."""

from typing import Any, cast

import torch
from torch import Tensor

from iclab.errors import refuse


def real(what: str, **arrays: Any) -> list[Tensor]:
    """Makes tensors of arrays by their names. Raises ``ValueError``, which names `what`, where one is not
    of real numbers."""
    tensors = {name: _tensor(given) for name, given in arrays.items()}
    wrong = [name for name, made in tensors.items() if made is None or made.is_complex()]
    refuse(what, [f"{k} must be a tensor or an array of real numbers, given {_kind(arrays[k])}" for k in wrong])
    return [cast(Tensor, made) for made in tensors.values()]


def axes(given: Tensor, name: str, wanted: str, counts: tuple[int, ...]) -> list[str]:
    """Returns the problems of the number of a tensor's axes."""
    shape = tuple(given.shape)
    return [] if given.ndim in counts else [f"{name} must have the axes [{wanted}], given the shape {shape}"]


def prompts(xs: Tensor, *ys: Tensor) -> list[str]:
    """Returns the problems of the shapes of inputs and, where there are any, of their labels."""
    given = " and ".join([f"xs of shape {tuple(xs.shape)}"] + [f"ys of shape {tuple(labels.shape)}" for labels in ys])
    if xs.ndim != 3 or (ys and ys[0].ndim not in (2, 3)):
        single = "; a single prompt is a batch of one: xs[None], ys[None]" if xs.ndim == 2 else ""
        return [f"prompts are xs [batch, n, d] with ys [batch, n] or [batch, n, c], given {given}{single}"]
    same = all(each.shape[:2] == xs.shape[:2] for each in ys)
    return [] if same else [f"xs [batch, n, d] and ys [batch, n] must have the same batch and n, given {given}"]


def _tensor(given: Any) -> Tensor | None:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):  # words, or rows of different lengths
        return None


def _kind(given: Any) -> str:
    """The type of what was given, and of what is in it."""
    inside = getattr(given, "dtype", None)
    return type(given).__name__ + (f" of {inside}" if inside is not None else "")
