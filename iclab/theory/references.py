"""The predictors that a learned one is compared with, by the names that tables and claims use."""

from functools import singledispatch
from typing import Any

import torch

from iclab.predictors import (
    Averaging,
    Bigram,
    BoostedTrees,
    ContextClasses,
    Featurised,
    GradientDescent,
    GreedyTree,
    HalfSplit,
    KnownClasses,
    Lasso,
    LeastSquares,
    LogisticRegression,
    NearestNeighbours,
    Predictor,
    Ridge,
    TrainedNetwork,
    Unigram,
    Zero,
)
from iclab.renamed import old_names
from iclab.tasks import (
    AnyTask,
    DecisionTree,
    GaussianClasses,
    LinearClassification,
    MarkovChain,
    ReLUNetwork,
    RepeatedSequence,
    RepresentationRegression,
    SparseLinearRegression,
    Task,
)
from iclab.tasks.features import Concatenated, Identity
from iclab.theory.one_layer import best_step
from iclab.theory.posterior import (
    bayes_where_known,
    components,
    gaussian_beliefs,
    same_posterior,
    source,
    weight_variance,
)

PENALTY = 0.1  # of logistic regression: the errors with 0.01 and 1 are the same, within two in a hundred
ROUNDS = 50  # of boosting
SURE = 1e-3  # α of the counts that answer a repeated block, in which what followed once follows again
STEPS = 300  # of the training of a network on each prefix: more gain nothing, with 32 hidden units or 100


@singledispatch
def references(task: AnyTask, training: AnyTask | None = None) -> dict[str, Any]:
    """Returns every reference predictor of a task by name: what a model that learns it is compared with. Of a kind of
    task, ``references.register(kind)(function of task and training)`` adds others.

    Of examples "bayes" is among them where it is known. Where the training had another Bayes predictor, "trained_bayes"
    is that one: what the model was trained to be. "ridge" has the penalty that is right for normal weights (so that on
    a finite pool it is the predictor which ignores the pool), and "gradient_descent" is `one_step`. Of tokens there are
    counts, and Bayes with less than all knowledge.
    """
    return {}


@references.register
def _of_examples(task: Task, training: Task | None = None) -> dict[str, Any]:
    predictors: dict[str, Predictor] = {
        "zero": Zero(),
        "averaging": Averaging(),
        "nearest_neighbours": NearestNeighbours(3),
        "least_squares": LeastSquares(),
        "gradient_descent": one_step(task),
    }
    if task.noise > 0:
        predictors["ridge"] = Ridge(bayes_penalty(task))
    predictors |= class_baselines(source(task)) | of_features(task)
    known = {"bayes": bayes_where_known(task)}
    if training is not None and not same_posterior(task, training):
        known["trained_bayes"] = bayes_where_known(training)
    return {name: f for name, f in known.items() if f is not None} | predictors


@references.register
def _of_walks(task: MarkovChain, training: AnyTask | None = None) -> dict[str, Any]:
    return {"bigram": Bigram(task.vocab, task.alpha), "unigram": Unigram(task.vocab, task.alpha)}


@references.register
def _of_repetitions(task: RepeatedSequence, training: AnyTask | None = None) -> dict[str, Any]:
    return {"bigram": Bigram(task.vocab, SURE)}


@references.register
def _of_items(task: GaussianClasses, training: AnyTask | None = None) -> dict[str, Any]:
    return {
        "context": ContextClasses(task.label_vectors, task.within),
        "known": KnownClasses(task.means, task.frequencies, task.labels, task.within),
    }


@singledispatch
def class_baselines(functions: Task) -> dict[str, Predictor]:
    """Returns what Garg et al. 2022 (arXiv 2208.01066, §4 and App. A) compare with on one class of functions alone;
    another kind of task may register its own.

    Sparse weights: the Lasso with a penalty of 0.01, their best. Trees: a greedy tree of depth 2 and boosted trees of
    the task's depth, as they do, and on the signs of inputs a greedy tree of one more than the task's depth, where they
    took that itself: on small tasks it is the better one. Networks: one no narrower than the task's, and the same with
    32 hidden units at least, since narrow ones are hard to train. Classes: logistic regression (Bai et al. 2023, arXiv
    2306.04637, §5).
    """
    return {}


@class_baselines.register
def _of_sparse(functions: SparseLinearRegression) -> dict[str, Predictor]:
    return {"lasso": Lasso(0.01)}


@class_baselines.register
def _of_classes(functions: LinearClassification) -> dict[str, Predictor]:
    return {"logistic_regression": LogisticRegression(PENALTY)}


@class_baselines.register
def _of_networks(functions: ReLUNetwork) -> dict[str, Predictor]:
    return {"trained_network": TrainedNetwork(max(32, functions.width), STEPS)}


@class_baselines.register
def _of_trees(functions: DecisionTree) -> dict[str, Predictor]:
    return {
        "greedy_tree": GreedyTree(2),
        "greedy_tree_of_signs": GreedyTree(functions.depth + 1, signs=True),
        "boosted_trees": BoostedTrees(ROUNDS, functions.depth),
    }


def of_features(task: Task) -> dict[str, Predictor]:
    """Returns what is compared on tasks whose functions are linear in features Φ_1, ..., Φ_K of the input (Guo et al.
    2023, arXiv 2310.10616, §5 and App. E; Bai et al. 2023, arXiv 2306.04637, §4).

    For one representation least squares on it, and ridge on the input beside it. For a mixture the choice between its
    components by validation on half of the examples; where features differ, ridge on all of them side by side, with
    the penalty of their smaller weights, E w_j² / K.
    """
    functions = source(task)
    if isinstance(functions, RepresentationRegression):
        features = functions.features
        predictors: dict[str, Predictor] = {"features_least_squares": Featurised(LeastSquares(), features)}
        if task.noise > 0:
            both = Concatenated((Identity(), features))
            predictors["input_and_features_ridge"] = Featurised(Ridge(bayes_penalty(task)), both)
        return predictors
    if len(components(task)) == 1 or bayes_where_known(task) is None:
        return {}
    features, beliefs = gaussian_beliefs(task)
    validated = HalfSplit(beliefs)
    predictors = {"half_split": validated if features == Identity() else Featurised(validated, features)}
    if isinstance(features, Concatenated):
        predictors["concatenated_ridge"] = Featurised(Ridge(len(features.parts) * bayes_penalty(task)), features)
    return predictors


def bayes_penalty(task: Task) -> float:
    """Returns lam = noise² / E w_j²: for normal weights ridge with this penalty is the Bayes predictor."""
    return task.noise**2 / weight_variance(task)


def one_step(task: Task) -> GradientDescent:
    """Returns one step of gradient descent from zero with the step size lr_i that is best after i examples."""
    examples = torch.arange(task.n, dtype=torch.float64)
    return GradientDescent(1, best_step(task, examples))


__getattr__ = old_names(__name__, right_penalty="bayes_penalty")
