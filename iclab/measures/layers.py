"""Layers as algorithms: which algorithm each layer is nearest to, read out by a fitted linear map."""

from collections.abc import Iterator
from typing import Any, ClassVar

from iclab.analysis.algorithms.identify import LEAST
from iclab.experiments.analysis import Analysis, Row
from iclab.measures.algorithms import FITS, family_names, match_rows
from iclab.measures.measurement import Measurement


class Layers(Analysis):
    """Compares every layer with families of algorithms; `layer` is the number of layers below the output projection."""

    name = "layers"
    layered = True
    scalar = True
    least = LEAST
    quantities: ClassVar = {name: f"of each layer: {meaning}" for name, meaning in FITS.items()}

    def predictors(self, experiment: Any) -> set[str]:
        return family_names(experiment)

    def rows(self, of: Measurement) -> Iterator[Row]:
        rng = of.rng("bootstrap")
        for readout in of.readouts:
            for match in of.panel.identify(readout, rng, of.draws, of.parts[None]):
                yield from ({**row, "layer": readout.layer} for row in match_rows(match))
