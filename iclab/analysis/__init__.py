"""What was learned: risk against the optimum, agreement with known algorithms, and which of them is nearest."""

from iclab.analysis.agreement import ilwd, implicit_weights, linearity, query_gradients, spd
from iclab.analysis.asymptotics import icl_risk
from iclab.analysis.identify import Family, Lineup, Match, families, identify
from iclab.analysis.linear_attention import exact_risk
from iclab.analysis.probing import algorithm_state, bare_prompt, features, probe
from iclab.analysis.readout import LayerReadout, layer_readouts
from iclab.analysis.references import references
from iclab.analysis.risk import Estimate, answer, band, estimate, excess, ratio, risk

__all__ = [
    "Estimate",
    "Family",
    "LayerReadout",
    "Lineup",
    "Match",
    "algorithm_state",
    "answer",
    "band",
    "bare_prompt",
    "estimate",
    "exact_risk",
    "excess",
    "families",
    "features",
    "icl_risk",
    "identify",
    "ilwd",
    "implicit_weights",
    "layer_readouts",
    "linearity",
    "probe",
    "query_gradients",
    "ratio",
    "references",
    "risk",
    "spd",
]
