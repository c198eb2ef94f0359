"""Rows of pasting: input projections that learn linear regression under the frozen upper blocks of a model that was
trained on a representation Φ*, in D dimensions with inputs of mean square length 1, as Φ* has. By `predictor` (an input
projection, its _untrained and _alone controls, full; bayes, which is ridge there, and zero). `layer` is the cut, the
number of blocks below that were taken away; rows of what has a cut, but without a layer, are those of the cut that
probes choose. A training that diverged yields no rows; the log reports it.

Source: Guo et al. 2023, arXiv 2310.10616, §5.1.3; see `iclab.analysis.layers.pasting`. Leads and choice are ours.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor

from iclab.analysis import answer, pasting, ratio, token_probes
from iclab.analysis.layers.pasting import LAYOUTS, READ_INS
from iclab.analysis.layers.probing import LEAST
from iclab.analysis.risk import squared, vanishes
from iclab.experiments.analysis import Analysis, Row
from iclab.experiments.experiment import Experiment
from iclab.measures.auxiliary import AuxiliaryTrainer
from iclab.measures.measurement import Measurement
from iclab.measures.rows import Parts, averaged, regions, relative, row, rows
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import Predictor, Zero
from iclab.tasks import LinearRegression, RepresentationRegression, UnitNormal
from iclab.theory.posterior import bayes

Name = tuple[str, int | None]  # what learned, and its cut


class Pasting(Analysis):
    """Trains new input projections for the model, by the settings of `eval.surgery`, and measures them."""

    name = "pasting"
    layered = True
    blocks = True
    scalar = True
    once = True
    quantities: ClassVar = {
        "pasting_risk": "E(ŷ − y)², by position and region; squared units of the label",
        "pasting_risk_ratio": "the same relative to the Bayes risk; 1 or more but for chance",
        "pasting_excess": "E(ŷ − ŷ_Bayes)² / Bayes risk; 0 is optimal",
        "pasting_lead_over_*": "the excess of another less that of a read-in under the model: of its _untrained or "
        "_alone control, of the full model, of another read-in",
        "pasting_cut": "the block, of those that have a block above, after which Φ*(x_i) is read best in tokens of y_i",
    }

    def problems(self, experiment: Any) -> Iterator[str]:
        model, task, prompts = experiment.model.blocks, experiment.task, experiment.eval.prompts
        if not isinstance(model, TransformerConfig):
            return
        if model.n_layer < 2:
            yield f"needs model.n_layer of 2 or more, given {model.n_layer}"
        if model.layout not in LAYOUTS:
            yield f"needs tokens that hold x or y ({' or '.join(LAYOUTS)}), and the layout is {model.layout}"
        if not isinstance(task, RepresentationRegression):
            yield f"needs task.kind RepresentationRegression, given {type(task).__name__}"
        if prompts < LEAST:
            yield f"needs eval.prompts of {LEAST} or more, given {prompts}"

    def applies(self, of: Measurement) -> bool:
        return super().applies(of) and of.workspace.folder is not None

    def rows(self, of: Measurement) -> Iterator[Row]:
        yield from pasting_rows(of.model, AuxiliaryTrainer.of(of))


def pasted_task(experiment: Experiment) -> LinearRegression:
    """Returns linear regression in D dimensions, with as many examples and as much noise as in training."""
    task = trained_task(experiment)
    size = task.representation.size(task.d)
    return LinearRegression(size, task.n, noise=task.noise, prior=task.prior, inputs=UnitNormal())


def trained_task(experiment: Experiment) -> RepresentationRegression:
    """Returns the task of the model."""
    assert isinstance(experiment.task, RepresentationRegression)  # an experiment refuses any other
    return experiment.task


def pasting_rows(model: Transformer, trainer: AuxiliaryTrainer) -> Iterator[Row]:
    """Trains all input projections and controls, and measures them on the same prompts."""
    task = pasted_task(trainer.experiment)
    chosen = chosen_cut(model, trainer)
    yield row("representation", "pasting_cut", None, chosen)
    made = pasting(model, range(1, model.config.n_layer), task.d, task.n, trainer.rng("init"))
    learned: dict[Name, Predictor] = {}
    for (name, cut), module in made.items():
        if trainer.train(f"pasting_{name}" + ("" if cut is None else f"_{cut}"), module, task):
            learned[name, cut] = module
    prompts = task.sample(trainer.experiment.eval.prompts, trainer.rng("test"))
    predictors: dict[Name, Predictor] = {("bayes", None): bayes(task), ("zero", None): Zero(), **learned}
    answers = {name: answer({"one": f}, prompts)["one"] for name, f in predictors.items()}
    yield from _all_rows(answers, prompts.ys, regions(task), chosen)


def chosen_cut(model: Transformer, trainer: AuxiliaryTrainer) -> int:
    """Returns the block, of those that have one above, after which the representation is read best in tokens of
    labels."""
    task = trained_task(trainer.experiment)
    prompts = task.sample(trainer.experiment.eval.prompts, trainer.rng("fit"))
    (probe,) = token_probes(model, prompts, {"representation": task.representation(prompts.xs)}, ["y"])
    return 1 + int(probe.r2.value[1:-1].argmax())


def _all_rows(answers: Mapping[Name, Tensor], ys: Tensor, parts: Parts, chosen: int) -> Iterator[Row]:
    """Rows of all that answered, with their cuts; those of the chosen cut once more without."""
    for name, cut in answers:
        result = list(_of_one(answers, name, cut, ys, parts))
        yield from ({**one, "layer": cut} for one in result)
        yield from result if cut == chosen else ()


def _of_one(answers: Mapping[Name, Tensor], name: str, cut: int | None, ys: Tensor, parts: Parts) -> Iterator[Row]:
    best = answers["bayes", None]
    least, errors, distance = squared(best, ys), squared(answers[name, cut], ys), squared(answers[name, cut], best)
    single: Parts = {i: slice(i, i + 1) for i in range(ys.shape[1])}
    yield from averaged(name, "pasting_risk", errors, parts)
    if vanishes(least, ys):  # nothing is relative to a Bayes risk of zero
        return
    yield from relative(name, "pasting_risk_ratio", errors, least, single | parts)
    yield from relative(name, "pasting_excess", distance, least, parts)
    for other, place in _others(name, cut):
        if place in answers:
            more = (squared(answers[place], best) - distance).mean(-1)
            yield from rows(name, f"pasting_lead_over_{other}", ratio(more, least.mean(-1)))


def _others(name: str, cut: int | None) -> Iterator[tuple[str, Name]]:
    """What an input projection under the model is compared with."""
    if name in READ_INS:
        yield "untrained", (f"{name}_untrained", cut)
        yield "alone", (f"{name}_alone", None)
        yield "full", ("full", None)
        yield from ((other, (other, cut)) for other in READ_INS if other != name)
