"""Layers as iterations: how many steps of Newton and of gradient descent each layer is worth."""

from collections.abc import Iterator
from typing import ClassVar

from iclab.analysis import estimate, match_iterations
from iclab.analysis.algorithms.identify import LEAST
from iclab.experiments.analysis import Analysis, Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import by_layer, rows


class Iterations(Analysis):
    """Matches layers with steps by the similarity of their errors (Fu et al. 2023, arXiv 2310.17086, §4)."""

    name = "iterations"
    layered = True
    scalar = True
    least = LEAST
    quantities: ClassVar = {
        "matched_steps": "the number of steps that a layer is most like; 0 or more",
        "sime": "the similarity of a layer's errors with those of that many steps, a cosine, at most 1",
        "sime_lead": "sime with Newton less sime with gradient descent, between −2 and 2",
        "steps_per_layer": "steps of Newton that a middle layer is worth",
        "doublings_per_layer": "doublings of the number of steps of gradient descent that a middle layer is worth",
        "total_steps": "steps that all layers add to the input projection's, of gradient descent in doublings",
        "working_layers": "the number of layers that are worth more steps than the layer before; 0 or more",
        "steps_per_working_layer": "total_steps relative to working_layers",
    }

    def rows(self, of: Measurement) -> Iterator[Row]:
        for region, part in of.parts.items():
            newton, plain = match_iterations(of.panel, of.readouts, of.rng("bootstrap"), of.draws, part)
            for match in (newton, plain):
                yield from by_layer(match.family, "matched_steps", match.steps, region)
                yield from by_layer(match.family, "sime", match.similarity, region)
                yield from rows(match.family, "total_steps", match.total, region)
                yield from rows(match.family, "working_layers", match.working, region)
                yield from rows(match.family, "steps_per_working_layer", match.rate, region)
            yield from by_layer(newton.family, "sime_lead", estimate((newton.cosines - plain.cosines).mT), region)
            if newton.growth.value.isfinite():  # there are at least two middle layers
                yield from rows(newton.family, "steps_per_layer", newton.growth, region)
                yield from rows(plain.family, "doublings_per_layer", plain.growth, region)
