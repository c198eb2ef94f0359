"""Rows of the steps of gradient descent that the weights of plain linear attention spell out, against the best ones.

descent         lr and gamma of the weights, and those that are best on the training distribution. With the best,
                descent of as many steps as the model has layers joins the references (tuned_gradient_descent, with
                gamma tuned_gradient_descent_plus_plus), and so does the model of which each attention product is the
                average of the model's and the construction's (interpolated)
preconditioners preconditioner_distance: of the matrix A of each layer's step, in one layer to the optimum
                (‖A − Γ⁻¹‖/‖Γ⁻¹‖), in all to a multiple of the identity and to one of the inverse covariance; leakage:
                all that the layer computes besides; risk of the one-layer optimum, and formula: that risk in closed
                form; formula_ratio: the model's risk / formula; and of several layers contraction_distance: of the
                matrix B that moves the inputs to a multiple of the identity; risk of preconditioned_descent, the best
                with A ∝ Λ⁻¹ of one step per layer, and descent_ratio: the model's risk / that
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

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
from iclab.analysis.attention import distance_to_identity, whitened
from iclab.analysis.risk import squared
from iclab.constructed import vonoswald
from iclab.experiments.experiment import Experiment
from iclab.experiments.rows import Parts, Row, averaged, relative, row, rows
from iclab.experiments.streams import stream
from iclab.models import Transformer
from iclab.predictors import GradientDescentPlusPlus, Predictor
from iclab.tasks import Prompts, Task, WhitenedLinearRegression


@lru_cache(maxsize=4)
def tuned(experiment: Experiment, steps: int) -> dict[str, GradientDescentPlusPlus]:
    """Steps of descent with the constants that are best in training; GD++ is another algorithm from two steps on."""
    kinds = {"tuned_gradient_descent": False} | ({"tuned_gradient_descent_plus_plus": True} if steps > 1 else {})
    return {
        name: tuned_descent(experiment.task, steps, stream(experiment, "fit"), contracting)
        for name, contracting in kinds.items()
    }


def references(experiment: Experiment, model: Transformer) -> dict[str, Predictor]:
    """Descent with the constants that are best in training, and the model half-way to its construction."""
    found = tuned(experiment, model.config.n_layer)
    last = list(found.values())[-1]
    hand_set = vonoswald.gradient_descent(experiment.task.d, model.n, last.steps, last.lr, last.gamma)
    return {**found, "interpolated": interpolated(model, hand_set.to(next(model.parameters()).device))}


def constants(experiment: Experiment, model: Transformer) -> Iterator[Row]:
    """The constants of descent that the weights spell out, beside the best ones."""
    found = read_off(model)
    yield from rows("transformer", "lr", found.lr)
    yield from rows("transformer", "gamma", found.gamma)
    for name, best in tuned(experiment, model.config.n_layer).items():
        yield from (row(name, "lr", None, best.lr), row(name, "gamma", None, best.gamma))


@dataclass(frozen=True, eq=False)
class Preconditioners:
    """The step that each layer of a model takes, which was trained on one task and is asked prompts of another."""

    model: Transformer
    trained: Task
    task: Task
    prompts: Prompts
    parts: Parts

    def rows(self, rng: torch.Generator) -> Iterator[Row]:
        """What the weights say, and what theory says of the best step, and of the best steps."""
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
            found = {"identity": distance_to_identity(A)}
            found |= {"inverse_covariance": distance_to_identity(whitened(A, covariance))}
            if layers == 1:
                found["one_layer_optimum"] = ((A - best).norm() / best.norm()).item()
            for name, value in found.items():
                yield {**row(name, "preconditioner_distance", None, value), "layer": layer}
            yield {**row("transformer", "leakage", None, step.leakage), "layer": layer}
            if layer < layers:  # inputs that the last layer moves are read by none
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
