"""A decoder-only transformer over prompts, in one file, read top to bottom.

    h ← input projection(tokens) + position            "embed"
    h ← h + attention(norm(h))                         "blocks.l.attn_out", "blocks.l.resid_mid"
    h ← h + mlp(norm(h))                               "blocks.l.mlp_out", "blocks.l.resid_post"
    ŷ = output projection(norm(h)) at the answering tokens

Attention of head a, with the tokens j that token t may see (t itself included):

    softmax   z_t = Σ_j softmax_j(s q_t·k_j) v_j
    linear    z_t = 1/N_t Σ_j (s q_t·k_j) v_j             relu   z_t = 1/N_t Σ_j relu(s q_t·k_j) v_j

s is `scale` (1/√d_head unless given) and N_t the number of tokens seen, the number of tokens of the longest prompt that
the model was made for, or 1 (`normaliser`). A null slot is one more key, of logit 0 and value 0, that every token sees:
softmax over it and no other key is zero, so that a token can also attend to nothing.
The same class runs weights that were set by hand: LayerNorm, positions and MLP can be left out, the layers can share
one set of weights (`tied`), and with `read_in = "identity"` the stream is the tokens themselves, in the units of the
prompt, and the answer is what stands in the label channel in the end.

Letters: b batch, t token, s token that is seen, a head, c channel of a head.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_type_hints

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from iclab.errors import out_of_bounds, prefixed, refuse, unknown, unknown_choices, wrong_fields, wrong_kinds
from iclab.files import atomic_write, parse_json
from iclab.models.activations import HookContext, Replacement, ScopedHooks
from iclab.models.architecture import LARGEST, ModelConfig, refuse_weights
from iclab.models.door import examples_in, known
from iclab.models.layouts import LAYOUTS
from iclab.models.stored import FLOATS, compare, fill, open_weights, stored
from iclab.renamed import method

ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh"), "relu": F.relu, "silu": F.silu}
BLOCKS = tuple(f"{matrix}.{channels}" for matrix in ("q", "k", "v", "out") for channels in ("x", "y", "rest"))
Model = TypeVar("Model", bound="Stack")


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """The shape of the blocks of a transformer and of its positions, whatever it reads.

    `d_mlp` is the hidden width of the MLP (0: no MLP); `norm` puts a LayerNorm before attention, MLP and output
    projection, or only before the last two without `norm_attention` (the equations of Akyürek et al. 2022, arXiv
    2211.15661); `null_slot` adds a key of logit 0 and value 0 to softmax; `positions` adds a learned vector per
    position; `d_head` is d_model / n_head unless given; `scale` multiplies the logits (1/√d_head unless given); `tied`
    layers share weights. `init_scale` multiplies all matrices as they are drawn: products of several, as bare linear
    layers are, train best from small ones.
    """

    n_layer: int = 4
    n_head: int = 2
    d_model: int = 32
    d_head: int | None = None
    d_mlp: int = 0
    attention: Literal["softmax", "linear", "relu"] = "linear"
    normaliser: Literal["seen", "longest", "none"] = "longest"
    scale: float | None = None
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu"
    norm: bool = True
    norm_attention: bool = True
    null_slot: bool = False
    positions: bool = True
    bias: bool = True
    tied: bool = False
    init_scale: float = 1.0
    # What only models over tokens may choose (`TokenTransformerConfig`):
    parallel: ClassVar[bool] = False
    rotary: ClassVar[int] = 0
    rotary_base: ClassVar[float] = 10000.0
    norm_eps: ClassVar[float] = 1e-5
    norm_kind: ClassVar[str] = "layer"
    gated: ClassVar[bool] = False

    @property
    def blocks(self) -> "BlockConfig":
        """Returns the shape itself."""
        return self

    def __post_init__(self) -> None:
        refuse(type(self).__name__, wrong_fields(self))  # before any is compared with a number
        refuse(type(self).__name__, self._problems() + unknown_choices(self))

    def _problems(self) -> list[str]:
        head = {} if self.d_head is None else {"d_head": self.d_head}
        problems = out_of_bounds({"n_head": self.n_head, "d_model": self.d_model} | head, LARGEST)
        problems += out_of_bounds({"n_layer": self.n_layer, "d_mlp": self.d_mlp}, LARGEST, least=0)
        if self.d_head is None and self.n_head >= 1 and self.d_model % self.n_head:
            problems.append(f"d_model = {self.d_model} is not a multiple of n_head = {self.n_head}; give d_head")
        if not 0 < self.init_scale < inf:
            problems.append(f"init_scale must be positive and finite, given {self.init_scale}")
        if self.scale is not None and not isfinite(self.scale):
            problems.append(f"scale must be finite, given {self.scale}")
        if self.null_slot and self.attention != "softmax":
            problems.append(f"null_slot is of softmax attention; to {self.attention} attention it adds nothing")
        return problems

    def save(self, model: "Stack", path: Path) -> None:
        """Writes weights and shape of a model to one safetensors file, whole or not at all."""
        model.save(path)

    @property
    def shared(self) -> bool:
        """Returns whether all tokens of a sequence see the same ones."""
        return False

    @property
    def centred(self) -> bool:
        """Returns whether all that reads the stream takes off its mean over channels, as a LayerNorm does."""
        return self.norm and self.norm_attention and self.norm_kind == "layer"

    @property
    def head_width(self) -> int:
        """Returns the channels of one head."""
        return self.d_head or self.d_model // self.n_head


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(BlockConfig, ModelConfig):
    """The shape of a transformer. The default is the smallest that reaches the Bayes risk in seconds on one core.

    `layout` is how prompts become tokens. `read_in = "identity"` leaves out both learned maps, to and from the residual
    stream (channels beyond the token's are zero at first). `negated` answers minus what stands in the label channel:
    each token then holds what is left of its label, y − ŷ, and the query, with no label, −ŷ (von Oswald et al. 2022,
    arXiv 2212.07677, §2).

    `zero_blocks` names blocks of the attention weights that are zero before training and after, as papers have them
    that speak of some blocks alone (Ahn et al. 2023, arXiv 2306.00297, eq. 9): "k.y" is what keys read of the label,
    "out.x" what is written into the inputs. Words of MATRIX.CHANNELS with the matrices q, k, v, out and the channels
    x, y (the label's) and rest of the stream, for read_in = identity.
    """

    layout: Literal["interleaved", "copied", "overlaid", "lagged", "shifted", "states", "paired", "encoder"] = "lagged"
    read_in: Literal["learned", "identity"] = "learned"
    negated: bool = False
    zero_blocks: str = field(default="", metadata={"since": "0.1"})

    def _problems(self) -> list[str]:
        problems = super()._problems() + self._no_label() + self._no_blocks()
        if self.negated and self.read_in == "learned":
            problems.append("negated is for read_in = identity: a learned read-out has a sign of its own")
        return problems

    def _no_label(self) -> list[str]:
        full = self.read_in == "identity" and self.layout in LAYOUTS and LAYOUTS[self.layout].label is None
        return (
            [f"read_in = identity needs a layout with an empty label channel; {self.layout} has none"] if full else []
        )

    def _no_blocks(self) -> list[str]:
        words = self.zero_blocks.split()
        problems = [unknown("zero_blocks", word, BLOCKS) for word in words if word not in BLOCKS]
        if words and self.read_in == "learned":
            problems.append("zero_blocks is for read_in = identity: else no channel of the stream is x or y")
        return problems

    def problems_for(self, d: int, labels: int | None = None) -> list[str]:
        """Returns the problems of this model on a task, including those of the layout and of the input projection."""
        problems, width, identity = [], LAYOUTS[self.layout].width(d), self.read_in == "identity"
        if identity and self.d_model < width:
            problems.append(f"read_in = identity needs d_model of {width} or more, given {self.d_model}")
        if identity and labels is not None:
            problems.append(f"read_in = identity answers a number, and labels are vectors of {labels} coordinates")
        if self.layout == "states" and labels != d:
            kind = "numbers" if labels is None else f"of {labels} coordinates"
            problems.append(
                f"layout = states is for labels that are the next input, of {d} coordinates; labels are {kind} "
                "(those of a DynamicalSystem are the next input)"
            )
        return problems

    @property
    def bounded(self) -> bool:
        return self.positions

    @property
    def layered(self) -> bool:
        return True

    @property
    def shared(self) -> bool:
        return LAYOUTS[self.layout].shared

    def build(self, d: int, n: int, rng: torch.Generator | None = None, labels: int | None = None) -> "Transformer":
        return Transformer(d, n, self, rng, labels)


@dataclass(frozen=True)
class Sight:
    """What each token may see, the same in every layer of a call: `mask`, and whether it is the plain lower triangle.

    `shares` are for attention that sums: 1/N_t for each token that is seen; one row where all tokens see the same.
    """

    mask: Bool[Tensor, "*prefixes q t"]
    causal: bool
    shares: Float[Tensor, "*prefixes rows t"] | None = None


class Attention(nn.Module):
    """Multi-head attention with softmax, linear or ReLU weights."""

    def __init__(self, config: BlockConfig, longest: int) -> None:
        super().__init__()
        self.config, self.longest = config, longest
        inner = config.n_head * config.head_width
        self.scale = config.head_width**-0.5 if config.scale is None else config.scale
        self.q = linear_map(config.d_model, inner, config)
        self.k = linear_map(config.d_model, inner, config)
        self.v = linear_map(config.d_model, inner, config)
        self.out = linear_map(inner, config.d_model, config)

    def forward(
        self, h: Float[Tensor, "b t d_model"], sight: Sight, hooks: ScopedHooks
    ) -> Float[Tensor, "b t d_model"]:
        q, k, v = (hooks(f"attn.{letter}", part) for letter, part in zip("qkv", self.heads(h), strict=True))
        if self.config.rotary:
            q, k = self.turned(q), self.turned(k)
        z = hooks("attn.z", self.mix(q, k, v, sight, hooks))
        return self.out(z.transpose(1, 2).flatten(2))

    def heads(self, h: Float[Tensor, "b t d_model"]) -> tuple[Float[Tensor, "b a t c"], ...]:
        """Returns queries, keys and values of every head."""
        parts = together([self.q, self.k, self.v], h).chunk(3, dim=-1)
        return tuple(part.unflatten(-1, (self.config.n_head, -1)).transpose(1, 2) for part in parts)

    def turned(self, x: Float[Tensor, "b a t c"]) -> Float[Tensor, "b a t c"]:
        """Turns channels i and i + r/2 of the first r, for token t by the angle t·base^(−2i/r): a score then depends
        on the distance of its tokens. Source: Su et al. 2021, arXiv 2104.09864, eq. (34), in two halves."""
        r, ahead = self.config.rotary, {"device": x.device, "dtype": x.dtype}
        angles = self.config.rotary_base ** (-torch.arange(0, r, 2, **ahead) / r)
        angles = torch.arange(x.shape[-2], **ahead).unsqueeze(-1) * angles
        a, b, rest = x.split([r // 2, r // 2, x.shape[-1] - r], dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)

    def mix(
        self,
        q: Float[Tensor, "b a t c"],
        k: Float[Tensor, "b a t c"],
        v: Float[Tensor, "b a t c"],
        sight: Sight,
        hooks: ScopedHooks,
    ) -> Float[Tensor, "b a t c"]:
        """Returns Σ_j pattern_tj v_j; the pattern is formed only where it is needed. A null slot is its column 0."""
        if self.config.null_slot:
            k, v = F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0))
            sight = Sight(F.pad(sight.mask, (1, 0), value=True), causal=False)
        inside, shares = ["attn.scores", "attn.pattern"], sight.shares
        touched = any(map(hooks.touch, inside))
        if self.config.attention == "linear" and shares is not None and not touched:
            if self.config.shared:  # q_t (Σ_j k_j v_jᵀ) with one sum for all t: t·c² instead of t²·c
                return q @ ((k * (self.scale * shares).mT).mT @ v)
            return (q @ k.mT * (self.scale * shares)) @ v
        q = self.scale * q  # here, because the fused kernel multiplies its own mask too: −∞ · 0 is not a number
        if self.config.attention == "softmax" and not touched:
            mask = None if sight.causal else sight.mask
            return F.scaled_dot_product_attention(q, k, v, mask, is_causal=sight.causal, scale=1.0)
        scores = hooks(inside[0], q @ k.mT)
        return hooks(inside[1], self.pattern(scores, sight)) @ v

    def pattern(self, scores: Float[Tensor, "*b q t"], sight: Sight) -> Float[Tensor, "*b q t"]:
        """Returns the attention weights from the scores."""
        if sight.shares is not None:
            return (scores if self.config.attention == "linear" else scores.relu()) * sight.shares
        least = torch.finfo(scores.dtype).min  # finite, for tokens that see nothing: their weights are set to 0
        return scores.masked_fill(~sight.mask, least).softmax(-1).masked_fill(~sight.mask, 0.0)


class Block(nn.Module):
    """A layer: attention, then the MLP where there is one, each reads the normalised residual stream."""

    def __init__(self, config: BlockConfig, longest: int) -> None:
        super().__init__()
        self.config = config
        self.norm_attn = layer_norm(config, config.norm_attention)
        self.attn = Attention(config, longest)
        if config.d_mlp:
            self.norm_mlp = layer_norm(config)
            self.mlp_in = linear_map(config.d_model, config.d_mlp, config)
            self.mlp_out = linear_map(config.d_mlp, config.d_model, config)
        if config.d_mlp and config.gated:
            self.mlp_gate = linear_map(config.d_model, config.d_mlp, config)

    def forward(
        self, h: Float[Tensor, "b t d_model"], sight: Sight, hooks: ScopedHooks
    ) -> Float[Tensor, "b t d_model"]:
        h = before = hooks("resid_pre", h)
        h = h + hooks("attn_out", self.attn(self.norm_attn(h), sight, hooks))
        if self.config.d_mlp:
            h = hooks("resid_mid", h)
            h = h + hooks("mlp_out", self.mlp(self.norm_mlp(before if self.config.parallel else h), hooks))
        return hooks("resid_post", h)

    def mlp(self, h: Float[Tensor, "b t d_model"], hooks: ScopedHooks) -> Float[Tensor, "b t d_model"]:
        """Returns mlp_out(activation(mlp_in(h))), or gated mlp_out(activation(mlp_gate(h)) · mlp_in(h))."""
        activation = ACTIVATIONS[self.config.activation]
        if self.config.gated:
            after = activation(hooks("mlp.pre", self.mlp_gate(h))) * self.mlp_in(h)
        else:
            after = activation(hooks("mlp.pre", self.mlp_in(h)))
        return self.mlp_out(hooks("mlp.post", after))


class Stack(nn.Module):
    """Blocks that write into one residual stream, with named activations: a transformer without its two ends.

    A final class reads in and reads out; it calls `_add_blocks` between making the one and the other, and `_draw` at
    last. Until then weights have a shape and no numbers (torch's meta device), so that a model that is too large is
    refused before it takes any memory; made with meta as torch's default device, it stays like this.

    Weights are drawn from `rng`: matrices N(0, 1/fan_in), those that write into the residual stream divided by
    √(2 n_layer), and by the number of tokens where attention sums over them without a normaliser, embeddings N(0, 1),
    all times `init_scale`; biases zero; positions N(0, 0.02²).
    """

    kind: ClassVar[str]  # what a file calls it
    shape: ClassVar[type[BlockConfig]]
    sizes: ClassVar[tuple[str, ...]]  # the numbers that it is made for
    younger: ClassVar[tuple[str, ...]] = ()  # those of them that older files do not have, and that may be none
    config: BlockConfig

    def _add_blocks(self, positions: int, longest: int) -> None:
        """`positions` learned vectors, and blocks for sequences of at most `longest` tokens."""
        if self.config.positions:
            self.position = nn.Parameter(torch.empty(positions, self.config.d_model, device="meta"))
        self.longest = longest
        own = min(1, self.config.n_layer) if self.config.tied else self.config.n_layer
        self.blocks = nn.ModuleList(Block(self.config, longest) for _ in range(own))

    @property
    def position_spread(self) -> float:
        """Returns the standard deviation of positions before training."""
        return 0.02

    def _draw(self, rng: torch.Generator | None) -> None:
        """Makes the weights, once all shapes are known. Raises ``ValueError`` for too many."""
        rng = rng or torch.Generator().manual_seed(0)
        if torch.get_default_device().type != "meta":
            refuse_weights(type(self).__name__, sum(weights.numel() for weights in self.parameters()))
            self.allocate(rng.device)
            self.initialise(rng)

    def allocate(self, device: torch.device | str) -> None:
        """Allocates memory for weights on the meta device; their values are not set."""
        self.to_empty(device=device)

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draws all weights from `rng`, in the order of their names in the module."""
        for name, module in self.named_modules():
            if isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.reset_parameters()
            if isinstance(module, nn.Linear):
                depth = 2 * self.config.n_layer if name.endswith(("attn.out", "mlp_out")) else 1
                spread = self.config.init_scale * (module.in_features * depth) ** -0.5
                sums = self.config.attention != "softmax" and self.config.normaliser == "none"
                terms = self.longest if sums and name.endswith("attn.out") else 1
                nn.init.normal_(module.weight, std=spread / terms, generator=rng)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.init_scale, generator=rng)
        if self.config.positions:
            nn.init.normal_(self.position, std=self.position_spread, generator=rng)

    def held_entries(self) -> dict[str, Bool[Tensor, "..."]]:
        """Returns which entries of its parameters are zero and do not learn, by name; none unless a shape says so."""
        return {}

    def attention(self, layer: int) -> Attention:
        """Returns the attention of a layer; tied layers share one."""
        block = self.blocks[0 if self.config.tied else layer]
        assert isinstance(block, Block)
        return block.attn

    # ---- heads -----------------------------------------------------------------------------------------------------

    @property
    def W_Q(self) -> Float[Tensor, "layer a d_model c"]:
        """Returns W_Q: the queries of every head are h @ W_Q, without their bias."""
        return self._per_head("q")

    @property
    def W_K(self) -> Float[Tensor, "layer a d_model c"]:
        """Returns W_K: the keys of every head are h @ W_K, without their bias."""
        return self._per_head("k")

    @property
    def W_V(self) -> Float[Tensor, "layer a d_model c"]:
        """Returns W_V: the values of every head are h @ W_V, without their bias."""
        return self._per_head("v")

    @property
    def W_O(self) -> Float[Tensor, "layer a c d_model"]:
        """Returns W_O: a head writes z @ W_O into the stream."""
        return self._per_head("out").mT

    def _per_head(self, letter: str) -> Float[Tensor, "layer a d_model c"]:
        refuse(self.kind, [] if self.config.n_layer else ["a model without layers has no heads"])
        parts = torch.stack([getattr(self.attention(i), letter).weight for i in range(self.config.n_layer)])
        shape = "l D (a c) -> l a D c" if letter == "out" else "l (a c) D -> l a D c"
        return rearrange(parts, shape, a=self.config.n_head)

    # ---- running ---------------------------------------------------------------------------------------------------

    def activations(self) -> list[str]:
        """Returns the names of all activations that can be read or replaced, in the order in which they arise."""
        attn = [f"attn.{name}" for name in ("q", "k", "v", "scores", "pattern", "z")]
        mlp = ["resid_mid", "mlp.pre", "mlp.post", "mlp_out"] if self.config.d_mlp else []
        inside = ["resid_pre", *attn, "attn_out", *mlp, "resid_post"]
        blocks = [f"blocks.{i}.{name}" for i in range(self.config.n_layer) for name in inside]
        return ["embed", *blocks, "prediction"]

    def _through(
        self,
        h: Float[Tensor, "b t d_model"],
        mask: Bool[Tensor, "*prefixes t t"],
        causal: bool,
        hooks: HookContext,
        cut: int = 0,
    ) -> Iterator[Float[Tensor, "b t d_model"]]:
        """The residual stream after the first `cut` blocks, which is h, and after each block above."""
        h, sight = h if cut else hooks("embed", h), self._sight(mask, causal, h.dtype)
        yield h
        for i in range(cut, self.config.n_layer):
            block = self.blocks[0 if self.config.tied else i]
            h = block(h, sight, ScopedHooks(hooks, f"blocks.{i}"))
            yield h

    def _sight(self, mask: Bool[Tensor, "*prefixes t t"], causal: bool, dtype: torch.dtype) -> Sight:
        if self.config.attention == "softmax":
            return Sight(mask, causal)
        rows = mask[..., :1, :] if self.config.shared else mask
        if self.config.normaliser == "seen":
            return Sight(mask, causal, rows.to(dtype) / rows.sum(-1, keepdim=True).clamp(min=1))
        return Sight(mask, causal, rows.to(dtype) / (self.longest if self.config.normaliser == "longest" else 1))

    def _placed(
        self, h: Float[Tensor, "b t d_model"], places: Int[Tensor, " t"] | slice
    ) -> Float[Tensor, "b t d_model"]:
        """The stream with the learned vector of each token's place added."""
        return h + self.position[places]

    def _unknown(self, hooks: HookContext) -> list[str]:
        return [unknown("activation", name, self.activations()) for name in hooks.names() - set(self.activations())]

    # ---- files -----------------------------------------------------------------------------------------------------

    def save(self, path: Path | str) -> None:
        """Writes weights and shape to one safetensors file, whole or not at all."""
        shape = {**{name: getattr(self, name) for name in self.sizes}, "config": asdict(self.config)}
        weights = {
            name: value.clone(memory_format=torch.contiguous_format) for name, value in self.state_dict().items()
        }
        atomic_write(Path(path), to_bytes(weights, metadata={self.kind: json.dumps(shape)}))

    @classmethod
    def load(cls: type[Model], path: Path | str, device: torch.device | str = "cpu") -> Model:
        """Loads the model that `save` wrote. Raises ``ValueError`` where the file holds no such model: its shape, and
        the names, shapes and types of weights, are compared before any are read or made."""
        with open_weights(path) as file:
            text, given = (file.metadata() or {}).get(cls.kind, "null"), stored(Path(path), file)
            with prefixed(f"{path}"), torch.device("meta"):
                model = cls._from_shape(parse_json(text, f"what it tells of the {cls.kind}"), given)
            compare(Path(path), model, given)
            model.to(FLOATS[next(iter(given.values())).kind]).allocate(device)
            fill(model, given)
        return model

    @classmethod
    def _from_shape(cls: type[Model], shape: Any, given: Iterable[str]) -> Model:
        """The model of a shape that was read in a file, which holds weights of the given names. Layers are counted
        before they are made, as each of them takes time."""
        refuse("not this kind", [] if shape else [f"no {cls.kind} was saved in this file"])
        refuse(cls.kind, [] if isinstance(shape, dict) else ["its shape is not a table"])
        settings: dict[str, Any] = {name: shape.get(name) for name in (*cls.sizes, "config")}
        hints = {name: int | None if name in cls.younger else int for name in cls.sizes}
        refuse(cls.kind, wrong_kinds(settings, hints | {"config": dict}))
        known = [field.name for field in fields(cls.shape)]
        refuse(cls.kind, [unknown("setting", name, known) for name in settings["config"] if name not in known])
        refuse(cls.kind, wrong_kinds(settings["config"], get_type_hints(cls.shape)))
        settings["config"] = config = cls.shape(**settings["config"])
        layers = len({name.split(".")[1] for name in given if name.startswith("blocks.")})
        wanted = min(1, config.n_layer) if config.tied else config.n_layer
        refuse(cls.kind, [] if layers == wanted else [f"weights of {wanted} layers, the file has those of {layers}"])
        return cls(**settings)


class Transformer(Stack):
    """A transformer over prompts of at most n examples in d dimensions, whose labels are numbers, or vectors of so many
    coordinates as `labels` says. It is a `Predictor`.

    Args:
        d: Dimensions of an input.
        n: The longest prompt, in examples.
        config: Depth, width, attention and token layout.
        rng: The source of the initial weights; seed 0 by default.
        labels: Coordinates of a label; None where labels are numbers.

    >>> rng = torch.Generator().manual_seed(0)
    >>> model = Transformer(d=3, n=5, config=TransformerConfig(n_layer=2, d_model=16), rng=rng)
    >>> xs, ys = torch.randn(4, 5, 3, generator=rng), torch.randn(4, 5, generator=rng)
    >>> model(xs, ys).shape
    torch.Size([4, 5])
    >>> [h.shape[-1] for h in model.answering_stream(xs, ys)]  # after the input projection and each layer
    [16, 16, 16]
    >>> later = ys.clone()
    >>> later[:, 3:] = 0.0  # causality: the first predictions do not change
    >>> torch.allclose(model(xs, later)[:, :4], model(xs, ys)[:, :4])
    True
    """

    kind = "transformer"
    shape = TransformerConfig
    sizes = ("d", "n", "labels")
    younger = ("labels",)
    config: TransformerConfig

    def __init__(
        self,
        d: int,
        n: int,
        config: TransformerConfig | None = None,
        rng: torch.Generator | None = None,
        labels: int | None = None,
    ) -> None:
        super().__init__()
        self.d, self.n, self.config, self.labels = d, n, config or TransformerConfig(), labels
        problems = out_of_bounds({"d": d, "n": n, "labels": 1 if labels is None else labels}, LARGEST)
        refuse("Transformer", problems + self.config.problems_for(d, labels))
        self.layout = LAYOUTS[self.config.layout]
        learned = self.config.read_in == "learned"
        if learned:
            self.read_in = linear_map(self.layout.width(d, labels or 1), self.config.d_model, self.config)
        positions = self.layout.positions(n, torch.device("cpu"))
        self._add_blocks(int(positions.max()) + 1, len(positions))
        if learned:
            self.norm = layer_norm(self.config)
            self.read_out = linear_map(self.config.d_model, labels or 1, self.config)
        self._draw(rng)

    # ---- blocks that are zero --------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialise(self, rng: torch.Generator) -> None:
        """Draws weights as other stacks do, and sets to zero the blocks that are held there."""
        super().initialise(rng)
        for name, held in self.held_entries().items():
            self.get_parameter(name)[held] = 0.0

    def held_entries(self) -> dict[str, Bool[Tensor, "..."]]:
        words = [word.split(".") for word in self.config.zero_blocks.split()]
        channels, held = self._channels() if words else {}, {}
        for name, weights in self.named_parameters():
            *_, matrix, leaf = ["", *name.split(".")]
            read = leaf == "weight" and matrix in ("q", "k", "v")
            if zero := [channels[which] for of, which in words if of == matrix and (read or matrix == "out")]:
                chosen = torch.stack(zero).any(0).to(weights.device)
                held[name] = (chosen if read or leaf == "bias" else chosen.unsqueeze(1)).expand(weights.shape)
        return held

    def _channels(self) -> dict[str, Bool[Tensor, " d_model"]]:
        """Which channels of the stream hold the inputs, the label and neither, where it is the tokens themselves."""
        label = range(self.layout.width(self.d))[self.layout.label or 0]
        first = int(label == 0)  # inputs stand behind the label, or before
        places = torch.arange(self.config.d_model, device="cpu") - first
        x, y = (places >= 0) & (places < self.d), places == (label or -1)
        return {"x": x, "y": y, "rest": ~(x | y)}

    # ---- answering -------------------------------------------------------------------------------------------------

    @examples_in
    def forward(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n *labels"], m: int | None = None
    ) -> Float[Tensor, "batch m *labels"]:
        """Returns the predictions at every position, or at the last m alone."""
        return self._answer(xs, ys, HookContext(), m)

    @examples_in
    def residual_stream(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n *labels"], m: int | None = None
    ) -> Iterator[Float[Tensor, "sequences length d_model"]]:
        """Yields the residual stream: after the input projection, then after each block. `m` as in `forward`."""
        self._check(xs, ys, HookContext())
        stream, lost = self._stream(xs, ys, HookContext(), m)
        return (h.masked_fill(lost, nan) for h in stream)

    stream = method("stream", "residual_stream")

    def answering_stream(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n *labels"]
    ) -> Iterator[Float[Tensor, "batch n d_model"]]:
        """Yields the residual stream at the tokens that answer, after the input projection and after each block."""
        return (self.layout.answers(h) for h in self.residual_stream(xs, ys))

    def finish(
        self, h: Float[Tensor, "sequences length d_model"], cut: int, n: int, m: int | None = None
    ) -> Float[Tensor, "batch m *labels"]:
        """Returns the predictions at all n positions, or at the last m, where `h` is the stream after the first `cut`
        blocks: what the blocks above make of a stream, whatever wrote it."""
        mask = self._mask(len(h), n, m, h.device)
        h, lost = known(h, mask, self.config.shared)
        *_, last = self._through(h, mask, self.layout.causal, HookContext(), cut)
        return self._read_out(last, lost, m)

    @examples_in
    def read(
        self,
        xs: Float[Tensor, "batch n d"],
        ys: Float[Tensor, "batch n *labels"],
        names: str | Iterable[str],
        replace: Mapping[str, Replacement] | None = None,
    ) -> dict[str, Tensor]:
        """Returns the named activations of one call, e.g. ``read(xs, ys, ["blocks.0.attn.pattern"])``.

        The prediction itself is named "prediction". Raises ``ValueError`` for a name that is not in `activations()`.
        """
        hooks = HookContext(frozenset([names] if isinstance(names, str) else names), replace or {})
        self._answer(xs, ys, hooks)
        return hooks.values

    @examples_in
    def replaced(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n *labels"], replace: Mapping[str, Replacement]
    ) -> Float[Tensor, "batch n *labels"]:
        """Returns the predictions when the named activations are replaced by a tensor or by a function of
        themselves."""
        return self._answer(xs, ys, HookContext(replace=replace))

    def _stream(
        self, xs: Tensor, ys: Tensor, hooks: HookContext, m: int | None = None
    ) -> tuple[Iterator[Tensor], Tensor]:
        """The residual stream, in which what is not finite is zero, and which of its tokens are lost by that."""
        n, tokens = xs.shape[1], self.layout.tokens(xs, ys, m).to(next(self.parameters()).dtype)
        mask = self._mask(len(tokens), n, m, xs.device)
        tokens, lost = known(tokens, mask, self.config.shared)
        h = self._embedded(tokens)
        if self.config.positions:
            h = self._placed(h, self.layout.positions(n, xs.device))
        return self._through(h, mask, self.layout.causal, hooks), lost

    def _mask(self, sequences: int, n: int, m: int | None, device: torch.device) -> Bool[Tensor, "*prefixes t t"]:
        """Who may see whom; one mask for each position where each has a sequence, which are laid out prompt by
        prompt."""
        mask, count = self.layout.mask(n, device), m or n
        if mask.ndim == 2:
            return mask
        return mask[-1:] if m == 1 else mask[-count:].repeat(sequences // count, 1, 1, 1)

    def _embedded(self, tokens: Float[Tensor, "b t width"]) -> Float[Tensor, "b t d_model"]:
        if self.config.read_in == "learned":
            return self.read_in(tokens)
        return F.pad(tokens, (0, self.config.d_model - tokens.shape[-1]))

    def _read_out(
        self, last: Float[Tensor, "b t d_model"], lost: Bool[Tensor, "b t 1"], m: int | None
    ) -> Float[Tensor, "batch m *labels"]:
        """Predictions from the stream after the last block; not a number where the token that answers is lost."""
        answers, gone = self.layout.answers(last, m), self.layout.answers(lost, m)
        if self.config.read_in == "learned":
            predictions = self.read_out(self.norm(answers)).masked_fill(gone, nan)
            return predictions.squeeze(-1) if self.labels is None else predictions
        label = answers[..., range(self.layout.width(self.d))[self.layout.label or 0]]
        return (-label if self.config.negated else label).masked_fill(gone.squeeze(-1), nan)

    def _answer(self, xs: Tensor, ys: Tensor, hooks: HookContext, m: int | None = None) -> Tensor:
        self._check(xs, ys, hooks)
        stream, lost = self._stream(xs, ys, hooks, m)
        *_, last = stream
        return hooks("prediction", self._read_out(last, lost, m)).to(xs.dtype)

    def _check(self, xs: Tensor, ys: Tensor, hooks: HookContext) -> None:
        problems, wanted = self._unknown(hooks), [] if self.labels is None else [self.labels]
        if list(ys.shape[2:]) != wanted:
            problems.append(
                f"the labels are {_label_words(ys.shape[2:])}, the model was made for {_label_words(wanted)}"
            )
        if xs.shape[:2] != ys.shape[:2]:
            problems.append(f"xs {tuple(xs.shape)} and ys {tuple(ys.shape)} are not of the same prompts")
        if xs.shape[-1] != self.d:
            problems.append(f"the inputs have d = {xs.shape[-1]}, the model was made for d = {self.d}")
        if self.config.positions and xs.shape[1] > self.n:
            problems.append(f"prompts of n = {xs.shape[1]} are longer than the learned positions, n = {self.n}")
        refuse("Transformer", problems)


def _label_words(shape: Sequence[int]) -> str:
    """What labels are, from their shape."""
    return f"vectors of {shape[0]} coordinates" if shape else "numbers"


def layer_norm(config: BlockConfig, wanted: bool = True) -> nn.Module:
    kind = nn.RMSNorm if config.norm_kind == "rms" else nn.LayerNorm
    return kind(config.d_model, eps=config.norm_eps, device="meta") if config.norm and wanted else nn.Identity()


def together(maps: Sequence[Any], h: Float[Tensor, "*b inputs"]) -> Float[Tensor, "*b outputs"]:
    """Returns what several linear maps, or those of replicas, make of the same, side by side: one product."""
    bias = None if maps[0].bias is None else torch.cat([each.bias for each in maps], dim=-1)
    return affine(h, torch.cat([each.weight for each in maps], dim=-2), bias)


def affine(
    h: Float[Tensor, "*b inputs"], weight: Float[Tensor, "*R outputs inputs"], bias: Float[Tensor, "*R outputs"] | None
) -> Float[Tensor, "*b outputs"]:
    """Returns h Wᵀ + b; with an axis of replicas, each R-th of h by the weights of its replica."""
    if weight.ndim == 2:
        return F.linear(h, weight, bias)
    rows = h.reshape(len(weight), -1, h.shape[-1])
    outputs = rows @ weight.mT if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
    return outputs.view(*h.shape[:-1], -1)


def linear_map(inputs: int, outputs: int, config: BlockConfig) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=config.bias, device="meta")  # numbers are drawn by `initialise`
