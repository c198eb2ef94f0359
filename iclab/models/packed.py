"""Several models of one shape as one module, with an axis of replicas.

    weights      θ [R, P]: row r holds all parameters of replica r; those of a layer are a view of it, [R, ...]
    activations  [(R b) t c], replica by replica, so that layouts, masks and attention are those of a single model

    linear       h W_rᵀ + b_r
    layer norm   γ_r (h − mean) / spread + β_r
    embedding    E_r of the token
    position     h + p_r

Law (independence): what a replica answers depends on its prompts and its row of θ alone, and is to rounding what the
single model answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclab.errors import refuse
from iclab.models.tokens import TokenTransformer
from iclab.models.transformer import BlockConfig, Stack, Transformer, affine


class PackedLinear(nn.Module):
    """The linear maps of R replicas: h ↦ h W_rᵀ + b_r."""

    def __init__(self, replicas: int, single: nn.Linear) -> None:
        super().__init__()
        self.weight = _replicated(replicas, single.weight)
        self.bias = None if single.bias is None else _replicated(replicas, single.bias)

    def forward(self, h: Float[Tensor, "*Rb inputs"]) -> Float[Tensor, "*Rb outputs"]:
        return affine(h, self.weight, self.bias)


class PackedLayerNorm(nn.Module):
    """The LayerNorms of R replicas: h ↦ γ_r (h − mean) / spread + β_r."""

    def __init__(self, replicas: int, single: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = single.eps
        self.weight, self.bias = (_replicated(replicas, part) for part in (single.weight, single.bias))

    def forward(self, h: Float[Tensor, "*Rb d_model"]) -> Float[Tensor, "*Rb d_model"]:
        rows = F.layer_norm(h, h.shape[-1:], eps=self.eps).view(len(self.weight), -1, h.shape[-1])
        return torch.addcmul(self.bias.unsqueeze(1), rows, self.weight.unsqueeze(1)).view(h.shape)


class PackedEmbedding(nn.Module):
    """The embeddings of R replicas: each token to its vector among those of its replica."""

    def __init__(self, replicas: int, single: nn.Embedding) -> None:
        super().__init__()
        self.weight = _replicated(replicas, single.weight)

    def forward(self, tokens: Int[Tensor, "Rb n"]) -> Float[Tensor, "Rb n d_model"]:
        replicas, vocab, _ = self.weight.shape
        first = vocab * torch.arange(replicas, device=tokens.device)
        rows = (tokens.view(replicas, -1) + first.unsqueeze(1)).view(tokens.shape)
        return F.embedding(rows, self.weight.flatten(0, 1))


class Pack(Stack):
    """R models of one shape as one, whose parameters are views of `theta` [R, P], as are those of its models from then
    on: a step on θ is one of each."""

    theta: Float[Tensor, "R P"]

    def _bind(self, models: Sequence[Stack]) -> None:
        """Gives every layer its axis of replicas, and all parameters their place in θ."""
        for name, module in list(self.named_modules()):
            for kind, packed in PACKED.items():
                if isinstance(module, kind):
                    self.set_submodule(name, packed(len(models), module))
        with torch.no_grad():
            self.theta = torch.stack([torch.cat([p.flatten() for p in model.parameters()]) for model in models])
        for name, part in views(models[0], self.theta).items():
            owner, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(owner), leaf, nn.Parameter(part))
            for row, model in zip(part, models, strict=True):
                model.get_parameter(name).data = row

    def _placed(self, h: Float[Tensor, "Rb t d_model"], places: Int[Tensor, " t"] | slice) -> Tensor:
        vectors = self.position[:, places].unsqueeze(1)
        return (h.unflatten(0, (len(vectors), -1)) + vectors).flatten(0, 1)


PACKED: dict[type[nn.Module], Callable[[int, Any], nn.Module]] = {
    nn.Linear: PackedLinear,
    nn.LayerNorm: PackedLayerNorm,
    nn.Embedding: PackedEmbedding,
}


class PackedTransformer(Pack, Transformer):
    """R transformers of one shape as one, over prompts [(R b) n d], replica by replica.

    Args:
        models: The replicas, of one shape, precision and device.

    >>> models = [Transformer(3, 5, rng=torch.Generator().manual_seed(seed)) for seed in range(2)]
    >>> xs, ys = torch.randn(2 * 4, 5, 3), torch.randn(2 * 4, 5)
    >>> alone = torch.cat([model(xs[4 * r :][:4], ys[4 * r :][:4]) for r, model in enumerate(models)])
    >>> pack = PackedTransformer(models)
    >>> torch.allclose(pack(xs, ys), alone, atol=1e-5)
    True
    >>> with torch.no_grad():
    ...     _ = pack.theta[1].zero_()
    >>> models[1].read_out.weight.abs().max().item()  # the replica's own model sees it
    0.0
    """

    def __init__(self, models: Sequence[Transformer]) -> None:
        refuse("PackedTransformer", _mismatches(models, Transformer))
        first = models[0]
        with torch.device("meta"):
            super().__init__(first.d, first.n, first.config, labels=first.labels)
        self._bind(models)


class PackedTokenTransformer(Pack, TokenTransformer):
    """R transformers over tokens of one shape as one, over sequences [(R b) n], replica by replica.

    Args:
        models: The replicas, of one shape, precision and device, without a tied embedding.
    """

    def __init__(self, models: Sequence[TokenTransformer]) -> None:
        tied = any(getattr(model.config, "tied_embedding", False) for model in models)
        problems = ["a tied embedding has no place of its own in a pack"] if tied else []
        refuse("PackedTokenTransformer", _mismatches(models, TokenTransformer) + problems)
        first = models[0]
        with torch.device("meta"):
            super().__init__(first.vocab, first.n, first.config)
        self._bind(models)


def _mismatches(models: Sequence[Stack], kind: type[Stack]) -> list[str]:
    """Why models cannot be replicas of each other."""
    if not models:
        return ["no models"]
    other = [type(one).__name__ for one in models if type(one) is not kind]
    if other:
        return [f"{other[0]} is not {kind.__name__} itself"]
    shapes = [(*(getattr(model, name) for name in model.sizes), shape_of(model.config)) for model in models]
    kinds = {(p.dtype, p.device) for model in models for p in model.parameters()}
    problems = [] if all(shape == shapes[0] for shape in shapes) else ["the models are of different shapes"]
    return problems + ([] if len(kinds) == 1 else ["the parameters are of different precisions or devices"])


def shape_of(config: BlockConfig) -> BlockConfig:
    """Returns what two models must agree in to be replicas: all but the scale of their first weights."""
    return replace(config, init_scale=1.0)


def _replicated(replicas: int, single: Tensor) -> nn.Parameter:
    return nn.Parameter(single.new_empty(replicas, *single.shape, device="meta"))


def views(model: nn.Module, rows: Float[Tensor, "R P"]) -> dict[str, Float[Tensor, "R ..."]]:
    """Returns the parts of a matrix that has a row for each replica, by the names of a model's parameters."""
    kept = dict(model.named_parameters())
    ends = accumulate((p.numel() for p in kept.values()), initial=0)
    parts = zip(kept.items(), pairwise(ends), strict=True)
    return {name: rows[:, start:end].unflatten(1, p.shape) for (name, p), (start, end) in parts}
