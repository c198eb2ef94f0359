"""Mechanisms of list recall: a name-mover head that attends to the missing item, or the difference of two bags of
items.

Prompts are `opener i_1 … i_N separator j_1 … j_{N−1} end`, all of one length; items are tokens 0 .. items − 1. With
c₁(v) and c₂(v) how often item v stands in the first list and in the second, three models of the logits at the end are

    subtraction      a c₁(v) − b c₂(v)
    set difference   p [c₁(v) > 0 and c₂(v) = 0]
    any of counts    f(c₁(v), c₂(v))                                  each up to a constant of the prompt

On lists as they are all three are the same but for items that are in neither, since c₁ ≤ 1 and c₂ ≤ c₁: whatever is
right is well described by each of them. They come apart where items are listed twice, or named without being listed
(`apart`): subtraction then gives less to an item that was only named than to one that never occurred, and more to one
that was listed twice and named once; the set difference makes no such distinction.

A mover, at the end, gives the largest of its weights on the first list to the missing item, more often than 1/N, and
writes for it. Without one, heads spread over a list and add up what they find.

Source: the question is that of Merullo et al. 2024 (arXiv 2406.09519, §5: GPT-2 has a mover head that inhibition heads
steer away from repeated items). The two alternatives and the prompts that distinguish them are this project's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from iclab.analysis.heads.patching import Head, ablation
from iclab.analysis.heads.roles import attribution, beyond, inhibition, last_norm, patterns
from iclab.analysis.risk import Estimate, estimate, ratio_terms
from iclab.errors import refuse
from iclab.models import TokenTransformer
from iclab.models.activations import Replacement
from iclab.predictors import TokenPredictor
from iclab.renamed import old_names
from iclab.tasks import TokenPrompts

Lists = TokenPrompts
How = Literal["zero", "mean", "resample"]
HOWS: tuple[How, ...] = ("zero", "mean", "resample")


def length(prompts: Lists) -> int:
    """Returns N, where all lists have one length. Raises ``ValueError`` where they do not."""
    whole = prompts.answer_mask[:, -1].all() and prompts.answer_mask.sum() == len(prompts.tokens)
    refuse(
        "list_recall", [] if whole else ["lists must be of one length, so that the target of all is at the last token"]
    )
    return (prompts.tokens.shape[1] - 2) // 2


def first(prompts: Lists) -> slice:
    """Returns the mask of the first list [batch n]."""
    return slice(1, length(prompts) + 1)


def second(prompts: Lists) -> slice:
    """Returns the mask of the second list [batch n], in which items are repeated."""
    return slice(length(prompts) + 2, 2 * length(prompts) + 1)


def missing_slot(prompts: Lists) -> Int[Tensor, " b"]:
    """Returns the slot whose item is not named again, from 0."""
    return prompts.case_ids[:, -1]


# ---- where heads look at the end -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionFromEnd:
    """Of each head at the end of each prompt: the weight on either list, whether the largest on the first one is on the
    missing item, and the weight of this beyond the mean of the other slots."""

    first: Float[Tensor, "l a b"]
    second: Float[Tensor, "l a b"]
    hit: Float[Tensor, "l a b"]
    inhibition: Float[Tensor, "l a b"]


def attention_from_end(model: TokenTransformer, prompts: Lists) -> AttentionFromEnd:
    """Returns the looks of all heads."""
    seen, k = patterns(model, prompts.tokens).double(), missing_slot(prompts)
    row, N = seen[..., -1, :], length(prompts)
    slots = torch.arange(1, N, device=k.device)
    others = 1 + (slots - 1) + (slots - 1 >= k.unsqueeze(1)).long()  # all slots of the list but the missing one
    last = torch.full_like(k, seen.shape[-1] - 1)
    return AttentionFromEnd(
        row[..., first(prompts)].sum(-1),
        row[..., second(prompts)].sum(-1),
        (row[..., first(prompts)].argmax(-1) == k).double(),
        inhibition(seen, last, 1 + k, others),
    )


def mover_head(looks: AttentionFromEnd, prompts: Lists) -> tuple[Head, Estimate]:
    """Returns the head that hits the missing item most often on the first half of prompts, whatever it writes, and how
    much more often than 1/N it does on the other half."""
    half = len(prompts.tokens) // 2
    layer, head = divmod(int(looks.hit[..., :half].mean(-1).argmax()), looks.hit.shape[1])
    return (layer, head), estimate(looks.hit[layer, head, half:] - 1 / length(prompts))


# ---- what heads write ----------------------------------------------------------------------------------------------


@torch.no_grad()
def written(model: TokenTransformer, prompts: Lists) -> dict[str, Float[Tensor, " b"]]:
    """Returns what each part adds to the logit of the missing item beyond the mean of the other listed ones."""
    listed = prompts.tokens[:, first(prompts)]
    parts = attribution(model, prompts.tokens, m=1)
    each = {name: part[:, 0].gather(1, listed).double() for name, part in parts.items()}
    return {name: beyond(logits, missing_slot(prompts)) for name, logits in each.items()}


@torch.no_grad()
def copied(model: TokenTransformer, prompts: Lists, items: int) -> Float[Tensor, "l a b t"]:
    """Returns what a head adds to the logit of the item at t, beyond the mean of all items, for each unit of weight
    that the end gives to t: positive where it copies, negative where it speaks against."""
    names = [f"blocks.{i}.attn.v" for i in range(model.config.n_layer)]
    read = model.read(prompts.tokens, [*names, f"blocks.{model.config.n_layer - 1}.resid_post"])
    divide, _ = last_norm(model.norm, read[f"blocks.{model.config.n_layer - 1}.resid_post"][:, -1:])
    W_U = model.read_out.weight[:items] - model.read_out.weight[:items].mean(0)
    own = F.embedding(prompts.tokens.clamp(max=items - 1), W_U)
    values = torch.stack([read[name] for name in names])
    wrote = einsum(values, model.W_O, "l b a t c, l a c d -> l a b t d")
    return (divide(wrote) * own).sum(-1).double()


# ---- what heads are worth ------------------------------------------------------------------------------------------


@torch.no_grad()
def right(model: TokenTransformer, prompts: Lists, edits: dict[str, Replacement]) -> Float[Tensor, " b"]:
    """Returns whether the likeliest token is the missing item."""
    predictions = model.replaced(prompts.tokens, edits)[:, -1].argmax(-1)
    return (predictions == prompts.targets[:, -1]).double()


def right_without(
    model: TokenTransformer, prompts: Lists, head: Head, how: How, rng: torch.Generator
) -> Float[Tensor, " b"]:
    """Returns the same with a head ablated, in one of the ways of `iclab.analysis.heads.patching.ablation` on the
    prompts themselves."""
    return right(model, prompts, ablation(model, [head], how, prompts.tokens, rng))


def routes(prompts: Lists) -> dict[str, tuple[slice, slice]]:
    """Returns the attention routes: from the end or the second list, to either list."""
    N, last = length(prompts), slice(-1, None)
    lists = {"first": first(prompts), "second": second(prompts)}
    ends = {f"end_to_{name}": (last, part) for name, part in lists.items()}
    within = {f"second_to_{name}": (lists["second"], part) for name, part in lists.items()}
    return ends | (within if N > 2 else {"second_to_first": within["second_to_first"]})


def blocked(who: slice, whom: slice) -> Callable[[Tensor], Tensor]:
    """Returns what edits weights of attention so that some tokens look at some others, but for themselves, not at all,
    and at the rest so much more."""

    def edited(pattern: Float[Tensor, "b a t s"]) -> Float[Tensor, "b a t s"]:
        spare = pattern.shape[-1] - pattern.shape[-2]  # a null slot comes first
        route = torch.zeros_like(pattern[0, 0], dtype=torch.bool)
        route[who, whom.start + spare : whom.stop + spare] = True
        left = pattern.masked_fill(route & ~route.new_ones(route.shape).tril(spare).triu(spare), 0.0)
        return left / left.sum(-1, keepdim=True)

    return edited


def right_but_for(model: TokenTransformer, prompts: Lists, route: tuple[slice, slice]) -> Float[Tensor, " b"]:
    """Returns the same with a route blocked in every head."""
    return right(model, prompts, {f"blocks.{i}.attn.pattern": blocked(*route) for i in range(model.config.n_layer)})


# ---- subtraction or set difference ---------------------------------------------------------------------------------


def counts(tokens: Int[Tensor, "b n"], items: int) -> Float[Tensor, "b items"]:
    """Returns how often each item occurs; other tokens are not counted."""
    return F.one_hot(tokens, int(max(tokens.max() + 1, items)))[..., :items].sum(1).double()


def apart(prompts: Lists, items: int, rng: torch.Generator) -> Lists:
    """Returns the prompts with other lists in them: the first of items that may occur twice, the second of items of the
    first or, every other time, of any. There is no right answer."""
    tokens, shape = prompts.tokens.clone(), prompts.tokens.shape
    any_item = torch.randint(items, shape, generator=rng, device=tokens.device)
    tokens[:, first(prompts)] = any_item[:, first(prompts)]
    slots = torch.randint(1, length(prompts) + 1, shape, generator=rng, device=tokens.device)
    listed = torch.rand(shape, generator=rng, device=tokens.device) < 0.5
    again = torch.where(listed, tokens.gather(1, slots), any_item)
    tokens[:, second(prompts)] = again[:, second(prompts)]
    return replace(prompts, tokens=tokens)


MOST = 3


def subtraction(c1: Float[Tensor, "b v"], c2: Float[Tensor, "b v"]) -> Float[Tensor, "b v k"]:
    """Returns what logits are linear in where two bags are subtracted."""
    return torch.stack([c1, -c2], -1)


def difference(c1: Float[Tensor, "b v"], c2: Float[Tensor, "b v"]) -> Float[Tensor, "b v k"]:
    """Returns what logits are linear in where the answer is in one set and not in the other."""
    return ((c1 > 0) & (c2 == 0)).double().unsqueeze(-1)


def any_of_counts(c1: Float[Tensor, "b v"], c2: Float[Tensor, "b v"]) -> Float[Tensor, "b v k"]:
    """Returns what logits are linear in where all that counts are the two counts, MOST and more being taken for one."""
    base = MOST + 1
    return F.one_hot((c1.clamp(max=MOST) * base + c2.clamp(max=MOST)).long(), base**2).double()


MODELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "subtraction": subtraction,
    "set_difference": difference,
    "any_of_counts": any_of_counts,
}


def by_counts(made: "Fit") -> Float[Tensor, "c1 c2"]:
    """Returns, of a fit of `any_of_counts`, the logit by both counts, above that of an item that occurs in neither
    list."""
    logits = made.coefficients.reshape(MOST + 1, MOST + 1)
    return logits - logits[0, 0]


@dataclass(frozen=True)
class Fit:
    """A linear model of logits: its coefficients, and what each prompt adds to the share of their variance that it
    explains (`iclab.analysis.risk.ratio_terms`)."""

    coefficients: Float[Tensor, " k"]
    terms: Float[Tensor, " half"]


@torch.no_grad()
def fit(model: TokenPredictor, prompts: Lists, items: int, of: Callable[[Tensor, Tensor], Tensor]) -> Fit:
    """Fits least squares on the first half of the prompts, and measures R² on the other. What all items of a prompt
    share is left out on both sides, since no answer depends on it."""
    c1, c2 = (counts(prompts.tokens[:, part(prompts)], items) for part in (first, second))
    X, y = of(c1, c2), model(prompts.tokens)[:, -1, :items].double()
    X, y = X - X.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    half = len(y) // 2
    gram = einsum(X[:half], X[:half], "b v k, b v h -> k h")
    coefficients = torch.linalg.pinv(gram, hermitian=True, rtol=1e-9) @ einsum(X[:half], y[:half], "b v k, b v -> k")
    left = y[half:] - X[half:] @ coefficients
    return Fit(coefficients, 1 - ratio_terms(left.square().sum(1), y[half:].square().sum(1)))


__getattr__ = old_names(
    __name__,
    looks="attention_from_end",
    Looks="AttentionFromEnd",
    mover="mover_head",
)
