"""Trials of classes from outside the package: what each kind must do is tried on two prompts before any training.

task         the same generator state gives the same prompts, another one others; shapes and numbers are sound
predictor    an answer for each label, finite, which does not change when later examples do
model        the same, of weights that follow from `rng` alone; every weight that is trained has a part in the loss

Whatever foreign code raises is a problem of one line too.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iclab.experiments.experiment import Experiment
from iclab.experiments.outside import of_users, outside, place, told
from iclab.learning.token_training import token_loss
from iclab.learning.training import TrainingConfig, loss
from iclab.models import FrozenModelConfig
from iclab.predictors import Predictor
from iclab.tasks import Functions, Prompts, Task, TokenPrompts, TokenTask

BATCH = 2
SEEDS = (1, 2, 3)  # of which no two give the same prompts
ROUNDING = 1e-4  # of an answer in float32, relative to the largest


class Fault(Exception):
    """Something that a plug-in does and must not."""


def problems(value: Any) -> list[str]:
    """Returns the problems of an object of a class from outside, by itself; the first thing that is found."""
    problem = _tried(value, lambda: hash(value), "cannot be hashed; tables of names are tuples of pairs")
    if problem or not isinstance(value, Task | TokenTask):
        return problem
    return _tried(value, lambda: _try_task(value))


def of_experiment(experiment: Experiment, before: dict[Any, list[str]]) -> list[str]:
    """Returns the problems of model, learner and predictors from outside on the experiment's own prompts. What was
    tried `before` is not tried again."""
    model, task, train = experiment.model, experiment.task, experiment.train
    problems = []
    for name, predictor in _predictors(experiment):
        key = ("predictor", predictor, task)
        if key not in before and _has_foreign(predictor):
            before[key] = _tried(predictor, lambda given=predictor: _try_predictor(given, experiment.task))
        problems += [f"eval.predictors.{name}: {text}" for text in before.get(key, [])]
    if of_users(model) and not isinstance(model, FrozenModelConfig):
        key = ("model", model, task, train.query_only, type(train))
        if key not in before:
            before[key] = _tried(model, lambda: _try_model(experiment))
        problems += [f"model: {text}" for text in before[key]]
    return problems


def _predictors(experiment: Experiment) -> tuple[tuple[str, Predictor], ...]:
    return experiment.eval.predictors


def _tried(value: Any, trial: Callable[[], object], instead: str = "") -> list[str]:
    """The one problem that a trial finds, with the place of the class."""
    named = f"{type(value).__name__} ({place(type(value))})"
    try:
        trial()
    except Fault as error:
        return [f"{named}: {error}"]
    except Exception as error:
        return [f"{named}: {instead or told(error)}"]
    return []


def _has_foreign(value: Any) -> bool:
    """Whether a class from outside is part of a value."""
    if isinstance(value, tuple):
        return any(map(_has_foreign, value))
    inner = [getattr(value, field.name) for field in fields(value)] if is_dataclass(value) else []
    return (is_dataclass(value) and outside(type(value))) or any(map(_has_foreign, inner))


def generator(seed: int) -> torch.Generator:
    """Returns a generator of its own seed."""
    return torch.Generator().manual_seed(seed)


# ---- tasks ---------------------------------------------------------------------------------------------------------


def _try_task(task: Task | TokenTask) -> None:
    drawn = [_tensors(_drawn(task, seed)) for seed in (SEEDS[0], *SEEDS)]
    if not _same(drawn[0], drawn[1]):
        raise Fault("sample: the same generator state gives other prompts; draw with rng alone")
    if all(_same(drawn[0], other) for other in drawn[2:]):
        raise Fault("sample: every generator state gives the same prompts; rng is ignored")


def _drawn(task: Task | TokenTask, seed: int) -> Prompts | TokenPrompts:
    """Prompts whose shapes and numbers are sound."""
    prompts = task.sample(BATCH, generator(seed))
    wanted: Any = TokenPrompts if isinstance(task, TokenTask) else Prompts
    if not isinstance(prompts, wanted):
        raise Fault(f"sample: expected {wanted.__name__}, given {type(prompts).__name__}")
    for name, (value, shape) in (_token_shapes if isinstance(task, TokenTask) else _shapes)(task, prompts).items():
        _check(f"sample: {name}", value, shape)
    if isinstance(prompts, TokenPrompts):
        _check_tokens(prompts, task)
    elif not isinstance(prompts.truth, Functions):
        raise Fault(f"sample: truth must be Functions, given {type(prompts.truth).__name__}")
    return prompts


def _shapes(task: Any, prompts: Any) -> dict[str, Any]:
    labels = (BATCH, task.n, *([] if task.label_dim is None else [task.label_dim]))
    square = (task.d, task.d)
    moments = {
        "input_second_moment": (task.input_second_moment(), square),
        "input_fourth_moment": (task.input_fourth_moment(torch.eye(task.d, dtype=torch.float64)), square),
    }
    drawn = {"xs": (prompts.xs, (BATCH, task.n, task.d)), "ys": (prompts.ys, labels), "fs": (prompts.fs, labels)}
    return drawn | moments | {"truth(xs)": (prompts.truth(prompts.xs), labels)}


def _token_shapes(task: Any, prompts: Any) -> dict[str, Any]:
    n = prompts.targets.shape[-1]
    if n > task.n:
        raise Fault(f"draw: sequences of {n} tokens, and n = {task.n}")
    width = [task.width] if task.width else []
    each = {name: (getattr(prompts, name), (BATCH, n)) for name in ("targets", "answer_mask", "case_ids")}
    return {"tokens": (prompts.tokens, (BATCH, n, *width)), **each, "options": (prompts.options, (BATCH, task.vocab))}


def _check_tokens(prompts: TokenPrompts, task: Any) -> None:
    inside = prompts.targets[prompts.answer_mask]
    tensors = [("targets", inside), *([] if task.width else [("tokens", prompts.tokens)])]
    for name, value in tensors:
        if value.numel() and not (int(value.min()) >= 0 and int(value.max()) < task.vocab):
            raise Fault(f"draw: {name} must lie in 0..{task.vocab - 1}, the vocabulary")
    if not prompts.answer_mask.any():
        raise Fault("draw: there is no target position")


def _tensors(prompts: Any) -> dict[str, Tensor]:
    return {f.name: value for f in fields(prompts) if isinstance(value := getattr(prompts, f.name), Tensor)}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _check(what: str, value: Any, shape: tuple[int, ...]) -> None:
    """Refuses what is no tensor of this shape, or not finite."""
    if not isinstance(value, Tensor):
        raise Fault(f"{what} must be a tensor, given {type(value).__name__}")
    if tuple(value.shape) != shape:
        raise Fault(f"{what} has the shape {tuple(value.shape)}, expected {shape}")
    if not value.isfinite().all():
        raise Fault(f"{what} holds numbers that are not finite")


# ---- what answers --------------------------------------------------------------------------------------------------


def _try_predictor(predictor: Predictor, task: Any) -> None:
    prompts = task.sample(BATCH, generator(0))
    _try_answers(lambda xs, ys: predictor(xs, ys), prompts.xs, prompts.ys)


@torch.no_grad()
def _try_answers(answer: Callable[[Tensor, Tensor], Tensor], xs: Tensor, ys: Tensor) -> None:
    """Answers have the shape of the labels, and none changes when its own label or what is later does."""
    predictions = answer(xs, ys)
    _check("the answer", predictions, tuple(ys.shape))
    i = xs.shape[1] // 2
    later_xs, later_ys = xs.clone(), ys.clone()
    later_xs[:, i + 1 :] += 1
    later_ys[:, i:] += 1
    _compare(predictions[:, : i + 1], answer(later_xs, later_ys)[:, : i + 1])


def _compare(before: Tensor, after: Tensor) -> None:
    if not (before - after).abs().max() <= ROUNDING * (1 + before.abs().max()):
        raise Fault("the answer for x_i changes with y_i or with what comes after it: it has seen what it must not see")


def _try_model(experiment: Experiment) -> None:
    """Builds the model twice, calls it, and takes the gradient that training would."""
    builds = [experiment.model.start(**experiment.sizes, rng=generator(0)) for _ in range(2)]
    model = builds[0]
    if not isinstance(model, nn.Module):
        raise Fault(f"build: expected a torch.nn.Module, given {type(model).__name__}")
    if not _same(model.state_dict(), builds[1].state_dict()):
        raise Fault("build: the same generator state gives other weights; draw them with rng alone")
    if isinstance(experiment.task, TokenTask):
        prompts = experiment.task.sample(BATCH, generator(0))
        _try_logits(model, prompts, experiment.task)
        if experiment.model.trainable:
            _try_gradient(model, lambda weights: token_loss(model, weights, prompts))
        return
    drawn = experiment.task.sample(BATCH, generator(0))
    _try_answers(model, drawn.xs, drawn.ys)
    if isinstance(experiment.train, TrainingConfig) and experiment.model.trainable:
        asked, kind = experiment.train.asked, experiment.train.loss
        _try_gradient(model, lambda weights: loss(model, weights, drawn, drawn.ys, asked, kind))


@torch.no_grad()
def _try_logits(model: nn.Module, prompts: TokenPrompts, task: TokenTask) -> None:
    """The same of logits over the vocabulary; an answer that is ruled out may have −∞."""
    logits = model(prompts.tokens)
    _check("the answer", logits.masked_fill(logits == -torch.inf, 0.0), (*prompts.targets.shape, task.vocab))
    later = prompts.tokens.clone()
    later[:, -1] = later[:, -1] + 1 if task.width else (later[:, -1] + 1) % task.vocab
    before, after = logits[:, :-1], model(later)[:, :-1]
    if before.numel():
        _compare(*(each.masked_fill(each == -torch.inf, -1e9) for each in (before, after)))


def _try_gradient(model: nn.Module, value: Callable[[Mapping[str, Tensor]], Tensor]) -> None:
    weights = {name: each for name, each in model.named_parameters() if each.requires_grad}
    if not weights:
        raise Fault("build: no parameter requires a gradient, and train is by gradient descent")
    gradients = torch.autograd.grad(value(weights), list(weights.values()), allow_unused=True)
    idle = [name for name, each in zip(weights, gradients, strict=True) if each is None]
    if idle:
        raise Fault(f"build: {', '.join(idle)} has no part in the loss: leave it out, or let it require no gradient")
