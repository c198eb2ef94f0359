"""What was learned: risk against the optimum, agreement with known algorithms, and which of them is nearest."""

from iclab.analysis.agreement import ilwd, implicit_weights, linearity, query_gradients, spd
from iclab.analysis.attention_probes import AttentionProbes, ProbeRecipe, attention_probes
from iclab.analysis.identify import Family, Lineup, Match, families, identify
from iclab.analysis.probing import algorithm_state, bare_prompt, features, probe, probe_terms, r2_terms, visible
from iclab.analysis.readout import LayerReadout, layer_readouts
from iclab.analysis.references import references
from iclab.analysis.risk import Estimate, answer, band, estimate, excess, ratio, resampled, risk

__all__ = [
    "AttentionProbes",
    "Estimate",
    "Family",
    "LayerReadout",
    "Lineup",
    "Match",
    "ProbeRecipe",
    "algorithm_state",
    "answer",
    "attention_probes",
    "band",
    "bare_prompt",
    "estimate",
    "excess",
    "families",
    "features",
    "identify",
    "ilwd",
    "implicit_weights",
    "layer_readouts",
    "linearity",
    "probe",
    "probe_terms",
    "query_gradients",
    "r2_terms",
    "ratio",
    "references",
    "resampled",
    "risk",
    "spd",
    "visible",
]
