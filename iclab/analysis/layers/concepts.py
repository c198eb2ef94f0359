"""Concepts: what a model may write into its stream on a task whose functions are linear in a representation Φ*.

    of the input x_i        representation Φ*(x_i); layer_l, what layer l < L of Φ* makes of x_i; x, the input itself
    unrelated               Φ of the same shape with other weights, which is independent of the task: the control of
                            Φ*; unrelated_layer_l, its layer l, that of layer_l
    answers for x_i         bayes, the posterior mean: ridge on Φ* (for a mixture, the average of K of them; for labels
                            that are vectors all coordinates)

In a dynamical system Φ* takes the last k states: x_j and representation_j are those of j states before, and
unrelated_j is the control of the latter.
A mixture has Φ*_k and the answer of ridge on it for every component, named representation_k and ridge_k; the one that
a prompt was drawn from is hidden.

Source: Guo et al. 2023, arXiv 2310.10616, §5.1.2 and App. E; the unrelated ones are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
    several, and `of_components` are the names of which there is one target, NAME_k, for each component k.

    `controls` are the targets that are unrelated in the same way, by target; `unrelated` for those not named.
    `predecessors` are the targets that the theorems make first: the layer below, in a dynamical system the last state
    that Φ* takes, and the representation of one state later (Guo et al. 2023, Theorems 1 and 2)."""

    of_inputs: Mapping[str, Float[Tensor, "batch n _"]]
    answers: Mapping[str, Float[Tensor, "batch n _"]]
    known: Float[Tensor, "batch n _"]
    kinds: tuple[str, ...] = KINDS
    component: Int[Tensor, " batch"] | None = None
    of_components: tuple[str, ...] = ()
    controls: Mapping[str, str] = field(default_factory=dict)
    predecessors: Mapping[str, str] = field(default_factory=dict)


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
    predictors = {"bayes": bayes(task)}
    if len(features) == 1:
        return _of_layers(features[0], other, xs, _answers(predictors, prompts))
    of_inputs = {"x": xs, UNRELATED: other(xs)}
    of_inputs |= {f"representation_{k}": each(xs) for k, each in enumerate(features)}
    predictors |= {f"ridge_{k}": bayes(part) for k, part in enumerate(components(task))}
    assert isinstance(prompts.truth, MixedFunctions)
    chosen, names = prompts.truth.chosen, ("representation", "ridge")
    return Concepts(of_inputs, _answers(predictors, prompts), xs, component=chosen, of_components=names)


def _of_layers(
    features: Representation, other: Representation, xs: Float[Tensor, "batch n d"], answers: dict[str, Tensor]
) -> Concepts:
    """The layers of Φ*, the last of them the representation, each with that of the unrelated one as its control."""
    made = dict(enumerate(features.layers(xs)[:-1], 1))
    of_inputs = {"x": xs, UNRELATED: other(xs), "representation": features(xs)}
    of_inputs |= {f"layer_{k}": each for k, each in made.items()}
    of_inputs |= {f"{UNRELATED}_layer_{k}": each for k, each in enumerate(other.layers(xs)[:-1], 1)}
    names = [*(f"layer_{k}" for k in made), "representation"]
    controls = {f"layer_{k}": f"{UNRELATED}_layer_{k}" for k in made}
    return Concepts(of_inputs, answers, xs, controls=controls, predecessors=dict(zip(names[1:], names, strict=False)))


def _of_states(task: DynamicalSystem, prompts: Prompts, other: Representation) -> Concepts:
    """x and representation, and with _1, _2, ... those of one, two, ... states before: all states that Φ* takes and one
    more, and two representations more. What is linear in all states that either of the first two takes is no find."""
    xs, k = prompts.xs.double(), task.window
    fs, us = task.features(xs), Windowed(other, k)(xs)
    of_inputs = {"x": xs, UNRELATED: us, "representation": fs}
    of_inputs |= {f"x_{j}": _before(xs, j) for j in range(1, k + 1)}
    of_inputs |= {f"representation_{j}": _before(fs, j) for j in (1, 2)}
    of_inputs |= {f"{UNRELATED}_{j}": _before(us, j) for j in (1, 2)}
    controls = {f"representation_{j}": f"{UNRELATED}_{j}" for j in (1, 2)}
    first = {"representation_1": "representation", "representation_2": "representation_1"}
    first |= {name: f"x_{k - 1}" for name in ("representation", f"x_{k}") if k > 1}
    answers, known = _answers({"bayes": bayes(task)}, prompts), windows(xs, k + 1)
    return Concepts(of_inputs, answers, known, ("x",), controls=controls, predecessors=first)


def _before(rows: Float[Tensor, "batch n m"], j: int) -> Float[Tensor, "batch n m"]:
    """Of each row the one j before it, zero where there is none."""
    return pad(rows, (0, 0, j, 0))[:, : rows.shape[1]]


def _answers(predictors: Mapping[str, Predictor], prompts: Prompts) -> dict[str, Float[Tensor, "batch n c"]]:
    return {name: f.unsqueeze(-1) if f.ndim == 2 else f for name, f in answer(predictors, prompts).items()}
