"""Models that are there already: measured as they are, from files and from code of the user's."""

import json

import pytest
import torch
from safetensors.torch import save_file

import iclab
from iclab.analysis.layers.attention import distance_to_identity, linear_steps
from iclab.commands import terminal
from iclab.commands.sweep import prepare
from iclab.errors import UsageError
from iclab.experiments.study import Study
from iclab.models import Pretrained, TokenTransformerConfig, Transformer, TransformerConfig
from iclab.runs import worker
from iclab.runs.results import load

CODE = """import torch
from torch import nn

from iclab.predictors import Ridge


class Running(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two, self.out = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, xs, ys):
        before = torch.nn.functional.pad(ys[:, :-1].cumsum(1), (1, 0)).unsqueeze(-1)
        return self.out(self.two(self.one(torch.cat([xs, before], -1)).tanh()).tanh()).squeeze(-1)


def ridge():
    return Ridge(0.25)


def short():
    return lambda xs, ys: ys[:, :1]


def peeks():
    return lambda xs, ys: ys


def three():
    return 3


number = 5
"""
STUDY = """title = "A model that is there"
question = "What is it?"
paper = "none"
imports = ["own_given.py"]
[task]
kind = "LinearRegression"
d = 2
n = 5
noise = 0.5
[model]
kind = "Pretrained"
{model}
[eval]
prompts = 64
bootstrap = 5
{eval}
"""


def study_of(folder, model, eval=""):
    """A task file beside the code of a model."""
    (folder / "own_given.py").write_text(CODE)
    (folder / "own.toml").write_text(STUDY.format(model=model, eval=eval))
    return folder / "own.toml"


def swept(path, folder):
    """The one run of a study, worked on here."""
    (run,) = prepare(Study.read(path), folder, terminal.console())
    assert worker.work(run) == worker.DONE, run.log.read_text()
    return run


def test_any_callable_is_measured_as_it_is_and_its_text_is_kept(tmp_path):
    run = swept(study_of(tmp_path, 'module = "own_given:ridge"'), tmp_path / "store")
    risks = load(tmp_path / "store").query("quantity == 'excess' and region == 'mean'")
    assert abs(risks[risks.predictor == "transformer"].value.item()) < 1e-9  # Ridge(noise²) is Bayes
    assert (run.folder / "imports" / "own_given.py").read_text() == CODE
    assert not (run.folder / "weights.safetensors").exists()
    assert iclab.load_model(run.folder)(torch.zeros(1, 5, 2), torch.zeros(1, 5)).shape == (1, 5)


def test_named_layers_of_a_plain_module_are_probed_beside_shuffled_weights(tmp_path):
    path = study_of(
        tmp_path, 'module = "own_given:Running"\nlayers = ["one", "two"]', 'analyses = ["probes", "layers"]'
    )
    swept(path, tmp_path / "store")
    table = load(tmp_path / "store").query("region == 'mean' and predictor == 'moment'")
    own, control = (table[table.quantity == name].sort_values("layer") for name in ("probe_r2", "probe_r2_untrained"))
    assert [*own.layer] == [0, 1] and [*own.value] != [*control.value]


def test_a_model_that_iclab_saved_is_known_by_its_content(tmp_path):
    shape = TransformerConfig(n_layer=1, n_head=1, d_model=8)
    model = shape.build(2, 5, torch.Generator().manual_seed(7))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shape.save(model, tmp_path / folder / "weights.safetensors")
    paths = [f'path = "{tmp_path / name}"' for name in ("a", "b")]
    ids = [Study.read(study_of(tmp_path, path)).cells[0].experiment.id for path in paths]
    assert ids[0] == ids[1]
    run = swept(study_of(tmp_path, paths[0], 'analyses = ["layers"]'), tmp_path / "store")
    xs, ys = torch.ones(1, 5, 2), torch.ones(1, 5)
    assert torch.equal(iclab.load_model(run.folder)(xs, ys), model(xs, ys))
    assert not torch.equal(Pretrained(path=str(tmp_path / "a")).build(rng=torch.Generator())(xs, ys), model(xs, ys))
    shape.save(shape.build(2, 5, torch.Generator().manual_seed(8)), tmp_path / "a" / "weights.safetensors")
    assert Study.read(study_of(tmp_path, paths[0])).cells[0].experiment.id != ids[1]
    with pytest.raises(UsageError, match="has changed"):
        iclab.load_model(run.folder)


DISTANCE = ("identity", "preconditioner_distance")


def saved(folder, **shape):
    """The weights of an untrained transformer over examples."""
    config = TransformerConfig(**{"n_layer": 2, "n_head": 1, "d_model": 8, **shape})
    config.save(config.build(2, 5, torch.Generator().manual_seed(7)), folder / "weights.safetensors")
    return f'path = "{folder}"'


def test_a_transformer_that_iclab_saved_is_taken_apart_as_one_that_was_trained_here(tmp_path):
    bare = {"layout": "encoder", "read_in": "identity", "norm": False, "positions": False, "bias": False}
    path = study_of(tmp_path, saved(tmp_path, d_model=4, **bare), 'analyses = ["preconditioners"]')
    rows = swept(path, tmp_path / "store").rows()
    read = {row["layer"]: row["value"] for row in rows if (row["predictor"], row["quantity"]) == DISTANCE}
    steps = linear_steps(Transformer.load(tmp_path / "weights.safetensors"))  # of the very weights in the file
    assert read == {i: pytest.approx(distance_to_identity(step.preconditioner)) for i, step in enumerate(steps, 1)}


@pytest.mark.parametrize(
    ("analysis", "shape", "problem"),
    [
        ("stitching", {}, "trains partners of the model's shape, and Pretrained is not trained"),
        ("pasting", {"n_layer": 1}, "needs model.n_layer of 2 or more, given 1"),
        ("descent", {}, "needs"),
    ],
)
def test_what_its_blocks_do_not_allow_is_refused(analysis, shape, problem, tmp_path):
    path = study_of(tmp_path, saved(tmp_path, **shape), f'analyses = ["{analysis}"]')
    with pytest.raises(UsageError, match=f"'{analysis}' {problem}"):
        Study.read(path)


def saved_by_us(folder):
    """A transformer over tokens in a file of iclab."""
    shape = TokenTransformerConfig(n_layer=1, n_head=1, d_model=8)
    shape.save(shape.build(4, 9), folder / "tokens.safetensors")
    return folder / "tokens.safetensors"


def saved_by_others(folder):
    """A GPT-2 of the library transformers in a folder."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=4, n_positions=9, n_embd=8, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    return folder / "gpt2"


@pytest.mark.parametrize("made", [saved_by_us, saved_by_others])
def test_a_model_of_tokens_is_read_from_where_it_is(made, tmp_path):
    text = STUDY.format(model=f'path = "{made(tmp_path)}"', eval="")
    for old, new in {
        'imports = ["own_given.py"]\n': "",
        "LinearRegression": "MarkovChain",
        "d = 2\nn = 5\nnoise = 0.5": "states = 4\nn = 9",
        "bootstrap = 5\n": "",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "own.toml").write_text(text)
    run = swept(tmp_path / "own.toml", tmp_path / "store")
    assert "transformer" in set(load(tmp_path / "store").predictor)
    assert iclab.load_model(run.folder)(torch.zeros(1, 9, dtype=torch.long)).shape == (1, 9, 4)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ('path = "nowhere"', "there is no"),
        ('path = "."', r"no format of models that is known\. Known: .*Garg et al\. 2022 \("),
        ('module = "own_given:rige"', "Did you mean 'ridge'"),
        ('module = "own_given:number"', "own_given:number cannot be called"),
        ('module = "own_given:three"', "made a int, which cannot be called"),
        ('module = "own_given:short"', r"has the shape \(2, 1\), expected \(2, 5\)"),
        ('module = "own_given:peeks"', "it has seen what it must not see"),
        ('module = "own_given"', "must be a module and a name in it"),
        ('module = "json:loads"', "name 'json' .* under imports"),
        ('module = "own_given:Running"\nlayers = ["onne"]', "unknown submodule 'onne'"),
        ('module = "own_given:ridge"\npath = "."', "cannot be read: Is a directory"),
        ('module = "own_given:ridge"\n[train]\nsteps = 3', "measured as it is"),
        ("", "give path or module, or both"),
    ],
)
def test_what_is_no_model_is_told_in_a_line(model, words, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    path = study_of(tmp_path, model)
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError, match=words) as told:
        Study.read(path)
    assert len(str(told.value).splitlines()) == 1


def test_a_file_without_the_shape_of_its_model_is_told(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors", {"other": json.dumps({})})
    with pytest.raises(UsageError, match=r"w\.safetensors: no format of models that is known\. Known: .*; iclab \("):
        Study.read(study_of(tmp_path, f'path = "{tmp_path / "w.safetensors"}"'))
