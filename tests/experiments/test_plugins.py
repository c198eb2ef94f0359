"""Code of users: imported before a task file is read, kept with each run, tried before anything trains, and told in one
line where it is wrong."""

import json
import shutil
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import iclab
from iclab.analysis import answer, identify
from iclab.cli import main
from iclab.commands import terminal
from iclab.commands.sweep import prepare
from iclab.errors import UsageError
from iclab.experiments import experiment, plugins, trials
from iclab.experiments.config import kinds
from iclab.experiments.experiment import Experiment
from iclab.experiments.identity import Import
from iclab.experiments.study import Study
from iclab.models import AnyModelConfig, FrozenModelConfig, ModelConfig, TransformerConfig
from iclab.predictors import LeastSquares
from iclab.runs import worker
from iclab.runs.environment import write_environment
from iclab.runs.results import load
from iclab.runs.store import runs
from iclab.tasks import LinearRegression, Task

TASK = """from dataclasses import dataclass

import torch

from iclab.tasks import FunctionClass, LinearFunctions


@dataclass(frozen=True)
class Mine(FunctionClass):
    size: float = 1.0

    def draw_functions(self, batch, rng, dtype):
        return LinearFunctions(self.size * torch.randn(batch, self.d, generator=rng, dtype=dtype))
"""
MODEL = """from dataclasses import dataclass

import torch
from torch import nn

from iclab.models import ModelConfig


@dataclass(frozen=True, kw_only=True)
class MyConfig(ModelConfig):
    def build(self, d, n, rng=None):
        return MyModel(d, rng)


class MyModel(nn.Module):
    def __init__(self, d, rng):
        super().__init__()
        self.w = nn.Parameter(torch.randn(d, generator=rng))

    def forward(self, xs, ys):
        return xs @ self.w
"""
STUDY = """title = "A study for tests"
question = "Is it mine?"
paper = "none"
imports = {imports}
[task]
kind = "{task}"
d = 2
n = 4
{more}
[train]
steps = 2
batch = 4
[eval]
prompts = 32
bootstrap = 5
"""
SMALL = '[model]\nkind = "TransformerConfig"\nn_layer = 1\nn_head = 1\nd_model = 8'


def study_of(folder, files, imports=None, task="Mine", more=SMALL):
    """A task file beside the files that it imports."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    path = folder / "own.toml"
    path.write_text(STUDY.format(imports=json.dumps(list(files) if imports is None else imports), task=task, more=more))
    return path


def refused(path):
    """The one line by which a task file is refused."""
    with pytest.raises(UsageError) as caught:
        Study.read(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{path}: ")
    return lines[0]


def task_with(old, new):
    """The task file of a user who erred."""
    assert old in TASK
    return {"own_tasks.py": TASK.replace(old, new)}


# ---- imports -------------------------------------------------------------------------------------------------------


def test_a_file_beside_the_task_file_gives_a_kind(tmp_path):
    (cell,) = Study.read(study_of(tmp_path, {"own_tasks.py": TASK})).cells
    assert type(cell.experiment.task).__name__ == "Mine"
    assert cell.settings["imports"] == [{"name": "own_tasks.py", "digest": plugins.digest_of(TASK.encode())}]


def test_reading_a_study_again_or_from_another_place_is_no_second_kind(tmp_path):
    one = Study.read(study_of(tmp_path / "a", {"own_tasks.py": TASK})).cells[0].experiment
    same = Study.read(study_of(tmp_path / "a", {"own_tasks.py": TASK})).cells[0].experiment
    moved = Study.read(study_of(tmp_path / "b", {"own_tasks.py": TASK})).cells[0].experiment
    assert type(one.task) is type(same.task) is type(moved.task)
    assert one.id == same.id == moved.id


def test_a_newer_version_of_a_file_takes_the_place_of_the_older(tmp_path):
    one = Study.read(study_of(tmp_path, {"own_tasks.py": TASK})).cells[0].experiment
    newer = Study.read(study_of(tmp_path, task_with("= 1.0", "= 2.0"))).cells[0].experiment
    assert (one.task.size, newer.task.size) == (1.0, 2.0)
    assert kinds(Task)["Mine"] is type(newer.task)
    assert one.id != newer.id


def test_the_kinds_of_a_study_are_none_of_the_next_one(tmp_path):
    path = study_of(tmp_path / "a", {"own_tasks.py": TASK})
    Study.read(path)
    assert "unknown task 'Mine'" in refused(study_of(tmp_path / "b", {}))
    Study.read(path)  # and are back with it


def test_a_comment_in_the_file_is_another_id_and_its_name_is_not(tmp_path):
    ids = [
        Study.read(study_of(tmp_path / name, {f"{name}.py": text})).cells[0].experiment.id
        for name, text in [("own_tasks", TASK), ("own_tasks", f"{TASK}# seen\n")]
    ]
    assert len(set(ids)) == 2
    settings = {"task": {"kind": "Mine"}, "imports": [{"name": "a.py", "digest": "0"}]}
    renamed = {**settings, "imports": [{"name": "b.py", "digest": "0"}]}
    assert experiment.run_id(settings) == experiment.run_id(renamed)


def test_no_imports_leave_the_id_and_the_mapping_as_they_were():
    plain = experiment.Experiment(LinearRegression(2, 3))
    assert "imports" not in plain.mapping()
    other = experiment.Experiment(LinearRegression(2, 3), imports=(Import("sys"),))
    assert plain.id != other.id
    assert experiment.run_id({**plain.mapping(), "imports": []}) == plain.id


def test_a_module_is_recorded_by_name_and_its_version_in_the_environment(tmp_path, monkeypatch):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "tasks.py").write_text(TASK.replace("Mine", "Packed"))
    monkeypatch.syspath_prepend(tmp_path)
    (cell,) = Study.read(study_of(tmp_path, {}, ["own_package.tasks", "safetensors"], "Packed")).cells
    assert cell.settings["imports"] == [{"name": "own_package.tasks"}, {"name": "safetensors"}]
    write_environment(tmp_path / "environment.json", "cpu", cell.experiment.imports)
    versions = json.loads((tmp_path / "environment.json").read_text())["imports"]
    assert versions["own_package.tasks"] is None and versions["safetensors"][0].isdigit()


def test_a_second_file_can_import_the_first(tmp_path):
    second = "from own_tasks import Mine\nfrom dataclasses import dataclass\n@dataclass(frozen=True)\n"
    files = {"own_tasks.py": TASK, "own_more.py": second + "class Further(Mine):\n    pass\n"}
    (cell,) = Study.read(study_of(tmp_path, files, task="Further")).cells
    assert type(cell.experiment.task).__name__ == "Further"


# ---- the store -----------------------------------------------------------------------------------------------------


def swept(path, folder):
    """The one run of a study, worked on here."""
    (run,) = prepare(Study.read(path), folder, terminal.console())
    assert worker.work(run) == worker.DONE, run.log.read_text()
    return run


def test_a_run_goes_on_from_its_copy_when_the_file_is_gone(tmp_path, monkeypatch):
    run = swept(study_of(tmp_path / "user", {"own_tasks.py": TASK}), tmp_path / "store")
    before = run.rows()
    assert (run.folder / "imports" / "own_tasks.py").read_text() == TASK
    assert run.environment()["imports"] == {"own_tasks.py": plugins.digest_of(TASK.encode())}
    shutil.rmtree(tmp_path / "user")
    Study.read(study_of(tmp_path / "later", task_with("= 1.0", "= 3.0")))  # which is in memory then
    (run.folder / "results.jsonl").unlink()
    assert run.checked().state == "damaged"
    assert worker.work(run) == worker.DONE, run.log.read_text()
    assert run.rows() == before
    assert Experiment.read(run.folder / "config.toml").task.size == 1.0
    again = Study.read(tmp_path / "store" / "study.toml")  # from the copy beside it
    assert [cell.experiment.id for cell in again.cells] == [run.id]


def test_results_are_read_without_the_code(tmp_path, capsys):
    run = swept(study_of(tmp_path / "user", {"own_tasks.py": TASK}), tmp_path / "store")
    shutil.rmtree(tmp_path / "user")
    (run.folder / "imports" / "own_tasks.py").write_text("raise SystemExit('read')")
    assert len(load(tmp_path / "store")) == len(run.rows())
    for words in (["ls", str(tmp_path / "store")], ["show", str(run.folder)]):
        assert main(words) == 0
    assert run.id in capsys.readouterr().out
    assert [found.id for found in runs(tmp_path / "store")] == [run.id]


def test_a_copy_that_is_not_what_the_run_was_made_with_is_never_run(tmp_path):
    path = study_of(tmp_path / "user", {"own_tasks.py": TASK})
    (run,) = prepare(Study.read(path), tmp_path / "store", terminal.console())
    Study.read(study_of(tmp_path / "later", task_with("= 1.0", "= 3.0")))
    (run.folder / "imports" / "own_tasks.py").write_text("raise SystemExit('run')")
    assert worker.work(run) == worker.FAILED
    assert "its text is not what the run was made with" in run.recorded().error
    Study.read(path)
    prepare(Study.read(path), tmp_path / "store", terminal.console())  # mends it
    assert (run.folder / "imports" / "own_tasks.py").read_text() == TASK


# ---- entry points --------------------------------------------------------------------------------------------------


@pytest.fixture
def entry(monkeypatch):
    """Gives `iclab.kinds` one entry point."""

    def given(value):
        point = EntryPoint("mine", value, plugins.GROUP)
        monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == plugins.GROUP else [])
        plugins.load_entry_points.cache_clear()

    yield given
    monkeypatch.undo()
    plugins.load_entry_points.cache_clear()


def test_an_entry_point_gives_kinds_without_imports(entry, tmp_path, monkeypatch):
    (tmp_path / "own_entry.py").write_text(TASK.replace("Mine", "Entered"))
    monkeypatch.syspath_prepend(tmp_path)
    entry("own_entry")
    (cell,) = Study.read(study_of(tmp_path, {}, [], "Entered")).cells
    assert "imports" not in cell.settings


def test_a_broken_entry_point_is_one_line_that_names_it(entry, tmp_path):
    entry("no_such_module_at_all")
    with pytest.raises(UsageError) as caught:
        Study.read(study_of(tmp_path, {"own_tasks.py": TASK}))
    assert "mine" in str(caught.value) and "no_such_module_at_all" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# ---- what is wrong, in one line ------------------------------------------------------------------------------------


def test_two_kinds_of_one_name_are_refused_with_both_places(tmp_path):
    told = refused(study_of(tmp_path, {"one.py": TASK, "two.py": TASK + "# too\n"}))
    assert f"{tmp_path}/one.py:8" in told and f"{tmp_path}/two.py:8" in told
    told = refused(study_of(tmp_path, {"three.py": TASK.replace("Mine", "LinearRegression")}, task="LinearRegression"))
    assert "three.py:8" in told and str(Path("iclab/tasks/examples/linear.py")) in told


@pytest.mark.parametrize(
    ("files", "imports", "words"),
    [
        ({}, ["absent.py"], ["absent.py: no such file"]),
        ({"broken.py": "x = 1\ny = = 2\n"}, None, ["broken.py:2: SyntaxError: invalid syntax"]),
        ({"broken.py": "x = 1\n1 / 0\n"}, None, ["broken.py:2: ZeroDivisionError: division by zero"]),
        ({"broken.py": "import nothing_here\n"}, None, ["broken.py:1: ModuleNotFoundError", "nothing_here"]),
        ({"broken.py": "raise SystemExit(1)\n"}, None, ["broken.py:1: SystemExit"]),
        ({}, ["no_package.models"], ["no module 'no_package.models'", "'no_package' is neither installed"]),
        ({"random.py": TASK}, None, ["rename the file", "random.py"]),
        ({"pytest.py": TASK}, None, ["rename the file", "pytest"]),
        ({}, "own_tasks.py", ["expected a list", '["own_tasks.py"]']),
        ({}, [3], ["expected a list"]),
    ],
)
def test_what_cannot_be_imported_is_told_in_a_line(files, imports, words, tmp_path):
    told = refused(study_of(tmp_path, files, imports))
    assert all(word in told for word in ["imports: ", *words]), told


def test_all_imports_that_fail_are_told_at_once(tmp_path):
    with pytest.raises(UsageError) as caught:
        Study.read(study_of(tmp_path, {"broken.py": "1 / 0\n"}, ["broken.py", "absent.py"]))
    assert len(str(caught.value).splitlines()) == 2


def test_imports_belong_to_the_file(tmp_path):
    with pytest.raises(UsageError, match="imports: belongs at the top of the file"):
        Study.read(study_of(tmp_path, {"own_tasks.py": TASK}), ["imports=other.py"])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def draw_functions", "def draw_function", ["is abstract: it lacks draw_functions", "own_tasks.py:8"]),
        ("@dataclass(frozen=True)\n", "", ["lacks @dataclass(frozen=True)", "own_tasks.py:8"]),
        ("size: float = 1.0", "size: object = None", ["a field size: object, which no file can hold"]),
        ("size: float = 1.0", "size: 'Nothing' = 1.0", ["annotations that cannot be read", "NameError"]),
        ("size: float = 1.0", "kind: float = 1.0", ["kind, a name that files need"]),
        ("self.size *", "self.siz *", ["own_tasks.py:13", "no attribute 'siz'"]),
        ("generator=rng, ", "", ["same generator state gives other prompts"]),
        ("torch.randn(batch, self.d, generator=rng,", "float('nan') * torch.randn(batch, self.d,", ["not finite"]),
        ("LinearFunctions(self", "(self", ["TypeError"]),
        ("batch, self.d, generator", "batch + 1, self.d, generator", ["RuntimeError"]),
        ("    def draw_functions", "    def draw_inputs(self, batch, rng, dtype):\n"
         "        return torch.ones(2, 3, 2)\n\n    def draw_functions",
         ["xs has the shape (2, 3, 2), expected (2, 4, 2)"]),
        ("    def draw_functions", "    def sample(self, batch, rng, dtype=torch.float32):\n"
         "        return super().sample(batch, torch.Generator().manual_seed(5), dtype)\n\n    def draw_functions",
         ["rng is ignored"]),
    ],
)  # fmt: skip
def test_a_task_that_errs_is_told_before_anything_trains(old, new, words, tmp_path):
    told = refused(study_of(tmp_path, task_with(old, new)))
    assert all(word in told for word in ["task", "own_tasks.py:", *words]), told


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("xs @ self.w", "(xs @ self.w).unsqueeze(-1)", ["shape (2, 4, 1), expected (2, 4)"]),
        ("xs @ self.w", "xs @ self.w + 0 * ys.flip(1) + ys", ["has seen what it must not see"]),
        ("xs @ self.w", "xs @ self.w / 0", ["not finite"]),
        ("xs @ self.w", "xs @ self.v", ["own_models.py:21", "no attribute 'v'"]),
        ("(d, generator=rng)", "(d)", ["other weights"]),
        ("torch.randn(d, g", "torch.randn(d + 1, g", ["own_models.py:21: RuntimeError"]),
        ("return MyModel(d, rng)", "return 3", ["expected a torch.nn.Module, given int"]),
        ("self.w = ", "self.idle = nn.Parameter(torch.ones(1))\n        self.w = ", ["idle has no part in the loss"]),
        ("nn.Parameter(torch.randn(d, generator=rng))", "torch.zeros(d)", ["no parameter requires a gradient"]),
    ],
)
def test_a_model_that_errs_is_told_before_anything_trains(old, new, words, tmp_path):
    assert old in MODEL
    files = {"own_models.py": MODEL.replace(old, new)}
    told = refused(study_of(tmp_path, files, task="LinearRegression", more='[model]\nkind = "MyConfig"'))
    assert all(word in told for word in ["model: ", "own_models.py:9", *words]), told


def test_a_sound_model_trains_and_its_weights_are_kept(tmp_path):
    path = study_of(
        tmp_path, {"own_models.py": MODEL}, task="LinearRegression", more='noise = 0.5\n[model]\nkind = "MyConfig"'
    )
    run = swept(path, tmp_path / "store")
    assert run.weights is not None
    (run.folder / "results.jsonl").unlink()
    assert worker.work(run) == worker.DONE  # measured again, from the weights


OWN_FILE = """
    def save(self, model, path):
        super().save(Halved(model), path)

    def load(self, path, **sizes):
        model = self.build(**sizes)
        with safe_open(path, "pt") as file:
            model.load_state_dict({"w": 2 * file.get_tensor("half")})
        return model


class Halved:
    def __init__(self, model):
        self.model = model

    def state_dict(self):
        return {"half": self.model.w.detach() / 2}
"""


@pytest.mark.parametrize("own", [False, True])
def test_a_model_of_ones_own_is_read_as_its_architecture_has_written_it(own, tmp_path):
    text = MODEL.replace("import nn\n", "import nn\nfrom safetensors import safe_open\n")
    text = text.replace("\n\n\nclass MyModel", f"\n{OWN_FILE}\n\nclass MyModel") if own else text
    path = study_of(
        tmp_path, {"own_models.py": text}, task="LinearRegression", more='noise = 0.5\n[model]\nkind = "MyConfig"'
    )
    run = swept(path, tmp_path / "store")
    (held,) = load_file(run.folder / "weights.safetensors").values()
    model = iclab.load_model(run.folder)
    assert type(model).__name__ == "MyModel" and torch.equal(model.w.detach(), held * (2 if own else 1))
    before = run.rows()
    (run.folder / "results.jsonl").unlink()
    assert worker.work(run) == worker.DONE and run.rows() == before
    save_file({"v": held}, run.folder / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors not as recorded"):
        iclab.load_model(run.folder)
    with pytest.raises(ValueError, match="no format of models that is known"):
        iclab.load_model(tmp_path)


def test_weights_of_another_model_are_refused_with_all_that_differs(tmp_path):
    small, large = TransformerConfig(n_layer=1, n_head=1, d_model=8), TransformerConfig(n_layer=2, n_head=1, d_model=8)
    small.save(small.build(2, 4), tmp_path / "weights")
    with pytest.raises(ValueError, match=r"missing weights: blocks\.1\."):
        large.load(tmp_path / "weights", d=2, n=4)
    with pytest.raises(ValueError, match=r"read_in\.weight must be of shape"):
        small.load(tmp_path / "weights", d=3, n=4)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda weights: weights.to(torch.int8), "is of I8, not of F64"),
        (lambda weights: weights.fill_(torch.nan), "holds numbers that are not finite"),
    ],
)
def test_weights_that_are_no_numbers_of_a_model_are_refused(spoil, told, tmp_path):
    shape, path = TransformerConfig(n_layer=1, n_head=1, d_model=8), tmp_path / "weights"
    shape.save(shape.build(2, 4), path)
    weights = load_file(path)
    save_file(weights | {"read_in.weight": spoil(weights["read_in.weight"])}, path)
    with pytest.raises(ValueError, match=rf"read_in\.weight {told}"):
        shape.load(path, d=2, n=4)


class Masked(torch.nn.Module):
    """What is not learned may count, and may be infinite."""

    def __init__(self, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.w = torch.nn.Parameter(torch.randn(3, generator=rng))
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.register_buffer("count", torch.tensor(seed))


def test_buffers_are_read_as_they_were_written(tmp_path):
    saved, path = Masked(7), tmp_path / "weights"
    AnyModelConfig.save(SimpleNamespace(), saved, path)
    shape = SimpleNamespace(build=lambda: Masked(0))
    found = AnyModelConfig.load(shape, path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in saved.state_dict().items())
    save_file({**found, "count": found["count"].float()}, path)
    with pytest.raises(ValueError, match="count is of F32, not of whole numbers"):
        AnyModelConfig.load(shape, path)


OURS = [kind for kind in kinds(AnyModelConfig).values() if kind.__module__.startswith("iclab.") and kind.trainable]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_architecture_reads_what_it_has_written(kind, tmp_path):
    sizes = {"d": 2, "n": 4} if issubclass(kind, ModelConfig) else {"vocab": 5, "n": 4}
    shape, rng = kind(heads=3) if issubclass(kind, FrozenModelConfig) else kind(), torch.Generator().manual_seed(1)
    model = shape.build(**sizes, rng=rng)
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(generator=rng)
    shape.save(model, tmp_path / "weights")
    again, other = shape.load(tmp_path / "weights", **sizes).state_dict(), shape.build(**sizes).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
    assert not all(torch.equal(other[name], value) for name, value in model.state_dict().items())  # the law can fail


def test_a_predictor_that_sees_the_future_is_refused(tmp_path):
    text = (
        "from dataclasses import dataclass\nfrom iclab.predictors import Predictor\n\n\n@dataclass(frozen=True)\n"
        "class Seer(Predictor):\n    def __call__(self, xs, ys):\n        return ys\n"
    )
    more = f'{SMALL}\n[eval.predictors]\nseer = {{ kind = "Seer" }}'
    path = study_of(tmp_path, {"own_seer.py": text}, task="LinearRegression", more=more)
    path.write_text(path.read_text().replace("[eval]\n", "").replace("prompts = 32\nbootstrap = 5\n", ""))
    told = refused(path)
    assert "eval.predictors.seer" in told and "own_seer.py:5" in told and "must not see" in told


def test_a_learner_of_ones_own_fits_in_place(tmp_path):
    text = (
        "from dataclasses import dataclass\nimport torch\nfrom iclab.learning.training import Learner\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Zeroing(Learner):\n"
        "    def problems_for(self, task, model):\n        return []\n\n"
        "    def learn(self, model, task, place):\n        with torch.no_grad():\n"
        "            [each.zero_() for each in model.parameters()]\n"
    )
    path = study_of(tmp_path, {"own_learner.py": text, "own_models.py": MODEL}, task="LinearRegression")
    body = path.read_text().replace(SMALL, '[model]\nkind = "MyConfig"')
    path.write_text(body.replace("steps = 2\nbatch = 4", 'kind = "Zeroing"'))
    run = swept(path, tmp_path / "store")
    risk = {row["predictor"]: row["value"] for row in run.rows() if row["quantity"] == "risk" and not row["position"]}
    assert risk["transformer"] == risk["zero"]
    unfit = text.replace("def learn(", "def fitted(")
    path = study_of(tmp_path, {"own_learner.py": unfit, "own_models.py": MODEL}, task="LinearRegression")
    path.write_text(path.read_text().replace(SMALL, "").replace("steps = 2\nbatch = 4", 'kind = "Zeroing"'))
    assert "Zeroing is abstract: it lacks learn" in refused(path)


def test_the_command_line_shows_no_traceback(tmp_path, capsys):
    path = study_of(tmp_path, task_with("self.size *", "1 / 0 *"))
    for words in (["--dry-run"], []):
        assert main(["sweep", str(path), "--out", str(tmp_path / "store"), *words]) == 2
        told = capsys.readouterr().err
        assert "own_tasks.py:13: ZeroDivisionError: division by zero" in told and "Traceback" not in told
        assert len(told.splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_the_package_itself_is_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_tried", lambda *_: pytest.fail("tried"))
    Study.read(study_of(tmp_path, {}, task="LinearRegression"))


# ---- theorems ------------------------------------------------------------------------------------------------------


def test_theorems_of_a_file_are_verified(tmp_path, capsys):
    text = (
        "from iclab.constructed import Case, Integers, Theorem\n"
        "def measure(case):\n    return case.d, 3\n"
        'THEOREMS = [Theorem("own_bound", "none", "d is at most 3", {"d": Integers(1, LAST)}, measure, "none")]\n'
    )
    file = tmp_path / "own_theorems.py"
    for last, outcome in ((3, 0), (9, 4)):
        file.write_text(text.replace("LAST", str(last)))
        assert main(["verify", str(file)]) == outcome
        assert main(["falsify", f"{file}:own_bound", "--examples", "30"]) == outcome
    assert "d=4" in capsys.readouterr().out
    file.write_text("THEOREMS = [3]\n")
    assert main(["verify", str(file)]) == 2


# ---- models that are no kinds --------------------------------------------------------------------------------------


class Plain(nn.Module):
    def forward(self, xs, ys):
        return LeastSquares()(xs, ys)


@pytest.mark.parametrize("model", [Plain(), lambda xs, ys: LeastSquares()(xs, ys)], ids=["module", "callable"])
def test_anything_that_answers_can_be_identified(model, rng):
    task = LinearRegression(2, 6, noise=0.0)
    prompts = task.sample(64, rng)
    assert torch.equal(answer({"mine": model}, prompts)["mine"], answer({"l": LeastSquares()}, prompts)["l"])
    assert identify(model, task, prompts, rng)[0].relative < 1e-6


@dataclass(frozen=True)
class Unhashable:
    names: dict[str, int]


def test_what_cannot_be_hashed_is_told():
    (told,) = trials.problems(Unhashable({}))
    assert "cannot be hashed" in told and "test_plugins.py" in told
