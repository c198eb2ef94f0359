"""The heads of a language model that look at the indirect object, and from one mention of a name to another."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from iclab.analysis.heads.movers import name_mover_head, named, pattern
from iclab.analysis.heads.patching import Head
from iclab.analysis.heads.s_inhibition import duplicate_head, of_pairs, second_to_first
from iclab.analysis.risk import estimate
from iclab.experiments.analysis import Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, row, rows
from iclab.measures.texts import OfTexts, folded_model, found_on, measured_on


class TextHeads(OfTexts):
    """Finds, by what they do on other texts, the name-mover head and the duplicate-token head (among random ones)."""

    name = "text_heads"
    quantities: ClassVar = {
        "inhibition": "attention of the name-mover head to the indirect object minus that to the subject, from −1 to 1",
        "duplicate_attention": "attention of the duplicate-token head from the second mention of the subject to the "
        "first, between 0 and 1",
        "{name_mover,duplicate}_head": "the number of that head; `layer` is its layer",
    }

    def predictors(self, experiment: Any) -> Iterable[str]:
        return [MODEL]

    def rows(self, of: Measurement) -> Iterator[Row]:
        model, prompts, (finding, rng) = folded_model(of), named(measured_on(of)), found_on(of)
        head, twice = name_mover_head(model, finding), duplicate_head(model, rng)
        yield from rows(MODEL, "inhibition", estimate(of_pairs(prompts.score(pattern(model, prompts, head)))))
        yield from rows(MODEL, "duplicate_attention", estimate(of_pairs(second_to_first(model, prompts, twice))))
        yield head_row("name_mover_head", head)
        yield head_row("duplicate_head", twice)


def head_row(quantity: str, head: Head, rank: int | None = None) -> Row:
    """Returns a row that says which head was found."""
    return {**row(MODEL, quantity, rank, float(head[1])), "layer": head[0]}
