"""What was learned: risk against the optimum, agreement with known algorithms, and which of them is nearest; and where:
what is written in the layers, what they do in other places, and what heads pass on to each other.

Models as a whole
    answer, risk, excess, ratio, band       predictors on the same prompts, with errors over prompts
    identify, families, report              which algorithm a model, or each of its layers, is nearest to
    spd, ilwd, weight_cosine, linearity     agreement of answers; of the weights that answers imply
    sime, match_iterations                  how alike errors are; how many steps of an iteration a layer is worth
    weight_distance                         of two models, up to the symmetries of their architecture
    exact_risk, one_layer_optimum, icl_risk linear attention: exact risk and optimum of one layer, limits
    predicted_error, inputs_to_learn        learning curves of random features by theory

Layers
    probe, attention_probes, token_probes   is a target written in the stream: at one token, at several, at tokens of
                                            x and of y by one map for all positions
    layer_readouts                          layers as predictors
    linear_cka                              how alike the layers of two networks are, up to rotation and scale
    Stitched                                lower blocks of one transformer under upper blocks of another, through no
                                            bridge, an `affine_bridge`, a `relative_bridge`, or one that learns
    pasting, paste, new_read_in             a new input projection under frozen upper blocks, with its controls

Heads of models over tokens
    roles, attribution, ablation, path      what a head does by itself, what it adds to logits, what is lost without it
    ov, qk, folded, compositions, channels  circuits as factors; which heads read which, by the weights, against chance
    with_components, with_reading, traverse components cut, scaled or alone kept; what a head writes along a direction
    reach, sampled_reach, slot_margins      which slots of a list a query of r numbers can point at
    `iclab.analysis.heads`: `movers`,       modules: name-mover heads, the S-inhibition heads that steer them, how lists
    `s_inhibition`, `list_recall`, `cuts`   are recalled, the effect of ablations
"""

from iclab.analysis.algorithms.agreement import (
    error_cosines,
    ilwd,
    implicit_weights,
    label_r2,
    linearity,
    margins,
    query_gradients,
    sime,
    spd,
    weight_cosine,
)
from iclab.analysis.algorithms.identify import AlgorithmPanel, Family, Match, families, identify
from iclab.analysis.algorithms.iterations import Matched, match_iterations
from iclab.analysis.algorithms.report import Report, report
from iclab.analysis.heads.circuits import ov, qk
from iclab.analysis.heads.composition import Channel, channels, composition_score, compositions
from iclab.analysis.heads.edits import with_components, with_reading
from iclab.analysis.heads.folding import folded
from iclab.analysis.heads.low_rank import Components, LowRank
from iclab.analysis.heads.patching import ablation, path
from iclab.analysis.heads.reach import reach, sampled_reach, slot_margins
from iclab.analysis.heads.roles import attribution, roles
from iclab.analysis.heads.steering import Direction, held_out, traverse, write
from iclab.analysis.layers.attention import LinearStep, linear_steps
from iclab.analysis.layers.attention_probes import AttentionProbes, ProbeRecipe, attention_probes
from iclab.analysis.layers.descent import Constants, best_descent, read_off, tuned_descent
from iclab.analysis.layers.interpolation import Products, interpolated, products
from iclab.analysis.layers.pasting import new_read_in, paste, pasting
from iclab.analysis.layers.probing import algorithm_state, bare_prompt, features, probe, probe_terms, r2_terms, visible
from iclab.analysis.layers.readout import LayerReadout, layer_readouts
from iclab.analysis.layers.similarity import linear_cka
from iclab.analysis.layers.stitching import Relative, Stitched, affine_bridge, relative_bridge
from iclab.analysis.layers.symmetries import weight_distance, weight_distances
from iclab.analysis.layers.token_probes import TokenProbe, token_probes
from iclab.analysis.risk import Estimate, answer, band, bootstrap_weights, estimate, excess, ratio, risk
from iclab.analysis.word_sensitivity import word_sensitivity
from iclab.renamed import old_names
from iclab.theory.asymptotics import icl_risk
from iclab.theory.linear_attention import exact_risk
from iclab.theory.one_layer import best_preconditioner, best_step, one_layer_optimum, one_layer_risk
from iclab.theory.random_features import (
    Levels,
    attention_levels,
    best_predicted_error,
    inputs_to_learn,
    interpolation_norms,
    network_levels,
    predicted_error,
    rkhs_norm,
)
from iclab.theory.references import references

__all__ = [
    "AlgorithmPanel",
    "AttentionProbes",
    "Channel",
    "Components",
    "Constants",
    "Direction",
    "Estimate",
    "Family",
    "LayerReadout",
    "Levels",
    "LinearStep",
    "LowRank",
    "Match",
    "Matched",
    "ProbeRecipe",
    "Products",
    "Relative",
    "Report",
    "Stitched",
    "TokenProbe",
    "ablation",
    "affine_bridge",
    "algorithm_state",
    "answer",
    "attention_levels",
    "attention_probes",
    "attribution",
    "band",
    "bare_prompt",
    "best_descent",
    "best_preconditioner",
    "best_predicted_error",
    "best_step",
    "bootstrap_weights",
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
    "inputs_to_learn",
    "interpolated",
    "interpolation_norms",
    "label_r2",
    "layer_readouts",
    "linear_cka",
    "linear_steps",
    "linearity",
    "margins",
    "match_iterations",
    "network_levels",
    "new_read_in",
    "one_layer_optimum",
    "one_layer_risk",
    "ov",
    "paste",
    "pasting",
    "path",
    "predicted_error",
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
    "relative_bridge",
    "report",
    "risk",
    "rkhs_norm",
    "roles",
    "sampled_reach",
    "sime",
    "slot_margins",
    "spd",
    "token_probes",
    "traverse",
    "tuned_descent",
    "visible",
    "weight_cosine",
    "weight_distance",
    "weight_distances",
    "with_components",
    "with_reading",
    "word_sensitivity",
    "write",
]

__getattr__ = old_names(__name__, Lineup="AlgorithmPanel", resampled="bootstrap_weights")
