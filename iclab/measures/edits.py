"""What the heads that continue a repeated sequence lose if components are cut (`iclab.analysis.heads.cuts`)."""

from collections.abc import Iterator
from copy import deepcopy
from typing import ClassVar

import torch
from torch import Tensor

from iclab.analysis.heads.cuts import (
    Metric,
    accuracy_of,
    along_random,
    attention_of,
    correlation,
    cuts,
    keeps,
    scaled,
    size,
    without_path,
)
from iclab.analysis.heads.folding import folded
from iclab.analysis.heads.patching import Head, ablation
from iclab.analysis.heads.roles import induction
from iclab.analysis.risk import Estimate, estimate
from iclab.experiments.analysis import Row
from iclab.measures.channels import weights_of
from iclab.measures.heads import OfHeads, circuit_of
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, row, rows
from iclab.models import TokenTransformer, TokenTransformerConfig
from iclab.tasks import RepeatedSequence, TokenPrompts

DRAWS = 16  # random directions
FACTORS = (0.0, 0.5, 1.0, 2.0, 4.0)


class Edits(OfHeads):
    """Cuts, keeps and scales components of a writer that a reader composes with, in heads found on half of the prompts
    and on the other half: the reader is the head that matches prefixes best, the writer the earlier head that most
    looks at the token before, and the component the one with the largest composition into the reader's keys."""

    name = "edits"
    tasks = RepeatedSequence
    once = True
    quantities: ClassVar = {
        "edit_score": 'prefix matching of the reader, between 0 and 1: as it is ("transformer"), "cut_top", '
        '"cut_others" (their mean), "cut_random" (a direction of the writer), "keep_top", "keep_first", "keep_others", '
        '"path_q", "path_k", "path_v", "cut_writer"',
        "edit_accuracy": "accuracy after the same edits, between 0 and 1",
        "edit_drop": "what edit_score loses by these",
        "edit_drop_by_component": "the same at each component as position",
        "edit_composition_by_component": "the composition of each component as position",
        "edit_correlation": "of these two, over components, between −1 and 1",
        "edit_rank": "the rank of the component by what its cut costs; 1 is first",
        "edit_scaled": 'edit_score with the component ("top") or a random direction times `position`',
        "edit_cut_several": 'edit_score without so many components (`position`): the "strongest" by composition, or '
        'the "weakest"',
        "edit_several_lead": "of half of them, by how much less is left without the strongest",
    }

    def unfit(self, model: TokenTransformerConfig) -> Iterator[str]:
        if model.attention != "softmax" or model.null_slot:
            yield "needs softmax attention without a null slot, so that biases of values can be moved"
        if model.rotary:
            yield "needs keys that do not depend on the distance, and positions are rotary"
        if model.tied:
            yield "needs layers of their own weights, and they are tied"

    def of_heads(
        self, model: TokenTransformer, of: Measurement, prompts: TokenPrompts, rng: torch.Generator
    ) -> Iterator[Row]:
        yield from edit_rows(model, prompts, rng)


def edit_rows(model: TokenTransformer, prompts: TokenPrompts, rng: torch.Generator) -> Iterator[Row]:
    """Yields the rows of the circuit of a repeated sequence."""
    half = len(prompts.tokens) // 2
    writer, reader = circuit_of(model, prompts[:half])
    one, others = folded(deepcopy(model)), prompts[half:]
    scores = weights_of(model).scores["K"][writer][:, reader[0], reader[1]]
    top = int(scores.argmax())
    watches = {"score": attention_of(reader, others, induction(others.tokens)), "accuracy": accuracy_of(others)}
    cut = {k: scaled(metric, one, writer, cuts(len(scores))) for k, metric in watches.items()}
    by_quantity = {k: _edits(one, metric, cut[k], others, writer, reader, top, rng) for k, metric in watches.items()}
    for quantity, by_edit in by_quantity.items():
        for name, terms in by_edit.items():
            yield from rows(name, f"edit_{quantity}", estimate(terms))
    for name, terms in by_quantity["score"].items():
        yield from rows(name, "edit_drop", estimate(by_quantity["score"][MODEL] - terms))
    yield from _component_rows(by_quantity["score"][MODEL] - cut["score"], scores, top)
    yield from _several_rows(one, watches["score"], writer, scores)
    yield from _scaled_rows(one, watches["score"], writer, top, rng)


def _edits(
    one: TokenTransformer,
    metric: Metric,
    cut: Tensor,
    prompts: TokenPrompts,
    writer: Head,
    reader: Head,
    top: int,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """What is seen after each edit [b]; `cut` [e b] is that without each component."""
    others = [i for i in range(len(cut)) if i != top]
    kept = scaled(metric, one, writer, keeps(len(cut)))
    by_edit = {MODEL: metric(one, {}), "cut_top": cut[top], "cut_others": cut[others].mean(0)}
    by_edit["cut_random"] = along_random(metric, one, writer, 0.0, DRAWS, rng).mean(0)
    by_edit |= {"keep_top": kept[top], "keep_first": kept[0], "keep_others": kept[others].mean(0)}
    by_edit |= {f"path_{p}": without_path(metric, one, prompts, writer, reader, p) for p in ("q", "k", "v")}
    return by_edit | {"cut_writer": metric(one, ablation(one, [writer], "mean", prompts.tokens))}


def _component_rows(lost: Tensor, scores: Tensor, top: int) -> Iterator[Row]:
    """Component by component."""
    yield from rows("component", "edit_drop_by_component", estimate(lost.mT))
    yield from rows("component", "edit_composition_by_component", Estimate(scores, torch.zeros_like(scores)))
    drop = lost.mean(1)
    yield row(MODEL, "edit_correlation", None, correlation(scores, drop))
    yield row(MODEL, "edit_rank", None, 1 + int((drop > drop[top]).sum()))


def _several_rows(one: TokenTransformer, metric: Metric, writer: Head, scores: Tensor) -> Iterator[Row]:
    """Without several components at once, the numbers being eighths of all where there are so many."""
    e = len(scores)
    numbers = sorted({e * i // 8 for i in range(9)})
    place = torch.empty(e, dtype=torch.long).scatter(0, scores.argsort(descending=True), torch.arange(e))
    orders = {"strongest": place, "weakest": e - 1 - place}
    by_edit = {
        name: scaled(metric, one, writer, torch.stack([(order >= m).double() for m in numbers]))
        for name, order in orders.items()
    }
    for name, left in by_edit.items():
        for m, terms in zip(numbers, left, strict=True):
            yield from rows(name, "edit_cut_several", estimate(terms), m)
    half = numbers.index(e // 2)
    yield from rows(MODEL, "edit_several_lead", estimate(by_edit["weakest"][half] - by_edit["strongest"][half]))


def _scaled_rows(one: TokenTransformer, metric: Metric, writer: Head, top: int, rng: torch.Generator) -> Iterator[Row]:
    factors = torch.ones(len(FACTORS), size(one, writer), dtype=torch.float64)
    factors[:, top] = torch.tensor(FACTORS, dtype=torch.float64)
    for factor, terms in zip(FACTORS, scaled(metric, one, writer, factors), strict=True):
        drawn = along_random(metric, one, writer, factor, DRAWS, rng).mean(0)
        for name, each in {"top": terms, "random": drawn}.items():
            (made,) = rows(name, "edit_scaled", estimate(each))
            yield {**made, "position": factor}
