"""What was learned: risk against the optimum, agreement with known algorithms, and which of them is nearest."""

from iclab.analysis.agreement import (
    error_cosines,
    ilwd,
    implicit_weights,
    linearity,
    margins,
    query_gradients,
    sime,
    spd,
    weight_cosine,
)
from iclab.analysis.asymptotics import icl_risk
from iclab.analysis.attention import LinearStep, linear_steps
from iclab.analysis.attention_probes import AttentionProbes, ProbeRecipe, attention_probes
from iclab.analysis.descent import Constants, best_descent, read_off, tuned_descent
from iclab.analysis.identify import Family, Lineup, Match, families, identify
from iclab.analysis.interpolation import Products, interpolated, products
from iclab.analysis.iterations import Matched, match_iterations
from iclab.analysis.linear_attention import exact_risk
from iclab.analysis.one_layer import best_preconditioner, best_step, one_layer_optimum, one_layer_risk
from iclab.analysis.probing import algorithm_state, bare_prompt, features, probe, probe_terms, r2_terms, visible
from iclab.analysis.random_features import (
    Levels,
    attention_levels,
    best_predicted_error,
    inputs_to_learn,
    interpolation_norms,
    network_levels,
    predicted_error,
    rkhs_norm,
)
from iclab.analysis.readout import LayerReadout, layer_readouts
from iclab.analysis.references import references
from iclab.analysis.report import Report, report
from iclab.analysis.risk import Estimate, answer, band, estimate, excess, ratio, resampled, risk
from iclab.analysis.symmetries import weight_distance, weight_distances
from iclab.analysis.word_sensitivity import word_sensitivity

__all__ = [
    "AttentionProbes",
    "Constants",
    "Estimate",
    "Family",
    "LayerReadout",
    "Levels",
    "LinearStep",
    "Lineup",
    "Match",
    "Matched",
    "ProbeRecipe",
    "Products",
    "Report",
    "algorithm_state",
    "answer",
    "attention_levels",
    "attention_probes",
    "band",
    "bare_prompt",
    "best_descent",
    "best_preconditioner",
    "best_predicted_error",
    "best_step",
    "error_cosines",
    "estimate",
    "exact_risk",
    "excess",
    "families",
    "features",
    "icl_risk",
    "identify",
    "ilwd",
    "implicit_weights",
    "inputs_to_learn",
    "interpolated",
    "interpolation_norms",
    "layer_readouts",
    "linear_steps",
    "linearity",
    "margins",
    "match_iterations",
    "network_levels",
    "one_layer_optimum",
    "one_layer_risk",
    "predicted_error",
    "probe",
    "probe_terms",
    "products",
    "query_gradients",
    "r2_terms",
    "ratio",
    "read_off",
    "references",
    "report",
    "resampled",
    "risk",
    "rkhs_norm",
    "sime",
    "spd",
    "tuned_descent",
    "visible",
    "weight_cosine",
    "weight_distance",
    "weight_distances",
    "word_sensitivity",
]
