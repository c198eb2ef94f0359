"""Losses of predicted labels.

    squared          (ŷ − y)²
    cross_entropy    log(1 + exp(−y ŷ))       of labels y = ±1; ŷ is the logit of +1
    by_labels        cross_entropy in prompts whose labels are all ±1, squared in the others

What a model predicts from a logit is the mean label, E y = tanh(ŷ/2): this is what it is measured by, so that its risk
is a squared error of labels. Its sign is that of the logit.

Source: Bai, Chen, Wang, Xiong, Mei 2023, arXiv 2306.04637, §5, which trains one model with both losses.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from iclab.predictors import Predictor
from iclab.tasks import Task

Loss = Literal["squared", "cross_entropy", "by_labels"]

TRIED = 64  # prompts whose labels are looked at before training


def terms(
    loss: Loss, answers: Float[Tensor, "batch m *labels"], targets: Float[Tensor, "batch n *labels"]
) -> Float[Tensor, "batch m *labels"]:
    """Returns the loss of each answer; where there are fewer answers than targets, they are for the last ones.

    >>> answers, targets = torch.tensor([[0.0, 3.0], [0.0, 3.0]]), torch.tensor([[1.0, -1.0], [1.0, 2.0]])
    >>> terms("by_labels", answers, targets)
    tensor([[0.6931, 3.0486],
            [1.0000, 1.0000]])
    """
    asked = targets[:, targets.shape[1] - answers.shape[1] :]
    if loss == "squared":
        return (answers - asked).square()
    logistic = -logsigmoid(asked * answers)
    if loss == "cross_entropy":
        return logistic
    return torch.where(_beside(answers, targets), logistic, (answers - asked).square())


def of_classes(ys: Float[Tensor, "batch n *labels"]) -> Bool[Tensor, " batch"]:
    """Returns which prompts have no labels but −1 and 1."""
    return (ys.abs() == 1).flatten(1).all(1)


def _beside(answers: Tensor, targets: Tensor) -> Bool[Tensor, "batch ..."]:
    """The same with as many axes as answers have."""
    return of_classes(targets).view(-1, *[1] * (answers.ndim - 1))


def mean_labels(model: Predictor, loss: Loss) -> Predictor:
    """Returns a trained model as a predictor of labels: its logits of classes become mean labels.

    >>> from iclab.predictors import Zero
    >>> mean_labels(Zero(), "squared") == Zero()
    True
    """

    def predictor(xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n *labels"]) -> Tensor:
        answers = model(xs, ys)
        return torch.where(_beside(answers, ys), torch.tanh(answers / 2), answers)

    return model if loss == "squared" else predictor


def label_problems(loss: Loss, task: Task) -> list[str]:
    """Returns the problems of training with a loss on the labels of a task."""
    if loss != "cross_entropy":
        return []
    ys = task.sample(TRIED, torch.Generator().manual_seed(0)).ys
    wrong = ys[ys.abs() != 1]
    if not len(wrong):
        return []
    reason = f"{type(task).__name__} has the label {wrong[0]:.4g}"
    return [f"train.loss = cross_entropy needs labels −1 and 1, and {reason}; by_labels is for prompts of both kinds"]
