"""Settings at the ends of what a number can be: refused in a line where they are made, or prompts are finite."""

from copy import copy
from dataclasses import fields
from math import inf, nan
from typing import Any

import pytest
import torch

import iclab
from iclab.errors import UsageError
from iclab.experiments.config import kinds
from iclab.limits import NUMBERS, admit
from iclab.predictors import DiscreteMMSE, SparsePosterior
from iclab.tasks import (
    Alternating,
    Arctangent,
    ConvexHull,
    Cosine,
    DecisionTree,
    DynamicalSystem,
    FinitePool,
    GaussianClasses,
    HalfSubspace,
    IndirectObject,
    Inputs,
    KeyAverage,
    LaundryList,
    LinearClassification,
    LinearRegression,
    Longer,
    MarkovChain,
    MultiQueryRecall,
    NoiseMixture,
    NoisyLabels,
    Normal,
    NormalisedLabels,
    OneOf,
    OppositeOrthant,
    OrthogonalQuery,
    Power,
    Profile,
    QueryAndKeys,
    QueryFunction,
    RandomOrthant,
    ReLUNetwork,
    RepeatedQuery,
    RepeatedSequence,
    RepresentationMixture,
    RepresentationRegression,
    ScaledInputs,
    ScaledWeights,
    SkewedInputs,
    Sorting,
    SparseLinearRegression,
    Sphere,
    Target,
    Task,
    TokenTask,
    TruePrior,
    Truncated,
    Uniform,
    UnitNormal,
    WhitenedLinearRegression,
)
from iclab.tasks.features import Representation
from tests.conftest import generator

BASE = LinearRegression(4, 4, 0.1)
REPRESENTED = RepresentationRegression(4, 4, 0.1, representation=Representation(width=5))
TASKS = (
    BASE,
    SparseLinearRegression(4, 4, 0.1, sparsity=2),
    WhitenedLinearRegression(4, 4, 0.1, inputs=Normal(spectrum=(1.0, 2.0, 3.0, 4.0))),
    REPRESENTED,
    DynamicalSystem(4, 4, 0.1, representation=Representation(width=5), window=2),
    LinearClassification(4, 4),
    ReLUNetwork(4, 4, width=3),
    DecisionTree(4, 4),
    OneOf((BASE, ReLUNetwork(4, 4))),
    NoiseMixture(BASE),
    RepresentationMixture(REPRESENTED),
    QueryAndKeys(4, 4, targets=(("one", KeyAverage(Power(2), Cosine())), ("other", QueryFunction(Arctangent())))),
    FinitePool(BASE, 3),
    TruePrior(FinitePool(BASE, 3)),
    ScaledWeights(BASE, 2.0),
    NormalisedLabels(BASE),
    NoisyLabels(BASE, 0.3),
    Truncated(BASE, 2, 3),
    Longer(BASE, 6),
    ScaledInputs(BASE, 2.0),
    SkewedInputs(BASE),
    HalfSubspace(BASE),
    RandomOrthant(BASE),
    OppositeOrthant(BASE),
    OrthogonalQuery(BASE),
    RepeatedQuery(BASE),
)
TOKENS = (
    RepeatedSequence(8, 2, 3),
    MultiQueryRecall(12, 12, 2),
    GaussianClasses(8, 4, 2, 2, d=3),
    LaundryList(6, 2, 4),
    IndirectObject(),
    MarkovChain(3, 6),
    Sorting(3, 4, numbers=6),
    ConvexHull(3, 4, grid=3),
)
INPUTS = (Normal(), UnitNormal(), Uniform(), Sphere())
PROFILES = (Power(2), Cosine(), Arctangent())
TARGETS = (KeyAverage(Power(1)), QueryFunction(Power(1)), Alternating())

NUMBERS_TRIED = (0, -1, 0.0, -2.5, 1e-200, 1e-30, 1e30, 1e200, inf, -inf, nan, 10**10, 2**64, 10**400, True)
TRIED = (*NUMBERS_TRIED, "3", None, (), (1e-200,), (1e200, nan, 0.0, 1.0), (1e-200,) * 4, (10**10,) * 4)


OF_FILES = {"RecallText"}  # a task that needs a tokenizer's file: its settings are tried with that, in test_recall


def ours(base: type) -> set[str]:
    return {name for name, kind in kinds(base).items() if kind.__module__.startswith("iclab.")}


@pytest.mark.parametrize(
    ("base", "specimens"),
    [(Task, TASKS), (TokenTask, TOKENS), (Inputs, INPUTS), (Profile, PROFILES), (Target, TARGETS)],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_there_is_a_specimen_of_each_class(base: type, specimens: tuple):
    assert {type(one).__name__ for one in specimens} == ours(base) - OF_FILES


def finite(prompts: Any) -> bool:
    held = [getattr(prompts, name) for name in ("xs", "ys", "fs", "tokens") if hasattr(prompts, name)]
    return all(bool(tensor.isfinite().all()) for tensor in held)


def remade(specimen: Any, name: str, value: Any) -> Any:
    """The specimen with another setting, past the type checker that only tests have in front of a constructor."""
    made = copy(specimen)
    object.__setattr__(made, name, value)
    made.__post_init__()
    return made


def refused_or_sound(specimen: Any, name: str, value: Any, task: Any = None) -> bool:
    """Whether a specimen with one setting replaced is refused in one line; else prompts of it must be finite."""
    try:
        made = remade(specimen, name, value)
        made = made if task is None else task(made)
    except UsageError as told:
        assert "\n" not in str(told) and len(str(told)) < 1000
        return True
    assert finite(made.sample(2, generator())), f"{made} has prompts that are not finite"
    return False


def settings(specimen: Any) -> list[str]:
    return [field.name for field in fields(specimen) if field.init]


@pytest.mark.parametrize("specimen", [*TASKS, *TOKENS], ids=lambda one: type(one).__name__)
def test_every_setting_of_a_task_is_refused_or_sound(specimen: Any):
    assert finite(specimen.sample(2, generator()))
    refusals = [refused_or_sound(specimen, name, value) for name in settings(specimen) for value in TRIED]
    assert any(refusals)


def regression(inputs: Inputs) -> LinearRegression:
    return LinearRegression(4, 4, 0.1, inputs=inputs)


@pytest.mark.parametrize("specimen", INPUTS, ids=lambda one: type(one).__name__)
def test_every_setting_of_inputs_is_refused_or_sound(specimen: Inputs):
    assert any([refused_or_sound(specimen, k, v, regression) for k in settings(specimen) for v in TRIED])


@pytest.mark.parametrize("specimen", [*PROFILES, *TARGETS], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("inputs", [Sphere(), Normal(spectrum=(1e18,) * 4)], ids=["short", "long"])
def test_every_setting_of_a_target_is_refused_or_sound(specimen: Any, inputs: Inputs):
    def keyed(made: Any) -> QueryAndKeys:
        target = made if isinstance(made, Target) else KeyAverage(made, made)
        return QueryAndKeys(4, 4, targets=(("one", target),), inputs=inputs)

    assert any([refused_or_sound(specimen, k, v, keyed) for k in settings(specimen) for v in TRIED])


def test_every_setting_of_a_representation_is_refused_or_sound():
    def represented(made: Representation) -> RepresentationRegression:
        return RepresentationRegression(4, 4, representation=made)

    specimen = Representation(width=5)
    assert any([refused_or_sound(specimen, k, v, represented) for k in settings(specimen) for v in TRIED])


def test_a_task_without_its_door_has_prompts_that_are_not_finite(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("iclab.tasks.task.admit", lambda settings, problems: None)
    with pytest.raises(AssertionError, match="not finite"):
        refused_or_sound(BASE, "prior", 1e200)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: LinearRegression(3, 7, prior=1e-200), "LinearRegression: prior must be 0 or of a size from 1e-18"),
        (lambda: LinearRegression(3, 7, noise=1e-170), "noise must be 0 or of a size .* given 1e-170"),
        (lambda: LinearRegression(3, 7, noise=1e200, prior=1e200), "noise must .* 1e\\+200; prior must .* 1e\\+200"),
        (lambda: LinearRegression(10**10, 7), "a prompt takes 70000000007 numbers, and at most 134217728 fit"),
        (lambda: LinearRegression(3, 10**10), "a prompt takes 40000000000 numbers"),
        (lambda: remade(BASE, "d", "3"), "d must be an integer, given '3'"),
        (lambda: remade(BASE, "n", True), "n must be an integer, given True"),
        (lambda: LinearRegression(2**70, 7), "d must be below 2⁶³, given an integer of 71 bits"),
        (lambda: FinitePool(BASE, 10**10), "the pool takes 40000000000 numbers"),
        (lambda: ReLUNetwork(3, 7, width=10**10), "a network takes"),
        (lambda: RepresentationMixture(REPRESENTED, 10**10), "all: a prompt takes 200000000000 numbers"),
        (lambda: ConvexHull(3, 1000, grid=40), "the triangles of a prompt takes 1000000000 numbers"),
        (lambda: MarkovChain(10**5), "a matrix takes 10000000000 numbers"),
        (lambda: GaussianClasses(2**20, 32, d=1024), "the means of classes takes 1073741824 numbers"),
        (lambda: MultiQueryRecall(64, 1000, 4, power=200.0), "power must leave weights of gaps below 1e100"),
        (lambda: Normal(spectrum=(1e-200, 1.0)), r"spectrum must be 0 or of a size .* given \[1e-200\]"),
        (lambda: Uniform(half_width=inf), "half_width must be 0 or of a size"),
        (
            lambda: ScaledWeights(ScaledWeights(LinearRegression(3, 7, prior=1e18), 1e12), 1e6),
            "labels of size 8e.30 are not within 1e±30",
        ),
        (lambda: remade(ScaledWeights(BASE, 2.0), "base", "base"), "base must be a Task, given 'base'"),
        (lambda: remade(OneOf((BASE, BASE)), "tasks", (BASE, 3)), "tasks must be a tuple, each a FunctionClass"),
        (lambda: QueryAndKeys(4, 4, targets=(("p", KeyAverage(Power(200))),), inputs=Normal()), "labels of size"),
        (lambda: SparsePosterior(4, 2, 1.0, 1e-170), "noise must be 0 or lie within 1e-150..1e150"),
        (lambda: SparsePosterior(4, 2, 1e-100, 1e100), "noise / prior must be 0 or lie within"),
        (lambda: DiscreteMMSE(torch.ones(2, 3), 1e-170), "noise must be 0 or lie within 1e-150..1e150"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field_and_its_limit(make: Any, told: str):
    with pytest.raises(UsageError, match=told):
        make()


def test_what_is_only_large_or_small_has_its_bayes_predictor():
    assert iclab.bayes(LinearRegression(3, 7, noise=1e-18, prior=1e18)).lam == pytest.approx(1e-72)
    assert iclab.bayes(LinearRegression(3, 7, noise=1e3, prior=1e-8)).lam == pytest.approx(1e22)
    assert NormalisedLabels(LinearRegression(3, 7, prior=1e-18)).scale == pytest.approx(1e18 / 3**0.5)


def test_the_largest_task_that_is_let_in_is_just_within_the_limit():
    n = NUMBERS // 2
    assert LinearRegression(1, n).held()["a prompt"] == NUMBERS
    with pytest.raises(UsageError):
        LinearRegression(1, n + 1)


def test_problems_of_every_field_are_told_at_once():
    with pytest.raises(UsageError) as told:
        LinearRegression(0, 0, -1.0, prior=1e-30)
    assert all(text in str(told.value) for text in ("d must", "n must", "noise must", "prior must"))


def test_what_is_no_setting_of_a_kind_is_not_asked_for_its_kind():
    class Plain:
        pass

    with pytest.raises(TypeError):
        admit(Plain(), list)
