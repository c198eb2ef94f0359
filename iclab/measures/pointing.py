"""What a model that points with keys of a slot's position could point at, beside what it does, on lists of one length.

"transformer" are the keys that were learned, "legendre" keys that are a smooth curve of the slot in as many dimensions,
"circle" keys evenly around one in the plane.
"""

from collections.abc import Iterable, Iterator
from math import nan
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.heads.cuts import correlation
from iclab.analysis.heads.reach import circle, legendre, reach, sampled_reach, slot_margins
from iclab.analysis.risk import Estimate
from iclab.experiments.analysis import Analysis, Row
from iclab.experiments.streams import experiment_generator
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, row, rows
from iclab.models import PointerTransformer
from iclab.tasks import LaundryList, TokenTask

DRAWS = 100_000  # directions, where reach is not known exactly


class Pointing(Analysis):
    """Computes which slots keys of a position can single out, and compares it with accuracy by slot."""

    name = "pointing"
    always = True
    tasks = LaundryList
    quantities: ClassVar = {
        "reach": "by slot: the share of directions of a query that point there, between 0 and 1",
        "reach_least": "the smallest of them",
        "reach_ends": "those of the first and the last slot together, between 0 and 1",
        "margin": "by slot: how far the best query lifts it above the others, in units of the keys' spread (the root "
        "mean square distance from their mean); 0 or more",
        "reachable_slots": "how many slots some query points at, exactly",
        "answered_unreachable": "how often the likeliest of the options is a slot that no query points at",
        "reach_correlation": "of reach with accuracy, over the target slots, where both differ between them; "
        "between −1 and 1",
    }

    def rows(self, of: Measurement) -> Iterator[Row]:
        yield from pointed(
            of.model, of.task, of.among, experiment_generator(of.experiment, "bootstrap", distribution=of.name)
        )


def pointed(model: object, task: TokenTask, rows: Iterable[Row], rng: torch.Generator) -> Iterator[Row]:
    """Yields the rows of a distribution for which what was `found` on it holds accuracy and answers by slot; none of a
    model without positional keys."""
    if not (isinstance(model, PointerTransformer) and model.config.keys == "positional"):
        return
    if isinstance(task, LaundryList) and task.balanced:
        N, r = task.longest, model.config.rank
        keys = model.slot_keys[1 : N + 1].detach().cpu().double()
        right, answered = (_by_slot(rows, quantity, N) for quantity in ("accuracy", "answered"))
        shares, lifted = _reach(keys, rng), slot_margins(keys)
        yield from _reach_rows(MODEL, keys, shares, lifted)
        yield from _behaviour_rows(shares.value, lifted, right, answered)
        others = {"legendre": legendre(N, r)} | ({"circle": circle(N)} if r == 2 else {})
        for name, each in others.items():
            yield from _reach_rows(name, each, _reach(each, rng), slot_margins(each))


def _by_slot(rows: Iterable[Row], quantity: str, N: int) -> Float[Tensor, " N"]:
    """NaN for a slot that is held out, and so is never a target."""
    values = {
        each["position"]: each["value"] for each in rows if (each["predictor"], each["quantity"]) == (MODEL, quantity)
    }
    return torch.tensor([values.get(slot, nan) for slot in range(N)], dtype=torch.float64)


def _reach(keys: Float[Tensor, "N r"], rng: torch.Generator) -> Estimate:
    """Exact in one and two dimensions, else from samples."""
    if keys.shape[1] <= 2:
        return Estimate(reach(keys), torch.zeros(len(keys), dtype=torch.float64))
    shares = sampled_reach(keys, rng, DRAWS)
    return Estimate(shares, (shares * (1 - shares) / DRAWS).sqrt())


def _reach_rows(name: str, keys: Float[Tensor, "N r"], shares: Estimate, lifted: Float[Tensor, " N"]) -> Iterator[Row]:
    """Geometry of the keys: their reach and their margins."""
    ends = (shares.value[0] + shares.value[-1]).item()
    spread = (keys - keys.mean(0)).square().sum(1).mean().sqrt()
    yield from rows(name, "reach", shares)
    yield row(name, "reach_least", None, shares.value.min().item(), shares.stderr[shares.value.argmin()].item())
    yield row(name, "reach_ends", None, ends, (ends * (1 - ends) / DRAWS) ** 0.5 if shares.stderr.any() else 0.0)
    yield from (row(name, "margin", slot, value) for slot, value in enumerate((lifted / spread).tolist()))
    yield row(name, "reachable_slots", None, (lifted > 0).sum().item())


def _behaviour_rows(
    shares: Float[Tensor, " N"],
    lifted: Float[Tensor, " N"],
    right: Float[Tensor, " N"],
    answered: Float[Tensor, " N"],
) -> Iterator[Row]:
    """What the model makes of it."""
    yield row(MODEL, "answered_unreachable", None, answered[lifted == 0].sum().item())
    defined = right.isfinite()
    shares, right = shares[defined], right[defined]
    if len(right) > 2 and right.std() > 0 and shares.std() > 0:
        yield row(MODEL, "reach_correlation", None, correlation(shares, right))
