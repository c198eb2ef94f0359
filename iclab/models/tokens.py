"""A decoder-only transformer over token sequences: the blocks of `iclab.models.transformer` with an embedding and an
unembedding.

    h ← embedding of the token + position              "embed"
    h ← the blocks
    logits ← unembedding(norm(h)) at every token       "prediction"

Law (causality): logits i do not change when a token j > i does, whatever it becomes.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, nan
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from iclab.errors import refuse
from iclab.models.activations import HookContext, Replacement
from iclab.models.architecture import TokenModelConfig, refuse_sizes
from iclab.models.door import tokens_in
from iclab.models.transformer import BlockConfig, Stack, layer_norm, linear_map
from iclab.renamed import method


@dataclass(frozen=True, kw_only=True)
class TokenTransformerConfig(BlockConfig, TokenModelConfig):
    """The shape of a transformer over tokens. The default is attention alone, in two layers of softmax: the smallest in
    which heads can compose (Elhage et al. 2021, transformer-circuits.pub/2021/framework).

    `parallel` lets the MLP read the stream as it was before attention; the first `rotary` channels of queries and keys
    are turned by the position (0: none); `tied_embedding` reads out with the vectors that are read in, drawn as those
    of an unembedding. `norm_kind = "rms"` divides by the root mean square alone, without mean and bias (Zhang and
    Sennrich 2019, arXiv 1910.07467), and `gated` multiplies the hidden layer of the MLP by a second one (Shazeer 2020,
    arXiv 2002.05202). Such are GPT-2 (learned positions, tied), GPT-NeoX (rotary, parallel) and Llama (rotary, rms,
    gated), which `iclab.models.pretrained` loads. `position_spread` is the standard deviation of positions before
    training, where embeddings of tokens have `init_scale`: what is about positions is learned the faster the nearer the
    two are.
    """

    n_layer: int = 2
    attention: Literal["softmax", "linear", "relu"] = "softmax"
    parallel: bool = False
    rotary: int = 0
    rotary_base: float = 10000.0
    norm_eps: float = 1e-5
    tied_embedding: bool = False
    position_spread: float = 0.02
    norm_kind: Literal["layer", "rms"] = field(default="layer", metadata={"since": "0.1"})
    gated: bool = field(default=False, metadata={"since": "0.1"})

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.gated and not self.d_mlp:
            problems.append("gated is of an MLP, and d_mlp is 0")
        if self.rotary and not problems and not (0 < self.rotary <= self.head_width and self.rotary % 2 == 0):
            problems.append(
                f"rotary must be even, from 0 to the width of a head, {self.head_width}, given {self.rotary}"
            )
        if not 0 <= self.position_spread < inf:
            given = f"given {self.position_spread}"
            problems.append(f"position_spread must be a standard deviation (0 or more, finite), {given}")
        positive = {name: getattr(self, name) for name in ("rotary_base", "norm_eps")}
        return problems + [
            f"{k} must be positive and finite, given {v}" for k, v in positive.items() if not 0 < v < inf
        ]

    @property
    def bounded(self) -> bool:
        return self.positions

    def build(self, vocab: int, n: int, rng: torch.Generator | None = None) -> "TokenTransformer":
        """Builds the untrained model over sequences of at most n tokens out of `vocab`."""
        return TokenTransformer(vocab, n, self, rng)


class TokenTransformer(Stack):
    """A transformer over sequences of at most n tokens, each a number from 0 to vocab − 1.

    Args:
        vocab: The number of different tokens.
        n: The longest sequence.
        config: Depth, width, attention and positions.
        rng: The source of the initial weights; seed 0 by default.

    >>> import torch
    >>> rng = torch.Generator().manual_seed(0)
    >>> model = TokenTransformer(vocab=5, n=8, config=TokenTransformerConfig(n_layer=1, d_model=16), rng=rng)
    >>> tokens = torch.tensor([[0, 3, 1, 4]])
    >>> model(tokens).shape  # logits [batch n vocab]
    torch.Size([1, 4, 5])
    >>> model.read(tokens, "blocks.0.attn.pattern")["blocks.0.attn.pattern"].shape  # a cached activation
    torch.Size([1, 2, 4, 4])
    """

    kind = "token transformer"
    shape = TokenTransformerConfig
    sizes = ("vocab", "n")
    config: TokenTransformerConfig

    def __init__(
        self, vocab: int, n: int, config: TokenTransformerConfig | None = None, rng: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.vocab, self.n, self.config = vocab, n, config or TokenTransformerConfig()
        refuse_sizes("TokenTransformer", {"vocab": vocab, "n": n})
        self._add_read_in()
        self._add_blocks(n, n)
        self.norm = layer_norm(self.config)
        self._add_read_out()
        self._draw(rng)

    @property
    def position_spread(self) -> float:
        return self.config.position_spread

    def _add_read_in(self) -> None:
        self.read_in = nn.Embedding(self.vocab, self.config.d_model, device="meta")  # drawn by `initialise`

    def _add_read_out(self) -> None:
        self.read_out = linear_map(self.config.d_model, self.vocab, self.config)
        self._tie()

    def allocate(self, device: torch.device | str) -> None:
        super().allocate(device)
        self._tie()  # anew, as each of the two names was given memory of its own

    def _tie(self) -> None:
        if self.config.tied_embedding:
            self.read_out.weight = self.read_in.weight

    @tokens_in
    def forward(self, tokens: Shaped[Tensor, "batch n *width"], m: int | None = None) -> Float[Tensor, "batch m vocab"]:
        """Returns the logits of the next token at every position, or at the last m alone."""
        return self._answer(tokens, HookContext(), m)

    @tokens_in
    def residual_stream(self, tokens: Shaped[Tensor, "batch n *width"]) -> Iterator[Float[Tensor, "batch n d_model"]]:
        """Yields the residual stream: after the embedding, then after each block."""
        self._check(tokens, HookContext())
        tokens, lost = self._known(tokens)
        return (_without(lost, h) for h in self._stream(tokens, HookContext()))

    stream = method("stream", "residual_stream")

    @tokens_in
    def read(
        self,
        tokens: Shaped[Tensor, "batch n *width"],
        names: str | Iterable[str],
        replace: Mapping[str, Replacement] | None = None,
        m: int | None = None,
    ) -> dict[str, Tensor]:
        """Returns the named activations of one call, e.g. ``read(tokens, ["blocks.0.attn.pattern"])``.

        The logits are named "prediction", and formed at the last m positions alone where m is given. Raises
        ``ValueError`` for a name that is not in `activations()`.
        """
        hooks = HookContext(frozenset([names] if isinstance(names, str) else names), replace or {})
        self._answer(tokens, hooks, m)
        return hooks.values

    @tokens_in
    def replaced(
        self, tokens: Shaped[Tensor, "batch n *width"], replace: Mapping[str, Replacement]
    ) -> Float[Tensor, "batch n vocab"]:
        """Returns the logits when the named activations are replaced by a tensor or by a function of themselves."""
        return self._answer(tokens, HookContext(replace=replace))

    def _stream(self, tokens: Tensor, hooks: HookContext) -> Iterator[Tensor]:
        n = tokens.shape[1]
        h = self._embedded(tokens)
        if self.config.positions:
            h = self._placed(h, slice(n))
        return self._through(h, self._mask(tokens), True, hooks)

    def _mask(self, tokens: Tensor) -> Bool[Tensor, "n n"]:
        n = tokens.shape[1]
        return torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril()

    def _known(self, tokens: Tensor) -> tuple[Tensor, Bool[Tensor, "batch n 1"] | None]:
        """Tokens to compute with, and which are lost by those that are not finite: none where tokens are numbers."""
        return tokens, None

    def _embedded(self, tokens: Tensor) -> Tensor:
        """Tokens as vectors of the stream, without their positions."""
        return self.read_in(tokens)

    def _answer(self, tokens: Tensor, hooks: HookContext, m: int | None = None) -> Tensor:
        self._check(tokens, hooks)
        tokens, lost = self._known(tokens)
        *_, last = self._stream(tokens, hooks)
        logits = self._read_out(tokens, self.norm(last), hooks, m)
        return hooks("prediction", _without(lost if lost is None else lost[:, -logits.shape[1] :], logits))

    def _read_out(self, tokens: Tensor, h: Tensor, hooks: HookContext, m: int | None) -> Tensor:
        """Logits from the normalised residual stream."""
        return self.read_out(h if m is None else h[:, -m:])

    def _check(self, tokens: Tensor, hooks: HookContext) -> None:
        problems = self._unknown(hooks) + self._unreadable(tokens)
        if self.config.bounded and tokens.ndim > 1 and tokens.shape[1] > self.n:
            problems.append(f"sequences of n = {tokens.shape[1]} are longer than the learned positions, n = {self.n}")
        refuse(type(self).__name__, problems)

    def _unreadable(self, tokens: Tensor) -> list[str]:
        """What is wrong with the tokens, whatever their number."""
        if tokens.ndim != 2 or tokens.is_floating_point():
            return [f"tokens are whole numbers [batch n], given {tokens.dtype} of the shape {tuple(tokens.shape)}"]
        ends = _ends(tokens)
        if ends is None or 0 <= ends[0] <= ends[1] < self.vocab:
            return []
        return [f"tokens are numbers from 0 to {self.vocab - 1}, given {ends[0]} to {ends[1]}"]


def _without(lost: Bool[Tensor, "batch m 1"] | None, values: Float[Tensor, "batch m _"]) -> Float[Tensor, "batch m _"]:
    return values if lost is None else values.masked_fill(lost, nan)


def _ends(tokens: Int[Tensor, "batch n"]) -> tuple[int, int] | None:
    """The least and the largest token; None where there is none, and inside `torch.vmap` or in the capture of a CUDA
    graph, where no number can be looked at: there the embedding itself refuses what it does not have."""
    if tokens.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    try:
        return (int(tokens.min()), int(tokens.max())) if tokens.numel() else None
    except RuntimeError:
        return None
