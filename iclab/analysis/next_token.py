"""Next-token prediction: accuracy and loss at the target positions, by place, with standard errors.

Prompts are independent, positions of one prompt are not: a mean over target positions is the ratio of two means over
prompts, of a sum and of a count, and carries the delta-method error (`iclab.analysis.risk`).

Of heads (Olsson et al. 2022, arXiv 2209.11895):

    prefix matching    the weight that a target position t gives to tokens that followed the same token x_t before
    previous token     the weight that a position t gives to t − 1
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.analysis.heads.roles import attention_to, induction, patterns, previous
from iclab.analysis.risk import Estimate, ratio
from iclab.models import TokenTransformer
from iclab.predictors import TokenPredictor
from iclab.tasks import TokenPrompts


@torch.no_grad()
def continued(
    predictors: Mapping[str, TokenPredictor], prompts: TokenPrompts, chunk: int = 256
) -> dict[str, Float[Tensor, "batch n vocab"]]:
    """Returns the log-probabilities, float64, that each predictor gives to the next token everywhere."""
    pieces = prompts.tokens.split(chunk)
    return {
        name: torch.cat([f(tokens).double().log_softmax(-1) for tokens in pieces]) for name, f in predictors.items()
    }


@torch.no_grad()
def ended(
    model: TokenPredictor, prompts: TokenPrompts, chunk: int = 16
) -> tuple[TokenPrompts, Float[Tensor, "batch 1 vocab"]]:
    """Returns prompts that ask once as that position alone, with the log-probabilities that a model gives there."""
    at = prompts.answer_mask.long().argmax(1, keepdim=True)
    tokens, targets, asked, places = (
        each.gather(1, at) for each in (prompts.tokens, prompts.targets, prompts.answer_mask, prompts.case_ids)
    )
    pieces = zip(prompts.tokens.split(chunk), at[:, 0].split(chunk), strict=True)
    logits = torch.cat([logits_at(model, piece, end) for piece, end in pieces])
    return TokenPrompts(tokens, targets, asked, places, prompts.options), logits.double().log_softmax(-1).unsqueeze(1)


def logits_at(model: TokenPredictor, tokens: Tensor, end: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
    """Returns the logits at one position of each prompt; read out there alone, where the model lets one, as
    vocabularies of language models are large."""
    at = torch.arange(len(end), device=end.device)
    if not isinstance(model, TokenTransformer):
        return model(tokens)[at, end]
    *_, last = model.residual_stream(tokens)
    return model.read_out(model.norm(last[at, end]))


def losses(logs: Float[Tensor, "batch n vocab"], prompts: TokenPrompts) -> Float[Tensor, "batch n"]:
    """Returns −log p(target), in nats."""
    return -logs.gather(2, prompts.targets.unsqueeze(2)).squeeze(2)


def hits(
    logs: Float[Tensor, "batch n vocab"], prompts: TokenPrompts, among_options: bool = False
) -> Float[Tensor, "batch n"]:
    """Returns 1 where the likeliest token, of all or of the prompt's options, is the target."""
    allowed = logs.masked_fill(~prompts.options.unsqueeze(1), -torch.inf) if among_options else logs
    return (allowed.argmax(-1) == prompts.targets).double()


def whole(logs: Float[Tensor, "batch n vocab"], prompts: TokenPrompts) -> Float[Tensor, " batch"]:
    """Returns 1 where the likeliest token is the target at every target position."""
    return ((logs.argmax(-1) == prompts.targets) | ~prompts.answer_mask).all(1).double()


@torch.no_grad()
def decoded(model: TokenPredictor, tokens: Int[Tensor, "batch n"], steps: int) -> Int[Tensor, "batch steps"]:
    """Returns the next tokens when the likeliest is chosen each time and read again; each needs those before it."""
    n = tokens.shape[1]
    for _ in range(steps):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens[:, n:]


def chances(prompts: TokenPrompts) -> Float[Tensor, "batch n"]:
    """Returns how often a guess among the options is right."""
    return (1 / prompts.options.double().sum(1)).unsqueeze(1).expand(prompts.answer_mask.shape)


def divergence(
    logs: Float[Tensor, "batch n vocab"], others: Float[Tensor, "batch n vocab"]
) -> Float[Tensor, "batch n"]:
    """Returns KL(p ‖ q) = Σ_j p_j (log p_j − log q_j) of two predictors, in nats. What p rules out adds nothing, also
    where q does so; what q alone rules out makes it infinite."""
    return (logs.exp() * (logs - others)).masked_fill(logs == -torch.inf, 0.0).sum(-1)


def mean_asked(terms: Float[Tensor, "batch n"], prompts: TokenPrompts) -> Estimate:
    """Returns the mean over target positions; values at others, infinite or NaN, are ignored."""
    return ratio(terms.masked_fill(~prompts.answer_mask, 0.0).sum(1), prompts.answer_mask.double().sum(1))


def by_place(terms: Float[Tensor, "batch n"], prompts: TokenPrompts) -> dict[int, Estimate]:
    """Returns the mean over target positions, by place."""
    places = torch.where(prompts.answer_mask, prompts.case_ids, 0)
    shape = (len(terms), int(places.max()) + 1)
    sums, counts = (
        torch.zeros(shape, dtype=torch.float64, device=terms.device).scatter_add(
            1, places, each.masked_fill(~prompts.answer_mask, 0.0)
        )
        for each in (terms.double(), torch.ones_like(terms, dtype=torch.float64))
    )
    occurring = [place for place, count in enumerate(counts.sum(0).tolist()) if count]
    return {place: ratio(sums[:, place], counts[:, place]) for place in occurring}


def mean_of_places(terms: Float[Tensor, "batch n"], prompts: TokenPrompts) -> Estimate:
    """Returns the mean over places, which are equally frequent by design: how places differ adds nothing to its
    error."""
    means = list(by_place(terms, prompts).values())
    errors = torch.stack([one.stderr for one in means]).square().sum().sqrt()
    return Estimate(torch.stack([one.value for one in means]).mean(), errors / len(means))


@dataclass(frozen=True)
class HeadScores:
    """Scores of all heads, each in 0..1."""

    prefix_matching: Float[Tensor, "layers heads"]
    previous_token: Float[Tensor, "layers heads"]


@torch.no_grad()
def head_scores(model: TokenTransformer, prompts: TokenPrompts) -> HeadScores:
    """Returns the scores of all heads, averaged over positions and prompts; a null slot counts for nothing."""
    seen, tokens = patterns(model, prompts.tokens).double(), prompts.tokens
    return HeadScores(attention_to(seen, induction(tokens), prompts.answer_mask), attention_to(seen, previous(tokens)))
