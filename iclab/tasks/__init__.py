"""How prompts are made: laws of inputs, classes of functions, and tasks derived from tasks."""

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
from iclab.tasks.task import FunctionClass, Task

__all__ = [
    "DecisionTree",
    "Derived",
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
