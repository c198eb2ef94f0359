"""Rows of what the heads of a trained model over tokens do. `predictor` is a head ("head_1.3": layer, number; `layer`
too), a pair of heads ("0.2-1.0": who writes, who reads), a part of the model, or "transformer" for all of it.

"mechanism", of lists of one length N (`iclab.analysis.list_recall`), each head at the end of the prompt:

    mechanism_first, _second, _hit   its weight on the list, on what is named again, how often it is largest on the
                                     missing item; mechanism_inhibition: of this beyond the other slots
    mechanism_copies_first, _second  what it adds to an item's own logit where it looks at it, by list
    mechanism_written                of each part: what it adds to the missing item beyond the other listed ones
    mechanism_zero, _mean, _resample the accuracy that is lost without the head
    mechanism_route                  … if the end, or the second list, looks at the first or the second list in no head
                                     ("end_to_first", …)
    mechanism_mover                  by how much the best hit exceeds 1/N (chosen on half of the prompts)
    mechanism_fit, _fit_apart        R² of logits by counts, of the model of that name, on lists as they are, and where
                                     the counts of an item in the two lists are apart
    …_lead, …_taken                  of "subtraction": by how much its R² exceeds that of "set_difference"; b/a, what
                                     being named once more takes for each that being listed once more adds
    …_logit                          of "listed_i_named_j": the logit of an item that occurs i and j times in the two
                                     lists, above that of one that occurs in neither
    last_item_bias                   the share of answers that name the last slot, beyond 1/N

"channels", of weights after folding (`iclab.analysis.composition`), for each way W of Q, K, V:

    composition_W, _z_W              of a pair: the score of the heads, and how far it is above chance
    component_top_W, _z_W            the number of the writer's component with the largest z, and that z
    largest_z_W, outliers_W          the largest z of a pair; the share of components with z above 4. "transformer" are
                                     pairs of which the reader comes later, "unreachable" all others, and "untrained"
                                     the former before training
    composition_W of "chance"        1/√D
    circuit_rank_W, circuit_z_W      of repeated sequences: the rank (1: first) and z of the pair that the edits are of

"edits", of repeated sequences (`iclab.analysis.cuts`), in heads found on half of the prompts and on the other half: the
reader is the head that matches prefixes best, the writer the earlier head that most looks at the token before, and the
component the one with the largest composition into the reader's keys:

    edit_score, edit_accuracy        prefix matching of the reader, accuracy: as they are ("transformer"), "cut_top",
                                     "cut_others" (their mean), "cut_random" (a direction of the writer), "keep_top",
                                     "keep_first", "keep_others", "path_q", "path_k", "path_v", "cut_writer"
    edit_drop                        what edit_score loses by these
    edit_drop_by_component, edit_composition_by_component     at each component as position
    edit_correlation                 of these two, over components; edit_rank: of the component, by what its cut costs
    edit_scaled                      edit_score with the component ("top") or a random direction times `position`
    edit_cut_several                 edit_score without so many components (`position`): the "strongest" by composition,
                                     or the "weakest"; edit_several_lead: of half of them, by how much less is left
                                     without the strongest
"""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from iclab.analysis import list_recall
from iclab.analysis.composition import Compositions, Way, compositions, earlier
from iclab.analysis.cuts import (
    Watch,
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
from iclab.analysis.folding import folded
from iclab.analysis.next_token import head_scores
from iclab.analysis.patching import Head, ablation
from iclab.analysis.risk import Estimate, estimate
from iclab.analysis.roles import induction
from iclab.experiments.claims import TRAINED
from iclab.experiments.rows import MODEL, Row, finite, row, rows
from iclab.experiments.streams import stream
from iclab.experiments.token_experiment import TokenExperiment
from iclab.models import TokenTransformer
from iclab.tasks import LaundryList, RepeatedSequence, TokenPrompts, TokenTask

OUTLIER = 4.0  # standard deviations of chance
FEW = 512  # prompts of a mechanism: each head is silenced on them three times
KNOWN = 3  # counts 0, 1, 2 are told one by one
DRAWS = 16  # random directions
FACTORS = (0.0, 0.5, 1.0, 2.0, 4.0)


def _name(layer: int, head: int) -> str:
    return f"head_{layer}.{head}"


# ---- lists ---------------------------------------------------------------------------------------------------------


def mechanism_rows(
    model: TokenTransformer, task: LaundryList, prompts: TokenPrompts, rng: torch.Generator
) -> Iterator[Row]:
    """All of one length."""
    N = list_recall.length(prompts)
    few = prompts[: max(N, FEW // N * N)]  # each slot as often
    found = list_recall.looks(model, few)
    yield from rows(MODEL, "mechanism_mover", list_recall.mover(found, few)[1])
    for name, terms in list_recall.written(model, few).items():
        yield from rows(name.replace("blocks.", "").replace(".head.", "."), "mechanism_written", estimate(terms))
    before = list_recall.right(model, few, {})
    for name, route in list_recall.routes(few).items():
        yield from rows(name, "mechanism_route", estimate(before - list_recall.right_but_for(model, few, route)))
    yield from _head_rows(model, task, few, found, before, rng)
    yield from _fit_rows(model, task, prompts, rng)
    last = model(few.tokens, 1)[:, 0].masked_fill(~few.options, -torch.inf).argmax(1) == few.tokens[:, N]
    yield from rows(MODEL, "last_item_bias", estimate(last.double() - 1 / N))


def _head_rows(
    model: TokenTransformer,
    task: LaundryList,
    few: TokenPrompts,
    found: list_recall.Looks,
    before: Tensor,
    rng: torch.Generator,
) -> Iterator[Row]:
    """Head by head; `before` is whether each prompt was answered rightly by all of them."""
    copied = list_recall.copied(model, few, task.items)
    parts = {"first": list_recall.first(few), "second": list_recall.second(few)}
    told = {k: getattr(found, k) for k in ("first", "second", "hit", "inhibition")}
    told |= {f"copies_{k}": copied[..., part].mean(-1) for k, part in parts.items()}
    for layer, head in _heads(model):
        each = {k: terms[layer, head] for k, terms in told.items()}
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


# ---- channels ------------------------------------------------------------------------------------------------------


def channel_rows(
    model: TokenTransformer, untrained: TokenTransformer, circuit: tuple[Head, Head] | None
) -> Iterator[Row]:
    """Of a model's weights; `circuit` is a pair whose place among all is told."""
    found, before = weights_of(model), weights_of(untrained)
    ahead = earlier(model.config.n_layer)[:, None, :, None].expand_as(next(iter(found.scores.values()))[:, :, 0])
    for way in found.scores:
        yield from _pair_rows(found, way, ahead)
        groups = {MODEL: (found, ahead), "unreachable": (found, ~ahead), "untrained": (before, ahead)}
        for name, (each, which) in groups.items():
            z, parts = each.heads_z(way)[which], _component_z(each, way)[which]
            yield row(name, f"largest_z_{way}", None, z.max().item())
            yield row(name, f"composition_{way}", None, each.heads(way)[which].mean().item())
            yield row(name, f"outliers_{way}", None, (parts > OUTLIER).double().mean().item())
        yield row("chance", f"composition_{way}", None, found.D**-0.5)
        if circuit is not None:
            z = found.heads_z(way)
            own = z[circuit[0]][circuit[1]]
            yield row(MODEL, f"circuit_z_{way}", None, own.item())
            yield row(MODEL, f"circuit_rank_{way}", None, 1 + int((z[ahead] > own).sum()))


def weights_of(model: TokenTransformer) -> Compositions:
    """The compositions after folding, in float64; the model stays as it is."""
    centred = model.config.norm and model.config.norm_attention
    return compositions(folded(deepcopy(model).double()), centred=centred)


def _component_z(found: Compositions, way: Way) -> Tensor:
    """Of every pair [l a m h e]."""
    return found.chance(way).z(found.scores[way]).movedim(2, -1)


def _pair_rows(found: Compositions, way: Way, ahead: Tensor) -> Iterator[Row]:
    scores, z, parts = found.heads(way), found.heads_z(way), _component_z(found, way)
    for at in ahead.nonzero().tolist():
        name, place = "{}.{}-{}.{}".format(*at), tuple(at)
        yield row(name, f"composition_{way}", None, scores[place].item())
        yield row(name, f"composition_z_{way}", None, z[place].item())
        yield row(name, f"component_top_{way}", None, int(parts[place].argmax()))
        yield row(name, f"component_z_{way}", None, parts[place].max().item())


# ---- edits ---------------------------------------------------------------------------------------------------------


def circuit_of(model: TokenTransformer, prompts: TokenPrompts) -> tuple[Head, Head]:
    """The head of a second or later layer that matches prefixes best, behind the earlier one that most looks at the
    token before."""
    scores = head_scores(model, prompts)
    width = model.config.n_head
    layer, head = divmod(int(scores.prefix_matching[1:].argmax()), width)
    writer = divmod(int(scores.previous_token[: layer + 1].argmax()), width)
    return writer, (layer + 1, head)


def edit_rows(model: TokenTransformer, prompts: TokenPrompts, rng: torch.Generator) -> Iterator[Row]:
    """Of the circuit of a repeated sequence."""
    half = len(prompts.tokens) // 2
    writer, reader = circuit_of(model, prompts[:half])
    one, others = folded(deepcopy(model)), prompts[half:]
    scores = weights_of(model).scores["K"][writer][:, reader[0], reader[1]]
    top = int(scores.argmax())
    watches = {"score": attention_of(reader, others, induction(others.tokens)), "accuracy": accuracy_of(others)}
    cut = {k: scaled(watch, one, writer, cuts(len(scores))) for k, watch in watches.items()}
    told = {k: _edits(one, watch, cut[k], others, writer, reader, top, rng) for k, watch in watches.items()}
    for quantity, found in told.items():
        for name, terms in found.items():
            yield from rows(name, f"edit_{quantity}", estimate(terms))
    for name, terms in told["score"].items():
        yield from rows(name, "edit_drop", estimate(told["score"][MODEL] - terms))
    yield from _component_rows(told["score"][MODEL] - cut["score"], scores, top)
    yield from _several_rows(one, watches["score"], writer, scores)
    yield from _scaled_rows(one, watches["score"], writer, top, rng)


def _edits(
    one: TokenTransformer,
    watch: Watch,
    cut: Tensor,
    prompts: TokenPrompts,
    writer: Head,
    reader: Head,
    top: int,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """What is seen after each edit [b]; `cut` [e b] is that without each component."""
    others = [i for i in range(len(cut)) if i != top]
    kept = scaled(watch, one, writer, keeps(len(cut)))
    found = {MODEL: watch(one, {}), "cut_top": cut[top], "cut_others": cut[others].mean(0)}
    found["cut_random"] = along_random(watch, one, writer, 0.0, DRAWS, rng).mean(0)
    found |= {"keep_top": kept[top], "keep_first": kept[0], "keep_others": kept[others].mean(0)}
    found |= {f"path_{p}": without_path(watch, one, prompts, writer, reader, p) for p in ("q", "k", "v")}
    return found | {"cut_writer": watch(one, ablation(one, [writer], "mean", prompts.tokens))}


def _component_rows(lost: Tensor, scores: Tensor, top: int) -> Iterator[Row]:
    """Component by component."""
    yield from rows("component", "edit_drop_by_component", estimate(lost.mT))
    yield from rows("component", "edit_composition_by_component", Estimate(scores, torch.zeros_like(scores)))
    drop = lost.mean(1)
    yield row(MODEL, "edit_correlation", None, correlation(scores, drop))
    yield row(MODEL, "edit_rank", None, 1 + int((drop > drop[top]).sum()))


def _several_rows(one: TokenTransformer, watch: Watch, writer: Head, scores: Tensor) -> Iterator[Row]:
    """Without several components at once, the numbers being eighths of all where there are so many."""
    e = len(scores)
    numbers = sorted({e * i // 8 for i in range(9)})
    place = torch.empty(e, dtype=torch.long).scatter(0, scores.argsort(descending=True), torch.arange(e))
    orders = {"strongest": place, "weakest": e - 1 - place}
    found = {
        name: scaled(watch, one, writer, torch.stack([(order >= m).double() for m in numbers]))
        for name, order in orders.items()
    }
    for name, left in found.items():
        for m, terms in zip(numbers, left, strict=True):
            yield from rows(name, "edit_cut_several", estimate(terms), m)
    half = numbers.index(e // 2)
    yield from rows(MODEL, "edit_several_lead", estimate(found["weakest"][half] - found["strongest"][half]))


def _scaled_rows(one: TokenTransformer, watch: Watch, writer: Head, top: int, rng: torch.Generator) -> Iterator[Row]:
    factors = torch.ones(len(FACTORS), size(one, writer), dtype=torch.float64)
    factors[:, top] = torch.tensor(FACTORS, dtype=torch.float64)
    for factor, terms in zip(FACTORS, scaled(watch, one, writer, factors), strict=True):
        drawn = along_random(watch, one, writer, factor, DRAWS, rng).mean(0)
        for name, each in {"top": terms, "random": drawn}.items():
            (made,) = rows(name, "edit_scaled", estimate(each))
            yield {**made, "position": factor}


# ---- what is asked for ---------------------------------------------------------------------------------------------


def mechanisms(experiment: TokenExperiment, model: nn.Module) -> Iterator[Row]:
    """All rows of the analyses that an experiment asks for, with their distribution, on prompts of their own."""
    asked = experiment.eval.analyses
    if not asked:
        return
    assert isinstance(model, TokenTransformer)
    one = deepcopy(model).cpu().eval()
    for name, task in experiment.distributions.items():
        rng = stream(experiment, "fit", "cpu", name)
        prompts = task.sample(task.evenly(experiment.eval.prompts), rng)
        found = _on(experiment, one, task, prompts, name == TRAINED, rng)
        yield from ({"distribution": name, **each} for each in finite(found))


def _on(
    experiment: TokenExperiment,
    model: TokenTransformer,
    task: TokenTask,
    prompts: TokenPrompts,
    own: bool,
    rng: torch.Generator,
) -> Iterator[Row]:
    """The rows of one distribution; what is about weights or a circuit is told once."""
    asked = experiment.eval.analyses
    if "mechanism" in asked and isinstance(task, LaundryList) and task.balanced:
        yield from mechanism_rows(model, task, prompts, rng)
    if "channels" in asked and own:
        untrained = experiment.build(stream(experiment, "init"))
        assert isinstance(untrained, TokenTransformer)
        circuit = circuit_of(model, prompts) if isinstance(task, RepeatedSequence) else None
        yield from channel_rows(model, untrained, circuit)
    if "edits" in asked and own:
        yield from edit_rows(model, prompts, rng)
