"""How prompts are made: laws of inputs, classes of functions, and tasks derived from tasks.

LinearRegression, SparseLinearRegression, WhitenedLinearRegression      y = w·x
RepresentationRegression                                                y = w·Φ(x), Φ the same in all prompts
ReLUNetwork, DecisionTree                                               other functions
FinitePool, ScaledInputs, NoisyLabels, ...                              a task that differs in one fact (`Derived`)
"""

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
from iclab.tasks.inputs import Inputs, Normal, Sphere, Uniform, UnitNormal
from iclab.tasks.linear import LinearRegression, SparseLinearRegression, WhitenedLinearRegression
from iclab.tasks.nonlinear import DecisionTree, ReLUNetwork
from iclab.tasks.prompts import Functions, LinearFunctions, Prompts
from iclab.tasks.representation import FeatureFunctions, RepresentationRegression
from iclab.tasks.task import FunctionClass, Task

__all__ = [
    "DecisionTree",
    "Derived",
    "FeatureFunctions",
    "FinitePool",
    "FunctionClass",
    "Functions",
    "HalfSubspace",
    "Inputs",
    "LinearFunctions",
    "LinearRegression",
    "Longer",
    "NoisyLabels",
    "Normal",
    "NormalisedLabels",
    "OppositeOrthant",
    "Orthant",
    "OrthogonalQuery",
    "Prompts",
    "QueryShift",
    "RandomOrthant",
    "ReLUNetwork",
    "Recoloured",
    "RepeatedQuery",
    "RepresentationRegression",
    "ScaledInputs",
    "ScaledWeights",
    "SkewedInputs",
    "SparseLinearRegression",
    "Sphere",
    "Task",
    "TruePrior",
    "Truncated",
    "Uniform",
    "UnitNormal",
    "WhitenedLinearRegression",
]
