"""What a language model on this disk does with a list and with two names, and which heads do it (`iclab recall`).

Texts are this project's reconstructions (`iclab.tasks.text`). On shopping lists of several lengths:

accuracy                 how often the likeliest token of all is the missing item
accuracy_among_options   … of the listed items
accuracy_fall            accuracy on the shortest lists (of three or more) less that on the longest
last_excess              how often the last listed item is the likeliest of these, less 1/N

On texts with an indirect object, with errors over pairs of texts, and as many others on which heads are found:

above, logit_difference, probability
                         how often logit(indirect object) − logit(giver) is above 0, its mean, and that of p(indirect
                         object); "unrelated names" are three different ones in the same texts
inhibition               what the mover gives to the indirect object less what it gives to the giver
duplicate_attention      what the head that looks most at earlier equal tokens (among random ones) gives, from the
                         giver's second mention, to the first
drop                     the share of the inhibition that is lost when a component of a head that feeds the mover is
                         cut: of the "top component", which composes most with its queries, and of the "other
                         components", on average; over heads, and by head
correlation              of composition score and drop over the components of a head, mean over heads
agrees                   in how many of the heads the top component is the one with the largest drop
slope                    of the inhibition, by standard deviation of what the strongest feeding head writes along its
                         top component, where it writes that and nothing else at the end; position 0: the indirect
                         object was named first. The sign of a component is free: taken is that with which the slope at
                         0 is positive on the texts of finding

and on lists of five, written likewise,

ends, chosen             the share of points along it at which the mover looks most, on average, at the first or the
                         last slot, and at how many slots in all; of a "random direction" of the same head too

With rotary positions queries have no composition score, and what needs one is not measured. Bounds of claims are this
project's where the papers print none. Sources: Merullo et al. 2024, arXiv 2406.09519, Fig. 1, 2, 4, 5 and App. F; Wang
et al. 2022, arXiv 2211.00593, §2 and 3; both on GPT-2 small and texts of their own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from iclab.analysis.circuits import ov, qk
from iclab.analysis.composition import WAYS, component_scores, ways_of
from iclab.analysis.cuts import correlation
from iclab.analysis.folding import folded
from iclab.analysis.movers import Named, answered, cut, feeding, mover, named, pattern, steered
from iclab.analysis.patching import Head
from iclab.analysis.risk import Estimate, estimate, ratio
from iclab.analysis.roles import beyond, duplicate, roles
from iclab.analysis.steering import Direction, component, projections, random_direction
from iclab.commands.report import table
from iclab.errors import Refusal, refuse
from iclab.experiments.analysis import Row
from iclab.experiments.claims import TRAINED, Cell, Claim, Verdict, judge
from iclab.files import read_text, write_json
from iclab.measures.rows import MODEL, row, rows
from iclab.models import TokenTransformer
from iclab.models.pretrained import load_pretrained
from iclab.tasks.text import LEAST_NAMES, NAMES, OBJECTS, Encode, IndirectObjectText, LaundryText, single_tokens
from iclab.tasks.tokens import without_replacement

TOP, OTHERS = "top component", "other components"
FEW = 40  # texts on which components are cut: each cut is a run of the whole model
WIDEST = 4.0  # standard deviations of what is written by itself, to either side

THREE, TEN, SECOND = ("distribution", "3_items"), ("distribution", "10_items"), ("position", 1)

CLAIMS = (
    Claim("Lists of three are answered: more often than by a guess", "accuracy", MODEL, (THREE,), at_least=1 / 3),
    Claim("Accuracy falls with the length of the list, by 0.2 in all", "accuracy_fall", MODEL, at_least=0.2),
    Claim("Of ten items the last listed is preferred", "last_excess", MODEL, (TEN,), at_least=0.0),
    Claim("The indirect object is above the giver, nine times in ten", "above", MODEL, at_least=0.9),
    Claim("The indirect object is above the giver by a logit", "logit_difference", MODEL, at_least=1.0),
    Claim("Control: among unrelated names half of the time", "above", "unrelated names", within=(0.5, 0.3)),
    Claim("A mover looks at the indirect object and not at the giver", "inhibition", MODEL, at_least=0.4),
    Claim("A head of equal tokens looks from giver to giver", "duplicate_attention", MODEL, at_least=0.3),
    Claim("Without the top component of a feeding head the mover loses 5 %", "drop", TOP, at_least=0.05),
    Claim("Without another component it loses 2 % at most", "drop", OTHERS, at_most=0.02),
    Claim("Components that compose more are missed more", "correlation", MODEL, at_least=0.0),
    Claim("In half of the feeding heads the top component is missed most", "agrees", MODEL, at_least=0.5),
    Claim("One component says which place, not which name: opposite slopes", "slope", MODEL, (SECOND,), at_most=0.0),
    Claim("One component lets the mover choose between two slots of five", "chosen", MODEL, at_least=2.0),
    Claim("and no others than the first and the last", "ends", MODEL, at_least=1.0),
)


@dataclass(frozen=True)
class Plan:
    """How much is measured: texts of each kind, lengths of lists, feeding heads, points along a component."""

    prompts: int = 100
    lengths: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20)
    slots: int = 5
    heads: int = 4
    points: int = 9
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"prompts": 8, "slots": 3, "heads": 1, "points": 2}
        given = {name: getattr(self, name) for name in least}
        found = [f"{k} must be at least {least[k]}, given {v}" for k, v in given.items() if v < least[k]]
        refuse("recall", found + ([] if self.lengths and min(self.lengths) >= 2 else ["lists have two items or more"]))


@dataclass(frozen=True)
class Recalled:
    """What was measured: rows of the results table, and the heads that were found, by what they do."""

    rows: list[Row]
    heads: dict[str, Any]

    def judged(self, name: str) -> list[Verdict]:
        """Returns the verdicts on all claims."""
        return judge(CLAIMS, [Cell(name, {}, "done", self.rows)])


@torch.no_grad()
def recall(model: TokenTransformer, encode: Encode, plan: Plan, say: Callable[[str], None]) -> Recalled:
    """Measures a model that reads what `encode` makes of text."""
    model, rng = folded(model), torch.Generator().manual_seed(plan.seed)
    say("lists")
    found = list(_lists(model, encode, plan, rng))
    say("indirect objects")
    task = IndirectObjectText(encode, model.vocab, single_tokens(encode, NAMES))
    half = task.balanced_batch(plan.prompts)
    drawn = task.sample(2 * half, rng)
    finding, prompts, few = (named(drawn[part]) for part in (slice(half), slice(half, None), slice(half, half + FEW)))
    found += _answers(model, prompts, task.unrelated(drawn[half:], rng))
    of, twice = mover(model, finding), duplicate_head(model, rng)
    heads: dict[str, Any] = {"mover": of, "duplicate": twice}
    found += rows(MODEL, "inhibition", estimate(_paired(prompts.score(pattern(model, prompts, of)))))
    found += rows(MODEL, "duplicate_attention", estimate(_paired(_from_second_to_first(model, prompts, twice))))
    if ways_of(model) == WAYS:
        say("components")
        feeders = _feeders(model, finding, of, plan.heads)
        tops = [int(composed(model, head, of).argmax()) for head in feeders]
        heads |= {"feeding": feeders, "top components": tops}
        found += _cuts(model, few, of, feeders)
        say("points along a component")
        along = component(model, feeders[0], tops[0])
        found += _slopes(model, finding, prompts, of, along, plan)
        found += _ends(model, encode, finding, of, along, plan, rng)
    return Recalled([{"distribution": TRAINED, **one} for one in found], heads)


def _too_few(encode: Encode, plan: Plan) -> list[str]:
    """What stands against texts of the words that are one token each."""
    kinds = {"objects": (OBJECTS, plan.slots, "lists"), "names": (NAMES, LEAST_NAMES, "texts with an indirect object")}
    single = {kind: len(single_tokens(encode, words)) for kind, (words, *_) in kinds.items()}
    return [
        f"{single[kind]} of the {len(words)} {kind} are a token of their own with the space before them, and {what} "
        f"need {least} (a tokenizer of few words splits all others, or takes them for the same)"
        for kind, (words, least, what) in kinds.items()
        if single[kind] < least
    ]


# ---- what is answered ----------------------------------------------------------------------------------------------


def _lists(model: TokenTransformer, encode: Encode, plan: Plan, rng: torch.Generator) -> Iterator[Row]:
    words = single_tokens(encode, OBJECTS)
    told = {}
    for length in (length for length in plan.lengths if length <= len(words)):
        task = LaundryText(encode, model.vocab, length, words)
        prompts = named(task.sample(task.balanced_batch(plan.prompts), rng))
        logits, options = answered(model, prompts), prompts.options
        right = estimate((logits.argmax(-1) == options[:, 0]).double())
        best = options.gather(1, logits.gather(1, options).argmax(1, keepdim=True))
        last = (best == prompts.tokens.gather(1, prompts.slots[:, -1:])).double().squeeze(1)
        quantities = {
            "accuracy": right,
            "accuracy_among_options": estimate((best[:, 0] == options[:, 0]).double()),
            "last_excess": estimate(last - 1 / length),
        }
        told |= {length: right} if length >= 3 else {}
        for name, value in quantities.items():
            yield from ({"distribution": f"{length}_items", **one} for one in rows(MODEL, name, value))
    if len(told) > 1:
        short, long = told[min(told)], told[max(told)]
        error = (short.stderr.square() + long.stderr.square()).sqrt()
        yield from rows(MODEL, "accuracy_fall", Estimate(short.value - long.value, error))


def _answers(model: TokenTransformer, prompts: Named, unrelated: Int[Tensor, "b t"]) -> Iterator[Row]:
    other = Named(unrelated, prompts.end, prompts.slots, prompts.index)
    for name, texts in ((MODEL, prompts), ("unrelated names", other)):
        logits = answered(model, texts).double()
        said = logits.gather(1, prompts.options)
        difference = said[:, 0] - said[:, 1]
        terms = {"logit_difference": difference, "above": (difference > 0).double()}
        terms |= {"probability": (said[:, 0] - logits.logsumexp(-1)).exp()} if name == MODEL else {}
        for quantity, each in terms.items():
            yield from rows(name, quantity, estimate(_paired(each)))


def _paired(terms: Float[Tensor, " b"]) -> Float[Tensor, " pairs"]:
    """The means over two prompts in a row, which tell of the same names: what is independent are pairs."""
    return terms.double().unflatten(0, (-1, 2)).mean(1)


# ---- which heads ---------------------------------------------------------------------------------------------------


def duplicate_head(model: TokenTransformer, rng: torch.Generator, size: int = 10, batch: int = 16) -> Head:
    """Returns the head that looks most at an earlier token of the same kind, in random tokens that come twice, the
    second time in another order, so that looking back by a fixed distance or at what followed is of no use."""
    size = min(size, model.vocab, model.n // 2)
    block = without_replacement(batch, model.vocab, rng)[:, :size]
    again = block.gather(1, without_replacement(batch, size, rng))
    score = roles(model, torch.cat([block, again], 1))["duplicate"]
    return divmod(int(score.argmax()), model.config.n_head)


def _feeders(model: TokenTransformer, prompts: Named, of: Head, count: int) -> list[Head]:
    """The heads that give a mover most of its inhibition, by its queries."""
    fed = feeding(model, prompts, of).mean(-1)
    places = fed.flatten().topk(min(count, fed.numel())).indices
    return [divmod(int(place), model.config.n_head) for place in places]


def _from_second_to_first(model: TokenTransformer, prompts: Named, head: Head) -> Float[Tensor, " b"]:
    """What a head gives from the second mention of an option to the first."""
    option = (prompts.tokens.unsqueeze(2) == prompts.options.unsqueeze(1)).any(-1, keepdim=True)
    return (pattern(model, prompts, head) * (duplicate(prompts.tokens) & option)).sum((-2, -1))


# ---- components ----------------------------------------------------------------------------------------------------


def composed(model: TokenTransformer, head: Head, of: Head) -> Float[Tensor, " e"]:
    """Returns the composition score of every component of a head with the queries of a later one."""
    return component_scores(ov(model)[head].svd().directions(), qk(model)[of].svd())


def _cuts(model: TokenTransformer, prompts: Named, of: Head, feeders: list[Head]) -> Iterator[Row]:
    whole = _paired(prompts.score(pattern(model, prompts, of)))
    tops, others, alike, agree = [], [], [], []
    for head in feeders:
        lost = cut(model, prompts, of, head).double()
        scores = composed(model, head, of)[: len(lost)]
        top = int(scores.argmax())
        tops.append(lost[top])
        others.append((lost.sum(0) - lost[top]) / max(1, len(lost) - 1))
        alike.append(correlation(scores, lost.mean(1)))
        agree.append(float(lost.mean(1).argmax() == top))
        for name, value in ((TOP, tops[-1]), (OTHERS, others[-1])):
            told = rows(name, "drop", ratio(_paired(value), whole))
            yield from ({"distribution": f"head {head[0]}.{head[1]}", **one} for one in told)
    for name, values in ((TOP, tops), (OTHERS, others)):
        yield from rows(name, "drop", ratio(_paired(torch.stack(values).mean(0)), whole))
    chance = (len(feeders) * max(1, model.config.head_width - 1)) ** -0.5  # of a mean of correlations of e components
    yield row(MODEL, "correlation", None, sum(alike) / len(alike), chance)
    yield row(MODEL, "agrees", None, sum(agree) / len(agree))


def _along(model: TokenTransformer, prompts: Named, direction: Direction, plan: Plan) -> Float[Tensor, " p"]:
    """Evenly spaced points, in the units of the stream, by what is written along a direction at the end."""
    written = prompts.at_end(projections(model, prompts.tokens, direction))
    return torch.linspace(-WIDEST, WIDEST, plan.points).to(written) * written.std()


def _slopes(
    model: TokenTransformer, finding: Named, prompts: Named, of: Head, along: Direction, plan: Plan
) -> Iterator[Row]:
    points = _along(model, finding, along, plan)
    before, after = (_slope(steered(model, each, of, along, points), each) for each in (finding, prompts))
    sign = 1.0 if before[finding.index == 0].mean() >= 0 else -1.0
    for place in (0, 1):
        yield from rows(MODEL, "slope", estimate(sign * after[prompts.index == place]), place)


def _slope(seen: Float[Tensor, "p b k"], prompts: Named) -> Float[Tensor, " b"]:
    """The slope of the inhibition of each prompt by standard deviation, least squares over the points."""
    score = beyond(seen, prompts.index)
    x = torch.linspace(-WIDEST, WIDEST, len(seen)).to(score)
    return x @ score / x.square().sum()


def _ends(
    model: TokenTransformer,
    encode: Encode,
    finding: Named,
    of: Head,
    along: Direction,
    plan: Plan,
    rng: torch.Generator,
) -> Iterator[Row]:
    task = LaundryText(encode, model.vocab, plan.slots, single_tokens(encode, OBJECTS))
    prompts = named(task.sample(task.balanced_batch(min(plan.prompts, FEW)), rng))
    chance = random_direction(model, along.head, rng)
    for name, direction in ((MODEL, along), ("random direction", chance)):
        seen = steered(model, prompts, of, direction, _along(model, finding, direction, plan))
        chosen = seen.mean(1).argmax(1)
        ends = (chosen == 0) | (chosen == plan.slots - 1)
        yield row(name, "ends", None, ends.double().mean().item())
        yield row(name, "chosen", None, float(len(chosen.unique())))


# ---- a folder ------------------------------------------------------------------------------------------------------


def tokenizer(folder: Path, vocab: int) -> Encode:
    """Returns how the model in a folder splits text. Raises ``ValueError`` where this cannot be read or does not
    fit."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise Refusal("text needs the package tokenizers: pip install 'iclab[text]'") from None
    file = folder / "tokenizer.json"
    text = read_text(file)
    try:
        read = Tokenizer.from_str(text)
        read.encode(" ".join((*OBJECTS, *NAMES)), add_special_tokens=False)  # words that it does not know may be errors
    except Exception as error:  # the library has no kind of its own
        raise Refusal(f"{file}: no tokenizer: {error}") from None
    size = read.get_vocab_size()
    refuse(f"{folder}", [f"the tokenizer has {size} tokens, the model {vocab}"] if size > vocab else [])
    return lambda text: read.encode(text, add_special_tokens=False).ids


def report(folder: Path, plan: Plan, to: Console, file: Path | None = None) -> None:
    """Prints what is measured and the verdicts, and writes both to a file where one is named."""
    refuse(f"{folder}", [] if folder.is_dir() else ["no such folder"])
    model = load_pretrained(folder)
    encode = tokenizer(folder, model.vocab)
    refuse(f"{folder}", _too_few(encode, plan))
    for words in (OBJECTS, NAMES):
        left_out = sorted({*words} - {*single_tokens(encode, words)})
        if left_out:
            to.print(f"Left out, as they are no token of their own: {', '.join(left_out)}")
    found = recall(model, encode, plan, lambda line: to.print(f"… {line}"))
    verdicts = found.judged(folder.name)
    body = [[one[key] for key in ROWS] for one in found.rows]
    to.print(table(f"{folder}: on this project's reconstruction of the texts", ROWS, body, to))
    to.print("; ".join(f"{name}: {_heads(value)}" for name, value in found.heads.items()))
    told = [[v.claim.name, v.claim.expected, v.measured, v.outcome] for v in verdicts]
    to.print(table("claims", ["claim", "expected", "measured", "verdict"], told, to))
    if ways_of(model) != WAYS:
        to.print("With rotary positions queries read by distance: what needs their composition is not measured.")
    if file is not None:
        kept = {"rows": found.rows, "heads": found.heads, "verdicts": [verdict.record() for verdict in verdicts]}
        write_json(file, kept)


ROWS = ["distribution", "predictor", "quantity", "position", "value", "stderr"]


def _heads(value: Any) -> str:
    """Heads as layer.number."""
    if isinstance(value, tuple):
        return ".".join(map(str, value))
    return ", ".join(map(_heads, value)) if isinstance(value, list) else str(value)
