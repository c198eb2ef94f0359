"""Concepts: what a model may write into its stream on a task whose functions are linear in a representation Φ*.

    of the input x_i        representation Φ*(x_i); layer_l, what layer l < L of Φ* makes of x_i; x, the input itself;
                            unrelated, Φ of the same shape with other weights, which nothing about the task tells
    answers for x_i         bayes, the posterior mean: ridge on Φ* (for a mixture, the average of K of them)

A mixture has Φ*_k and the answer of ridge on it for every component, named representation_k and ridge_k; the one that
a prompt was drawn from is not told.

Source: Guo et al. 2023, arXiv 2310.10616, §5.1.2 and App. E; the unrelated one is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from iclab.analysis.risk import answer
from iclab.features import Representation
from iclab.posterior import bayes, components, source
from iclab.tasks import MixedFunctions, Prompts, RepresentationRegression, Task

UNRELATED = "unrelated"


@dataclass(frozen=True, eq=False)
class Concepts:
    """Targets of token probes, [batch n m] each. `component` is the one that each prompt was drawn from, if there are
    several, and `of_components` are the names of which there is one target, NAME_k, for each component k."""

    of_inputs: Mapping[str, Float[Tensor, "batch n _"]]
    answers: Mapping[str, Float[Tensor, "batch n _"]]
    component: Int[Tensor, " batch"] | None
    of_components: tuple[str, ...] = ()


def representations(task: Task) -> list[Representation]:
    """Φ* of the task, one for each component of a mixture; none of a component that has no representation."""
    sources = [source(part) for part in components(task)]
    return [one.representation for one in sources if isinstance(one, RepresentationRegression)]


def concept_problems(task: Task) -> list[str]:
    """What stands against looking for concepts."""
    found = [] if task.n >= 2 else [f"no token holds a label where n = {task.n}"]
    if len(representations(task)) < len(components(task)):
        found.append(f"{type(source(task)).__name__} is not of a representation alone")
    return found


def concepts(task: Task, prompts: Prompts) -> Concepts:
    """What there is to look for in a model's answers to these prompts of the task."""
    features, xs = representations(task), prompts.xs.double()
    other = replace(features[0], seed=(max(each.seed for each in features) + 1) % 2**32)
    of_inputs, predictors = {"x": xs, UNRELATED: other(xs)}, {"bayes": bayes(task)}
    if len(features) == 1:
        of_inputs |= {f"layer_{k}": each for k, each in enumerate(features[0].layers(xs)[:-1], 1)}
        of_inputs["representation"] = features[0](xs)
    else:
        of_inputs |= {f"representation_{k}": each(xs) for k, each in enumerate(features)}
        predictors |= {f"ridge_{k}": bayes(part) for k, part in enumerate(components(task))}
    answers = {name: f.unsqueeze(-1) for name, f in answer(predictors, prompts).items()}
    if not isinstance(prompts.truth, MixedFunctions):
        return Concepts(of_inputs, answers, None)
    return Concepts(of_inputs, answers, prompts.truth.chosen, ("representation", "ridge"))
