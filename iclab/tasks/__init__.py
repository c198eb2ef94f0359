"""How prompts are made: laws of inputs, classes of functions, and tasks derived from tasks.

    LinearRegression, SparseLinearRegression, WhitenedLinearRegression      y = w·x
    RepresentationRegression                    y = w·Φ(x), with one Φ in all prompts
    DynamicalSystem                             inputs are states, y a coordinate of the next: w·Φ of the last states
    LinearClassification                        y = ±1, the sign of w·x
    ReLUNetwork, DecisionTree                   other functions
    OneOf, NoiseMixture, RepresentationMixture  each prompt is of one of several tasks
    QueryAndKeys                                one label, a target of a query and its keys
    FinitePool, NoisyLabels, SkewedInputs, ...  a task with one fact changed

Every one is a `Task`: a `FunctionClass` of labelling functions, a `TaskMixture`, or `Derived` from another task.
"""

from iclab.tasks.classification import LinearClassification, SignFunctions
from iclab.tasks.derived import (
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
    Recoloured,
    RepeatedQuery,
    ScaledInputs,
    ScaledWeights,
    SkewedInputs,
    TruePrior,
    Truncated,
)
from iclab.tasks.dynamics import DynamicalSystem
from iclab.tasks.inputs import Inputs, Normal, Sphere, Uniform, UnitNormal
from iclab.tasks.linear import LinearRegression, SparseLinearRegression, WhitenedLinearRegression
from iclab.tasks.mixture import NoiseMixture, OneOf, RepresentationMixture, TaskMixture
from iclab.tasks.nonlinear import DecisionTree, ReLUNetwork
from iclab.tasks.prompts import Functions, LinearFunctions, MixedFunctions, Prompts
from iclab.tasks.query_and_keys import KeyedFunctions, QueryAndKeys
from iclab.tasks.representation import FeatureFunctions, RepresentationRegression
from iclab.tasks.targets import (
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
from iclab.tasks.task import FunctionClass, Task

__all__ = [
    "Alternating",
    "Arctangent",
    "Cosine",
    "Custom",
    "DecisionTree",
    "Derived",
    "DynamicalSystem",
    "FeatureFunctions",
    "FinitePool",
    "FunctionClass",
    "Functions",
    "HalfSubspace",
    "Inputs",
    "KeyAverage",
    "KeyedFunctions",
    "LinearClassification",
    "LinearFunctions",
    "LinearRegression",
    "Longer",
    "MixedFunctions",
    "NoiseMixture",
    "NoisyLabels",
    "Normal",
    "NormalisedLabels",
    "OneOf",
    "OppositeOrthant",
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
    "Recoloured",
    "RepeatedQuery",
    "RepresentationMixture",
    "RepresentationRegression",
    "ScaledInputs",
    "ScaledWeights",
    "SignFunctions",
    "SkewedInputs",
    "SparseLinearRegression",
    "Sphere",
    "Target",
    "Task",
    "TaskMixture",
    "TruePrior",
    "Truncated",
    "Uniform",
    "UnitNormal",
    "WhitenedLinearRegression",
    "labels",
]
