"""Steering a name-mover head: its attention where the strongest S-inhibition head writes along its top component, and
nothing else (Merullo et al. 2024, arXiv 2406.09519, Fig. 4 and 5).
"""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from iclab.analysis.heads.movers import Named, name_mover_head, named
from iclab.analysis.heads.patching import Head
from iclab.analysis.heads.s_inhibition import along, chosen, s_inhibition_heads, slopes, top_component
from iclab.analysis.heads.steering import Direction, component, random_direction
from iclab.analysis.risk import estimate
from iclab.experiments.analysis import Row
from iclab.experiments.claims import TRAINED
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, row, rows
from iclab.measures.texts import OfTexts, dissection_of, folded_model, found_on, measured_on
from iclab.models import TokenTransformer

SLOTS = 5  # of the lists that a name-mover head is steered on
CHANCE = "random direction"


class Steering(OfTexts):
    """Sets what a head writes along a component, on texts with an indirect object and on lists of five; "random
    direction" is one of all that the same head can write. Models with rotary positions have no rows."""

    name = "steering"
    composing = True
    quantities: ClassVar = {
        "slope": "of the inhibition of the name-mover head, by standard deviation of the output; position 0: the "
        "indirect object was named first. The sign of a component is free: taken is that with which the slope at 0 is "
        "positive where heads are found",
        "ends": "the share of points at which the name-mover head attends most, on average, to the first or the last "
        "slot, between 0 and 1",
        "chosen": "at how many slots it looks most, one after the other, along all points",
    }

    def predictors(self, experiment: Any) -> Iterable[str]:
        return [MODEL, CHANCE]

    def distributions(self, experiment: Any) -> Iterable[str]:
        fives = [name for name, task in experiment.task.lists.items() if task.length == SLOTS]
        return [*super().distributions(experiment), *fives]

    def rows(self, of: Measurement) -> Iterator[Row]:
        model, (finding, rng) = folded_model(of), found_on(of)
        head = name_mover_head(model, finding)
        (feeder,) = s_inhibition_heads(model, finding, head, 1)
        top = component(model, feeder, top_component(model, feeder, head))
        if of.name == TRAINED:
            yield from _slopes(of, model, finding, head, top)
        else:
            chance = random_direction(model, feeder, rng)
            yield from _choices(of, model, finding, head, {MODEL: top, CHANCE: chance})


def _slopes(of: Measurement, model: TokenTransformer, finding: Named, head: Head, top: Direction) -> Iterator[Row]:
    points, prompts = along(model, finding, top, dissection_of(of).points), named(measured_on(of))
    before, after = (slopes(model, each, head, top, points) for each in (finding, prompts))
    sign = 1.0 if before[finding.index == 0].mean() >= 0 else -1.0
    for place in (0, 1):
        yield from rows(MODEL, "slope", estimate(sign * after[prompts.index == place]), place)


def _choices(
    of: Measurement, model: TokenTransformer, finding: Named, head: Head, directions: dict[str, Direction]
) -> Iterator[Row]:
    plan = dissection_of(of)
    prompts = named(measured_on(of)[: max(SLOTS, plan.prompts - plan.prompts % SLOTS)])  # each slot equally often
    for name, direction in directions.items():
        slots = chosen(model, prompts, head, direction, along(model, finding, direction, plan.points))
        ends = (slots == 0) | (slots == SLOTS - 1)
        yield row(name, "ends", None, ends.double().mean().item())
        yield row(name, "chosen", None, float(len(slots.unique())))
