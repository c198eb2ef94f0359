"""Models of other people open as what they are: in float64 they answer what the originals answer, within 1e-10.

Originals are TransformerLens and flax, whose answers are kept as data (tests/models/originals), and for Garg et al. and
Bai et al. a model written here from the papers, on GPT-2 of the library transformers. Each law has cheats: a weight in
the place of another one, another small number in a norm.
"""

import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import iclab
from iclab.errors import UsageError
from iclab.models import Pretrained, TokenTransformer, Transformer
from iclab.models.formats import Format, PostNormEncoder, format_kinds, format_of, formats, open_model
from iclab.models.stored import unpickled
from iclab.retired import RETIRED
from tests.conftest import generator
from tests.models.originals import HERE, read, weight

transformers = pytest.importorskip("transformers")
pytest.importorskip("yaml")
msgpack = pytest.importorskip("msgpack")
EXACT = 1e-10
D, N = 4, 6
YAML = """!munch.Munch
inherit: [models/standard.yaml]
model: !munch.Munch
  family: {family}
  n_dims: 4
  n_embd: 8
  n_head: 2
  n_layer: 2
  n_positions: 6
{more}training: !munch.Munch
  curriculum: !munch.Munch
    points: !munch.Munch {{end: 5, inc: 2, interval: 2000, start: 3}}
  task: noisy_linear_regression
  task_kwargs: !munch.Munch {{noise_std: 0.25, normalize_w: true}}
"""


def prompts():
    rng = generator(3)
    return torch.randn(5, N, D, generator=rng).double(), torch.randn(5, N, generator=rng).double()


@torch.no_grad()
def drawn(model):
    """A module of others in float64 with nothing left at zero or one."""
    for name, value in model.double().named_parameters():
        value.copy_(torch.from_numpy(weight(name, tuple(value.shape))) + (value if "ln" in name else 0.0))
    return model.eval()


def saved(folder, model, family, more=""):
    """A run as their code leaves it: weights beside the state of the optimizer, and settings."""
    folder.mkdir(exist_ok=True)
    optimizer = torch.optim.Adam(model.parameters())
    state = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "train_step": 9}
    torch.save(state, folder / "state.pt")
    (folder / "config.yaml").write_text(YAML.format(family=family, more=more))
    return folder


# ---- the originals -------------------------------------------------------------------------------------------------


class Garg(nn.Module):
    """§2 and App. A.1 of Garg et al.: x_i and (y_i, 0, …) in turn, linear maps before and after GPT-2."""

    def __init__(self):
        super().__init__()
        shape = transformers.GPT2Config(
            n_positions=2 * N, n_embd=8, n_layer=2, n_head=2, vocab_size=50, attn_implementation="eager"
        )
        self._read_in, self._backbone, self._read_out = nn.Linear(D, 8), transformers.GPT2Model(shape), nn.Linear(8, 1)

    def forward(self, xs, ys):
        tokens = torch.zeros(len(xs), 2 * N, D).double()
        tokens[:, 0::2], tokens[:, 1::2, 0] = xs, ys
        hidden = self._backbone(inputs_embeds=self._read_in(tokens)).last_hidden_state
        return self._read_out(hidden)[:, 0::2, 0]


class Bai(nn.Module):
    """App. K of Bai et al.: one prompt at a time, tokens as columns of a matrix."""

    def __init__(self, activation="relu", divides=True):
        super().__init__()
        self.activation, self.divides = activation, divides
        self._read_in, self._read_out = nn.Linear(D + 1, 8), nn.Linear(8, 1)
        square = [nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(2)) for _ in range(3)]
        self._queries, self._keys, self._values = square
        self._mlps = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(2))
        self._lns_1, self._lns_2 = (nn.ModuleList(nn.LayerNorm(8) for _ in range(2)) for _ in range(2))

    def one(self, xs, ys):
        """The answer for the last input, whose label is not told."""
        tokens = torch.cat([xs, torch.cat([ys[:-1], ys.new_zeros(1)]).unsqueeze(-1)], -1)
        H = self._read_in(tokens)
        for i in range(2):
            scores = self._queries[i](H) @ self._keys[i](H).T
            pattern = scores.clamp(min=0) if self.activation == "relu" else scores.exp() / scores.exp().sum(1, True)
            H = H + pattern / (len(xs) if self.divides else 1) @ self._values[i](H)
            H = self._lns_1[i](H)
            H = self._lns_2[i](H + self._mlps[i](H))
        return self._read_out(H[-1]).squeeze()

    def forward(self, xs, ys):
        rows = [[self.one(x[: i + 1], y[: i + 1]) for i in range(N)] for x, y in zip(xs, ys, strict=True)]
        return torch.stack([torch.stack(row) for row in rows])


def garg(folder):
    original = drawn(Garg())
    return saved(folder, original, "gpt2"), prompts(), original(*prompts())


def bai(folder, activation="relu", divides=True):
    original = drawn(Bai(activation, divides))
    more = f"  encoder_activation: {activation}\n  normalize_attn: {str(divides).lower()}\n"
    return saved(folder, original, "EncoderTF", more), prompts(), original(*prompts())


def raventos(folder):
    data = read("raventos.json")
    (folder / "checkpoint_7").mkdir(parents=True)
    shutil.copy(HERE / "raventos.msgpack", folder / "checkpoint_7" / "checkpoint")
    (folder / "config.json").write_text(json.dumps(data["config"]))
    xs, ys, answers = (torch.tensor(data[name], dtype=torch.float64) for name in ("xs", "ys", "answers"))
    return folder, (xs, ys), answers


LENS = read("transformer_lens.json")["cases"]


def lens_weights(case):
    kept = {name: torch.from_numpy(weight(name, tuple(shape))) for name, shape in LENS[case]["shapes"].items()}
    return kept | {name: torch.ones(shape) for name, shape in LENS[case]["buffers"].items()}


def lens(case):
    def made(folder):
        folder.mkdir()
        torch.save(lens_weights(case), folder / "model.pt")
        (folder / "model.json").write_text(json.dumps(LENS[case]["settings"]))
        logits = torch.tensor(LENS[case]["logits"], dtype=torch.float64)
        return folder / "model.pt", (torch.tensor(LENS[case]["tokens"]),), logits

    return made


ORIGINALS = {"Garg": garg, "Bai": bai, "Raventós": raventos} | {f"Lens, {case}": lens(case) for case in LENS}
ORIGINALS |= {
    "Bai, softmax": lambda folder: bai(folder, "softmax"),
    "Bai, not divided": lambda folder: bai(folder, "relu", False),
}
CLASSES = {"Garg": Transformer, "Bai": PostNormEncoder, "Raventós": Transformer, "Lens": TokenTransformer}


@pytest.fixture(params=ORIGINALS.values(), ids=ORIGINALS.keys())
@torch.no_grad()
def opened(request, tmp_path):
    """A model opened in float64, its prompts, and what the original answers to them."""
    place, given, answers = request.param(tmp_path / "model")
    return open_model(place, torch.float64), given, answers


@torch.no_grad()
def gap(model, given, answers):
    return (model(*given) - answers).abs().max().item()


# ---- equality ------------------------------------------------------------------------------------------------------


def test_a_model_answers_as_the_original_does(opened):
    assert gap(*opened) < EXACT and opened[2].std() > 0.03


@torch.no_grad()
def test_any_weight_in_another_place_is_seen(opened):
    model, given, answers = opened
    seen, fixed = set(), set()
    for name, value in model.named_parameters():
        kept = value.clone()
        value.copy_(value.flatten().roll(1).view_as(value) if value.numel() > 1 else value + 1.0)
        (seen if gap(model, given, answers) > 1e-7 else fixed).add(name)
        value.copy_(kept)
    softmax = getattr(getattr(model, "config", None), "attention", "") == "softmax"
    blind = {name for name in fixed if softmax and name.endswith("attn.k.bias")}  # the same to all scores of a query
    same = {name for name in fixed if model.get_parameter(name).unique().numel() == 1}  # that the original lacks
    assert fixed == blind | same and len(seen) > 10 and gap(model, given, answers) < EXACT


@torch.no_grad()
def test_another_small_number_in_the_norms_is_seen(opened):
    model, given, answers = opened
    norms = [each for each in model.modules() if isinstance(each, nn.LayerNorm | nn.RMSNorm)]
    for norm in norms:
        norm.eps = 2.0 * norm.eps
    assert (gap(model, given, answers) > 1e-7) is bool(norms)


EXCHANGED = {
    "Garg": ("_backbone.h.0.ln_1.bias", "_backbone.h.0.ln_2.bias"),
    "Bai": ("_lns_1.0.bias", "_lns_2.0.bias"),
    "Raventós": ("ln_1", "ln_2"),
    "Lens, LayerNorm and MLP": ("blocks.0.ln1.b", "blocks.0.ln2.b"),
}


@pytest.mark.parametrize("name", EXCHANGED)
def test_two_weights_exchanged_in_the_file_are_seen(name, tmp_path):
    place, given, answers = ORIGINALS[name](tmp_path / "model")
    file = format_of(place).files(place)[0 if name.startswith("Lens") else -1]
    assert gap(open_model(place, torch.float64), given, answers) < EXACT
    exchange = {name: other for name, other in zip(EXCHANGED[name], reversed(EXCHANGED[name]), strict=True)}
    if name == "Raventós":
        content = msgpack.unpackb(file.read_bytes())
        block = content["params"]["_h"]["hs_0"]
        block |= {name: block[other] for name, other in exchange.items()}
        file.write_bytes(msgpack.packb(content))
    else:
        changed(file, lambda table: table.update({name: table[other] for name, other in exchange.items()}))
    assert gap(open_model(place, torch.float64), given, answers) > 1e-4


@torch.no_grad()
def test_answers_do_not_depend_on_what_comes_later(opened):
    model, given, _ = opened
    before = model(*given)
    for each in given:
        each[:, -1:] = (each[:, -1:] + 1) % 11 if each.dtype == torch.long else torch.nan
    later = model(*given)
    torch.testing.assert_close(later[:, :-1], before[:, :-1], atol=1e-12, rtol=0)


def test_formats_tell_classes_tasks_and_shapes_without_reading_weights(tmp_path):
    for name in ("Garg", "Bai", "Raventós", "Lens, LayerNorm and MLP"):
        place, _, _ = ORIGINALS[name](tmp_path / name[:4])
        outline = format_of(place).outline(place)
        model = open_model(place)
        assert type(outline) is type(model) is CLASSES[name.partition(",")[0]]
        shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (outline, model)]
        assert shapes[0] == shapes[1]
    told = {"d": 4, "n": 5, "noise": 0.25, "prior": 0.5}
    assert all(format_of(tmp_path / name).task(tmp_path / name) == told for name in ("Garg", "Bai"))
    place = tmp_path / "Rave"
    assert format_of(place).task(place) == {"d": 3, "n": 5, "noise": 0.5, "prior": 1.0}


def test_checkpoints_of_single_steps_are_read_by_their_own_path(tmp_path):
    folder, given, answers = garg(tmp_path / "model")
    torch.save(unpickled(folder / "state.pt")["model_state_dict"], folder / "model_500.pt")
    assert gap(open_model(folder / "model_500.pt", torch.float64), given, answers) < EXACT


# ---- what is refused -----------------------------------------------------------------------------------------------


class Executes:
    """A pickle that runs a command when it is read."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("name", ["Garg", "Bai", "Lens, attention alone"])
def test_a_pickle_that_asks_for_more_than_weights_is_refused_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place, _, _ = ORIGINALS[name](tmp_path / "model")
    file = place / "state.pt" if place.is_dir() else place
    torch.save({"model_state_dict": unpickled(file), "hook": Executes()}, file)
    with pytest.raises(UsageError, match=r"refused: it holds more than weights, it asks for \S*system") as told:
        iclab.load_model(place)
    assert "\n" not in str(told.value) and not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)  # it would have run
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["Garg", "Bai", "Raventós", "Lens, attention alone"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_file_is_refused_in_one_line(name, damage, tmp_path):
    place, _, _ = ORIGINALS[name](tmp_path / "model")
    file = format_of(place).files(place)[0 if name.startswith("Lens") else -1]
    content = file.read_bytes()
    file.write_bytes({"cut": content[: len(content) // 2], "flipped": b"\x93" + content[1:], "emptied": b""}[damage])
    with pytest.raises(UsageError) as told:
        open_model(place)
    assert "\n" not in str(told.value) and file.name in str(told.value)


def changed(place, change):
    """The weights of a file of torch.save after a change."""
    content = unpickled(place)
    change(content.get("model_state_dict", content))
    torch.save(content, place)


def test_missing_unknown_and_misshapen_weights_are_named_all_at_once(tmp_path):
    def wrong(table):
        table["_backbone.h.0.mlp.extra"] = torch.ones(2)
        del table["_backbone.h.1.ln_2.bias"]
        table["_read_in.weight"] = torch.ones(8, 7)
        table["_read_out.bias"] = torch.ones(1, dtype=torch.int64)

    folder, _, _ = garg(tmp_path / "model")
    changed(folder / "state.pt", wrong)
    with pytest.raises(UsageError) as told:
        open_model(folder)
    words = ["unknown weights: _backbone.h.0.mlp.extra", "missing weights: _backbone.h.1.ln_2.bias"]
    words += ["read_in.weight must be of shape (8, 4), given (8, 7)", "_read_out.bias is of int64"]
    assert all(word in str(told.value) for word in words) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "weights", "shape", "words"),
    [
        ("Bai", "_mlps.1.2.weight", (8, 9), r"layers\.1\.mlp_out\.weight must be of shape \(8, 8\), given \(8, 9\)"),
        ("Lens, attention alone", "blocks.1.attn.W_O", (15, 12), r"blocks\.1\.attn\.W_O of the shape \(15, 12\) fits"),
        ("Lens, attention alone", "blocks.0.attn.W_Q", (12, 15), r"W_Q must have 3 axes, given \(12, 15\)"),
    ],
)
def test_weights_of_another_shape_are_named(name, weights, shape, words, tmp_path):
    place, _, _ = ORIGINALS[name](tmp_path / "model")
    changed(place / "state.pt" if place.is_dir() else place, lambda table: table.update({weights: torch.ones(shape)}))
    with pytest.raises(UsageError, match=words):
        open_model(place)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("config.yaml", "n_dims: 4", "n_dims: four", "n_dims must be an integer, given 'four'"),
        ("config.yaml", "n_layer: 2", "layers: 2", "model has no n_layer"),
        ("config.yaml", "n_head: 2", "n_head: 3", "d_model = 8 is not a multiple of n_head = 3"),
        ("config.yaml", "n_embd: 8", "n_embd: 10000000", "n_embd must be at most"),
        ("config.yaml", "family: gpt2", "family: lstm", "no format of models that is known. Known: Bai et al"),
        ("config.yaml", "training: !munch.Munch", "training: !!python/object:os.x", "not YAML that can be read: could"),
        ("config.yaml", "model: !munch.Munch", "model: [", "not YAML that can be read: "),
    ],
)
def test_settings_that_are_odd_are_refused(file, old, new, words, tmp_path):
    folder, _, _ = garg(tmp_path / "model")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with pytest.raises(UsageError) as told:
        iclab.load_model(folder)
    assert words in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (None, "act_fn: unknown activation 'None'.* Known: gelu, gelu_new"),
        ({"act_fn": "solu_ln"}, "unknown activation 'solu_ln'"),
        ({"gated_mlp": True}, "needs gated_mlp = False, given True"),
        ({"eps": "small"}, "eps must be a number, given 'small'"),
        ({"normalization_type": "BN"}, "unknown normalization_type 'BN'"),
    ],
)
def test_settings_of_transformer_lens_that_weights_do_not_show_must_be_told(changes, words, tmp_path):
    place, _, _ = ORIGINALS["Lens, LayerNorm and MLP"](tmp_path / "model")
    if changes is None:
        place.with_suffix(".json").unlink()
    else:
        place.with_suffix(".json").write_text(json.dumps(LENS["LayerNorm and MLP"]["settings"] | changes))
    with pytest.raises(UsageError, match=words):
        open_model(place)


def test_attention_alone_needs_no_settings_and_folded_norms_do(tmp_path):
    place, given, answers = ORIGINALS["Lens, attention alone"](tmp_path / "model")
    place.with_suffix(".json").unlink()
    assert gap(open_model(place, torch.float64), given, answers) < EXACT
    changed(place, lambda table: [table.pop(name) for name in list(table) if "ln" in name])
    with pytest.raises(UsageError, match=r"normalization_type in \S*model.json must say \(LNPre, RMSPre or null\)"):
        open_model(place)


def test_what_is_no_model_is_refused_with_the_known_formats(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UsageError) as told:
            iclab.load_model(place)
        assert all(each.name in str(told.value) for each in formats()) and "\n" not in str(told.value)
    with pytest.raises(UsageError, match=r"there is no .*nowhere"):
        iclab.load_model(tmp_path / "nowhere")


# ---- any module, and a format of one's own -------------------------------------------------------------------------

CODE = '''
import torch
from torch import nn

from iclab.models.formats import Format

class Mean(nn.Module):
    """An answer that is linear in the mean of the labels before."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, xs, ys):
        return self.slope * (ys.cumsum(1) - ys)


class Digits(Format):
    """A number in a text."""

    name, about = "digits", "a .digits with one number"

    def recognises(self, place):
        return place.suffix == ".digits"

    def files(self, place):
        return [place]

    def open(self, place, dtype=torch.float32):
        model = Mean().to(dtype)
        model.slope.data.fill_(float(place.read_text()))
        return model
'''


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The name of a module of the user's, which can be imported."""
    name = f"code_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)
    forget(name)


def forget(module):
    """Lets the formats of a module be none any more, as is done with files that no task file names."""
    RETIRED.update(kind for kind in format_kinds() if kind.__module__ == module)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_any_module_is_made_by_name_and_filled_from_a_file(suffix, code, tmp_path):
    file, table = tmp_path / f"w{suffix}", {"slope": torch.tensor(3.0)}
    torch.save({"state_dict": table, "epoch": 4}, file) if suffix == ".pt" else save_file(table, file)
    xs, ys = torch.zeros(1, 3, 2), torch.ones(1, 3)
    assert iclab.load_model(file, module=f"{code}:Mean")(xs, ys).tolist() == [[0.0, 3.0, 6.0]]
    assert iclab.load_model(module=f"{code}:Mean")(xs, ys).tolist() == [[0.0, 0.0, 0.0]]
    settings = Pretrained(path=str(file), module=f"{code}:Mean")
    assert settings.digest and settings.digest != Pretrained(path=str(tmp_path / f"{code}.py"), module="a:b").digest
    torch.save({"slop": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="unknown weights: slop; missing weights: slope"):
        iclab.load_model(tmp_path / "other.pt", module=f"{code}:Mean")
    with pytest.raises(UsageError, match="Did you mean 'Mean'"):
        iclab.load_model(file, module=f"{code}:Meen")


def test_a_format_in_a_file_of_ones_own_is_known_once_it_is_imported(code, tmp_path):
    (tmp_path / "a.digits").write_text("2.5")
    with pytest.raises(UsageError, match="no format of models that is known"):
        iclab.load_model(tmp_path / "a.digits")
    __import__(code)
    assert iclab.load_model(tmp_path / "a.digits").slope.item() == 2.5
    assert "digits" in {each.name for each in formats()}


def test_two_formats_of_one_name_or_for_one_path_are_refused(tmp_path):
    class Greedy(Format):
        name, about = "greedy", "everything"

        def recognises(self, place):
            return True

        def files(self, place):
            return [place]

        def open(self, place, dtype=torch.float32):
            raise AssertionError

    folder, _, _ = garg(tmp_path / "model")
    try:
        with pytest.raises(UsageError, match=r"looks like .*greedy"):
            open_model(folder)
        Greedy.name = "Garg et al. 2022"
        with pytest.raises(UsageError, match=r"two have the name 'Garg et al\. 2022'"):
            open_model(folder)
    finally:
        RETIRED.add(Greedy)
    assert isinstance(open_model(folder), Transformer)
