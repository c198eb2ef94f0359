"""Prompts: input distributions, function classes, tasks derived from tasks; and sequences of tokens.

    LinearRegression, SparseLinearRegression, WhitenedLinearRegression      y = w·x
    RepresentationRegression                    y = w·Φ(x), with one Φ in all prompts
    DynamicalSystem                             inputs are states, y the next one, a vector: Wᵀ Φ of the last states
    LinearClassification                        y = ±1, the sign of w·x
    ReLUNetwork, DecisionTree                   other functions
    OneOf, NoiseMixture, RepresentationMixture  each prompt is of one of several tasks
    QueryAndKeys                                one label, a target of a query and its keys
    FinitePool, NoisyLabels, SkewedInputs, ...  a task with one fact changed

Every one is a `Task`: a `FunctionClass` of labelling functions, a `TaskMixture`, or `Derived` from another task.

    LaundryList, IndirectObject                 which item, or who of two, is to be named
    RepeatedSequence, MultiQueryRecall          what followed a token before
    MarkovChain                                 the next state
    Sorting, ConvexHull                         answers that are sequences of the input's own tokens
    GaussianClasses                             the label of an item; tokens are vectors

    RecallText                                  lists and names as English text, in the tokens of a file

These are `TokenTask`s, and both kinds are `AnyTask`. `iclab.tasks.text` has the same texts for any function that splits
text into tokens.
"""

from iclab.renamed import old_names
from iclab.tasks.examples.classification import LinearClassification, SignFunctions
from iclab.tasks.examples.derived import (
    CovarianceShift,
    Derived,
    FinitePool,
    HalfSubspace,
    Longer,
    NoisyLabels,
    NormalisedLabels,
    OppositeOrthant,
    Orthant,
    OrthogonalQuery,
    QueryShift,
    RandomOrthant,
    RepeatedQuery,
    ScaledInputs,
    ScaledWeights,
    SkewedInputs,
    TruePrior,
    Truncated,
)
from iclab.tasks.examples.dynamics import DynamicalSystem, Transitions
from iclab.tasks.examples.inputs import Inputs, Normal, Sphere, Uniform, UnitNormal
from iclab.tasks.examples.linear import LinearRegression, SparseLinearRegression, WhitenedLinearRegression
from iclab.tasks.examples.mixture import NoiseMixture, OneOf, RepresentationMixture, TaskMixture
from iclab.tasks.examples.nonlinear import DecisionTree, ReLUNetwork
from iclab.tasks.examples.prompts import Functions, LinearFunctions, MixedFunctions, Prompts
from iclab.tasks.examples.query_and_keys import KeyedFunctions, QueryAndKeys
from iclab.tasks.examples.representation import FeatureFunctions, RepresentationRegression
from iclab.tasks.examples.targets import (
    Alternating,
    Arctangent,
    Cosine,
    Custom,
    KeyAverage,
    Power,
    Profile,
    QueryFunction,
    Target,
    labels,
)
from iclab.tasks.recall_text import RecallText
from iclab.tasks.task import AnyTask, FunctionClass, Task, law, same_labels
from iclab.tasks.tokens.gaussian_classes import GaussianClasses
from iclab.tasks.tokens.laundry import IndirectObject, LaundryList
from iclab.tasks.tokens.markov import MarkovChain
from iclab.tasks.tokens.ordering import ConvexHull, Ordering, Sorting
from iclab.tasks.tokens.prompts import SizedTask, TokenPrompts, TokenTask
from iclab.tasks.tokens.recall import MultiQueryRecall, RepeatedSequence

__all__ = [
    "Alternating",
    "AnyTask",
    "Arctangent",
    "ConvexHull",
    "Cosine",
    "CovarianceShift",
    "Custom",
    "DecisionTree",
    "Derived",
    "DynamicalSystem",
    "FeatureFunctions",
    "FinitePool",
    "FunctionClass",
    "Functions",
    "GaussianClasses",
    "HalfSubspace",
    "IndirectObject",
    "Inputs",
    "KeyAverage",
    "KeyedFunctions",
    "LaundryList",
    "LinearClassification",
    "LinearFunctions",
    "LinearRegression",
    "Longer",
    "MarkovChain",
    "MixedFunctions",
    "MultiQueryRecall",
    "NoiseMixture",
    "NoisyLabels",
    "Normal",
    "NormalisedLabels",
    "OneOf",
    "OppositeOrthant",
    "Ordering",
    "Orthant",
    "OrthogonalQuery",
    "Power",
    "Profile",
    "Prompts",
    "QueryAndKeys",
    "QueryFunction",
    "QueryShift",
    "RandomOrthant",
    "ReLUNetwork",
    "RecallText",
    "RepeatedQuery",
    "RepeatedSequence",
    "RepresentationMixture",
    "RepresentationRegression",
    "ScaledInputs",
    "ScaledWeights",
    "SignFunctions",
    "SizedTask",
    "SkewedInputs",
    "Sorting",
    "SparseLinearRegression",
    "Sphere",
    "Target",
    "Task",
    "TaskMixture",
    "TokenPrompts",
    "TokenTask",
    "Transitions",
    "TruePrior",
    "Truncated",
    "Uniform",
    "UnitNormal",
    "WhitenedLinearRegression",
    "labels",
    "law",
    "same_labels",
]

__getattr__ = old_names(__name__, Recoloured="CovarianceShift")
