"""Learning curves of random features, frozen or trained: rows at the `step` that is the number n of inputs learned
from, with the name of a target as their distribution; and of a whole curve, without a step.

"transformer" is the model, whatever its kind. Models beside it have the names that the experiment gives them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import hypot, log, log2, nan
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis import (
    Levels,
    attention_levels,
    best_predicted_error,
    estimate,
    inputs_to_learn,
    network_levels,
    ratio,
)
from iclab.experiments.analysis import Analysis, Row
from iclab.experiments.experiment import Experiment
from iclab.experiments.streams import experiment_generator
from iclab.learning.attention_training import AttentionDescent, TrainedAttention, asked
from iclab.learning.random_feature_ridge import CurveLearner
from iclab.measures.measurement import Measurement, Workspace, drawn_tokens
from iclab.measures.rows import MODEL, row
from iclab.measures.rows import rows as rows_of
from iclab.models import FrozenModelConfig, RandomAttentionConfig, RandomNetworkConfig
from iclab.tasks import KeyAverage, QueryAndKeys, QueryFunction, Sphere, Target
from iclab.theory.random_features import HALF, half_error, polynomial_degree, rkhs_norm

DOUBLED = {"d": lambda task: replace(task, d=2 * task.d), "keys": lambda task: replace(task, n=2 * task.n - 1)}


class LearningCurves(Analysis):
    """Trains the models on more and more inputs, and compares them with theory."""

    name = "learning_curves"
    always = True
    frozen = True
    once = True
    tasks = QueryAndKeys
    quantities: ClassVar = {
        "error": "E(f − f*)² / Var f* on other inputs, of the model and of each beside it; 0 or more",
        "final_error": "the same after the last n",
        "error_over_transformer": "that of a model beside, relative to the model's; 0 or more",
        "final_error_over_transformer": "the same after the last n",
        "predicted_error": "the error of infinitely many heads or neurons with the best penalty, where theory has the "
        "spectrum",
        "half_error": "the n from which on the error is at most 1/2, interpolated in the logarithms of both. One that "
        "lies before the first n, or after the last, is reported as these",
        "half_error_found": "1 where that n lies among the sizes, else 0",
        "half_error_over_predicted": "half_error relative to theory's",
        "half_error_over_transformer": "of a model beside, relative to the model's: a lower bound where its own was "
        "not found",
        "predicted_half_error": "the same n by theory, for any n",
        "exponent_d": "log₂ of what half_error is multiplied by where d is doubled; not a number where not both were "
        "found",
        "exponent_keys": "the same where the number of keys is doubled",
        "predicted_exponent_{d,keys}": "the same by theory",
        "identity": "tr W_dd / d of query-key products that were trained, averaged over heads",
        "identity_signed": "the same with the sign of each head's value",
        "final_identity": "identity after the last n",
        "final_identity_signed": "identity_signed after the last n",
        "norm": "B(f*), the squared norm in the space of attention, where known; 0 or more",
    }

    def distributions(self, experiment: Any) -> list[str]:
        return [name for name, _ in experiment.task.targets]

    def predictors(self, experiment: Any) -> set[str]:
        return {MODEL, "theory", *(name for name, _ in experiment.train.beside)}

    def applies(self, of: Measurement) -> bool:
        return super().applies(of) and isinstance(of.experiment.train, CurveLearner)

    def rows(self, of: Measurement) -> Iterator[Row]:
        learner: Any = of.experiment.train
        own = Curves.of(of.experiment, learner, of.task, of.workspace)
        yield from own.rows()
        for name, doubled in DOUBLED.items() if learner.doublings else ():
            yield from own.exponents(name, Curves.of(of.experiment, learner, doubled(of.task), of.workspace))


@dataclass(frozen=True, eq=False)
class Curves:
    """The squared errors of models on one task, beside the squared deviations of each target from its mean; where
    several samples were drawn, their test inputs are put together. `layers` are those trained on the first."""

    task: QueryAndKeys
    sizes: tuple[int, ...]
    models: dict[str, FrozenModelConfig]
    errors: dict[str, Float[Tensor, "sizes inputs targets"]]
    deviations: Float[Tensor, "inputs targets"]
    count: int  # test inputs of a draw
    layers: Sequence[TrainedAttention] = ()

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        learner: CurveLearner,
        task: QueryAndKeys,
        workspace: Workspace,
    ) -> "Curves":
        """Draws inputs and models, as often as the learner requires, and trains them."""
        assert isinstance(experiment.model, FrozenModelConfig)
        models = {MODEL: experiment.model, **dict(learner.beside)}
        train = experiment_generator(experiment, "train", workspace.device)
        tests = drawn_tokens(experiment, task, workspace.device)
        count = experiment.eval.prompts
        init = {
            name: experiment_generator(experiment, "init", distribution="" if name == MODEL else name)
            for name in models
        }
        parts, others = [], zip(tests.xs.split(count), tests.fs.split(count), strict=True)
        for k, (inputs, labels) in enumerate(others, 1):
            workspace.doing(f"fit {', '.join(models)} to {learner.sizes[-1]} inputs, draw {k} of {learner.draws}")
            parts.append(cls._draw(learner, task, models, train, init, inputs, labels))
        workspace.log(f"{', '.join(models)} have learned {len(task.targets)} targets, d = {task.d} and n = {task.n}")
        errors = {name: torch.cat([part.errors[name] for part in parts], dim=1) for name in models}
        return replace(parts[0], errors=errors, deviations=torch.cat([part.deviations for part in parts]))

    @classmethod
    def _draw(
        cls,
        learner: CurveLearner,
        task: QueryAndKeys,
        models: dict[str, FrozenModelConfig],
        train: torch.Generator,
        init: dict[str, torch.Generator],
        others: Float[Tensor, "inputs n d"],
        fs: Float[Tensor, "inputs targets"],
    ) -> "Curves":
        """One sample, and one draw of each model, asked about other inputs."""
        xs, ys, _ = task.tokens(learner.sizes[-1], train)
        errors, layers = {}, []
        for name, architecture in models.items():
            model = architecture.build(task.d, task.n, init[name]).to(train.device)
            if name == MODEL and isinstance(learner, AttentionDescent):
                layers = learner.trained(model, xs, ys)
                answers = asked(layers, others)
            else:
                answers = (learner if name == MODEL else learner.for_others).answers(model, xs, ys, others)
            errors[name] = (answers - fs).square()
        return cls(task, learner.sizes, models, errors, (fs - fs.mean(0)).square(), len(fs), layers)

    def rows(self) -> Iterator[Row]:
        """Yields errors by number of inputs, of every model, and their theoretical values."""
        for at, (target, function) in enumerate(self.task.targets):
            rows = [*self._measured(at), *self._predicted(at, function), *self._norm(function), *self._products(at)]
            yield from ({"distribution": target, **one} for one in rows)

    def _measured(self, at: int) -> Iterator[Row]:
        for name in self.models:
            by_size = [list(self._errors(name, at, k)) for k in range(len(self.sizes))]
            yield from (_at(n, one) for n, rows in zip(self.sizes, by_size, strict=True) for one in rows)
            yield from ({**one, "quantity": f"final_{one['quantity']}"} for one in by_size[-1])
            half, known = self.half(name, at)
            spread = self.spread(name, at)
            yield row(name, "half_error", None, half, None if spread is None else half * log(2) * spread)
            yield row(name, "half_error_found", None, float(known))
            if name != MODEL:
                yield row(name, "half_error_over_transformer", None, half / self.half(MODEL, at)[0])

    def _errors(self, name: str, at: int, size: int) -> Iterator[Row]:
        """Those after a number of inputs, alone and relative to the model's on the same test inputs."""
        mine, model = (self.errors[each][size, :, at] for each in (name, MODEL))
        yield from rows_of(name, "error", ratio(mine, self.deviations[:, at]))
        yield from rows_of(name, "error_over_transformer", ratio(mine, model)) if name != MODEL else ()

    def half(self, name: str, at: int, left_out: int = -1) -> tuple[float, bool]:
        """Returns the number of inputs at which a target is half learned, and whether it lies among the sizes; all
        draws count but the one left out."""
        kept = torch.arange(len(self.deviations), device=self.deviations.device) // self.count != left_out
        errors = self.errors[name][:, kept, at].mean(1) / self.deviations[kept, at].mean()
        return half_error(self.sizes, errors.tolist())

    def spread(self, name: str, at: int) -> float | None:
        """Returns the standard error of log₂ of that number, by the jackknife over draws; none for a single one."""
        draws = len(self.deviations) // self.count
        logs = torch.tensor([log2(self.half(name, at, k)[0]) for k in range(draws)])
        return ((draws - 1) * logs.var(correction=0)).sqrt().item() if draws > 1 else None

    def _predicted(self, at: int, function: Target) -> Iterator[Row]:
        for name, architecture in self.models.items():
            if levels := predicted_levels(architecture, self.task, function):
                for n in self.sizes:
                    value = best_predicted_error(levels, n, self.task.noise)
                    yield _at(n, row(name, "predicted_error", None, value))
                half = inputs_to_learn(levels, HALF)
                yield row(name, "predicted_half_error", None, half)
                yield row(name, "half_error_over_predicted", None, self.half(name, at)[0] / half)

    def _norm(self, function: Target) -> Iterator[Row]:
        if isinstance(function, KeyAverage | QueryFunction) and polynomial_degree(function) is not None:
            yield row("theory", "norm", None, rkhs_norm(function, self.task.d))

    def _products(self, at: int) -> Iterator[Row]:
        """How much of the identity is in the query-key products that were trained, averaged over heads."""
        for n, layers in zip(self.sizes, self.layers, strict=False):
            plain, signed = layers.coefficients[at].detach(), (layers.coefficients * layers.signs)[at].detach()
            for quantity, heads in (("identity", plain), ("identity_signed", signed)):
                (row,) = rows_of(MODEL, quantity, estimate(heads))
                yield _at(n, row)
                yield from [{**row, "quantity": f"final_{quantity}"}] if n == self.sizes[-1] else ()

    def exponents(self, what: str, doubled: "Curves") -> Iterator[Row]:
        """Yields how the inputs needed grow from this task to one in which something is doubled."""
        for at, (target, function) in enumerate(self.task.targets):
            for name, architecture in self.models.items():
                (few, known), (many, both) = self.half(name, at), doubled.half(name, at)
                exponent = log2(many / few) if known and both else nan
                own, other = self.spread(name, at), doubled.spread(name, at)
                error = None if own is None or other is None else hypot(own, other)
                yield {"distribution": target, **row(name, f"exponent_{what}", None, exponent, error)}
                pair = [predicted_levels(architecture, each.task, function) for each in (self, doubled)]
                if pair[0] and pair[1]:
                    few, many = (inputs_to_learn(levels, HALF) for levels in pair if levels)
                    yield {"distribution": target, **row(name, f"predicted_exponent_{what}", None, log2(many / few))}


def predicted_levels(architecture: FrozenModelConfig, task: QueryAndKeys, function: Target) -> Levels | None:
    """Returns the spectrum of a model's limit with the energies of a target, where both are known."""
    if task.inputs != Sphere() or task.d < 3 or not isinstance(function, KeyAverage | QueryFunction):
        return None
    if architecture == RandomAttentionConfig(heads=architecture.heads):
        return attention_levels(function, task.d, task.n_keys)
    if architecture == RandomNetworkConfig(heads=architecture.heads):
        return network_levels(function, task.d, task.n_keys)
    return None


def _at(n: int, one: Row) -> Row:
    return {**one, "step": n}
