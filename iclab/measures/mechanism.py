"""How a list is recalled: each head at the end of the prompt (`iclab.analysis.heads.list_recall`)."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from iclab.analysis.heads import list_recall
from iclab.analysis.heads.patching import Head
from iclab.analysis.risk import estimate
from iclab.experiments.analysis import Row
from iclab.measures.heads import OfHeads
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, row, rows
from iclab.models import TokenTransformer
from iclab.tasks import LaundryList, TokenPrompts

FEW = 512  # prompts of a mechanism: each head is ablated on them three times
KNOWN = 3  # counts 0, 1, 2 are reported one by one


class Mechanism(OfHeads):
    """Distinguishes heads that move the missing item from heads that subtract one list from the other, on lists of one
    length N."""

    name = "mechanism"
    tasks = LaundryList
    layers = 1
    softmax = True
    quantities: ClassVar = {
        "mechanism_first": "the weight of a head on the list, between 0 and 1",
        "mechanism_second": "its weight on what is named again, between 0 and 1",
        "mechanism_hit": "how often its weight is largest on the missing item, between 0 and 1",
        "mechanism_inhibition": "its weight on the missing item beyond the other slots",
        "mechanism_copies_{first,second}": "what it adds to an item's own logit where it looks at it, by list",
        "mechanism_written": "of each part: what it adds to the missing item beyond the other listed ones, in logits",
        "mechanism_zero": "the accuracy that is lost without the head",
        "mechanism_mean": "the accuracy that is lost where it writes its mean",
        "mechanism_resample": "the accuracy that is lost where it writes what it writes on another prompt",
        "mechanism_route": "the accuracy that is lost if the end, or the second list, looks at the first or the second "
        'list in no head ("end_to_first", …)',
        "mechanism_mover": "by how much the best hit exceeds 1/N (chosen on half of the prompts)",
        "mechanism_fit{,_apart}_lead": 'by how much R² of "subtraction" exceeds that of "set_difference"',
        "mechanism_fit{,_apart}_taken": "b/a, what being named once more takes for each that being listed once more "
        "adds",
        "mechanism_fit{,_apart}_logit": 'of "listed_i_named_j": the logit of an item that occurs i and j times in the '
        "two lists, above that of one that occurs in neither",
        "mechanism_fit": "R² of logits by counts, of the model of that name, at most 1",
        "mechanism_fit_apart": "the same where the counts of an item in the two lists are apart, at most 1",
        "last_item_bias": "the share of answers that name the last slot, beyond 1/N",
    }

    def applies(self, of: Measurement) -> bool:
        return super().applies(of) and of.task.balanced

    def of_heads(
        self, model: TokenTransformer, of: Measurement, prompts: TokenPrompts, rng: torch.Generator
    ) -> Iterator[Row]:
        yield from mechanism_rows(model, of.task, prompts, rng)


def _name(layer: int, head: int) -> str:
    return f"head_{layer}.{head}"


def mechanism_rows(
    model: TokenTransformer, task: LaundryList, prompts: TokenPrompts, rng: torch.Generator
) -> Iterator[Row]:
    """Yields all rows of one length."""
    N = list_recall.length(prompts)
    few = prompts[: max(N, FEW // N * N)]  # each slot as often
    looks = list_recall.attention_from_end(model, few)
    yield from rows(MODEL, "mechanism_mover", list_recall.mover_head(looks, few)[1])
    for name, terms in list_recall.written(model, few).items():
        yield from rows(name.replace("blocks.", "").replace(".head.", "."), "mechanism_written", estimate(terms))
    before = list_recall.right(model, few, {})
    for name, route in list_recall.routes(few).items():
        yield from rows(name, "mechanism_route", estimate(before - list_recall.right_but_for(model, few, route)))
    yield from _head_rows(model, task, few, looks, before, rng)
    yield from _fit_rows(model, task, prompts, rng)
    last = model(few.tokens, 1)[:, 0].masked_fill(~few.options, -torch.inf).argmax(1) == few.tokens[:, N]
    yield from rows(MODEL, "last_item_bias", estimate(last.double() - 1 / N))


def _head_rows(
    model: TokenTransformer,
    task: LaundryList,
    few: TokenPrompts,
    looks: list_recall.AttentionFromEnd,
    before: Tensor,
    rng: torch.Generator,
) -> Iterator[Row]:
    """Head by head; `before` is whether each prompt was answered rightly by all of them."""
    copied = list_recall.copied(model, few, task.items)
    parts = {"first": list_recall.first(few), "second": list_recall.second(few)}
    quantities = {k: getattr(looks, k) for k in ("first", "second", "hit", "inhibition")}
    quantities |= {f"copies_{k}": copied[..., part].mean(-1) for k, part in parts.items()}
    for layer, head in _heads(model):
        each = {k: terms[layer, head] for k, terms in quantities.items()}
        left = {how: list_recall.right_without(model, few, (layer, head), how, rng) for how in list_recall.HOWS}
        each |= {how: before - after for how, after in left.items()}
        for quantity, terms in each.items():
            made = rows(_name(layer, head), f"mechanism_{quantity}", estimate(terms))
            yield from ({**one, "layer": layer} for one in made)


def _fit_rows(model: TokenTransformer, task: LaundryList, prompts: TokenPrompts, rng: torch.Generator) -> Iterator[Row]:
    yield from _fits(model, task, prompts, "mechanism_fit")
    yield from _fits(model, task, list_recall.apart(prompts, task.items, rng), "mechanism_fit_apart")


def _fits(model: TokenTransformer, task: LaundryList, prompts: TokenPrompts, quantity: str) -> Iterator[Row]:
    fits = {name: list_recall.fit(model, prompts, task.items, of) for name, of in list_recall.MODELS.items()}
    for name, made in fits.items():
        yield from rows(name, quantity, estimate(made.terms))
    lead = fits["subtraction"].terms - fits["set_difference"].terms
    yield from rows("subtraction", f"{quantity}_lead", estimate(lead))
    logits = list_recall.by_counts(fits["any_of_counts"])[:KNOWN, :KNOWN]
    for (i, j), value in zip(torch.cartesian_prod(*[torch.arange(KNOWN)] * 2).tolist(), logits.flatten(), strict=True):
        yield row(f"listed_{i}_named_{j}", f"{quantity}_logit", None, value.item())
    a, b = fits["subtraction"].coefficients  # a is 0 where all items are listed: then there is nothing to tell
    yield row("subtraction", f"{quantity}_taken", None, (b / a).item())


def _heads(model: TokenTransformer) -> Iterator[Head]:
    layers, heads = model.config.n_layer, model.config.n_head
    yield from ((layer, head) for layer in range(layers) for head in range(heads))
