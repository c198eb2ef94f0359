"""The steps of gradient descent that the weights of plain linear attention spell out, against the best ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from iclab.analysis import (
    answer,
    best_descent,
    best_preconditioner,
    interpolated,
    linear_steps,
    one_layer_optimum,
    one_layer_risk,
    read_off,
    tuned_descent,
)
from iclab.analysis.layers import attention, interpolation
from iclab.analysis.layers.attention import distance_to_identity, whitened
from iclab.analysis.risk import squared
from iclab.constructed import vonoswald
from iclab.experiments.analysis import Analysis, Row
from iclab.experiments.experiment import Experiment
from iclab.experiments.streams import experiment_generator
from iclab.measures.measurement import Measurement
from iclab.measures.rows import Parts, averaged, relative, row, rows
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import GradientDescentPlusPlus, Predictor
from iclab.tasks import Prompts, Task, WhitenedLinearRegression


class StepsOfWeights(Analysis):
    """Reads the step that each layer takes from its weights, and compares it with the best one (von Oswald et al. 2022,
    arXiv 2212.07677; Ahn et al. 2023, arXiv 2306.00297)."""

    name = "preconditioners"
    layered = True
    blocks = True
    linear = True
    quantities: ClassVar = {
        "preconditioner_distance": "of the matrix A of each layer's step: in one layer to the optimum, "
        "‖A − Γ⁻¹‖/‖Γ⁻¹‖, in all to a multiple of the identity and to one of the inverse covariance; 0 or more",
        "leakage": "all that the layer computes besides, relative to the step; 0 or more",
        "formula": "the risk of the one-layer optimum in closed form, squared units of the label",
        "formula_ratio": "the risk relative to that formula; 0 or more",
        "contraction_distance": "of the matrix B that moves the inputs to a multiple of the identity; 0 or more",
        "descent_ratio": "the risk relative to that of the best descent with A ∝ Λ⁻¹ of one step per layer",
        "risk": "of one_layer_optimum and preconditioned_descent, as of any predictor",
    }

    def problems(self, experiment: Any) -> Iterator[str]:
        yield from _too_short(experiment)
        model = experiment.model.blocks
        yield from attention.obstacles(model) if isinstance(model, TransformerConfig) else ()

    def rows(self, of: Measurement) -> Iterator[Row]:
        steps = Preconditioners(of.model, of.trained_on, of.task, of.prompts, of.parts)
        yield from steps.rows(of.rng("fit"))


class DescentConstants(Analysis):
    """Reads the constants of gradient descent from the weights of tied linear layers. Descent of as many steps as the
    model has layers joins the references with the constants that are best (tuned_gradient_descent, with gamma
    tuned_gradient_descent_plus_plus), and so does the model of which each attention product is the average of the
    model's and the construction's (interpolated)."""

    name = "descent"
    layered = True
    blocks = True
    once = True
    quantities: ClassVar = {
        "lr": "the step on the gradient of the sum objective, of the weights and the best in training",
        "gamma": "the constant of GD++ that moves the inputs, of the weights and the best in training",
    }

    def problems(self, experiment: Any) -> Iterator[str]:
        yield from _too_short(experiment)
        if isinstance(model := experiment.model.blocks, TransformerConfig):
            wanted = vonoswald.config(experiment.task.d, model.n_layer)
            yield from dict.fromkeys(interpolation.differences(model, wanted) + interpolation.obstacles(model))

    def reference_names(self, experiment: Any) -> list[str]:
        plus = ["tuned_gradient_descent_plus_plus"] if experiment.model.blocks.n_layer > 1 else []
        return ["tuned_gradient_descent", *plus, "interpolated"]

    def references(self, of: Measurement) -> dict[str, Predictor]:
        return references(of.experiment, of.model)

    def rows(self, of: Measurement) -> Iterator[Row]:
        yield from constants(of.experiment, of.model)


def _too_short(experiment: Any) -> Iterator[str]:
    if experiment.task.n < 2:
        yield f"needs n of 2 or more, given {experiment.task.n}"


@lru_cache(maxsize=4)
def tuned(experiment: Experiment, steps: int) -> dict[str, GradientDescentPlusPlus]:
    """Returns steps of descent with the constants that are best in training; GD++ is another algorithm from two steps
    on."""
    kinds = {"tuned_gradient_descent": False} | ({"tuned_gradient_descent_plus_plus": True} if steps > 1 else {})
    task: Any = experiment.task
    return {
        name: tuned_descent(task, steps, experiment_generator(experiment, "fit"), contracting)
        for name, contracting in kinds.items()
    }


def references(experiment: Experiment, model: Transformer) -> dict[str, Predictor]:
    """Returns descent with the constants that are best in training, and the model half-way to its construction."""
    descents = tuned(experiment, model.config.n_layer)
    last = list(descents.values())[-1]
    hand_set = vonoswald.gradient_descent(model.d, model.n, last.steps, last.lr, last.gamma)
    return {**descents, "interpolated": interpolated(model, hand_set.to(next(model.parameters()).device))}


def constants(experiment: Experiment, model: Transformer) -> Iterator[Row]:
    """Yields the constants of descent that the weights spell out, beside the best ones."""
    step = read_off(model)
    yield from rows("transformer", "lr", step.lr)
    yield from rows("transformer", "gamma", step.gamma)
    for name, best in tuned(experiment, model.config.n_layer).items():
        yield from (row(name, "lr", None, best.lr), row(name, "gamma", None, best.gamma))


@dataclass(frozen=True, eq=False)
class Preconditioners:
    """The step that each layer of a model takes, trained on one task and evaluated on another."""

    model: Transformer
    trained: Task
    task: Task
    prompts: Prompts
    parts: Parts

    def rows(self, rng: torch.Generator) -> Iterator[Row]:
        """Yields the constants read off the weights, and the optimal ones by theory."""
        best = best_preconditioner(self.trained, self.trained.n - 1)
        yield from self._of_weights(best)
        yield from self._one_layer_risks(best)
        if self.model.config.n_layer > 1 and isinstance(self.task, WhitenedLinearRegression):
            yield from self._descent_risks(best_descent(self.task, self.model.config.n_layer, rng))

    def _of_weights(self, best: Tensor) -> Iterator[Row]:
        """Distances of the matrices, layer by layer."""
        layers, covariance = self.model.config.n_layer, self.task.input_second_moment()
        for layer, step in enumerate(linear_steps(self.model), 1):
            A = step.preconditioner.cpu()
            distances = {"identity": distance_to_identity(A)}
            distances |= {"inverse_covariance": distance_to_identity(whitened(A, covariance))}
            if layers == 1:
                distances["one_layer_optimum"] = ((A - best).norm() / best.norm()).item()
            for name, value in distances.items():
                yield {**row(name, "preconditioner_distance", None, value), "layer": layer}
            yield {**row("transformer", "leakage", None, step.leakage), "layer": layer}
            if layer < layers and step.contraction.any():  # inputs that the last layer moves are read by none
                value = distance_to_identity(step.contraction)
                yield {**row("identity", "contraction_distance", None, value), "layer": layer}

    def _one_layer_risks(self, best: Tensor) -> Iterator[Row]:
        """The risk of the best layer, measured and in closed form, and the model's relative to the latter."""
        errors = self._errors("one_layer_optimum", one_layer_optimum(self.trained, self.trained.n - 1, self.task.n))
        yield from averaged("one_layer_optimum", "risk", errors["one_layer_optimum"], self.parts)
        examples = torch.arange(self.task.n, dtype=torch.float64)
        formula = one_layer_risk(self.task, best, examples.clamp(min=1))
        formula[0] = one_layer_risk(self.task, 0 * best, torch.ones(()))  # without examples the answer is 0
        for position, value in enumerate(formula.tolist()):
            yield row("one_layer_optimum", "formula", position, value)
        for name, terms in errors.items():
            yield from averaged(name, "formula_ratio", terms / formula.to(terms), self.parts)

    def _descent_risks(self, descent: Predictor) -> Iterator[Row]:
        """The risk of a descent, and the model's relative to it."""
        errors = self._errors("preconditioned_descent", descent)
        yield from averaged("preconditioned_descent", "risk", errors["preconditioned_descent"], self.parts)
        learned, least = errors["transformer"], errors["preconditioned_descent"]
        yield from relative("transformer", "descent_ratio", learned, least, self.parts)

    def _errors(self, name: str, reference: Predictor) -> dict[str, Tensor]:
        """Squared errors of the model, then of a reference."""
        answers = answer({"transformer": self.model, name: reference}, self.prompts)
        return {name: squared(f, self.prompts.ys) for name, f in answers.items()}
