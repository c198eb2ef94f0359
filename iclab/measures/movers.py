"""The heads that a model over tokens uses for indirect objects, found on one half of the prompts and measured on the
other. They exist for attention by softmax in two layers or more: in one no head hears another.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclab.analysis.heads.movers import Named, name_mover_head, named, pattern, s_inhibition
from iclab.analysis.heads.patching import Head, ablation
from iclab.analysis.risk import estimate, ratio
from iclab.experiments.analysis import Analysis, Row
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
        "mover_fed": "what of it is lost when its queries do not hear the head that feeds it most",
        "logit_difference": "logit(indirect object) − logit(subject)",
        "kept_without_mover": "the share of it that is left when the mover writes what it writes on average",
        "kept_without_feeder": "the share of it that is left when the head that feeds it most does",
    }

    def rows(self, of: Measurement) -> Iterator[Row]:
        yield from mover_rows(of.model, of.task, of.prompts)


@torch.no_grad()
def mover_rows(model: nn.Module, task: TokenTask, prompts: TokenPrompts) -> Iterator[Row]:
    """Yields the rows of one distribution; none where there is no such head."""
    if not isinstance(task, IndirectObject) or type(model) is not TokenTransformer or not _hears(model):
        return
    half = len(prompts.tokens) // 2
    finding, held = named(prompts[:half]), named(prompts[half:])
    of = name_mover_head(model, finding)
    feeder = divmod(int(s_inhibition(model, finding, of).mean(-1).argmax()), model.config.n_head)
    yield from rows(MODEL, "mover_inhibition", estimate(held.score(pattern(model, held, of))))
    yield from rows(MODEL, "mover_fed", estimate(s_inhibition(model, held, of)[feeder]))
    whole = _difference(model, held)
    yield from rows(MODEL, "logit_difference", estimate(whole))
    for name, head in (("kept_without_mover", of), ("kept_without_feeder", feeder)):
        yield from rows(MODEL, name, ratio(_difference(model, held, head, finding), whole))


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
