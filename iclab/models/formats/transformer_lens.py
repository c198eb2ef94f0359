"""TransformerLens: state dicts of a HookedTransformer, as files of torch.save or safetensors.

    embed.W_E [vocab D]                      pos_embed.W_pos [n D], or rotary positions
    blocks.l.attn.W_Q, W_K, W_V [a D c]      b_Q, b_K, b_V [a c]
    blocks.l.attn.W_O [a c D]                b_O [D]
    blocks.l.mlp.W_in [D m], W_out [m D]     b_in, b_out
    ln1, ln2, ln_final with w and b          unembed.W_U [D vocab], b_U

Sizes are read off the shapes. What no shape shows (the activation of the MLP, norms that were folded into what reads
them, the small number in a norm, rotary positions) stands in a file of JSON beside the weights, of the same stem or
named config.json, with the keys of HookedTransformerConfig: `{"act_fn": "gelu", "normalization_type": "LNPre"}`. It is
needed where there is an MLP, or no norm.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from iclab.errors import UsageError, refuse, shown, unknown, wrong_kinds
from iclab.files import read_json
from iclab.models.architecture import LARGEST
from iclab.models.formats.format import Format
from iclab.models.mapping import Source, filled
from iclab.models.stored import PICKLED, Stored, weights_in
from iclab.models.tokens import TokenTransformer, TokenTransformerConfig

ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh", "relu", "silu"]] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}
NORMS = ("LN", "LNPre", "RMS", "RMSPre")
UNKNOWN = "unknown"
BUFFERS = (".attn.mask", ".attn.IGNORE", ".attn.rotary_sin", ".attn.rotary_cos")
KINDS = {
    **{"act_fn": str | None, "normalization_type": str | None, "eps": float, "use_attn_scale": bool},
    **{"positional_embedding_type": str, "rotary_dim": int | None, "rotary_base": float, "parallel_attn_mlp": bool},
    "n_ctx": int,
}
WANTED = {  # what our class does not have otherwise
    **{"attention_dir": "causal", "use_local_attn": False, "gated_mlp": False, "rotary_adjacent_pairs": False},
    **{"scale_attn_by_inverse_layer_idx": False, "final_rms": False, "use_qk_norm": False, "num_experts": None},
    **{"attn_scores_soft_cap": -1.0, "output_logits_soft_cap": -1.0, "use_normalization_before_and_after": False},
}
FIRST = "blocks.0.attn.W_Q"


class TransformerLens(Format):
    """The weights of a HookedTransformer over tokens."""

    name = "TransformerLens"
    about = "a .pt, .pth or .safetensors with blocks.0.attn.W_Q and others, and a JSON file of settings beside it"

    def recognises(self, place: Path) -> bool:
        if not place.is_file() or place.suffix not in (".safetensors", *PICKLED):
            return False
        with weights_in(place) as given:
            return FIRST in given

    def files(self, place: Path) -> list[Path]:
        return [place, *filter(Path.is_file, _beside(place)[:1])]

    def open(self, place: Path, dtype: torch.dtype = torch.float32) -> TokenTransformer:
        with weights_in(place) as stored:
            given = {name: one for name, one in stored.items() if not name.endswith(BUFFERS)}
            settings = _settings(place)
            vocab, n, config = _shape(place, given, settings)
            lacks = _folded_norms(config) if _norm(place, given, settings).endswith("Pre") else {}
            sources = [source for source in _sources(config) if not {*source.own} & lacks.keys()]
            return filled(place, lambda: TokenTransformer(vocab, n, config), sources, given, dtype, lacks)


def _beside(place: Path) -> list[Path]:
    """The files of settings that count, the first of them that is there."""
    places = [place.with_suffix(".json"), place.parent / "config.json"]
    return [file for file in places if file.is_file()]


def _settings(place: Path) -> dict[str, Any]:
    for file in _beside(place):
        content = read_json(file)
        refuse(f"{file}", [] if isinstance(content, dict) else ["not a table of settings"])
        refuse(f"{file}", wrong_kinds(content, KINDS))
        odd = [
            f"needs {key} = {v}, given {shown(content[key])}" for key, v in WANTED.items() if content.get(key, v) != v
        ]
        refuse(f"{file}", odd)
        return content
    return {}


def _shape(
    place: Path, given: Mapping[str, Stored], settings: Mapping[str, Any]
) -> tuple[int, int, TokenTransformerConfig]:
    """The vocabulary, the longest sequence, and the shape, from the shapes of weights and the settings."""
    heads, width, d_head = _axes(place, given, FIRST, 3)
    vocab, _ = _axes(place, given, "embed.W_E", 2)
    layers = len({name.split(".")[1] for name in given if name.startswith("blocks.")})
    mlp = _axes(place, given, "blocks.0.mlp.W_in", 2)[1] if "blocks.0.mlp.W_in" in given else 0
    positions = "pos_embed.W_pos" in given
    n = _axes(place, given, "pos_embed.W_pos", 2)[0] if positions else settings.get("n_ctx", 0)
    norm = _norm(place, given, settings)
    problems = [] if positions or settings.get("positional_embedding_type") == "rotary" else ["no pos_embed.W_pos"]
    problems += [] if n else ["n_ctx must be given where positions are rotary"]
    if mlp and settings.get("act_fn") not in ACTIVATIONS:
        problems.append(f"act_fn: {unknown('activation', str(settings.get('act_fn')), ACTIVATIONS)}")
    where = _beside(place) or [place.with_suffix(".json")]
    refuse(f"{place} (settings in {where[0]})", problems)
    refuse(f"{place}", [] if layers <= LARGEST["n_layer"] else [f"{layers} layers are too many"])
    return (
        vocab,
        n,
        TokenTransformerConfig(
            n_layer=layers,
            n_head=heads,
            d_model=width,
            d_head=d_head,
            d_mlp=mlp,
            activation=ACTIVATIONS[settings["act_fn"]] if mlp else "gelu",
            scale=None if settings.get("use_attn_scale", True) else 1.0,
            positions=positions,
            rotary=0 if positions else settings.get("rotary_dim") or d_head,
            rotary_base=float(settings.get("rotary_base", 10000.0)),
            parallel=settings.get("parallel_attn_mlp", False),
            norm=bool(norm),
            norm_kind="rms" if norm.startswith("RMS") else "layer",
            norm_eps=float(settings.get("eps", 1e-5)),
        ),
    )


def _norm(place: Path, given: Mapping[str, Stored], settings: Mapping[str, Any]) -> str:
    """Which kind of norms there are, as the settings say or else as the weights show; empty where there are none."""
    seen = ("LN" if "ln_final.b" in given else "RMS") if "ln_final.w" in given else UNKNOWN
    name = settings.get("normalization_type", seen)
    if name == UNKNOWN:
        where = f"normalization_type in {place.with_suffix('.json')} must say (LNPre, RMSPre or null)"
        raise UsageError(f"{place}: no norm is among the weights: {where}")
    refuse(f"{place}", [] if name in (*NORMS, None) else [unknown("normalization_type", str(name), NORMS)])
    return name or ""


def _axes(place: Path, given: Mapping[str, Stored], name: str, count: int) -> tuple[int, ...]:
    shape = given[name].shape if name in given else ()
    refuse(f"{place}", [] if len(shape) == count else [f"{name} must have {count} axes, given {shape or 'none'}"])
    return shape


def _sources(config: TokenTransformerConfig) -> Iterator[Source]:
    """The weights with all parts that such a model may have."""
    yield Source(["read_in.weight"], ["embed.W_E"])
    yield Source(["read_out.weight"], ["unembed.W_U"], lambda W: [W.mT])
    yield Source(["read_out.bias"], ["unembed.b_U"])
    if config.positions:
        yield Source(["position"], ["pos_embed.W_pos"])
    norms = {"norm": "ln_final"} if config.norm else {}
    for i in range(config.n_layer):
        own, given = f"blocks.{i}", f"blocks.{i}"
        for letter in "qkv":
            yield Source([f"{own}.attn.{letter}.weight"], [f"{given}.attn.W_{letter.upper()}"], _heads)
            yield Source([f"{own}.attn.{letter}.bias"], [f"{given}.attn.b_{letter.upper()}"], lambda b: [b.flatten()])
        yield Source([f"{own}.attn.out.weight"], [f"{given}.attn.W_O"], lambda W: [W.flatten(0, 1).mT])
        yield Source([f"{own}.attn.out.bias"], [f"{given}.attn.b_O"])
        for ours, theirs in {"mlp_in": "in", "mlp_out": "out"}.items() if config.d_mlp else ():
            yield Source([f"{own}.{ours}.weight"], [f"{given}.mlp.W_{theirs}"], lambda W: [W.mT])
            yield Source([f"{own}.{ours}.bias"], [f"{given}.mlp.b_{theirs}"])
        if config.norm:
            norms |= {f"{own}.norm_attn": f"{given}.ln1"} | (
                {f"{own}.norm_mlp": f"{given}.ln2"} if config.d_mlp else {}
            )
    parts = {"weight": "w", "bias": "b"} if config.norm_kind == "layer" else {"weight": "w"}
    yield from (Source([f"{o}.{part}"], [f"{g}.{leaf}"]) for o, g in norms.items() for part, leaf in parts.items())


def _heads(W: Tensor) -> list[Tensor]:
    """[a D c] as [(a c) D]."""
    return [W.transpose(1, 2).flatten(0, 1)]


def _folded_norms(config: TokenTransformerConfig) -> dict[str, float]:
    """The gains and biases of norms that were folded into what reads them: 1 and 0."""
    owns = [own for source in _sources(config) for own in source.own if "norm" in own]
    return {own: 1.0 if own.endswith("weight") else 0.0 for own in owns}
