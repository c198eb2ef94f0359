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
from iclab.analysis.circuits import ov, qk
from iclab.analysis.composition import Channel, channels, composition_score, compositions
from iclab.analysis.descent import Constants, best_descent, read_off, tuned_descent
from iclab.analysis.edits import with_components, with_reading
from iclab.analysis.folding import folded
from iclab.analysis.identify import Family, Lineup, Match, families, identify
from iclab.analysis.interpolation import Products, interpolated, products
from iclab.analysis.iterations import Matched, match_iterations
from iclab.analysis.linear_attention import exact_risk
from iclab.analysis.low_rank import Components, LowRank
from iclab.analysis.one_layer import best_preconditioner, best_step, one_layer_optimum, one_layer_risk
from iclab.analysis.patching import ablation, path
from iclab.analysis.probing import algorithm_state, bare_prompt, features, probe, probe_terms, r2_terms, visible
from iclab.analysis.reach import reach, sampled_reach
from iclab.analysis.readout import LayerReadout, layer_readouts
from iclab.analysis.references import references
from iclab.analysis.report import Report, report
from iclab.analysis.risk import Estimate, answer, band, estimate, excess, ratio, resampled, risk
from iclab.analysis.roles import attribution, roles
from iclab.analysis.steering import Direction, held_out, traverse, write
from iclab.analysis.symmetries import weight_distance, weight_distances

__all__ = [
    "AttentionProbes",
    "Channel",
    "Components",
    "Constants",
    "Direction",
    "Estimate",
    "Family",
    "LayerReadout",
    "LinearStep",
    "Lineup",
    "LowRank",
    "Match",
    "Matched",
    "ProbeRecipe",
    "Products",
    "Report",
    "ablation",
    "algorithm_state",
    "answer",
    "attention_probes",
    "attribution",
    "band",
    "bare_prompt",
    "best_descent",
    "best_preconditioner",
    "best_step",
    "channels",
    "composition_score",
    "compositions",
    "error_cosines",
    "estimate",
    "exact_risk",
    "excess",
    "families",
    "features",
    "folded",
    "held_out",
    "icl_risk",
    "identify",
    "ilwd",
    "implicit_weights",
    "interpolated",
    "layer_readouts",
    "linear_steps",
    "linearity",
    "margins",
    "match_iterations",
    "one_layer_optimum",
    "one_layer_risk",
    "ov",
    "path",
    "probe",
    "probe_terms",
    "products",
    "qk",
    "query_gradients",
    "r2_terms",
    "ratio",
    "reach",
    "read_off",
    "references",
    "report",
    "resampled",
    "risk",
    "roles",
    "sampled_reach",
    "sime",
    "spd",
    "traverse",
    "tuned_descent",
    "visible",
    "weight_cosine",
    "weight_distance",
    "weight_distances",
    "with_components",
    "with_reading",
    "write",
]
