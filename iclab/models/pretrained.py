"""GPT-2, GPT-NeoX (Pythia) and the family of Llama from a folder of safetensors, as a `TokenTransformer`: one code for
all models.

A folder holds `config.json` and `model.safetensors`, or several files with `model.safetensors.index.json`. Nothing is
looked for anywhere else, and an unknown weight, or a missing one, is refused. So are settings of another
kind than they must be, numbers that are whole, of eight bits or not finite, and sizes beyond all bounds: files may come
from anyone. Names, shapes and types are compared with the headers before weights take memory.

                   GPT-2                                          GPT-NeoX
    maps           h @ W [in out], W_Q|W_K|W_V side by side       W @ h [out in], q, k, v of each head in turn
    positions      learned                                        rotary, on a share of the channels of a head
    MLP            reads what attention has written               reads what attention reads (`use_parallel_residual`)
    unembedding    the embedding                                  its own

                   Llama, Mistral, Qwen2
    maps           W @ h [out in], each of its own, most without biases; MLP W_down (silu(W_gate h) · W_up h)
    positions      rotary, on all channels of a head
    norms          divide by the root mean square
    unembedding    the embedding or its own, as `tie_word_embeddings` says

Queries in groups share keys and values (`num_key_value_heads`). Our class has keys and values of every head, and each
group is given the same ones: the function is equal, and so are the patterns and channels of heads.

What our class stores is W @ h, one head after the other. Names in GPT-2 files may or may not begin with "transformer.",
and before that with what wrappers of a model put there; the unembedding of GPT-NeoX is `embed_out.weight`, or in
files of late `lm_head.weight`. Buffers of old files (masks, angles) are skipped. Weights in half precision are widened.

Where the settings tie the embedding and the unembedding (`tie_word_embeddings`), a file holds one of the two, or both.
If both are there and differ, both are read: the file has the last word, as in the library transformers.

Source: Radford et al. 2019 (GPT-2); Black et al. 2022 (arXiv 2204.06745); Biderman et al. 2023 (arXiv 2304.01373);
Touvron et al. 2023 (arXiv 2302.13971); Jiang et al. 2023 (arXiv 2310.06825); Yang et al. 2024 (arXiv 2407.10671). The
names are those of the library transformers, with which the logits are compared in the tests.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

import torch
from torch import Tensor

from iclab.errors import out_of_bounds, prefixed, refuse, shown, unknown, wrong_kinds
from iclab.files import read_json
from iclab.models.architecture import LARGEST
from iclab.models.mapping import Source, filled
from iclab.models.stored import Stored, listed, open_weights, stored
from iclab.models.tokens import TokenTransformer, TokenTransformerConfig

Settings = dict[str, Any]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
BUFFERS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
WRAPPERS = ("_orig_mod.", "module.")  # before all names of a model that was compiled, or trained on several devices
PLAIN: Settings = {"quantization_config": None, "per_layer_config": None, "transformers_weights": None}


@dataclass(frozen=True)
class Kind:
    """A family of models: the sizes that must be given, each with the largest; what other settings are unless given,
    kinds of those that have no such value, and other names of settings; what settings must be if they are there; how
    long its sequences may be; its shape, and its weights without the prefix that their names may have; and those of
    our weights that it lacks, which are zero."""

    needed: dict[str, int]
    presets: Settings
    kinds: Settings
    wanted: Settings
    longest: str
    prefix: str
    embedding: str
    read_out: Sequence[str]
    shape: Callable[[Settings], TokenTransformerConfig]
    sources: Callable[[Settings, TokenTransformerConfig], Iterator[Source]]
    lacks: Callable[[Settings, TokenTransformerConfig], Iterator[str]] = lambda config, shape: iter(["read_out.bias"])
    aliases: Mapping[str, str] = field(default_factory=dict)

    def ends(self, tied: bool) -> Iterator[Source]:
        """Yields what is read in, and what is read out with."""
        if tied:
            yield Source(["read_in.weight", "read_out.weight"], [self.embedding, *self.read_out], lambda W: [W, W])
        else:
            yield Source(["read_in.weight"], [self.embedding])
            yield Source(["read_out.weight"], self.read_out)


def outline_of(folder: Path | str) -> TokenTransformer:
    """Returns the model in a folder without numbers, by its settings alone. Raises ``ValueError`` for those that our
    class does not have."""
    config = _config(Path(folder) / "config.json")
    with torch.device("meta"):
        return _model(Path(folder), config)


def load_pretrained(folder: Path | str, dtype: torch.dtype = torch.float32) -> TokenTransformer:
    """Loads the model in a folder. Raises ``ValueError`` for another kind of model, for settings that our class does
    not have, and for weights that are missing, not known, of the wrong shape, or no numbers."""
    folder = Path(folder)
    config = _config(folder / "config.json")
    kind = KINDS[config["model_type"]]
    with ExitStack() as files:
        given = _given(folder, kind, files)
        config["tie_word_embeddings"] = config["tie_word_embeddings"] and _same_ends(kind, given, dtype)
        shape = _shape(folder, config)
        sources = [*kind.ends(shape.tied_embedding), *kind.sources(config, shape)]
        zeros = dict.fromkeys(kind.lacks(config, shape), 0.0)
        return filled(folder, lambda: _model(folder, config), sources, given, dtype, zeros)


def _model(folder: Path, config: Settings) -> TokenTransformer:
    return TokenTransformer(config["vocab_size"], config[KINDS[config["model_type"]].longest], _shape(folder, config))


def _shape(folder: Path, config: Settings) -> TokenTransformerConfig:
    with prefixed(f"{folder / 'config.json'}"):
        return KINDS[config["model_type"]].shape(config)


def _config(file: Path) -> Settings:
    """All settings, of the right kind and within bounds."""
    config = read_json(file)
    refuse(f"{file}", [] if isinstance(config, dict) else ["not a table of settings"])
    name = config.get("model_type")
    refuse(f"{file}", [] if name in [*KINDS] else [unknown("model_type", listed([str(name)]), KINDS)])
    kind = KINDS[str(name)]
    named = {kind.aliases[key]: value for key, value in config.items() if key in kind.aliases}
    apart = [k for k, v in named.items() if k in config and config[k] != v]
    refuse(f"{file}", [f"{k} = {shown(config[k])}, and by its other name {shown(named[k])}" for k in apart])
    config = kind.presets | named | config
    refuse(f"{file.parent}", [f"config.json has no {key}" for key in kind.needed if key not in config])
    kinds: Settings = (
        dict.fromkeys(kind.needed, int) | {key: type(value) for key, value in kind.presets.items()} | kind.kinds
    )
    refuse(f"{file}", wrong_kinds(config, kinds))
    refuse(f"{file}", out_of_bounds({key: config[key] for key in kind.needed}, kind.needed))
    wanted = PLAIN | kind.wanted
    odd = [f"needs {k} = {v}, given {shown(config[k])}" for k, v in wanted.items() if config.get(k, v) != v]
    refuse(f"{file}: {name}", odd)
    return config


def _activation(name: str) -> Activation:
    refuse("activation", [] if name in ACTIVATIONS else [unknown("activation", listed([name]), ACTIVATIONS)])
    return ACTIVATIONS[name]


# ---- weights -------------------------------------------------------------------------------------------------------


def _given(folder: Path, kind: Kind, files: ExitStack) -> dict[str, Stored]:
    """Everything in the files of a folder but buffers, by names without prefixes."""
    given: dict[str, Stored] = {}
    for path in _files(folder):
        for name, one in stored(path, files.enter_context(open_weights(path))).items():
            plain = _plain(name).removeprefix(kind.prefix)
            refuse(f"{path}", [f"{listed([name])} is there twice"] if plain in given else [])
            given |= {} if plain.endswith(BUFFERS) else {plain: one}
    return given


def _plain(name: str) -> str:
    """The name of a weight without what wrappers put before it."""
    while name.startswith(WRAPPERS):
        _, name = name.split(".", 1)
    return name


def _files(folder: Path) -> list[Path]:
    """The files of weights: one, or where this is not there those that an index names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        return [folder / "model.safetensors"]
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    refuse(f"{index}", [] if isinstance(places, dict) and places else ["no table weight_map of files by weight"])
    assert isinstance(places, dict)
    refuse(f"{index}", [f"weight_map: {p}" for p in wrong_kinds(places, dict.fromkeys(places, str))[:1]])
    names = sorted({*places.values()})
    outside = [name for name in names if PurePath(name).is_absolute() or ".." in PurePath(name).parts]
    refuse(f"{index}", [f"weight_map: {shown(name)} is not within the folder" for name in outside])
    return [folder / name for name in names]


def _same_ends(kind: Kind, given: Mapping[str, Stored], dtype: torch.dtype) -> bool:
    """Whether all that is in a file for the embedding and the unembedding is the same, or only one of them is
    there."""
    ends = [given[name] for name in (kind.embedding, *kind.read_out) if name in given]
    for end in ends:
        refuse(f"{end.path}", end.problems())
    values = [end.read(dtype) for end in ends] if len(ends) > 1 else []
    return all(torch.equal(values[0], value) for value in values)


# ---- GPT-2 ---------------------------------------------------------------------------------------------------------


def _gpt2_shape(config: Settings) -> TokenTransformerConfig:
    return TokenTransformerConfig(
        n_layer=config["n_layer"],
        n_head=config["n_head"],
        d_model=config["n_embd"],
        d_mlp=4 * config["n_embd"] if config.get("n_inner") is None else config["n_inner"],
        activation=_activation(config["activation_function"]),
        norm_eps=config["layer_norm_epsilon"],
        tied_embedding=config["tie_word_embeddings"],
    )


def _gpt2_sources(config: Settings, shape: TokenTransformerConfig) -> Iterator[Source]:
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
    rotary = _rotary(config, {"rope_theta": config["rotary_emb_base"], "partial_rotary_factor": config["rotary_pct"]})
    width = config["hidden_size"] // config["num_attention_heads"]
    return TokenTransformerConfig(
        n_layer=config["num_hidden_layers"],
        n_head=config["num_attention_heads"],
        d_model=config["hidden_size"],
        d_mlp=config["intermediate_size"],
        activation=_activation(config["hidden_act"]),
        positions=False,
        parallel=config["use_parallel_residual"],
        rotary=int(width * rotary["partial_rotary_factor"]),
        rotary_base=float(rotary["rope_theta"]),
        norm_eps=config["layer_norm_eps"],
        tied_embedding=config["tie_word_embeddings"],
    )


def _rotary(config: Settings, old: Settings) -> Settings:
    """The base of the angles and the share of channels that turn, in files of old or of late."""
    rotary = old | (config.get("rope_parameters") or {})
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    nested = [key for key, value in rotary.items() if isinstance(value, dict)]
    refuse("rope_parameters", [f"needs rope_type = default, given {listed([str(kind)])}"] if kind != "default" else [])
    refuse("rope_parameters", [f"is of layers of several kinds: {listed(nested)}"] if nested else [])
    refuse("rope_parameters", wrong_kinds(rotary, dict.fromkeys(("rope_theta", "partial_rotary_factor"), float)))
    return rotary


def _neox_sources(config: Settings, shape: TokenTransformerConfig) -> Iterator[Source]:
    def by_letter(W: Tensor) -> Sequence[Tensor]:
        if len(W) % (3 * shape.n_head):  # of no shape that fits
            return W.tensor_split(3)
        return W.unflatten(0, (shape.n_head, 3, -1)).transpose(0, 1).flatten(1, 2).unbind()

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


# ---- Llama ---------------------------------------------------------------------------------------------------------

NORMS = {"norm_attn": "input_layernorm", "norm_mlp": "post_attention_layernorm"}
ATTENTION = {"attn.q": "q_proj", "attn.k": "k_proj", "attn.v": "v_proj", "attn.out": "o_proj"}
MLP = {"mlp_gate": "gate_proj", "mlp_in": "up_proj", "mlp_out": "down_proj"}
GROUPED = ("attn.k", "attn.v")


def _llama_shape(config: Settings) -> TokenTransformerConfig:
    heads, width = config["num_attention_heads"], config["hidden_size"]
    groups = _groups(config)
    whole = groups > 0 and heads % groups == 0
    refuse("num_key_value_heads", [] if whole else [f"{heads} heads are not {groups} groups of one size"])
    d_head = config.get("head_dim") or width // heads
    rotary = _rotary(config, {"rope_theta": config["rope_theta"], "partial_rotary_factor": 1.0})
    window, longest = config.get("sliding_window"), config["max_position_embeddings"]
    slides = config["use_sliding_window"] and window is not None and window < longest
    refuse("sliding_window", [f"tokens see {window} others, and sequences have up to {longest}"] if slides else [])
    return TokenTransformerConfig(
        n_layer=config["num_hidden_layers"],
        n_head=heads,
        d_model=width,
        d_head=d_head,
        d_mlp=config["intermediate_size"],
        activation=_activation(config["hidden_act"]),
        positions=False,
        bias=any(_biased(config).values()),
        rotary=int(d_head * rotary["partial_rotary_factor"]),
        rotary_base=float(rotary["rope_theta"]),
        norm_eps=config["rms_norm_eps"],
        norm_kind="rms",
        gated=True,
        tied_embedding=config["tie_word_embeddings"],
    )


def _groups(config: Settings) -> int:
    return config["num_attention_heads"] if config["num_key_value_heads"] is None else config["num_key_value_heads"]


def _biased(config: Settings) -> dict[str, bool]:
    """Which maps have biases; in Qwen2 all of attention but the last."""
    qwen = config["model_type"] == "qwen2"
    attention = {own: bool(config["attention_bias"] or (qwen and own != "attn.out")) for own in ATTENTION}
    return attention | dict.fromkeys(MLP, bool(config["mlp_bias"]))


def _llama_sources(config: Settings, shape: TokenTransformerConfig) -> Iterator[Source]:
    biased, groups = _biased(config), _groups(config)

    def each(W: Tensor) -> Sequence[Tensor]:
        return [W.unflatten(0, (groups, -1)).repeat_interleave(shape.n_head // groups, 0).flatten(0, 1)]

    yield Source(["norm.weight"], ["norm.weight"])
    for i in range(shape.n_layer):
        for own, given in NORMS.items():
            yield Source([f"blocks.{i}.{own}.weight"], [f"layers.{i}.{given}.weight"])
        rooms = {"self_attn": ATTENTION, "mlp": MLP}
        for own, name in ((own, f"{room}.{name}") for room, maps in rooms.items() for own, name in maps.items()):
            for part in ("weight", "bias") if biased[own] else ("weight",):
                names = [f"blocks.{i}.{own}.{part}"], [f"layers.{i}.{name}.{part}"]
                yield Source(*names, each) if own in GROUPED else Source(*names)


def _llama_lacks(config: Settings, shape: TokenTransformerConfig) -> Iterator[str]:
    if shape.bias:
        yield "read_out.bias"
        lacking = [own for own, there in _biased(config).items() if not there]
        yield from (f"blocks.{i}.{own}.bias" for i in range(shape.n_layer) for own in lacking)


def _llama(**presets: Any) -> Kind:
    """The kind of models of the family, with the values of settings that a file may leave out."""
    return Kind(
        needed={
            **{"vocab_size": LARGEST["vocab"], "max_position_embeddings": LARGEST["n"]},
            **{"hidden_size": LARGEST["d_model"], "intermediate_size": LARGEST["d_mlp"]},
            **{"num_hidden_layers": LARGEST["n_layer"], "num_attention_heads": LARGEST["n_head"]},
        },
        presets={
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "rope_theta": 10000.0,
            "num_key_value_heads": None,
            "attention_bias": False,
            "mlp_bias": False,
            "use_sliding_window": False,
        }
        | presets,
        kinds={
            **{"rope_parameters": dict | None, "num_key_value_heads": int | None, "head_dim": int | None},
            "sliding_window": int | None,
        },
        wanted={"rope_scaling": None, "pretraining_tp": 1},
        longest="max_position_embeddings",
        prefix="model.",
        embedding="embed_tokens.weight",
        read_out=["lm_head.weight"],
        shape=_llama_shape,
        sources=_llama_sources,
        lacks=_llama_lacks,
    )


KINDS = {
    "gpt2": Kind(
        needed={
            **{"vocab_size": LARGEST["vocab"], "n_positions": LARGEST["n"], "n_embd": LARGEST["d_model"]},
            **{name: LARGEST[name] for name in ("n_layer", "n_head")},
        },
        presets={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
        kinds={"n_inner": int | None},
        wanted={"scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "add_cross_attention": False},
        longest="n_positions",
        prefix="transformer.",
        embedding="wte.weight",
        read_out=["lm_head.weight"],
        shape=_gpt2_shape,
        sources=_gpt2_sources,
        aliases={
            **{"hidden_size": "n_embd", "max_position_embeddings": "n_positions"},
            **{"num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
        },
    ),
    "gpt_neox": Kind(
        needed={
            **{"vocab_size": LARGEST["vocab"], "max_position_embeddings": LARGEST["n"]},
            **{"hidden_size": LARGEST["d_model"], "intermediate_size": LARGEST["d_mlp"]},
            **{"num_hidden_layers": LARGEST["n_layer"], "num_attention_heads": LARGEST["n_head"]},
        },
        presets={
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "use_parallel_residual": True,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000.0,
        },
        kinds={"rope_parameters": dict | None},
        wanted={"rope_scaling": None, "attention_bias": True},
        longest="max_position_embeddings",
        prefix="gpt_neox.",
        embedding="embed_in.weight",
        read_out=["embed_out.weight", "lm_head.weight"],
        shape=_neox_shape,
        sources=_neox_sources,
    ),
    "llama": _llama(),
    "mistral": _llama(num_key_value_heads=8, sliding_window=4096, use_sliding_window=True),
    "qwen2": _llama(num_key_value_heads=32),
}
