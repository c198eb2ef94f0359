"""Constructions: how far the weights of a model are from weights that a proof spells out."""

from collections.abc import Iterator
from typing import ClassVar

from iclab.analysis import weight_distance
from iclab.experiments.analysis import Analysis, Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import row


class ConstructionDistance(Analysis):
    """Compares weights, up to symmetries, with each construction that the experiment names."""

    name = "constructions"
    always = True
    once = True
    quantities: ClassVar = {
        "weight_distance": "distance of the weights to those of a construction, relative to both and up to symmetries; "
        "0 for the same, √2 for weights that have nothing in common",
    }

    def rows(self, of: Measurement) -> Iterator[Row]:
        for name, hand_set in of.constructions.items():
            yield row(name, "weight_distance", None, weight_distance(of.model, hand_set))
