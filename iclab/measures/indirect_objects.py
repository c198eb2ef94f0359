"""Who is given something in a text, and how surely (Wang et al. 2022, arXiv 2211.00593, §2 and 3)."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from iclab.analysis.heads.movers import Named, answered, named
from iclab.analysis.heads.s_inhibition import of_pairs
from iclab.analysis.risk import estimate
from iclab.experiments.analysis import Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, rows
from iclab.measures.texts import OfTexts, folded_model, found_on, measured_on

UNRELATED = "unrelated names"


class IndirectObjects(OfTexts):
    """Compares the indirect object with who gives, with errors over pairs of texts; "unrelated names" are three
    different ones in the same texts."""

    name = "indirect_objects"
    quantities: ClassVar = {
        "above": "how often logit(indirect object) − logit(subject) is above 0, between 0 and 1",
        "logit_difference": "logit(indirect object) − logit(subject), mean",
        "probability": "p(indirect object) among all tokens, mean",
    }

    def predictors(self, experiment: Any) -> Iterable[str]:
        return [MODEL, UNRELATED]

    def rows(self, of: Measurement) -> Iterator[Row]:
        model, drawn = folded_model(of), measured_on(of)
        prompts, (_, rng) = named(drawn), found_on(of)
        other = Named(of.task.text.unrelated(drawn, rng), prompts.end, prompts.slots, prompts.index)
        for name, texts in ((MODEL, prompts), (UNRELATED, other)):
            logits = answered(model, texts).double()
            said = logits.gather(1, prompts.options)
            difference = said[:, 0] - said[:, 1]
            terms = {"logit_difference": difference, "above": (difference > 0).double()}
            terms |= {"probability": (said[:, 0] - logits.logsumexp(-1)).exp()} if name == MODEL else {}
            for quantity, each in terms.items():
                yield from rows(name, quantity, estimate(of_pairs(each)))
