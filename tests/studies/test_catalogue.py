"""Every file of the catalogue is whole: it loads, says what it asks and claims, samples, runs, and can be drawn."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import iclab
from iclab.analysis import ProbeRecipe
from iclab.experiments.study import Study, recipe, recipes
from iclab.learning.attention_training import AttentionDescent
from iclab.learning.random_feature_ridge import CurveLearner, Unlearned
from iclab.learning.training import OptimizerConfig, TrainingConfig
from iclab.measures import Workspace, evolution, measure
from iclab.measures.monitor import watched
from iclab.models import TransformerConfig
from iclab.runs.store import Run
from iclab.runs.tables import distinguishing_keys
from iclab.runs.worker import DONE, work
from iclab.tasks import TokenTask
from tests.conftest import generator, unchecked

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tasks").glob("*.toml"))
SCRIPTS = sorted((ROOT / "paper_figs").glob("*.py"))
OF_NO_STUDY = {"precision.py"}  # draws the table that `iclab precision` makes: test_precision


def study_of(script):
    """The task file whose results a script draws, by the constant STUDY that it sets."""
    (stem,) = re.findall(r'^STUDY = "(\w+)"$', script.read_text(), re.MULTILINE)
    return f"{stem}.toml"


FIGURES = {script.name: study_of(script) for script in SCRIPTS if script.name not in OF_NO_STUDY}
MANY = 5  # cells of other settings than seeds: of more, two values of each setting will do
WHOLE = {"reddy2023_classes.toml"}  # but for a figure that has an entry for each
BRIEF = {"steps": 2, "warmup": 0.0, "batch": 2}  # the least of gradient training; a fit of closed form takes its scale


LEAST = {  # of what no setting decides
    "iclab.theory.references": {"ROUNDS": 1, "STEPS": 1},  # of a network that is trained on each prefix
    "iclab.measures.monitor": {"WATCHED": 24, "PROBED": 48, "OF_TOKENS": 24},
}


@pytest.fixture(scope="module", autouse=True)
def little_effort():
    """Runs that are as short as can be: what they measure is not looked at."""
    with pytest.MonkeyPatch.context() as patch:
        for module, efforts in LEAST.items():
            for name, least in efforts.items():
                patch.setattr(sys.modules[module], name, least)
        yield


def scales(path):
    """The settings of the command line that the file knows: none, and each named scale."""
    return [(), *((f"scale={name}",) for name in tomllib.loads(path.read_text()).get("scale", {}))]


STUDIES = [(path, scale) for path in FILES for scale in scales(path)]
NAMES = [f"{path.stem} {' '.join(scale)}".strip() for path, scale in STUDIES]


@cache
def read(path, scale=()):
    """A study, which is read once for all tests of a process."""
    return Study.read(path, scale)


@pytest.fixture(params=STUDIES, ids=NAMES)
def study(request):
    return read(*request.param)


def test_the_catalogue_is_not_empty():
    assert "linear_regression" in {path.stem for path in FILES}


def test_a_file_says_what_it_asks_and_claims_something(study):
    assert study.heading.title and study.heading.question and "arXiv" in study.heading.paper
    assert study.heading.claims and len(study.cells) >= 1
    assert all(claim.written for claim in study.heading.claims), "written before or after its result was seen?"


def kinds(path, *sections):
    """The kinds that a task file names in these sections."""
    told = tomllib.loads(path.read_text())
    return tuple(told.get(section, {}).get("kind") for section in sections)


def first(files, *sections):
    """Of those that name the same kinds, the first file."""
    return set({kinds(path, *sections): path for path in reversed(files)}.values())


FIRST = first(FILES, "task", "train")


def quick(path, scale=()):
    """Whether `make test` runs a study: the first with its kinds of task and training, at its smallest scale.

    `make test-slow` runs the others. What is of a paper's size takes seconds each, and asks nothing of the code that a
    laptop's does not.
    """
    return path in FIRST and scale == smallest(path)


def smallest(path):
    """The scale of a study that asks for the least."""
    return next((scale for scale in scales(path) if "scale=quick" in scale), ())


SMOKED = [
    pytest.param((path, scale), marks=[] if quick(path, scale) else [pytest.mark.slow]) for path, scale in STUDIES
]


def test_each_kind_of_task_and_training_has_a_study_that_is_run_at_once():
    chosen = [kinds(path, "task", "train") for path, scale in STUDIES if quick(path, scale)]
    assert set(chosen) == {kinds(path, "task", "train") for path in FILES} and len(FIRST) < len(FILES)


@pytest.mark.parametrize("study", SMOKED, indirect=True, ids=NAMES)
def test_every_cell_samples_and_a_smoke_run_measures_what_is_claimed(study, shared, tmp_path):
    cells = [cell.experiment for cell in study.cells]
    for one in cells:
        assert sound(one.task)
    of_tokens = isinstance(cells[0].task, TokenTask)  # where cells of different depth measure different layers
    tried = few(study.cells, most=None, seeds=1) if of_tokens else study.cells[:1]
    rows = [row for cell in tried for row in seen(cell, shared, tmp_path)]
    for claim in study.heading.claims:
        assert claim.rows(rows), f"nothing is measured for the claim {claim.name!r}"
    known = {one for each in cells for one in each.analyses}
    told = {row["quantity"] for row in rows}
    assert not {name for name in told if not any(one.meaning(name) for one in known)}, "no analysis says what it is"


def sound(task):
    """Whether a sample of the task is what it should be."""
    sample = task.sample(2, generator())
    return sample.ys.isfinite().all() if hasattr(sample, "ys") else (sample.tokens < task.vocab).all()


def seen(cell, shared, folder):
    """What a tiny run of a cell measures; what is seen at its last step is seen where a claim may look as well."""
    if of_a_papers_size(cell.experiment.model):
        return thin(cell.experiment, folder)
    small = brief(cell.experiment)
    rows = worked(small, shared).rows()
    if not isinstance(small.task, TokenTask):
        return rows
    return rows + [{**row, "step": cell.experiment.train.steps} for row in rows if row.get("step") == small.train.steps]


def thin(experiment, folder):
    """The rows of a model that is thinner than one of a paper's size, untrained; that one itself answers a prompt."""
    assert experiment.initial()(*few_examples(experiment.task)).isfinite().all()
    small = brief(experiment)
    layers = 1 if "weights" in small.eval.analyses else experiment.model.n_layer  # they cost thousands of answers
    small = replace(
        small, train=experiment.train, model=replace(experiment.model, n_layer=layers, d_model=16, d_mlp=16)
    )
    model = small.initial()
    rows = measure(small, model, Workspace("cpu", folder))
    return [*rows, *evolution.rows([{"step": 0, **watched(small, torch.device("cpu"))(model, True)}])]


def brief(experiment, fewer=True):
    """The same with the least of training and of prompts, or of inputs and heads to learn from and with; a fit to so
    many prompts takes as many as it says where fewer of them will not do."""
    learner, few = experiment.train, replace(experiment.eval, prompts=24)  # fewer prompts show no algorithm
    if isinstance(experiment.task, TokenTask):
        return replace(experiment, device="cpu", train=replace(learner, **BRIEF), eval=replace(few, every=1))
    few = replace(few, bootstrap=5)
    few = replace(few, probe=ProbeRecipe(width=4, steps=2, batch=4)) if "attention_probes" in few.analyses else few
    few = replace(few, surgery=TrainingConfig(**BRIEF)) if few.surgery else few
    experiment = replace(experiment, device="cpu", eval=few)
    if isinstance(learner, Unlearned):
        return replace(experiment, eval=replace(few, prompts=2))
    if not isinstance(learner, CurveLearner):
        if not fewer:
            return replace(experiment, eval=replace(few, prompts=16))  # too few for an algorithm, which takes long
        return replace(experiment, train=replace(learner, **(BRIEF if trained(experiment) else {"prompts": 8})))
    beside = tuple((name, narrow(model)) for name, model in learner.beside)
    learner = replace(learner, steps=2) if isinstance(learner, AttentionDescent) else learner
    return replace(
        experiment,
        model=narrow(experiment.model),
        train=replace(learner, sizes=tuple(n for n in learner.sizes if n <= 512) or (16,), beside=beside),
    )


def narrow(model):
    """A model of few heads, but not of as few as any other: where heads are swept a figure is drawn against them."""
    return replace(model, heads=min(model.heads, 10))


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder of runs for all processes of these tests, for many look at the same ones."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"


def worked(experiment, folder):
    """The run of an experiment, which is worked on by the first that asks for it."""
    run = Run(folder / experiment.id)
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.hold(patience=600) as mine:
        assert mine
        run.create(experiment.mapping())
        assert work(run) == DONE, run.log.read_text()
    return run


def few(cells, most=2, seeds=2):
    """Cells in which every setting has but its first two values, and every seed, or as many as is said."""
    keys = [key for key in distinguishing_keys([cell.flat for cell in cells]) if not of_seeds(key)]
    return thinned(list(cells), keys, most, seeds)


def thinned(cells, keys, most, seeds):
    """The cells with the first values of each key, and the first of those that differ in nothing but seeds."""
    if not keys:
        return cells[:seeds]
    groups = {}
    for cell in cells:
        groups.setdefault(str(cell.flat.get(keys[0])), []).append(cell)
    return [cell for group in list(groups.values())[:most] for cell in thinned(group, keys[1:], most, seeds)]


def apart(cell):
    """What sets a cell apart from those that differ in nothing but seeds."""
    return str([item for item in cell.flat.items() if not of_seeds(item[0])])


def of_seeds(key):
    """Whether a setting is a seed."""
    return key.rpartition(".")[2] == "seed"


def of_a_papers_size(model):
    return isinstance(model, TransformerConfig) and model.n_layer * model.d_model > 512


def few_examples(task):
    prompts = task.sample(2, generator())
    return prompts.xs, prompts.ys


def trained(experiment):
    """Whether by gradients."""
    return isinstance(experiment.train, OptimizerConfig)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_says_where_it_is_from(name):
    told = tomllib.loads(recipes()[name].read_text())
    assert told["title"] and ("arXiv" in told["paper"] or told["paper"].startswith("This project"))
    assert set(recipe(name)) <= {"model", "train"}


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_reaches_the_experiment(name, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(
        f'title = "t"\nquestion = "q"\npaper = "p"\nrecipe = "{name}"\n'
        '[task]\nkind = "LinearRegression"\nd = 20\nn = 41\n'
    )
    experiment = Study.read(file).cells[0].experiment
    for section, settings in recipe(name).items():
        for key, value in settings.items():
            found = getattr(getattr(experiment, section), key)
            if isinstance(value, str | int | float) and value != "none":
                assert found == value


def test_the_papers_recipes_are_those_that_were_published():
    """Figures of the papers, so that a slip of the pen in a recipe is noticed."""
    shapes = {name: recipe(name)["model"] for name in recipes() if "20" in name}  # named by their year
    assert {n: (m["n_layer"], m["n_head"], m["d_model"]) for n, m in shapes.items()} == {
        "garg2022": (12, 8, 256),
        "garg2022_tiny": (3, 2, 64),
        "akyurek2022": (16, 4, 512),
        "raventos2023": (8, 2, 128),
        "guo2023": (12, 8, 256),
    }
    assert all(m["layout"] == "interleaved" and m["d_mlp"] == 4 * m["d_model"] for m in shapes.values())
    steps = {name: recipe(name)["train"]["steps"] for name in shapes}
    assert set(steps.values()) == {500_001, 500_000, 300_000}


def test_the_fast_recipe_is_the_default():
    assert recipe("fast") == {}
    assert TrainingConfig().targets == "sampled"


def swept(file, shared, folder):
    """Runs of a task file at its smallest, each in this process. Those that differ from another in nothing but seeds
    have its numbers: that seeds decide something is tested elsewhere."""
    study, done = read(file, smallest(file)), {}
    most = 2 if file.name not in WHOLE and len({apart(cell) for cell in study.cells}) > MANY else None
    if not trained(study.cells[0].experiment):
        most = None  # closed forms, of which a curve has many cells
    for cell in few(study.cells, most):
        small = brief(cell.experiment, fewer=trained(cell.experiment))
        run = Run(folder / small.id)
        run.create(small.mapping())
        with unchecked() if done else nullcontext():  # what is right in the first cell is right in the others
            done[apart(cell)] = done.get(apart(cell)) or worked(small, shared)
        for path in done[apart(cell)].folder.iterdir():
            if path.name not in ("config.toml", "lock"):
                shutil.copyfile(path, run.folder / path.name)
    return folder


SHOWN = [path for path in FILES if path.name in FIGURES.values()]
OF_EACH_KIND = {"linear_regression.toml", *(path.name for path in first(SHOWN, "model", "train"))}
DRAWN = [  # at once: of the demo, and of the first study with each kind of model and training
    pytest.param((script, file), id=script, marks=[] if file in OF_EACH_KIND else [pytest.mark.slow])
    for script, file in FIGURES.items()
]


def test_each_kind_of_model_and_training_has_a_figure_that_is_drawn_at_once():
    chosen = {kinds(path, "model", "train") for path in SHOWN if path.name in OF_EACH_KIND}
    assert chosen == {kinds(path, "model", "train") for path in SHOWN}
    assert 0 < sum(not param.marks for param in DRAWN) < len(DRAWN)


@pytest.fixture(scope="module", params=DRAWN)
def figure(request, shared, tmp_path_factory):
    """A script, and runs of the task file that it is made for."""
    script, file = request.param
    folder = tmp_path_factory.mktemp("figure") / "runs"
    return ROOT / "paper_figs" / script, swept(ROOT / "tasks" / file, shared, folder)


def lines(figure):
    """The names of the curves of each panel, each with a value at every number of examples; of a table of numbers the
    names of its rows, each with a number written in every field."""
    for axes in figure.axes:
        if axes.get_label() == "<colorbar>":
            continue
        if axes.get_images():
            yield from [rows_of(axes)] if axes.texts else []  # a map of numbers that are not written out has no rows
            continue
        curves = [line for line in axes.get_lines() if line.get_label() != "noise²"]
        low, high = axes.get_ylim()
        assert low < high and (low >= 0 or axes.get_yscale() == "linear")
        assert curves and all(np.isfinite(line.get_xydata()).all() and len(line.get_xdata()) > 1 for line in curves)
        yield [line.get_label() for line in curves]


def rows_of(axes):
    """The names of the rows of a table that is drawn as an image."""
    (image,) = axes.get_images()
    values = np.ma.filled(image.get_array(), np.nan)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert np.isfinite(values).all() and values.shape == (len(names), len(axes.get_xticklabels()))
    assert [bool(text.get_text()) for text in axes.texts] == [True] * values.size
    return names


def drawn(script, table):
    """The curves that a script draws."""
    figure = runpy.run_path(str(script))["draw"](table)
    try:
        return list(lines(figure))
    finally:
        plt.close(figure)


def test_every_figure_names_its_task_file():
    assert len(FIGURES) > 40 and set(FIGURES.values()) <= {path.name for path in FILES}


def test_the_page_of_figures_names_each_study_with_its_scripts():
    page = (ROOT / "paper_figs" / "README.md").read_text()
    for path in FILES:
        assert f"<!-- results: {path.stem} -->" in page, path.stem
    for script, file in FIGURES.items():
        assert any(f"`{file}`" in line and f"`{script}`" in line for line in page.splitlines()), script


@pytest.fixture
def command(monkeypatch):
    """Runs a script as a command would, in this process, which has loaded everything already."""

    def run(script, *words):
        monkeypatch.setattr(sys, "argv", list(map(str, (script, *words))))
        try:
            runpy.run_path(str(script), run_name="__main__")
        finally:
            plt.close("all")

    return run


def test_a_figure_is_drawn_from_a_finished_sweep(figure, command, tmp_path):
    script, folder = figure
    picture = tmp_path / "picture.png"
    command(script, folder, picture)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for panel in drawn(script, iclab.load(folder)):
        assert len(panel) >= 2
        assert script.name != "risk_by_examples.py" or any(name.startswith("transformer") for name in panel)


def test_a_figure_of_one_seed_is_drawn_as_well(figure, tmp_path):
    script, folder = figure
    table = iclab.load(folder)
    if "seed" not in table:
        return  # those runs are of one seed: the test before has drawn them
    seeds = table.groupby("run")["seed"].first()
    for run in seeds.index[seeds == seeds.min()]:
        (tmp_path / run).symlink_to(folder / run)
    one = iclab.load(tmp_path)
    assert "seed" not in one
    picture = runpy.run_path(str(script))["draw"](one)
    panels = [axes for axes in picture.axes if axes.get_label() != "<colorbar>"]
    assert panels and all(axes.get_lines() or axes.get_images() for axes in panels)  # a curve may be a single point
    plt.close(picture)


def test_a_figure_of_a_single_run_is_drawn_or_refused_in_a_line(figure, command, tmp_path):
    script, folder = figure
    run = sorted(folder.iterdir())[0]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / run.name).symlink_to(run)
    picture = tmp_path / "picture.png"
    try:
        command(script, tmp_path / "runs", picture)
    except SystemExit as end:
        assert isinstance(end.code, str) and len(end.code.splitlines()) == 1
    else:
        assert picture.exists()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_nothing_is_refused(name, command, tmp_path):
    picture = tmp_path / "picture.png"
    for cell in read(ROOT / "tasks" / FIGURES[name]).cells[:3]:
        Run(tmp_path / "runs" / cell.experiment.id).create(cell.experiment.mapping())
    for folder in (tmp_path / "runs", tmp_path / "nothing"):
        with pytest.raises(SystemExit) as end:
            command(ROOT / "paper_figs" / name, folder, picture)
        assert isinstance(end.value.code, str) and len(end.value.code.splitlines()) == 1
        assert not picture.exists()


def test_a_figure_is_a_command_of_its_own(tmp_path):
    script = ROOT / "paper_figs" / "induction.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("figure", [("risk_by_examples.py", "linear_regression.toml")], indirect=True)
def test_the_figure_of_risks_takes_any_depths_and_noises(figure):
    script, folder = figure
    table = iclab.load(folder)
    noises = sorted(table["task.noise"].unique())
    one = table[table["task.noise"] == noises[0]]
    single = one[one["model.n_layer"] == 1]
    depths = pd.concat([single.assign(**{"model.n_layer": depth}) for depth in range(1, 8)])
    (panel,) = drawn(script, depths)
    assert [f"transformer, {depth} layers" for depth in range(7, 1, -1)] == panel[-7:-1]
    (panel,) = drawn(script, single.drop(columns=["task.noise", "model.n_layer"]))
    assert panel.count("transformer") == 1
    exact = single["value"].where(~single["predictor"].isin(["bayes", "least_squares"]), 0.0)
    (panel,) = drawn(script, single.assign(**{"task.noise": 0.0, "value": exact}))
    assert len(panel) >= 5
    (panel,) = drawn(script, single[single["predictor"] != "bayes"])
    assert not any("Bayes" in name for name in panel)


def test_the_example_of_the_quick_start_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quickstart.md").read_text(), re.DOTALL)
    assert "steps=3000" in code
    short = code.replace("steps=3000", "steps=3").replace("2048", "64")
    done = subprocess.run([sys.executable, "-c", short], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert re.fullmatch(r"[\d.]+ ± [\d.]+", first) and "of the Bayes risk" in second
