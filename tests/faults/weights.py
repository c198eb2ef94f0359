"""Folders of weights as anyone might send them: tiny models of the library transformers, with one thing wrong or odd.

    original(kind, folder)                      writes a sound folder
    mutate(folder, name, seed)                  changes one thing in it
    outcome(folder, load, sound)                what a loader makes of it: "loaded" or "refused"

The law that `outcome` holds a loader to: its logits are those of transformers where this loads the folder whole, those
of the sound folder where it does not, or a `UsageError` of one line. Anything else is an AssertionError.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from iclab.errors import UsageError

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
SIZES = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 0}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {  # by name: to load the classes takes seconds
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_positions": 12, "n_embd": 24, "n_layer": 2, "n_head": 3},
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        {
            **{"max_position_embeddings": 12, "hidden_size": 24, "intermediate_size": 32},
            **{"num_hidden_layers": 2, "num_attention_heads": 3},
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
        },
    ),
}
HEADS = {"gpt2": "lm_head.weight", "gpt_neox": "embed_out.weight"}
EMBEDDINGS = {"gpt2": "transformer.wte.weight", "gpt_neox": "gpt_neox.embed_in.weight"}
ODD = ["4", None, {}, [], 3.0, True, -1, 0, 3, 10**5, 10**9, 10**400, float("inf"), float("nan"), "x" * 10**5, [[1]]]
Mutation = Callable[[Path, Random], object]
MUTATIONS: dict[str, Mutation] = {}
SOUND: set[str] = set()  # mutations after which a folder is still a model, and must load


@torch.no_grad()
def original(kind: str, folder: Path) -> Tensor:
    """Writes a random model with nothing left at zero or one, and returns its logits."""
    config, model = (getattr(transformers, name) for name in KINDS[kind][:2])
    made, rng = model(config(**SIZES | KINDS[kind][2])).eval(), torch.Generator().manual_seed(0)
    for name, weight in made.named_parameters():
        gain = "weight" in name and weight.ndim == 1
        weight.copy_((1.0 if gain else 0.0) + 0.3 * torch.randn(weight.shape, generator=rng))
    made.save_pretrained(folder)
    return made(TOKENS).logits


def mutate(folder: Path, name: str, seed: int) -> None:
    """Changes one thing in a folder; the same in two copies of it for the same name and seed."""
    MUTATIONS[name](folder, Random(f"{name} {seed}"))


@torch.no_grad()
def outcome(folder: Path, load: Callable[[Path], Callable[[Tensor], Tensor]], sound: Tensor) -> str:
    """Holds a loader to the law, and says whether it loaded the folder."""
    try:
        said = load(folder)(TOKENS)
    except UsageError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000, f"not a line: {str(error)[:2000]}"
        return "refused"
    wanted = transformed(folder)
    torch.testing.assert_close(said, sound if wanted is None else wanted, atol=2e-5, rtol=2e-5)
    return "loaded"


@torch.no_grad()
def transformed(folder: Path) -> Tensor | None:
    """The logits of transformers, in float32; None where it does not load the folder, or draws weights that lack."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    try:
        model = getattr(transformers, KINDS[kind][1])
        made, told = model.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    except Exception:  # whatever it says against the folder
        return None
    whole = not (told["missing_keys"] or told["mismatched_keys"])
    return made.eval()(TOKENS).logits if whole else None


def mutation(sound: bool = False) -> Callable[[Mutation], Mutation]:
    def noted(made: Mutation) -> Mutation:
        name = made.__name__.replace("_", " ")
        MUTATIONS[name] = made
        SOUND.update([name] if sound else [])
        return made

    return noted


# ---- tools ---------------------------------------------------------------------------------------------------------


def settings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def configure(folder: Path, change: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(settings(folder) | change))


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, changed: dict[str, Tensor]) -> None:
    told = {name: value.clone(memory_format=torch.contiguous_format) for name, value in changed.items()}
    save_file(told, folder / "model.safetensors", {"format": "pt"})


def one_changed(folder: Path, random: Random, change: Callable[[Tensor], Tensor]) -> None:
    found = weights(folder)
    name = random.choice(sorted(found))
    rewrite(folder, found | {name: change(found[name])})


def renamed(folder: Path, name: Callable[[str], str]) -> None:
    rewrite(folder, {name(old): value for old, value in weights(folder).items()})


def parts(folder: Path) -> dict[str, str]:
    """Splits the file in two, and returns which weight is where."""
    found = weights(folder)
    names = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(sorted(found))}
    for part in sorted({*names.values()}):
        chosen = {name: found[name].clone() for name in names if names[name] == part}
        save_file(chosen, folder / part, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    return names


def index(folder: Path, value: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(value))


def header(folder: Path) -> tuple[dict[str, Any], bytes]:
    raw = (folder / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def write_header(folder: Path, text: str, body: bytes, length: int | None = None) -> None:
    size = len(text.encode()) if length is None else length
    (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + text.encode() + body)


def flipped(path: Path, random: Random, start: int, end: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[random.randrange(start, min(end, len(raw)))] ^= 1 << random.randrange(8)
    path.write_bytes(raw)


def read_out(folder: Path, *, embedding: bool, head: Tensor) -> None:
    """A file with a read-out that is given, and with or without the embedding."""
    kind, found = settings(folder)["model_type"], weights(folder)
    kept = {k: v for k, v in found.items() if not k.startswith(("lm_head", "embed_out"))}
    if not embedding:
        del kept[EMBEDDINGS[kind]]
    rewrite(folder, kept | {HEADS[kind]: head})


def another(folder: Path) -> Tensor:
    found = weights(folder)[EMBEDDINGS[settings(folder)["model_type"]]]
    return torch.randn(found.shape, generator=torch.Generator().manual_seed(1))


# ---- settings ------------------------------------------------------------------------------------------------------


@mutation()
def a_setting_of_another_value(folder: Path, random: Random) -> None:
    configure(folder, {random.choice(sorted(settings(folder))): random.choice(ODD)})


@mutation()
def a_size_of_another_value(folder: Path, random: Random) -> None:
    kind = settings(folder)["model_type"]
    configure(folder, {random.choice(["vocab_size", *KINDS[kind][2]]): random.choice(ODD)})


@mutation()
def a_setting_dropped(folder: Path, random: Random) -> None:
    left = settings(folder)
    del left[random.choice(sorted(left))]
    (folder / "config.json").write_text(json.dumps(left))


@mutation()
def a_setting_given_twice(folder: Path, random: Random) -> None:
    text = (folder / "config.json").read_text()
    key = random.choice(sorted(settings(folder)))
    more = json.dumps({key: random.choice(ODD)})[1:-1]
    (folder / "config.json").write_text("{" + more + ", " + text.lstrip()[1:])


@mutation()
def a_setting_by_its_other_name(folder: Path, random: Random) -> None:
    others = ["hidden_size", "num_attention_heads", "num_hidden_layers", "max_position_embeddings", "n_head", "n_embd"]
    configure(folder, {random.choice(others): random.choice([1, 2, 3, 4, 6, 24])})


@mutation(sound=True)
def settings_that_no_one_reads(folder: Path, random: Random) -> None:
    configure(
        folder, {"_name_or_path": "x", "task_specific_params": {"a": {"b": 1}}, "n_ctx": 12, "torch_dtype": "float32"}
    )


@mutation()
def rotary_settings(folder: Path, random: Random) -> None:
    key = random.choice(["rope_theta", "partial_rotary_factor", "rope_type", "type", "factor", "full_attention"])
    value = random.choice([*ODD, "linear", "default", 0.25, 1.0, 100, 1.5])
    configure(folder, {"rope_parameters": settings(folder).get("rope_parameters", {}) | {key: value}})


@mutation()
def layers_of_their_own(folder: Path, random: Random) -> None:
    configure(folder, {"per_layer_config": {"0": {random.choice(["n_head", "num_attention_heads"]): 2}}})


@mutation()
def settings_flipped(folder: Path, random: Random) -> None:
    flipped(folder / "config.json", random, 0, 10**6)


@mutation()
def settings_cut(folder: Path, random: Random) -> None:
    text = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(text[: random.randrange(len(text))])


@mutation()
def settings_in_other_bytes(folder: Path, random: Random) -> None:
    text = (folder / "config.json").read_text().replace('"gelu', '"g\xe8lu')
    made = [text.encode("latin-1"), b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"), b"\0" + text.encode()]
    (folder / "config.json").write_bytes(random.choice(made))


@mutation()
def settings_that_are_no_table(folder: Path, random: Random) -> None:
    texts = [
        "[]",
        "3",
        "null",
        '"gpt2"',
        "",
        "[" * 10**5,
        '{"a":' * 10**5,
        "9" * 5000,
        '{"model_type": ["gpt2"]}',
        "{}",
    ]
    (folder / "config.json").write_text(random.choice(texts))


@mutation()
def a_file_that_is_none(folder: Path, random: Random) -> None:
    path = folder / random.choice(["config.json", "model.safetensors"])
    path.unlink()
    make = [os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p), lambda p: os.symlink(p, p), lambda p: p]
    random.choice(make)(path)


# ---- several files -------------------------------------------------------------------------------------------------


@mutation(sound=True)
def two_files(folder: Path, random: Random) -> None:
    index(folder, {"metadata": {}, "weight_map": parts(folder)})


@mutation()
def an_index_of_another_kind(folder: Path, random: Random) -> None:
    names = parts(folder)
    odd = [{}, [], 3, None, {"weight_map": None}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": "x"}]
    odd += [{"weight_map": names | {"a": value}} for value in ([], {}, 3, None, True, "", ".", "none.safetensors")]
    index(folder, random.choice(odd))


@mutation()
def an_index_that_leaves_the_folder(folder: Path, random: Random) -> None:
    names, place = parts(folder), folder / "part-0.safetensors"
    outside = [
        f"../{folder.name}/part-0.safetensors",
        str(place),
        "../x",
        "/etc/passwd",
        "a/../part-0.safetensors",
        "a\0b",
    ]
    index(folder, {"weight_map": {name: outside_or(random, outside, part) for name, part in names.items()}})


def outside_or(random: Random, outside: list[str], part: str) -> str:
    return random.choice(outside) if part == "part-0.safetensors" else part


@mutation()
def an_index_cut(folder: Path, random: Random) -> None:
    text = json.dumps({"weight_map": parts(folder)})
    (folder / "model.safetensors.index.json").write_text(text[: random.randrange(len(text))])


@mutation()
def a_weight_in_two_files(folder: Path, random: Random) -> None:
    names = parts(folder)
    found, more = load_file(folder / "part-0.safetensors"), load_file(folder / "part-1.safetensors")
    name = random.choice(sorted(more))
    save_file(found | {name: more[name] + 1}, folder / "part-0.safetensors", {"format": "pt"})
    index(folder, {"weight_map": names})


@mutation(sound=True)
def one_file_beside_an_index_of_others(folder: Path, random: Random) -> None:
    kept = weights(folder)
    shutil.copytree(folder, folder / "copy")
    one_changed(folder, random, lambda value: value + 1)
    index(folder, {"weight_map": parts(folder)})
    shutil.rmtree(folder / "copy")
    rewrite(folder, kept)


# ---- weights -------------------------------------------------------------------------------------------------------


@mutation(sound=True)
def another_read_out(folder: Path, random: Random) -> None:
    configure(folder, {"tie_word_embeddings": random.choice([True, False])})
    read_out(folder, embedding=True, head=another(folder))


@mutation(sound=True)
def another_read_out_by_default(folder: Path, random: Random) -> None:
    left = {key: value for key, value in settings(folder).items() if key != "tie_word_embeddings"}
    (folder / "config.json").write_text(json.dumps(left))
    read_out(folder, embedding=True, head=another(folder))


@mutation(sound=True)
def the_read_out_alone(folder: Path, random: Random) -> None:
    configure(folder, {"tie_word_embeddings": True})
    read_out(folder, embedding=False, head=another(folder))


@mutation()
def ends_that_are_not_there(folder: Path, random: Random) -> None:
    configure(folder, {"tie_word_embeddings": random.choice([True, False])})
    gone = random.choice([("lm_head", "embed_out"), ("transformer.wte", "gpt_neox.embed_in")])
    rewrite(folder, {name: value for name, value in weights(folder).items() if not name.startswith(gone)})


@mutation()
def a_read_out_of_another_shape(folder: Path, random: Random) -> None:
    configure(folder, {"tie_word_embeddings": random.choice([True, False])})
    read_out(folder, embedding=True, head=torch.zeros(random.choice([(1,), (24, 20), (20,), ()])))


@mutation()
def read_outs_of_two_names(folder: Path, random: Random) -> None:
    configure(folder, {"tie_word_embeddings": random.choice([True, False])})
    rewrite(folder, weights(folder) | {"lm_head.weight": another(folder), "embed_out.weight": another(folder)})


@mutation(sound=True)
def weights_in_other_precision(folder: Path, random: Random) -> None:
    dtype = random.choice([torch.float16, torch.bfloat16, torch.float64])
    rewrite(folder, {name: value.to(dtype) for name, value in weights(folder).items()})


@mutation(sound=True)
def one_weight_in_half_precision(folder: Path, random: Random) -> None:
    one_changed(folder, random, torch.Tensor.half)


@mutation()
def a_weight_of_another_type(folder: Path, random: Random) -> None:
    whole = [torch.int8, torch.uint8, torch.int64, torch.bool]
    dtype = random.choice([*whole, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2])
    one_changed(folder, random, lambda value: value.to(dtype))


@mutation()
def a_weight_that_is_no_number(folder: Path, random: Random) -> None:
    odd = random.choice([float("nan"), float("inf"), -float("inf")])
    one_changed(folder, random, lambda value: torch.where(torch.arange(value.numel()).view_as(value) == 5, odd, value))


@mutation()
def a_weight_too_large(folder: Path, random: Random) -> None:
    one_changed(folder, random, lambda value: value.double() * 1e200)


@mutation()
def a_weight_of_another_shape(folder: Path, random: Random) -> None:
    makes: list[Callable[[Tensor], Tensor]] = [
        lambda W: W.mT if W.ndim > 1 else W[:-1],
        torch.flatten,
        lambda W: W[None],
    ]
    makes += [lambda W: W[:0], lambda W: W.flatten()[0], lambda W: torch.cat([W, W])]
    one_changed(folder, random, random.choice(makes))


@mutation()
def a_weight_dropped(folder: Path, random: Random) -> None:
    found = weights(folder)
    del found[random.choice(sorted(found))]
    rewrite(folder, found)


@mutation()
def a_weight_renamed(folder: Path, random: Random) -> None:
    found = weights(folder)
    old = random.choice(sorted(found))
    new = random.choice(
        [old.replace(".0.", ".7."), old + "x", old.upper(), "a\nb", "", "x" * 10**4, "h.0", "__metadata"]
    )
    found[new] = found.pop(old)
    rewrite(folder, found)


@mutation()
def a_weight_given_twice(folder: Path, random: Random) -> None:
    found = weights(folder)
    name = random.choice(sorted(found))
    other = random.choice([name.split(".", 1)[1], f"transformer.{name}", f"module.{name}", f"gpt_neox.{name}"])
    rewrite(folder, found | {other: found[name] + 1})


@mutation(sound=True)
def names_without_their_prefix(folder: Path, random: Random) -> None:
    renamed(folder, lambda name: name.removeprefix("transformer.").removeprefix("gpt_neox."))


@mutation(sound=True)
def names_of_a_wrapped_model(folder: Path, random: Random) -> None:
    prefix = random.choice(["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
    renamed(folder, lambda name: prefix + name)


@mutation()
def names_with_another_prefix(folder: Path, random: Random) -> None:
    prefix = random.choice(["model.", "base_model.model.", "gpt_neox.gpt_neox.", "transformer.transformer.", "."])
    renamed(folder, lambda name: prefix + name)


@mutation(sound=True)
def buffers_of_old_files(folder: Path, random: Random) -> None:
    place = {"gpt2": "transformer.h.0.attn.", "gpt_neox": "gpt_neox.layers.0.attention."}[
        settings(folder)["model_type"]
    ]
    more = {"bias": torch.ones(1, 1, 12, 12, dtype=torch.bool), "masked_bias": torch.tensor(-1e9)}
    rewrite(folder, weights(folder) | {place + name: value for name, value in more.items()})


# ---- bytes ---------------------------------------------------------------------------------------------------------


@mutation()
def a_file_cut(folder: Path, random: Random) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[: random.choice([0, 7, 8, 100, random.randrange(len(raw))])])


@mutation()
def a_byte_of_the_header(folder: Path, random: Random) -> None:
    length = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    flipped(folder / "model.safetensors", random, 0, 8 + length)


@mutation()
def a_byte_of_the_numbers(folder: Path, random: Random) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    flipped(folder / "model.safetensors", random, 8 + int.from_bytes(raw[:8], "little"), len(raw))


@mutation()
def a_header_that_lies(folder: Path, random: Random) -> None:
    told, body = header(folder)
    name = random.choice(sorted(told.keys() - {"__metadata__"}))
    key = random.choice(["shape", "data_offsets", "dtype"])
    told[name] = told[name] | {key: random.choice([*ODD[:-2], [2**60, 2**60], [0, 2**63], [0, 0], "F32", "I8", "F4"])}
    write_header(folder, json.dumps(told), body)


@mutation()
def a_header_of_another_length(folder: Path, random: Random) -> None:
    told, body = header(folder)
    write_header(
        folder, json.dumps(told), body, random.choice([0, 2, 2**40, 2**63, 2**64 - 1, len(json.dumps(told)) - 1])
    )


@mutation()
def a_header_of_another_kind(folder: Path, random: Random) -> None:
    _, body = header(folder)
    write_header(folder, random.choice(["{}", "[]", "3", '{"a":' * 10**4, '{"__metadata__": {"a": 1}}', ""]), body)
