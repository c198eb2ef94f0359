"""Bai et al. 2023 (arXiv 2306.04637), App. K: an encoder with ReLU attention, as their released code has it.

    tokens of prefix i   (x_j, y_j) for all j < i, then (x_i, 0): T = i + 1 of them, which all see all
    h ← read_in(token)
    h ← norm_1(h + 1/T Σ_s relu(W_Q h · W_K h_s) W_V h_s)
    h ← norm_2(h + W_2 relu(W_1 h))                            ŷ_i = read_out(h) at the last token

Norms come after the sums, one head has all channels, and its maps have no biases, whatever n_head says. That is not our
transformer, and so it has a class here. Each prefix is a sequence of its own; training saw the longest alone, and what
is answered before the last position is as the model was never taught.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iclab.errors import refuse, unknown, wrong_kinds
from iclab.models.door import examples_in
from iclab.models.formats import config_yaml
from iclab.models.mapping import Source, filled
from iclab.models.stored import weights_in

ACTIVATIONS = ("relu", "softmax")
MAPS = {"q": "queries", "k": "keys", "v": "values"}
NORMS = {"norm_1": "lns_1", "norm_2": "lns_2"}
PARTS = ("weight", "bias")


class PostNormLayer(nn.Module):
    """A layer: attention over all tokens of a prefix, then an MLP, each added and then normalised."""

    def __init__(self, width: int, activation: str, shared: bool) -> None:
        super().__init__()
        self.activation, self.shared = activation, shared
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.mlp_in, self.mlp_out = nn.Linear(width, width), nn.Linear(width, width)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, h: Float[Tensor, "b i t D"], seen: Bool[Tensor, "i s"]) -> Float[Tensor, "b i t D"]:
        h = self.norm_1(h + self.weights(self.q(h) @ self.k(h).mT, seen) @ self.v(h))
        return self.norm_2(h + self.mlp_out(self.mlp_in(h).relu()))

    def weights(self, scores: Float[Tensor, "b i t s"], seen: Bool[Tensor, "i s"]) -> Float[Tensor, "b i t s"]:
        """Returns the weights of attention in each prefix: divided by the number of its tokens where they share."""
        unseen = ~seen.unsqueeze(1)
        if self.activation == "softmax":
            weights = scores.masked_fill(unseen, -torch.inf).softmax(-1)
        else:
            weights = scores.relu().masked_fill(unseen, 0.0)
        return weights / seen.sum(-1)[:, None, None] if self.shared else weights


class PostNormEncoder(nn.Module):
    """The encoder of Bai et al. It is a `Predictor`, and has layers that can be read out.

    Args:
        d: Dimensions of an input.
        n: The longest prompt of its training, in examples.
        width: Channels of the residual stream.
        layers: Their number.
        activation: Of the scores of attention, relu or softmax.
        shared: Whether weights of attention are divided by the number of tokens.
    """

    def __init__(self, d: int, n: int, width: int, layers: int, activation: str = "relu", shared: bool = True) -> None:
        super().__init__()
        self.d, self.n = d, n
        self.read_in, self.read_out = nn.Linear(d + 1, width), nn.Linear(width, 1)
        self.layers = nn.ModuleList(PostNormLayer(width, activation, shared) for _ in range(layers))

    @examples_in
    def forward(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Returns the predictions at every position."""
        *_, last = self.answering_stream(xs, ys)
        return self.read_out(last).squeeze(-1).to(xs.dtype)

    @examples_in
    def answering_stream(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]
    ) -> Iterator[Float[Tensor, "batch n D"]]:
        """Yields the stream at the token that answers for each prefix, after the input projection and each layer."""
        problem = f"inputs of d = {self.d} and labels that are numbers, given {tuple(xs.shape)} and {tuple(ys.shape)}"
        refuse("PostNormEncoder", [] if xs.shape[-1] == self.d and ys.ndim == 2 else [f"it reads {problem}"])
        return self._stream(xs, ys)

    def _stream(self, xs: Tensor, ys: Tensor) -> Iterator[Tensor]:
        n = xs.shape[1]
        seen = torch.ones(n, n, dtype=torch.bool, device=xs.device).tril()  # of prefix i: the tokens up to i
        h = self.read_in(_prefixes(xs, ys, seen).to(self.read_in.weight.dtype))
        yield _last_tokens(h)
        for layer in self.layers:
            h = layer(h, seen)
            yield _last_tokens(h)

    def allocate(self, device: torch.device | str) -> None:
        """Allocates memory for weights on the meta device; their values are not set."""
        self.to_empty(device=device)


def _prefixes(xs: Tensor, ys: Tensor, seen: Bool[Tensor, "i t"]) -> Float[Tensor, "b i t d_1"]:
    """The tokens of each prefix: no label in the last of them, and zeros where it has no more."""
    tokens = torch.cat([xs, ys.unsqueeze(-1)], dim=-1).unsqueeze(1).expand(-1, len(seen), -1, -1)
    labelled = torch.ones_like(seen).tril(-1)
    kept = torch.cat([seen.unsqueeze(-1).expand(-1, -1, xs.shape[-1]), labelled.unsqueeze(-1)], dim=-1)
    return tokens.masked_fill(~kept, 0.0)


def _last_tokens(h: Float[Tensor, "b n n D"]) -> Float[Tensor, "b n D"]:
    return h.diagonal(dim1=1, dim2=2).mT


class Bai2023(config_yaml.TrainingRun):
    """A run of the code of Bai et al. with a model of the family EncoderTF."""

    name, family = "Bai et al. 2023", "EncoderTF"
    about = "a folder with state.pt and config.yaml, whose model.family is EncoderTF"

    def open(self, place: Path, dtype: torch.dtype = torch.float32) -> PostNormEncoder:
        settings = _settings(place)
        ends = ("read_in", "read_out")
        sources = [Source([f"{end}.{part}"], [f"_{end}.{part}"]) for end in ends for part in PARTS]
        sources += [source for i in range(settings["n_layer"]) for source in _layer(i)]
        with weights_in(config_yaml.weights_of(place)) as given:
            return filled(place, lambda: _encoder(settings), sources, given, dtype)

    def outline(self, place: Path) -> PostNormEncoder:
        with torch.device("meta"):
            return _encoder(_settings(place))


def _settings(place: Path) -> dict[str, Any]:
    """The settings of the model, older ones completed as their code does."""
    settings = {"encoder_activation": "relu", "normalize_attn": True} | config_yaml.sizes(place)
    activation, file = str(settings["encoder_activation"]), config_yaml.weights_of(place).parent / config_yaml.CONFIG
    wrong = [] if activation in ACTIVATIONS else [unknown("encoder_activation", activation, ACTIVATIONS)]
    refuse(f"{file}", wrong + wrong_kinds(settings, {"normalize_attn": bool}))
    return settings


def _encoder(settings: Mapping[str, Any]) -> PostNormEncoder:
    return PostNormEncoder(
        d=settings["n_dims"],
        n=settings["n_positions"],
        width=settings["n_embd"],
        layers=settings["n_layer"],
        activation=settings["encoder_activation"],
        shared=settings["normalize_attn"],
    )


def _layer(i: int) -> Iterator[Source]:
    for own, given in MAPS.items():
        yield Source([f"layers.{i}.{own}.weight"], [f"_{given}.{i}.weight"])
    for part in PARTS:
        for own, given in NORMS.items():
            yield Source([f"layers.{i}.{own}.{part}"], [f"_{given}.{i}.{part}"])
        yield Source([f"layers.{i}.mlp_in.{part}"], [f"_mlps.{i}.0.{part}"])
        yield Source([f"layers.{i}.mlp_out.{part}"], [f"_mlps.{i}.2.{part}"])
