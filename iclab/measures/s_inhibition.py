"""Components of S-inhibition heads: the inhibition that the name-mover head loses without each (Merullo et al. 2024,
arXiv 2406.09519, Fig. 2 and App. F). `position` is the rank of an S-inhibition head, from 0, the strongest first; rows
without one are of all of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch

from iclab.analysis.heads.movers import Named, name_mover_head, named, pattern
from iclab.analysis.heads.s_inhibition import Losses, of_pairs, s_inhibition_heads
from iclab.analysis.risk import ratio
from iclab.experiments.analysis import Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, row, rows
from iclab.measures.text_heads import head_row
from iclab.measures.texts import OfTexts, dissection_of, folded_model, found_on, measured_on
from iclab.models import TokenTransformer

TOP, OTHERS = "top component", "other components"


class SInhibitionHeads(OfTexts):
    """Cuts the components of S-inhibition heads one after the other: the "top component", which composes most with the
    name-mover head's queries, and the "other components", on average. Models with rotary positions have no rows."""

    name = "s_inhibition_heads"
    composing = True
    quantities: ClassVar = {
        "drop": "the share of the name-mover head's inhibition that is lost when a component is cut",
        "correlation": "of composition score and loss over the components of a head, mean over heads; between −1 and 1",
        "agrees": "in how many of the heads the top component is the one with the largest loss, between 0 and 1",
        "s_inhibition_head": "the number of an S-inhibition head; `layer` is its layer",
        "top_component": "the number of its component that composes most",
    }

    def predictors(self, experiment: Any) -> Iterable[str]:
        return [MODEL, TOP, OTHERS]

    def rows(self, of: Measurement) -> Iterator[Row]:
        model, plan, (finding, _) = folded_model(of), dissection_of(of), found_on(of)
        head = name_mover_head(model, finding)
        prompts = named(measured_on(of)[: plan.prompts - plan.prompts % 2])
        yield from _drops(model, prompts, head, s_inhibition_heads(model, finding, head, plan.heads))


def _drops(
    model: TokenTransformer, prompts: Named, of: tuple[int, int], heads: Sequence[tuple[int, int]]
) -> Iterator[Row]:
    whole = of_pairs(prompts.score(pattern(model, prompts, of)))
    each = [Losses.of(model, prompts, of, head) for head in heads]
    for rank, (head, losses) in enumerate(zip(heads, each, strict=True)):
        yield head_row("s_inhibition_head", head, rank)
        yield {**row(MODEL, "top_component", rank, float(losses.top)), "layer": head[0]}
        for name, lost in ((TOP, losses.of_top), (OTHERS, losses.of_others)):
            yield from ({**one, "layer": head[0]} for one in rows(name, "drop", ratio(of_pairs(lost), whole), rank))
    for name, lost in ((TOP, [one.of_top for one in each]), (OTHERS, [one.of_others for one in each])):
        yield from rows(name, "drop", ratio(of_pairs(torch.stack(lost).mean(0)), whole))
    chance = (len(heads) * max(1, model.config.head_width - 1)) ** -0.5  # of a mean of correlations of e components
    yield row(MODEL, "correlation", None, sum(one.correlation for one in each) / len(each), chance)
    yield row(MODEL, "agrees", None, sum(one.agrees for one in each) / len(each))
