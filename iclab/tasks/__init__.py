"""How prompts are made: laws of inputs, classes of functions, tasks derived from tasks; and sequences of tokens."""

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
from iclab.tasks.laundry import IndirectObject, LaundryList
from iclab.tasks.linear import LinearRegression, SparseLinearRegression, WhitenedLinearRegression
from iclab.tasks.markov import MarkovChain
from iclab.tasks.nonlinear import DecisionTree, ReLUNetwork
from iclab.tasks.ordering import ConvexHull, Ordering, Sorting
from iclab.tasks.prompts import Functions, LinearFunctions, Prompts
from iclab.tasks.recall import MultiQueryRecall, RepeatedSequence
from iclab.tasks.task import FunctionClass, Task
from iclab.tasks.tokens import SizedTask, TokenPrompts, TokenTask

__all__ = [
    "ConvexHull",
    "DecisionTree",
    "Derived",
    "FinitePool",
    "FunctionClass",
    "Functions",
    "HalfSubspace",
    "IndirectObject",
    "Inputs",
    "LaundryList",
    "LinearFunctions",
    "LinearRegression",
    "Longer",
    "MarkovChain",
    "MultiQueryRecall",
    "NoisyLabels",
    "Normal",
    "NormalisedLabels",
    "OppositeOrthant",
    "Ordering",
    "Orthant",
    "OrthogonalQuery",
    "Prompts",
    "QueryShift",
    "RandomOrthant",
    "ReLUNetwork",
    "Recoloured",
    "RepeatedQuery",
    "RepeatedSequence",
    "ScaledInputs",
    "ScaledWeights",
    "SizedTask",
    "SkewedInputs",
    "Sorting",
    "SparseLinearRegression",
    "Sphere",
    "Task",
    "TokenPrompts",
    "TokenTask",
    "TruePrior",
    "Truncated",
    "Uniform",
    "UnitNormal",
    "WhitenedLinearRegression",
]
