"""Concepts: what a model may write into its stream on a task whose functions are linear in a representation Φ*.

    of the input x_i        representation Φ*(x_i); layer_l, what layer l < L of Φ* makes of x_i; x, the input itself;
                            unrelated, Φ of the same shape with other weights, which is independent of the task
    answers for x_i         bayes, the posterior mean: ridge on Φ* (for a mixture, the average of K of them; for labels
                            that are vectors all coordinates)

In a dynamical system Φ* takes the last k states: x_j and representation_j are those of j states before.
A mixture has Φ*_k and the answer of ridge on it for every component, named representation_k and ridge_k; the one that
a prompt was drawn from is hidden.

Source: Guo et al. 2023, arXiv 2310.10616, §5.1.2 and App. E; the unrelated one is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from iclab.analysis.layers.token_probes import KINDS
from iclab.analysis.risk import answer
from iclab.predictors import Predictor
from iclab.tasks import DynamicalSystem, MixedFunctions, Prompts, RepresentationRegression, Task
from iclab.tasks.features import Representation, Windowed, windows
from iclab.theory.posterior import bayes, components, source

UNRELATED = "unrelated"


@dataclass(frozen=True, eq=False)
class Concepts:
    """Targets of token probes, [batch n m] each, those of inputs at all `kinds` of tokens; the floor is what is linear
    in what is `known`. `component` is the one that each prompt was drawn from, if there are
    several, and `of_components` are the names of which there is one target, NAME_k, for each component k."""

    of_inputs: Mapping[str, Float[Tensor, "batch n _"]]
    answers: Mapping[str, Float[Tensor, "batch n _"]]
    known: Float[Tensor, "batch n _"]
    kinds: tuple[str, ...] = KINDS
    component: Int[Tensor, " batch"] | None = None
    of_components: tuple[str, ...] = ()


def representations(task: Task) -> list[Representation]:
    """Returns Φ* of the task, one for each component of a mixture; none of a component that has no representation."""
    sources = [source(part) for part in components(task)]
    return [one.representation for one in sources if isinstance(one, RepresentationRegression)]


def concept_problems(task: Task) -> list[str]:
    """Returns the problems of looking for concepts."""
    problems = [] if task.n >= 2 else [f"no token holds a label where n = {task.n}"]
    if len(representations(task)) < len(components(task)):
        problems.append(f"{type(source(task)).__name__} is not of a representation alone")
    return problems


def concepts(task: Task, prompts: Prompts) -> Concepts:
    """Returns what there is to look for in a model's answers to these prompts of the task."""
    functions, features, xs = source(task), representations(task), prompts.xs.double()
    other = replace(features[0], seed=(max(each.seed for each in features) + 1) % 2**32)
    if isinstance(functions, DynamicalSystem):
        return _of_states(functions, prompts, other)
    of_inputs, predictors = {"x": xs, UNRELATED: other(xs)}, {"bayes": bayes(task)}
    if len(features) == 1:
        of_inputs |= {f"layer_{k}": each for k, each in enumerate(features[0].layers(xs)[:-1], 1)}
        of_inputs["representation"] = features[0](xs)
        return Concepts(of_inputs, _answers(predictors, prompts), xs)
    of_inputs |= {f"representation_{k}": each(xs) for k, each in enumerate(features)}
    predictors |= {f"ridge_{k}": bayes(part) for k, part in enumerate(components(task))}
    assert isinstance(prompts.truth, MixedFunctions)
    chosen, names = prompts.truth.chosen, ("representation", "ridge")
    return Concepts(of_inputs, _answers(predictors, prompts), xs, component=chosen, of_components=names)


def _of_states(task: DynamicalSystem, prompts: Prompts, other: Representation) -> Concepts:
    """x and representation, and with _1, _2, ... those of one, two, ... states before: all states that Φ* takes and one
    more, and two representations more. What is linear in all states that either of the first two takes is no find."""
    xs = prompts.xs.double()
    fs = task.features(xs)
    of_inputs = {"x": xs, UNRELATED: Windowed(other, task.window)(xs), "representation": fs}
    of_inputs |= {f"x_{j}": _before(xs, j) for j in range(1, task.window + 1)}
    of_inputs |= {f"representation_{j}": _before(fs, j) for j in (1, 2)}
    return Concepts(of_inputs, _answers({"bayes": bayes(task)}, prompts), windows(xs, task.window + 1), ("x",))


def _before(rows: Float[Tensor, "batch n m"], j: int) -> Float[Tensor, "batch n m"]:
    """Of each row the one j before it, zero where there is none."""
    return pad(rows, (0, 0, j, 0))[:, : rows.shape[1]]


def _answers(predictors: Mapping[str, Predictor], prompts: Prompts) -> dict[str, Float[Tensor, "batch n c"]]:
    return {name: f.unsqueeze(-1) if f.ndim == 2 else f for name, f in answer(predictors, prompts).items()}
