"""Effect on a head of ablating what another head writes: all of it, one component, or all but one.

A metric is what is seen of a model on fixed prompts, one number each: the weight that a head gives to places that it
should find (`attention_of`), or whether the answer is right. The writer's W_OV = Σ_i s_i u_i v_iᵀ is cut in three ways.

    cut i        s_i → 0                        keep i     all others → 0            scale i    s_i → c s_i
    direction    what it writes along a random v of its own span is taken away
    path         the reader alone, in its queries, keys or values, sees the writer's mean over prompts in place of what
                 it writes

If component i carries the signal from the writer to the reader, its score of composition CS_i and the loss of its cut
go together, and neither is found for a random direction of the same head. A path into keys that costs much, and into
queries that costs nothing, says that the two compose by keys whatever the weights look like.

Source: Merullo et al. 2024 (arXiv 2406.09519), §3.3 and Fig. 2, 10: one singular value set to zero, or alone kept, in
heads of GPT-2; random directions are this project's control. Paths: `iclab.analysis.heads.patching`.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclab.analysis.heads.circuits import ov
from iclab.analysis.heads.edits import with_components
from iclab.analysis.heads.patching import Head, Part, path
from iclab.analysis.heads.steering import random_direction, scale
from iclab.models import TokenTransformer
from iclab.models.activations import Replacement
from iclab.renamed import old_names
from iclab.tasks import TokenPrompts

Metric = Callable[[TokenTransformer, Mapping[str, Replacement]], Tensor]  # [b]


def attention_of(reader: Head, prompts: TokenPrompts, places: Bool[Tensor, "b t s"]) -> Metric:
    """Returns a metric on the mean weight of a head, over the target positions of each prompt, on the places that these
    should find."""
    name = f"blocks.{reader[0]}.attn.pattern"

    @torch.no_grad()
    def metric(model: TokenTransformer, edits: Mapping[str, Replacement]) -> Float[Tensor, " b"]:
        seen = model.read(prompts.tokens, name, edits)[name][:, reader[1], :, -prompts.tokens.shape[1] :]
        return ((seen * places).sum(-1) * prompts.answer_mask).sum(-1).double() / prompts.answer_mask.sum(-1)

    return metric


def accuracy_of(prompts: TokenPrompts) -> Metric:
    """Returns a metric: the accuracy at target positions."""

    @torch.no_grad()
    def metric(model: TokenTransformer, edits: Mapping[str, Replacement]) -> Float[Tensor, " b"]:
        hit = model.replaced(prompts.tokens, edits).argmax(-1) == prompts.targets
        return (hit & prompts.answer_mask).sum(-1).double() / prompts.answer_mask.sum(-1)

    return metric


def size(model: TokenTransformer, writer: Head) -> int:
    """Returns how many components a head has."""
    return len(ov(model)[writer].svd().S)


def scaled(metric: Metric, model: TokenTransformer, writer: Head, chosen: Float[Tensor, "k e"]) -> Float[Tensor, "k b"]:
    """Returns what is seen with the components of the writer multiplied by each row of factors."""
    return torch.stack([metric(with_components(model, writer, factors), {}) for factors in chosen])


def cuts(e: int) -> Float[Tensor, "e e"]:
    """Returns the factors that leave out each component in turn."""
    return 1 - keeps(e)


def keeps(e: int) -> Float[Tensor, "e e"]:
    """Returns the factors that keep each alone."""
    return torch.eye(e, dtype=torch.float64)


def along_random(
    metric: Metric, model: TokenTransformer, writer: Head, factor: float, draws: int, rng: torch.Generator
) -> Float[Tensor, "draws b"]:
    """Returns what is seen with what the writer writes along random directions of its own multiplied by a factor."""
    directions = [random_direction(model, writer, rng) for _ in range(draws)]
    return torch.stack([metric(model, scale(model, each, factor)) for each in directions])


def without_path(
    metric: Metric, model: TokenTransformer, prompts: TokenPrompts, writer: Head, reader: Head, into: Part
) -> Float[Tensor, " b"]:
    """Returns the metric if the reader, in its queries, keys or values, receives from the writer what it writes on
    average."""
    name = f"blocks.{writer[0]}.attn.z"
    z = model.read(prompts.tokens, name)[name][:, writer[1]]
    return metric(model, path(model, prompts.tokens, writer, reader, z.mean(0).expand_as(z), into))


def correlation(x: Float[Tensor, " e"], y: Float[Tensor, " e"]) -> float:
    """Returns Pearson's correlation; 0 where one of them does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale_of_both = x.norm() * y.norm()
    return float(x @ y / scale_of_both) if scale_of_both > 0 else 0.0


__getattr__ = old_names(__name__, Watch="Metric")
