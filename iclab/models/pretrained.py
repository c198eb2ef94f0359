"""GPT-2 and GPT-NeoX (Pythia) from a folder of safetensors, as a `TokenTransformer`: one code for all models.

A folder holds `config.json` and `model.safetensors`, or several files with `model.safetensors.index.json`. Nothing is
looked for anywhere else, and a weight that no one asked for, or that is missing, is refused.

                   GPT-2                                          GPT-NeoX
    maps           h @ W [in out], W_Q|W_K|W_V side by side       W @ h [out in], q, k, v of each head in turn
    positions      learned                                        rotary, on a share of the channels of a head
    MLP            reads what attention has written               reads what attention reads (`use_parallel_residual`)
    read-out       the embedding                                  its own

What our class stores is W @ h, one head after the other. Names in GPT-2 files may or may not begin with "transformer.";
the read-out of GPT-NeoX is `embed_out.weight`, or in files of late `lm_head.weight`. Buffers of old files (masks,
angles) are skipped. Weights in half precision are widened.

Source: Radford et al. 2019 (GPT-2); Black et al. 2022 (arXiv 2204.06745); Biderman et al. 2023 (arXiv 2304.01373). The
names are those of the library transformers, with which the logits are compared in the tests.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from iclab.errors import Refusal, refuse, unknown
from iclab.models.tokens import TokenTransformer, TokenTransformerConfig

ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh", "relu"]] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
BUFFERS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
LISTED = 8  # names of weights in a refusal
Settings = Mapping[str, Any]


class Source(NamedTuple):
    """Where weights come from: our names, the names that a file may have for them, and how one becomes the others."""

    own: Sequence[str]
    given: Sequence[str]
    made: Callable[[Tensor], Sequence[Tensor]] = lambda weight: [weight]


@dataclass(frozen=True)
class Kind:
    """A family of models: the settings that must be given and what others are unless given, how long its sequences may
    be, its shape, and its weights without the prefix that their names may have."""

    needed: Sequence[str]
    presets: Settings
    longest: str
    prefix: str
    shape: Callable[[Settings], TokenTransformerConfig]
    sources: Callable[[TokenTransformerConfig], Iterator[Source]]


def load_pretrained(folder: Path | str, dtype: torch.dtype = torch.float32) -> TokenTransformer:
    """The model in a folder. Raises ``ValueError`` for another kind of model, for settings that our class does not
    have, and for weights that are missing, not known, or of the wrong shape."""
    folder = Path(folder)
    config = _config(folder)
    kind = KINDS[config["model_type"]]
    shape = kind.shape(config)
    state = _state(folder, kind, shape)
    model = TokenTransformer(config["vocab_size"], config[kind.longest], shape).to(dtype)
    state["read_out.bias"] = torch.zeros(model.vocab)
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wrong = {name: tuple(state[name].shape) for name in own if tuple(state[name].shape) != own[name]}
    refuse(f"{folder}", [f"{name} must be of shape {own[name]}, given {given}" for name, given in wrong.items()])
    model.load_state_dict(state)
    return model


def _config(folder: Path) -> Settings:
    file = folder / "config.json"
    refuse(f"{folder}", [] if file.is_file() else ["no config.json; a model is a folder with this and its safetensors"])
    try:
        config = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise Refusal(f"{file}: not JSON: {error}") from None
    refuse(f"{file}", [] if isinstance(config, dict) else ["not a table of settings"])
    kind = str(config.get("model_type"))
    refuse(f"{folder}", [] if kind in KINDS else [unknown("model_type", kind, KINDS)])
    refuse(f"{folder}", [f"config.json has no {key}" for key in KINDS[kind].needed if key not in config])
    return {**KINDS[kind].presets, **config}


def _state(folder: Path, kind: Kind, shape: TokenTransformerConfig) -> dict[str, Tensor]:
    """All weights by our names."""
    given = {name.removeprefix(kind.prefix): value for name, value in _weights(folder).items()}
    sources = list(kind.sources(shape))
    unasked = sorted(given.keys() - {name for source in sources for name in source.given})
    missing = [source.given[0] for source in sources if source.own and not given.keys() & {*source.given}]
    lists = {"unknown weights": unasked, "missing weights": missing}
    refuse(f"{folder}", [f"{what}: {_listed(names)}" for what, names in lists.items() if names])
    state = {}
    for source in sources:
        found = [given[name] for name in source.given if name in given]
        state |= dict(zip(source.own, source.made(found[0]), strict=True)) if source.own else {}
    return state


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _weights(folder: Path) -> dict[str, Tensor]:
    """Everything in the files of a folder but buffers."""
    index = folder / "model.safetensors.index.json"
    names = sorted({*json.loads(index.read_text())["weight_map"].values()} if index.exists() else {"model.safetensors"})
    refuse(f"{folder}", [f"no file {name}" for name in names if not (folder / name).exists()])
    found: dict[str, Tensor] = {}
    for name in names:
        try:
            found |= load_file(folder / name)
        except SafetensorError as error:
            raise Refusal(f"{folder / name}: no file of weights (safetensors): {error}") from None
    return {name: value for name, value in found.items() if not name.endswith(BUFFERS)}


def _refuse_settings(config: Settings, wanted: Settings, activation: str) -> None:
    found = [f"needs {k} = {v}, given {config[k]}" for k, v in wanted.items() if config.get(k, v) != v]
    known = activation in ACTIVATIONS
    refuse(config["model_type"], found + ([] if known else [unknown("activation", activation, ACTIVATIONS)]))


def _ends(embedding: str, tied: bool, *read_out: str) -> Iterator[Source]:
    """What is read in, and what is read out with; tied, a file may hold the same twice."""
    if tied:
        yield Source(["read_in.weight", "read_out.weight"], [embedding], lambda weight: [weight, weight])
        yield Source([], read_out)
    else:
        yield Source(["read_in.weight"], [embedding])
        yield Source(["read_out.weight"], read_out)


# ---- GPT-2 ---------------------------------------------------------------------------------------------------------


def _gpt2_shape(config: Settings) -> TokenTransformerConfig:
    wanted = {"scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "add_cross_attention": False}
    _refuse_settings(config, wanted, config["activation_function"])
    return TokenTransformerConfig(
        n_layer=config["n_layer"],
        n_head=config["n_head"],
        d_model=config["n_embd"],
        d_mlp=config.get("n_inner") or 4 * config["n_embd"],
        activation=ACTIVATIONS[config["activation_function"]],
        norm_eps=config["layer_norm_epsilon"],
        tied_embedding=config["tie_word_embeddings"],
    )


def _gpt2_sources(shape: TokenTransformerConfig) -> Iterator[Source]:
    yield from _ends("wte.weight", shape.tied_embedding, "lm_head.weight")
    yield Source(["position"], ["wpe.weight"])
    norms = {"norm_attn": "ln_1", "norm_mlp": "ln_2"}
    maps = {"attn.out": "attn.c_proj", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj"}
    for part in ("weight", "bias"):
        yield Source([f"norm.{part}"], [f"ln_f.{part}"])
        for i in range(shape.n_layer):
            for own, given in norms.items():
                yield Source([f"blocks.{i}.{own}.{part}"], [f"h.{i}.{given}.{part}"])
            for own, given in maps.items():
                yield Source([f"blocks.{i}.{own}.{part}"], [f"h.{i}.{given}.{part}"], lambda W: [W.transpose(0, -1)])
            qkv = [f"blocks.{i}.attn.{letter}.{part}" for letter in "qkv"]
            yield Source(qkv, [f"h.{i}.attn.c_attn.{part}"], lambda W: W.transpose(0, -1).tensor_split(3))


# ---- GPT-NeoX ------------------------------------------------------------------------------------------------------


def _neox_shape(config: Settings) -> TokenTransformerConfig:
    rotary = {"rope_theta": config["rotary_emb_base"], "partial_rotary_factor": config["rotary_pct"]}
    rotary |= config.get("rope_parameters") or {}  # so they are called in files of late
    wanted = {"rope_scaling": None, "attention_bias": True, "rope_type": "default"}
    _refuse_settings({**config, **rotary}, wanted, config["hidden_act"])
    width = config["hidden_size"] // config["num_attention_heads"]
    return TokenTransformerConfig(
        n_layer=config["num_hidden_layers"],
        n_head=config["num_attention_heads"],
        d_model=config["hidden_size"],
        d_mlp=config["intermediate_size"],
        activation=ACTIVATIONS[config["hidden_act"]],
        positions=False,
        parallel=config["use_parallel_residual"],
        rotary=int(width * rotary["partial_rotary_factor"]),
        rotary_base=float(rotary["rope_theta"]),
        norm_eps=config["layer_norm_eps"],
        tied_embedding=config["tie_word_embeddings"],
    )


def _neox_sources(shape: TokenTransformerConfig) -> Iterator[Source]:
    def by_letter(W: Tensor) -> list[Tensor]:
        heads = [head.tensor_split(3) for head in W.tensor_split(shape.n_head)]
        return [torch.cat(pieces) for pieces in zip(*heads, strict=True)]

    yield from _ends("embed_in.weight", shape.tied_embedding, "embed_out.weight", "lm_head.weight")
    parts = {
        "norm_attn": "input_layernorm",
        "norm_mlp": "post_attention_layernorm",
        "attn.out": "attention.dense",
        "mlp_in": "mlp.dense_h_to_4h",
        "mlp_out": "mlp.dense_4h_to_h",
    }
    for part in ("weight", "bias"):
        yield Source([f"norm.{part}"], [f"final_layer_norm.{part}"])
        for i in range(shape.n_layer):
            for own, given in parts.items():
                yield Source([f"blocks.{i}.{own}.{part}"], [f"layers.{i}.{given}.{part}"])
            qkv = [f"blocks.{i}.attn.{letter}.{part}" for letter in "qkv"]
            yield Source(qkv, [f"layers.{i}.attention.query_key_value.{part}"], by_letter)


KINDS = {
    "gpt2": Kind(
        needed=["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"],
        presets={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
        longest="n_positions",
        prefix="transformer.",
        shape=_gpt2_shape,
        sources=_gpt2_sources,
    ),
    "gpt_neox": Kind(
        needed=[
            *("vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size"),
            *("num_hidden_layers", "num_attention_heads"),
        ],
        presets={
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "use_parallel_residual": True,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000,
        },
        longest="max_position_embeddings",
        prefix="gpt_neox.",
        shape=_neox_shape,
        sources=_neox_sources,
    ),
}
