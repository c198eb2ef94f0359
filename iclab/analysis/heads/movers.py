"""Name-mover heads and the heads that steer them: which option the last token attends to, and why.

In a prompt that names some options and has one of them as its last target, the name-mover head attends from the end to
the answer and writes it into the logits. Heads are found by what they do, never by number:

    inhibition   A_{end, answer} − mean over the other options of A_{end, option}      where each is named first
    direct       what the head adds to logit(answer) − mean logit(other options), the last LayerNorm kept in scale
    mover        the head of most inhibition among those whose direct effect is above zero
    feeding      what of the mover's inhibition is lost when its queries at the end no longer hear an earlier head,
                 everything else as it was
    cut          what is lost when component i of an earlier head is taken out, with all that follows from it

Sources: Wang et al. 2022, arXiv 2211.00593 (movers, S-inhibition heads, direct effects); Merullo et al. 2024,
arXiv 2406.09519, §3 and 4 (inhibition score of the mover, components cut, what is written set along a line).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.analysis.heads.circuits import ov
from iclab.analysis.heads.patching import Head, missing
from iclab.analysis.heads.roles import duplicate, inhibition, last_norm, patterns
from iclab.analysis.heads.steering import Direction, component, scale, traverse
from iclab.analysis.next_token import logits_at
from iclab.errors import refuse
from iclab.models import TokenTransformer
from iclab.models.activations import Replacement
from iclab.models.transformer import Block, Sight
from iclab.renamed import old_names
from iclab.tasks import TokenPrompts


@dataclass(frozen=True)
class Named:
    """Prompts that name k options each: `slots` holds where, in the order of the text, `index` which of them is the
    answer, `end` where it is asked."""

    tokens: Int[Tensor, "b t"]
    end: Int[Tensor, " b"]
    slots: Int[Tensor, "b k"]
    index: Int[Tensor, " b"]

    @property
    def options(self) -> Int[Tensor, "b k"]:
        """Returns the tokens that are named, the answer first."""
        return self.tokens.gather(1, self.slots.gather(1, self._answer_first()))

    def _answer_first(self) -> Int[Tensor, "b k"]:
        at = torch.arange(self.slots.shape[1], device=self.slots.device)
        return (at != self.index.unsqueeze(1)).long().argsort(dim=1, stable=True)

    def at_end(self, values: Float[Tensor, "b t *rest"]) -> Float[Tensor, "b *rest"]:
        """Returns those of the last token of each prompt."""
        return values[torch.arange(len(self.end)), self.end]

    def score(self, pattern: Float[Tensor, "*heads b t s"]) -> Float[Tensor, "*heads b"]:
        """Returns the inhibition of each head."""
        slots = self.slots.gather(1, self._answer_first())
        return inhibition(pattern, self.end, slots[:, 0], slots[:, 1:])

    def seen(self, pattern: Float[Tensor, "*heads b t s"]) -> Float[Tensor, "*heads b k"]:
        """Returns what the end gives to each slot."""
        row = pattern[..., torch.arange(len(self.end)), self.end, :]
        return row.gather(-1, self.slots.expand(*row.shape[:-1], -1))


def named(prompts: TokenPrompts) -> Named:
    """Returns prompts as their slots. Raises ``ValueError`` unless each has one target position, whose target is one of
    the options that it names, and all name equally many, two or more."""
    option = prompts.options.gather(1, prompts.tokens)
    first = option & ~duplicate(prompts.tokens).any(-1)
    counts = first.sum(1)
    problems = [] if (prompts.answer_mask.sum(1) == 1).all() else ["each prompt must have one target position"]
    problems += [] if counts.min() == counts.max() >= 2 else ["all prompts must name equally many options, two or more"]
    refuse("named", problems)
    slots, end = first.nonzero()[:, 1].reshape(len(first), -1), prompts.answer_mask.long().argmax(1)
    answers = prompts.tokens.gather(1, slots) == prompts.targets.gather(1, end.unsqueeze(1))
    refuse("named", [] if answers.any(1).all() else ["an answer is none of the options that its prompt names"])
    return Named(prompts.tokens, end, slots, answers.long().argmax(1))


# ---- answers -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def answered(model: TokenTransformer, prompts: Named, chunk: int = 16) -> Float[Tensor, "b vocab"]:
    """Returns the logits at the end of each prompt."""
    pieces = zip(prompts.tokens.split(chunk), prompts.end.split(chunk), strict=True)
    return torch.cat([logits_at(model, tokens, end) for tokens, end in pieces])


# ---- who moves -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def written(model: TokenTransformer, prompts: Named, layers: int) -> Float[Tensor, "l a b d_model"]:
    """Returns what each head of the first `layers` writes at the end."""
    names = [f"blocks.{i}.attn.z" for i in range(layers)]
    read, at = model.read(prompts.tokens, names, m=1), torch.arange(len(prompts.end))
    z = torch.stack([read[name][at, :, prompts.end] for name in names])
    return torch.einsum("lbac,lacd->labd", z, model.W_O[:layers])


@torch.no_grad()
def direct(model: TokenTransformer, prompts: Named) -> Float[Tensor, "l a b"]:
    """Returns what each head adds at the end to logit(answer) − mean logit(other options)."""
    *_, last = model.residual_stream(prompts.tokens)
    W_U = model.read_out.weight[prompts.options]
    wanted = W_U[:, 0] - W_U[:, 1:].mean(1)
    divide, _ = last_norm(model.norm, prompts.at_end(last))
    return torch.einsum("labd,bd->lab", divide(written(model, prompts, model.config.n_layer)), wanted)


@torch.no_grad()
def name_mover_head(model: TokenTransformer, prompts: Named) -> Head:
    """Returns the head of most inhibition among those that write for the answer, from the second layer on: one of the
    first hears no other head. Raises ``ValueError`` for a model of one layer."""
    refuse("mover", [] if model.config.n_layer > 1 else ["in a model of one layer no head hears another"])
    score = prompts.score(patterns(model, prompts.tokens)).mean(-1)
    against = direct(model, prompts).mean(-1) <= 0
    ranked = (score - 2.0 * against)[1:]  # scores lie between -1 and 1: those that write against it come last
    layer, head = divmod(int(ranked.argmax()), model.config.n_head)
    return layer + 1, head


# ---- who steers it -------------------------------------------------------------------------------------------------


@torch.no_grad()
def without(
    model: TokenTransformer, prompts: Named, of: Head, removed: Float[Tensor, "w b d_model"]
) -> Float[Tensor, "w b"]:
    """Returns the inhibition of a head if its queries at the end did not hear vectors that were written there."""
    obstacles = ["softmax alone, without a null slot, has such scores"]
    fits = model.config.attention == "softmax" and not model.config.null_slot
    refuse("without", missing(model, of) + ([] if fits else obstacles))
    layer, head = of
    block = cast(Block, model.blocks[0 if model.config.tied else layer])
    read = model.read(prompts.tokens, [f"blocks.{layer}.resid_pre", f"blocks.{layer}.attn.k"], m=1)
    h, k = read[f"blocks.{layer}.resid_pre"], read[f"blocks.{layer}.attn.k"][:, head]
    q = block.attn.q(block.norm_attn(prompts.at_end(h) - removed)).unflatten(-1, (model.config.n_head, -1))[
        ..., head, :
    ]
    if model.config.rotary:
        k, q = block.attn.turned(k.unsqueeze(0)).squeeze(0), _turned(block, q, prompts)
    scores = block.attn.scale * torch.einsum("wbc,btc->wbt", q, k)
    seen = torch.arange(k.shape[1], device=k.device) <= prompts.end.unsqueeze(1)
    rows = block.attn.pattern(scores, Sight(seen, causal=False))
    ends = torch.zeros_like(prompts.end)
    return Named(prompts.tokens, ends, prompts.slots, prompts.index).score(rows.unsqueeze(-2))


def _turned(block: Block, q: Float[Tensor, "w b c"], prompts: Named) -> Float[Tensor, "w b c"]:
    """Queries at the end, by rotary positions."""
    everywhere = q.unsqueeze(2).expand(-1, -1, prompts.tokens.shape[1], -1)
    return block.attn.turned(everywhere)[:, torch.arange(len(prompts.end)), prompts.end]


@torch.no_grad()
def s_inhibition(model: TokenTransformer, prompts: Named, of: Head) -> Float[Tensor, "l a b"]:
    """Returns what of a mover's inhibition each earlier head gives it by its queries: what is lost without it."""
    heads = written(model, prompts, of[0])
    whole = without(model, prompts, of, torch.zeros_like(heads[0, :1]))
    return (whole - without(model, prompts, of, heads.flatten(0, 1))).unflatten(0, heads.shape[:2])


@torch.no_grad()
def cut(model: TokenTransformer, prompts: Named, of: Head, head: Head) -> Float[Tensor, "e b"]:
    """Returns what of a mover's inhibition is lost when a component of an earlier head is taken out, for each in the
    order of singular values. Those that are but rounding are left out."""
    count = int(ov(model)[head].svd().directions().any(-2).sum())
    edits = (scale(model, component(model, head, i), 0.0) for i in range(count))
    left = [prompts.score(pattern(model, prompts, of, edit)) for edit in edits]
    return prompts.score(pattern(model, prompts, of)) - torch.stack(left)


@torch.no_grad()
def steered(
    model: TokenTransformer, prompts: Named, of: Head, direction: Direction, alphas: Float[Tensor, " p"]
) -> Float[Tensor, "p b k"]:
    """Returns what a mover gives to each slot where another head writes α v at the end and nothing else."""
    return traverse(
        lambda replace: prompts.seen(pattern(model, prompts, of, replace)),
        [direction],
        alphas.unsqueeze(1),
        at=prompts.end,
    )


@torch.no_grad()
def pattern(
    model: TokenTransformer, prompts: Named, head: Head, replace: Mapping[str, Replacement] | None = None
) -> Float[Tensor, "b t s"]:
    """Returns the weights of one head, without a null slot; logits, which are large, are formed at the last position
    alone."""
    name = f"blocks.{head[0]}.attn.pattern"
    return model.read(prompts.tokens, name, replace, m=1)[name][:, head[1], :, -prompts.tokens.shape[1] :]


__getattr__ = old_names(__name__, mover="name_mover_head", feeding="s_inhibition")
