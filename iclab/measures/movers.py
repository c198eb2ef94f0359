"""The heads that a model over tokens uses for indirect objects, found on one half of the prompts and measured on the
other. They exist for attention by softmax in two layers or more: in one no head hears another.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclab.analysis.heads.movers import Named, name_mover_head, named, pattern, s_inhibition
from iclab.analysis.heads.patching import Head, ablation
from iclab.analysis.risk import estimate, ratio
from iclab.experiments.analysis import Analysis, Row
from iclab.experiments.streams import experiment_generator
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, rows
from iclab.models import TokenTransformer
from iclab.tasks import IndirectObject, TokenPrompts, TokenTask


class Movers(Analysis):
    """Finds the head that moves the name, and the one that feeds it most (Wang et al. 2022, arXiv 2211.00593)."""

    name = "movers"
    always = True
    tasks = IndirectObject
    quantities: ClassVar = {
        "mover_inhibition": "what the mover gives, from the end, to the indirect object less what it gives to the "
        "subject; between −1 and 1",
        "mover_lead": "how much more the mover gives so than a control: the mover of the model before training "
        '("untrained"), or the other heads of its layer, on average ("other_heads")',
        "mover_fed": "what of it is lost when its queries do not hear the head that feeds it most",
        "logit_difference": "logit(indirect object) − logit(subject)",
        "kept_without_mover": "the share of it that is left when the mover writes what it writes on average",
        "kept_without_feeder": 'the share of it that is left when the head that feeds it most does; of "other_heads" '
        "when one of the others of its layer does, on average",
        "feeder_lead": "how much less of it is left without that head than without one of the others of its layer",
    }

    def rows(self, of: Measurement) -> Iterator[Row]:
        yield from mover_rows(of.model, of.task, of.prompts, lambda: _untrained(of))


def _untrained(of: Measurement) -> Any:
    """The model as it was before training."""
    return of.experiment.build(experiment_generator(of.experiment, "init")).to(of.prompts.tokens.device)


@torch.no_grad()
def mover_rows(
    model: nn.Module, task: TokenTask, prompts: TokenPrompts, untrained: Callable[[], TokenTransformer]
) -> Iterator[Row]:
    """Yields the rows of one distribution; none where there is no such head. `untrained` makes the model as it was
    before training."""
    if not isinstance(task, IndirectObject) or type(model) is not TokenTransformer or not _hears(model):
        return
    half = len(prompts.tokens) // 2
    finding, held = named(prompts[:half]), named(prompts[half:])
    of = name_mover_head(model, finding)
    feeder = divmod(int(s_inhibition(model, finding, of).mean(-1).argmax()), model.config.n_head)
    moved = held.score(pattern(model, held, of))
    yield from rows(MODEL, "mover_inhibition", estimate(moved))
    for name, terms in _controls(model, untrained(), of, finding, held):
        yield from rows(name, "mover_inhibition", estimate(terms))
        yield from rows(name, "mover_lead", estimate(moved - terms))
    yield from rows(MODEL, "mover_fed", estimate(s_inhibition(model, held, of)[feeder]))
    yield from _ablation_rows(model, of, feeder, finding, held)


def _controls(
    model: TokenTransformer, untrained: TokenTransformer, of: Head, finding: Named, held: Named
) -> Iterator[tuple[str, Float[Tensor, " b"]]]:
    """What stands in for the mover: that of the untrained model, found in the same way, and others of its layer."""
    yield "untrained", held.score(pattern(untrained, held, name_mover_head(untrained, finding)))
    if others := _others(model, of):
        yield "other_heads", torch.stack([held.score(pattern(model, held, one)) for one in others]).mean(0)


def _others(model: TokenTransformer, head: Head) -> list[Head]:
    """The other heads of a layer."""
    return [(head[0], one) for one in range(model.config.n_head) if one != head[1]]


def _ablation_rows(model: TokenTransformer, of: Head, feeder: Head, finding: Named, held: Named) -> Iterator[Row]:
    """What is left of the logit difference without the mover, without its feeder, and without others in place of the
    latter."""
    whole = _difference(model, held)
    left = {head: _difference(model, held, head, finding) for head in (of, feeder, *_others(model, feeder))}
    yield from rows(MODEL, "logit_difference", estimate(whole))
    yield from rows(MODEL, "kept_without_mover", ratio(left[of], whole))
    yield from rows(MODEL, "kept_without_feeder", ratio(left[feeder], whole))
    if others := _others(model, feeder):
        mean = torch.stack([left[one] for one in others]).mean(0)
        yield from rows("other_heads", "kept_without_feeder", ratio(mean, whole))
        yield from rows("other_heads", "feeder_lead", ratio(mean - left[feeder], whole))


def _hears(model: TokenTransformer) -> bool:
    config = model.config
    return config.n_layer > 1 and config.attention == "softmax" and not config.null_slot


def _difference(
    model: TokenTransformer, prompts: Named, silent: Head | None = None, reference: Named | None = None
) -> Float[Tensor, " b"]:
    """logit(answer) − mean logit(others), where a head may write but its mean over reference prompts."""
    edits = {} if silent is None or reference is None else ablation(model, [silent], "mean", reference.tokens)
    logits = prompts.at_end(model.replaced(prompts.tokens, edits)).gather(1, prompts.options).double()
    return logits[:, 0] - logits[:, 1:].mean(1)
