"""bayes(task): the predictor of least risk on a task, where it is known.

Under squared loss it is the posterior mean E[y_i | x_0, y_0, ..., x_i]. Since functions are drawn independently of
inputs, the distribution of the inputs plays no part in it: a shift of the inputs keeps the predictor of its base.

What is known of a class of tasks is known of that very class: a subclass may have other functions or other noise. One
that changes its inputs alone declares so by `iclab.tasks.same_labels`; of any other the predictor can be registered,

    @register(MyTask)
    def _(task: MyTask, scale: float, noise: float) -> Predictor: ...
"""

from collections.abc import Callable
from dataclasses import replace
from functools import update_wrapper
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.errors import UsageError, refuse
from iclab.predictors import (
    DiscreteMMSE,
    Featurised,
    LeastSquares,
    Mixture,
    Posterior,
    Predictor,
    Ridge,
    SparsePosterior,
)
from iclab.tasks import (
    Derived,
    DynamicalSystem,
    FinitePool,
    LinearRegression,
    MixedFunctions,
    NoiseMixture,
    NoisyLabels,
    NormalisedLabels,
    OneOf,
    Prompts,
    RepresentationMixture,
    RepresentationRegression,
    ScaledWeights,
    SparseLinearRegression,
    Task,
    TruePrior,
    WhitenedLinearRegression,
    law,
)
from iclab.tasks.features import Concatenated, Features, Identity

Rule = TypeVar("Rule", bound=Callable[..., Any])


class ByLaw:
    """A function of a task, and more, with a rule for each label distribution; `otherwise` is the rule for
    distributions that none is known for. The rule is that of one class alone: no subclass has it."""

    def __init__(self, otherwise: Callable[..., Any]) -> None:
        self.otherwise, self.rules = otherwise, dict[type, Callable[..., Any]]()
        update_wrapper(self, otherwise)

    def register(self, *kinds: type[Task]) -> Callable[[Rule], Rule]:
        """Decorates the rule for these classes of tasks, and for none below them."""

        def kept(rule: Rule) -> Rule:
            self.rules.update(dict.fromkeys(kinds, rule))
            return rule

        return kept

    def __call__(self, task: Task, *facts: Any) -> Any:
        return self.rules.get(law(task), self.otherwise)(task, *facts)


def bayes(task: Task) -> Predictor:
    """Returns the predictor of least risk. Raises ``ValueError`` where no closed form is known (see `register`).

    Labels that are vectors are answered coordinate by coordinate, which is Bayes for a `DynamicalSystem`, the one task
    that has them: its coordinates are independent given the states.

    >>> import iclab
    >>> from iclab.tasks import DecisionTree, LinearRegression
    >>> iclab.bayes(LinearRegression(d=3, n=8, noise=0.5))  # lam = (noise / prior)²
    Ridge(lam=0.25)
    >>> iclab.bayes(LinearRegression(d=3, n=8))  # no noise
    LeastSquares()
    >>> bayes_where_known(DecisionTree(d=3, n=8)) is None  # no closed form is known
    True
    """
    if len(components(task)) > 1:
        features, beliefs = gaussian_beliefs(task)
        return Mixture(beliefs) if features == Identity() else Featurised(Mixture(beliefs), features)
    return _posterior(source(task), scale(task), task.noise)


def bayes_where_known(task: Task) -> Predictor | None:
    """Returns the Bayes predictor, or none where `bayes` knows no closed form."""
    try:
        return bayes(task)
    except ValueError:
        return None


def same_posterior(one: Task, other: Task) -> bool:
    """Returns whether two tasks have the same Bayes predictor: they differ in their inputs at most, or both have the
    same ridge (or least squares). Where no closed form is known, only the first counts."""
    if _ingredients(one) == _ingredients(other):
        return True
    best = bayes_where_known(one)
    return isinstance(best, Ridge | LeastSquares) and best == bayes_where_known(other)


def _ingredients(task: Task) -> tuple[Task, float, list[float]]:
    return source(task), scale(task), [part.noise for part in components(task)]


def weight_variance(task: Task) -> float:
    """Returns E w_j² of the linear functions of a task, as its labels show them, be they of x or of features; 1 where
    they are not linear."""
    functions, factor = _with_weights(task)
    linear = isinstance(functions, LinearRegression | RepresentationRegression)
    return factor**2 * functions.weight_variance() if linear else 1.0


def weight_covariance(task: Task) -> Float[Tensor, "d d"]:
    """Returns E w wᵀ of the linear functions of a task, as its labels show them; the identity where they are not
    linear."""
    functions, factor = _with_weights(task)
    if not isinstance(functions, LinearRegression):
        return torch.eye(task.d, dtype=torch.float64)
    return factor**2 * functions.weight_covariance()


def _with_weights(task: Task) -> tuple[Task, float]:
    """The task whose prior the weights have (of a mixture the first component's), and what they are multiplied by."""
    first = components(task)[0]
    functions = source(first)
    return functions.base if isinstance(functions, FinitePool) else functions, scale(first)


@ByLaw
def components(task: Task) -> tuple[Task, ...]:
    """Returns the tasks that a prompt may come from: those of a mixture; of a task derived from a mixture, each derived
    in the same way; of any other the task itself."""
    if source(task) is task or not isinstance(task, Derived) or len(parts := components(task.base)) == 1:
        return (task,)
    return tuple(replace(task, base=part) for part in parts)


@components.register(OneOf, NoiseMixture, RepresentationMixture)
def _(task: OneOf | NoiseMixture | RepresentationMixture) -> tuple[Task, ...]:
    return task.components


def oracle(task: Task, prompts: Prompts) -> Float[Tensor, "batch n"]:
    """Returns the predictions given the mixture component of each prompt, Bayes for that
    one.

    Raises ``ValueError`` where the task is no mixture, or a component's Bayes predictor is not known.
    """
    truth = prompts.truth
    if not isinstance(truth, MixedFunctions) or len(components(task)) != len(truth.parts):
        raise ValueError(f"{type(task).__name__} is no mixture: its prompts have no components")
    return truth.pick(torch.stack([bayes(part)(prompts.xs, prompts.ys) for part in components(task)]))


def posterior_variance(task: Task, prompts: Prompts) -> Float[Tensor, "batch n"]:
    """Returns Var(y_i | x_i and the first i examples), label noise included: what Bayes risks there, in expectation. Of
    labels that are vectors it is that of a coordinate, and the same for all.

    Its mean over prompts is the Bayes risk, with far less noise than a mean of squared errors has. Raises
    ``ValueError`` where weights are not Gaussian.

    >>> import torch
    >>> from iclab.tasks import LinearRegression
    >>> task = LinearRegression(d=2, n=5, noise=0.5)
    >>> prompts = task.sample(1000, torch.Generator().manual_seed(0))
    >>> posterior_variance(task, prompts).mean(0)[[0, 4]]  # falls from d + noise² towards noise²
    tensor([2.1662, 0.5189], dtype=torch.float64)
    """
    features, beliefs = gaussian_beliefs(task)
    seen = features(prompts.xs.double())
    if len(beliefs) == 1:
        return beliefs[0].variance(seen)
    return Mixture(beliefs).variance(seen, prompts.ys.double())


def gaussian_beliefs(task: Task) -> tuple[Features, tuple[Posterior, ...]]:
    """Returns the features that labels are linear in, those of all components side by side, and for each component the
    posterior of its weights on them: w ~ N(0, S) with S zero outside of the component's own features.

    So the choice between representations is the choice between priors of one linear regression. Raises ``ValueError``
    where weights are not Gaussian, and where some labels of a mixture have no noise: they have no density.
    """
    parts = components(task)
    clean = len(parts) > 1 and any(part.noise == 0 for part in parts)
    refuse("bayes", ["no closed form is known for a mixture with labels without noise"] if clean else [])
    laws = [_gaussian(source(part), scale(part)) for part in parts]
    distinct = tuple(dict.fromkeys(features for features, _ in laws))
    sizes = [features.size(task.d) for features in distinct]
    beliefs = [
        Posterior(_placed(covariance, sizes, distinct.index(features)), part.noise)
        for (features, covariance), part in zip(laws, parts, strict=True)
    ]
    return distinct[0] if len(distinct) == 1 else Concatenated(distinct), tuple(beliefs)


def _placed(covariance: Float[Tensor, "k k"], sizes: list[int], place: int) -> Float[Tensor, "D D"]:
    """The covariance as one of several diagonal blocks, the others zero."""
    blocks = [torch.zeros(size, size, dtype=covariance.dtype) for size in sizes]
    return torch.block_diag(*blocks[:place], covariance, *blocks[place + 1 :])


@ByLaw
def _gaussian(functions: Task, scale: float) -> tuple[Features, Float[Tensor, "D D"]]:
    """The features that a source's functions are linear in, and the covariance of their weights."""
    raise UsageError(f"no closed form of the Bayes predictor is known for {type(functions).__name__} in a mixture")


@_gaussian.register(LinearRegression, WhitenedLinearRegression)
def _(functions: LinearRegression, scale: float) -> tuple[Features, Float[Tensor, "D D"]]:
    return Identity(), scale**2 * functions.weight_covariance()


@_gaussian.register(SparseLinearRegression)
def _(functions: SparseLinearRegression, scale: float) -> tuple[Features, Float[Tensor, "D D"]]:
    raise UsageError("sparse weights are not Gaussian")


@_gaussian.register(RepresentationRegression, DynamicalSystem)
def _(functions: RepresentationRegression, scale: float) -> tuple[Features, Float[Tensor, "D D"]]:
    size = functions.features.size(functions.d)
    return functions.features, scale**2 * functions.weight_variance() * torch.eye(size, dtype=torch.float64)


@ByLaw
def source(task: Task) -> Task:
    """Returns the task whose functions are drawn: derived tasks other than a pool only scale them or change the
    rest."""
    return task


@source.register(Derived, NoisyLabels, ScaledWeights, NormalisedLabels)
def _(task: Derived) -> Task:
    return source(task.base)


@source.register(TruePrior)
def _(task: TruePrior) -> Task:
    return source(task.prior)


@ByLaw
def scale(task: Task) -> float:
    """Returns what the functions of the source are multiplied by."""
    return 1.0


@scale.register(Derived, NoisyLabels)
def _(task: Derived) -> float:
    return scale(task.base)


@scale.register(ScaledWeights, NormalisedLabels)
def _(task: ScaledWeights | NormalisedLabels) -> float:
    return task.scale * scale(task.base)


@scale.register(TruePrior)
def _(task: TruePrior) -> float:
    return scale(task.prior)


@ByLaw
def _posterior(functions: Task, scale: float, noise: float) -> Predictor:
    name = type(functions).__name__
    raise UsageError(
        f"no closed form of the Bayes predictor is known for {name}: iclab.theory.posterior.register({name}) gives it "
        "one, or iclab.tasks.same_labels that of the class it derives from, where only the inputs differ"
    )


def register(*kinds: type[Task]) -> Callable[[Rule], Rule]:
    """Decorates what makes the Bayes predictor of these classes of tasks, and of none below them, from a task, a scale
    and a noise: the labels are y = scale·f(x) + noise·ε with f drawn from the task. Scale and noise differ from the
    task's own (1 and its noise) where another task is derived from it."""
    return _posterior.register(*kinds)


@register(LinearRegression)
def _(functions: LinearRegression, scale: float, noise: float) -> Predictor:
    prior = abs(scale) * functions.prior
    return Ridge((noise / prior) ** 2) if noise > 0 else LeastSquares()


@register(RepresentationRegression, DynamicalSystem)
def _(functions: RepresentationRegression, scale: float, noise: float) -> Predictor:
    prior = abs(scale) * functions.prior
    return Featurised(Ridge((noise / prior) ** 2) if noise > 0 else LeastSquares(), functions.features)


@register(WhitenedLinearRegression)
def _(functions: WhitenedLinearRegression, scale: float, noise: float) -> Predictor:
    return Posterior(scale**2 * functions.weight_covariance(), noise)


@register(SparseLinearRegression)
def _(functions: SparseLinearRegression, scale: float, noise: float) -> Predictor:
    return SparsePosterior(functions.d, functions.sparsity, abs(scale) * functions.prior, noise)


@register(FinitePool)
def _(functions: FinitePool, scale: float, noise: float) -> Predictor:
    return DiscreteMMSE(scale * functions.pool(), noise)
