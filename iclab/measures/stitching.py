"""Rows of stitching: the lower blocks of a model under the upper blocks of its partners, which have the same shape and
were trained by the same recipe, from another seed or on another task. All are evaluated on prompts of the model's own
task. `predictor` is PARTNER_BRIDGE and `layer` the cut, the number of blocks below:

    direct              no bridge
    affine              the affine map of least squares from the one stream to the other, on prompts of the own task
    trained             the same, trained further on the loss
    relative            by way of relative representations, read by a map that was fitted on those of the partner
    relative_trained    the same, where that map and the upper blocks were trained further on the partner's own relative
                        representations and its task: no training has ever seen the stream of the model (zero-shot)

Controls end in _untrained (lower blocks as they were drawn, for affine and trained) and _own (those of the partner
itself, for the relative two); PARTNER alone is the partner itself.

Each partner, and "untrained", the model before its training, is also compared with the model layer by layer.

Sources: Moschella et al. 2022, arXiv 2209.15430, §3 and §5; Kornblith et al. 2019, arXiv 1905.00414, §6.1; see
`iclab.analysis.layers.stitching` and `iclab.analysis.layers.similarity`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclab.analysis import Relative, Stitched, affine_bridge, answer, estimate, features, linear_cka, ratio
from iclab.analysis import relative_bridge as fitted_bridge
from iclab.analysis.layers.similarity import LEAST
from iclab.analysis.risk import squared, vanishes
from iclab.experiments.analysis import Analysis, Row
from iclab.experiments.identity import SEEDS
from iclab.experiments.prompting import NAME
from iclab.measures.auxiliary import AuxiliaryTrainer
from iclab.measures.measurement import Measurement
from iclab.measures.rows import row, rows
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import Predictor
from iclab.tasks import Prompts, Task
from iclab.theory.posterior import bayes, bayes_where_known

ANCHORS = 16  # prompts, all tokens of which are anchors
FITTED = 256  # prompts that bridges are fitted on
CHUNKS = 8  # of prompts, whose differences are the error of CKA
CONTROLS = {"affine": "untrained", "trained": "untrained", "relative": "own", "relative_trained": "own"}


class Stitching(Analysis):
    """Trains the partners beside the model, and puts lower blocks of the model under upper blocks of theirs."""

    name = "stitching"
    layered = True
    blocks = True
    partnered = True
    once = True
    quantities: ClassVar = {
        "stitching_excess": "E(ŷ − ŷ_Bayes)² / Bayes risk; 0 is optimal",
        "stitching_lead_over_*": "the excess of another less that of a bridge: of direct, of the control untrained, of "
        "own, which is the partner itself for bridges without that control",
        "cka": "linear CKA of the answering tokens at the last position, unbiased; at most 1; `position` is the "
        "partner's layer",
        "cka_match": "the share of the model's layers (read-in included) that are most like the partner's layer of the "
        "same number, between 0 and 1: Kornblith et al. 2019, Table 2",
    }

    def problems(self, experiment: Any) -> Iterator[str]:
        model, prompts = experiment.model, experiment.eval.prompts
        if not experiment.eval.partners:
            yield "and eval.partners are given together, or neither is"
        if isinstance(model, TransformerConfig) and model.n_layer < 2:
            yield f"needs model.n_layer of 2 or more, given {model.n_layer}"
        if bayes_where_known(experiment.task) is None:
            yield f"needs a Bayes predictor, and for {type(experiment.task).__name__} none is known"
        if prompts < 2 * LEAST:
            yield f"needs eval.prompts of {2 * LEAST} or more, given {prompts}"
        yield from (f"has a partner {text}" for text in _partner_problems(experiment))

    def applies(self, of: Measurement) -> bool:
        return super().applies(of) and of.workspace.folder is not None

    def rows(self, of: Measurement) -> Iterator[Row]:
        trainer, untrained = AuxiliaryTrainer.of(of), of.experiment.initial(of.workspace.device)
        yield from stitching_rows(of.model, untrained, partners(trainer), trainer)


def _partner_problems(experiment: Any) -> Iterator[str]:
    own = experiment.task
    for name, partner in experiment.eval.partners:
        task = partner.task or own
        if not NAME.fullmatch(name):
            yield f"that needs a name of letters, digits, - and _, given {name!r}"
        if (task.d, task.n) != (own.d, own.n):
            yield f"{name!r} of d = {task.d}, n = {task.n}, and the model has d = {own.d}, n = {own.n}"
        elif (partner.seed, task) == (experiment.seed, own):
            yield f"{name!r} that is the model itself: give it another seed or task"
        elif not 0 <= partner.seed < SEEDS:
            yield f"{name!r} whose seed must lie in 0..{SEEDS - 1}, given {partner.seed}"


def partners(trainer: AuxiliaryTrainer) -> Iterator[tuple[str, Transformer, Task]]:
    """Yields the partners of an experiment, trained, and what on; but for those whose training diverged, as the log
    says."""
    for name, partner in trainer.experiment.eval.partners:
        other = partner.experiment(trainer.experiment)
        if (model := trainer.trained(name, other)) is not None:
            yield name, model.eval(), partner.task or trainer.trained_on


def stitching_rows(
    model: Transformer,
    untrained: Transformer,
    partners: Iterable[tuple[str, Transformer, Task]],
    trainer: AuxiliaryTrainer,
) -> Iterator[Row]:
    """Yields the rows of the model with each partner, and of its layers beside those before training."""
    for name, partner, task in partners:
        yield from Pairing(model, untrained, name, partner, task, trainer).rows()
    prompts = trainer.trained_on.sample(trainer.experiment.eval.prompts, trainer.rng("test"))
    yield from cka_rows("untrained", model, untrained, prompts)


@dataclass(frozen=True, eq=False)
class Pairing:
    """A model, the same before its training, and a partner with the task that it was trained on."""

    model: Transformer
    untrained: Transformer
    name: str
    partner: Transformer
    partner_task: Task
    trainer: AuxiliaryTrainer

    @property
    def task(self) -> Task:
        """Returns the model's own task."""
        return self.trainer.trained_on

    @cached_property
    def prompts(self) -> Prompts:
        """Returns the prompts that everything is measured on."""
        return self.task.sample(self.trainer.experiment.eval.prompts, self.trainer.rng("test"))

    @cached_property
    def best(self) -> Tensor:
        """Returns the answers of the Bayes predictor."""
        return answer({"bayes": bayes(self.task)}, self.prompts)["bayes"]

    @cached_property
    def least(self) -> Float[Tensor, " batch"]:
        """Returns what each prompt adds to the Bayes risk."""
        return squared(self.best, self.prompts.ys).mean(-1)

    def distance(self, predictor: Predictor) -> Float[Tensor, " batch"]:
        """Returns what each prompt adds to the distance from Bayes."""
        return squared(answer({"one": predictor}, self.prompts)["one"], self.best).mean(-1)

    def rows(self) -> Iterator[Row]:
        """Yields excess at every cut, and CKA."""
        if not vanishes(self.least, self.prompts.ys):  # nothing is relative to a Bayes risk of zero
            own = self.distance(self.partner)
            yield from rows(self.name, "stitching_excess", ratio(own, self.least))
            for cut in range(1, self.model.config.n_layer):
                away = {"partner": own} | {name: self.distance(f) for name, f in self.at(cut)}
                yield from ({**row, "layer": cut} for row in self.compared(away))
        yield from cka_rows(self.name, self.model, self.partner, self.prompts)

    def compared(self, away: Mapping[str, Float[Tensor, " batch"]]) -> Iterator[Row]:
        """Yields rows of all that was stitched at a cut."""
        for bridge in (bridge for bridge in away if bridge != "partner"):
            name = f"{self.name}_{bridge}"
            yield from rows(name, "stitching_excess", ratio(away[bridge], self.least))
            for other, against in others(bridge).items():
                if against in away:
                    lead = ratio(away[against] - away[bridge], self.least)
                    yield from rows(name, f"stitching_lead_over_{other}", lead)

    # ---- what is stitched ------------------------------------------------------------------------------------------

    def at(self, cut: int) -> Iterator[tuple[str, Predictor]]:
        """Yields all bridges and controls at one cut; nothing of those whose training diverged."""
        yield "direct", Stitched(self.model, self.partner, cut)
        for ending, lower in (("", self.model), ("_untrained", self.untrained)):
            affine = affine_bridge(lower, self.partner, self.own_prompts(), cut)
            yield f"affine{ending}", Stitched(lower, self.partner, cut, bridge=affine)
            learning = Stitched(lower, self.partner, cut, bridge=affine, learns=["bridge"])
            if self.trainer.train(f"stitching_{self.name}_trained{ending}_{cut}", learning, self.task):
                yield f"trained{ending}", learning
        yield from self.by_relative(cut)

    def by_relative(self, cut: int) -> Iterator[tuple[str, Predictor]]:
        """Yields bridges by way of relative representations."""
        one, other = self.partner, self.partner
        seen = self.partner_task.sample(FITTED, self.trainer.rng("fit"))
        reader = fitted_bridge(one, other, self.anchors(), seen, cut)
        yield from self.both("relative", Stitched(one, other, cut, bridge=reader))
        learning = Stitched(one, other, cut, bridge=reader, learns=["bridge", "upper"])
        if self.trainer.train(f"stitching_{self.name}_relative_{cut}", learning, self.partner_task):
            yield from self.both("relative_trained", learning)

    def both(self, bridge: str, own: Stitched) -> Iterator[tuple[str, Predictor]]:
        """Yields a partner that reads its own relative representations, and the same reading those of the model."""
        assert isinstance(own.bridge, nn.Sequential)
        relative = Relative.of(self.model, own.cut, self.anchors())
        yield f"{bridge}_own", own
        yield bridge, Stitched(self.model, own.upper, own.cut, bridge=nn.Sequential(relative, own.bridge[1]))

    def own_prompts(self) -> Prompts:
        """Returns what affine bridges are fitted on."""
        return self.task.sample(FITTED, self.trainer.rng("fit"))

    def anchors(self) -> Prompts:
        """Returns the same prompts for both models."""
        return self.task.sample(ANCHORS, self.trainer.rng("curve"))


def others(bridge: str) -> dict[str, str]:
    """Returns what a bridge is compared with; controls with nothing."""
    if bridge not in CONTROLS:
        return {"own": "partner"} if bridge == "direct" else {}
    control = CONTROLS[bridge]
    return {"own": "partner", "direct": "direct", control: f"{bridge}_{control}"}


def cka_rows(name: str, model: Transformer, other: Transformer, prompts: Prompts) -> Iterator[Row]:
    """Yields how alike each layer of the model is to each of another."""
    one, two = (features(each, prompts)[:, :, -1] for each in (model, other))
    chunks = min(CHUNKS, len(prompts.xs) // LEAST)
    pairs = zip(one.chunk(chunks, dim=1), two.chunk(chunks, dim=1), strict=True)
    likeness = estimate(torch.stack([linear_cka(x, y, unbiased=True) for x, y in pairs]))
    for layer, (values, errors) in enumerate(zip(likeness.value.tolist(), likeness.stderr.tolist(), strict=True)):
        for place, (value, error) in enumerate(zip(values, errors, strict=True)):
            yield {**row(name, "cka", place, value, error), "layer": layer}
    nearest = likeness.value.argmax(-1)
    same = nearest == torch.arange(len(nearest), device=nearest.device)
    yield row(name, "cka_match", None, same.double().mean().item())
