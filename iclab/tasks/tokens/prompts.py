"""Sequences of tokens, and tasks that draw them: the second kind of prompt.

A token is a number from 0 to vocab − 1. A learner reads tokens 0 .. i and answers at position i with logits over the
vocabulary; at the *target positions* there is a right answer, the target. Law (causality): as for prompts of
examples, the answer at i does not change when a later token does. Of a task that has a `width` the tokens are vectors
of so many channels; its vocabulary is that of the answers alone.
"""

from abc import abstractmethod
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from iclab.errors import refuse
from iclab.renamed import attribute, old_keywords
from iclab.tasks.task import AnyTask


@old_keywords(asked="answer_mask", places="case_ids")
@dataclass(frozen=True)
class TokenPrompts:
    """Sequences of tokens with their questions.

    `answer_mask` marks the target positions, those with a right answer; `targets` holds it (and any number elsewhere).
    `case_ids` gives the case of each target position (the slot of a list, the pair of a memory): accuracy is reported
    by case. A guesser who knows the kind of question chooses among the `options` of its prompt.
    """

    tokens: Shaped[Tensor, "batch n *width"]
    targets: Int[Tensor, "batch n"]
    answer_mask: Bool[Tensor, "batch n"]
    case_ids: Int[Tensor, "batch n"]
    options: Bool[Tensor, "batch vocab"]

    def __getitem__(self, chosen: slice) -> "TokenPrompts":
        """Some of the prompts."""
        return TokenPrompts(*(getattr(self, field.name)[chosen] for field in fields(self)))

    asked = attribute("asked", "answer_mask")
    places = attribute("places", "case_ids")


class TokenTask(AnyTask):
    """A distribution over sequences of at most n tokens out of `vocab`, or of vectors of `width` channels."""

    vocab: int
    width: int = 0

    def held(self) -> dict[str, int]:
        return {"a prompt": self.n * max(1, self.width), "the vocabulary": self.vocab}

    @abstractmethod
    def draw(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        """Draws `batch` prompts; those of `balanced` tasks, one of each place in turn."""

    def sample(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        """Draws prompts on the generator's device; the same generator state gives the same prompts.

        Raises ``ValueError`` where `batch` is not positive.
        """
        refuse("sample", [] if batch > 0 else [f"batch must be positive, given {batch}"])
        return self.draw(batch, rng)


class SizedTask(TokenTask):
    """A task whose prompts have sizes, which may grow in the course of training."""

    @property
    @abstractmethod
    def largest(self) -> int:
        """Returns the largest size."""

    @abstractmethod
    def up_to(self, size: int) -> "TokenTask":
        """Returns the task with no prompts larger than this."""


def too_small(given: dict[str, int], least: dict[str, int]) -> list[str]:
    """Returns the problems of settings that must not fall below a bound."""
    return [f"{k} must be at least {least[k]}, given {given[k]}" for k in least if given[k] < least[k]]


def without_replacement(batch: int, of: int, rng: torch.Generator) -> Int[Tensor, "batch of"]:
    """Draws permutations of 0 .. of − 1, one per row, each as likely as any other."""
    return torch.rand(batch, of, generator=rng, device=rng.device).argsort(dim=1)


def marked(batch: int, vocab: int, tokens: Int[Tensor, "batch m"]) -> Bool[Tensor, "batch vocab"]:
    """Returns which tokens of the vocabulary occur in each row."""
    none = torch.zeros(batch, vocab, dtype=torch.bool, device=tokens.device)
    return none.scatter(1, tokens, torch.ones_like(tokens, dtype=torch.bool))
