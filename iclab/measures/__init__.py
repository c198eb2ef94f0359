"""What is measured of trained models: one analysis a file, each a class with its facts, its quantities and its rows.

To import this package is to make its analyses known; those that are always made come in the order of these lines.
"""

from iclab.experiments.analysis import Analysis, Row
from iclab.measures.accuracy import Accuracy
from iclab.measures.algorithms import NearestAlgorithms
from iclab.measures.channels import Channels
from iclab.measures.constructions import ConstructionDistance
from iclab.measures.curves import LearningCurves
from iclab.measures.descent import DescentConstants, StepsOfWeights
from iclab.measures.edits import Edits
from iclab.measures.evolution import Evolution, TrainingCurve
from iclab.measures.exact_risk import ExactRisk
from iclab.measures.implicit_weights import ImplicitWeights
from iclab.measures.indirect_objects import IndirectObjects
from iclab.measures.iterations import Iterations
from iclab.measures.layers import Layers
from iclab.measures.measurement import Measurement, Workspace, measure
from iclab.measures.mechanism import Mechanism
from iclab.measures.movers import Movers
from iclab.measures.orderings import WholeAnswers
from iclab.measures.pasting import Pasting
from iclab.measures.pointing import Pointing
from iclab.measures.precision import Precision
from iclab.measures.probes import AttentionProbesOfLayers, Probes
from iclab.measures.risks import Risks
from iclab.measures.rows import averaged, by_layer, relative, row, rows
from iclab.measures.s_inhibition import SInhibitionHeads
from iclab.measures.shopping_lists import ShoppingLists
from iclab.measures.steering import Steering
from iclab.measures.stitching import Stitching
from iclab.measures.text_heads import TextHeads
from iclab.measures.token_probes import TokenProbes
from iclab.measures.word_sensitivity import WordSensitivity

__all__ = [
    "Accuracy",
    "Analysis",
    "AttentionProbesOfLayers",
    "Channels",
    "ConstructionDistance",
    "DescentConstants",
    "Edits",
    "Evolution",
    "ExactRisk",
    "ImplicitWeights",
    "IndirectObjects",
    "Iterations",
    "Layers",
    "LearningCurves",
    "Measurement",
    "Mechanism",
    "Movers",
    "NearestAlgorithms",
    "Pasting",
    "Pointing",
    "Precision",
    "Probes",
    "Risks",
    "Row",
    "SInhibitionHeads",
    "ShoppingLists",
    "Steering",
    "StepsOfWeights",
    "Stitching",
    "TextHeads",
    "TokenProbes",
    "TrainingCurve",
    "WholeAnswers",
    "WordSensitivity",
    "Workspace",
    "averaged",
    "by_layer",
    "measure",
    "relative",
    "row",
    "rows",
]
