"""Trained once, measured many times: a run takes the training of another, or trains; it never mixes the two."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import combinations

import pytest

from iclab import cli
from iclab.experiments.experiment import Evaluation, Experiment, Partner
from iclab.files import atomic_write
from iclab.learning.token_training import TokenTrainingConfig
from iclab.learning.training import Training, TrainingConfig
from iclab.models import TokenTransformerConfig, TransformerConfig
from iclab.runs import store as stores
from iclab.runs import worker
from iclab.runs.engine import Engine
from iclab.runs.store import Run, runs
from iclab.runs.trainings import Trainings, take, training_id, training_of
from iclab.tasks import LaundryList, LinearRegression, ScaledInputs

STUDY = """title = "A study of what is trained once"
question = "Is it the same?"
paper = "none"
[task]
kind = "LinearRegression"
d = 2
n = 3
noise = 0.5
[model]
n_layer = 2
n_head = 1
d_model = 8
[train]
steps = 6
batch = 4
[eval]
prompts = 16
bootstrap = 2
every = 2
[eval.shifts.larger]
kind = "ScaledInputs"
scale = 2.0
"""
TASK = LinearRegression(2, 3, noise=0.5)
WHOLE = Experiment(
    TASK,
    TransformerConfig(n_layer=2, n_head=1, d_model=8),
    TrainingConfig(steps=6, batch=4),
    Evaluation(prompts=16, bootstrap=2, every=2, shifts=(("larger", ScaledInputs(TASK, 2.0)),)),
    device="cpu",
)


class Here(Engine):
    """An engine that works in this process."""

    def _begin(self, unit):
        for run in unit:
            self.display.started(run)
        worker.work_together(unit, self.tries if self.retry else {})
        for run in unit:
            self._finish(run, worker.FAILED)


@dataclass
class Steps:
    """How many steps of training were taken."""

    taken: int = 0


@pytest.fixture
def steps(monkeypatch):
    counted, advance = Steps(), Training.advance

    def counting(training):
        counted.taken += 1
        return advance(training)

    monkeypatch.setattr(Training, "advance", counting)
    for module in ("sweep", "remeasurement"):
        monkeypatch.setattr(f"iclab.commands.{module}.Engine", Here)
    return counted


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study_file.toml"
    path.write_text(STUDY)
    return path


def sweep(study, *words, out="store"):
    """Sweeps with trainings that each take their own steps, which can be counted."""
    return cli.main(["sweep", str(study), "--out", str(study.parent / out), "--pack", "off", *words])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The store that a sweep of the study leaves, for all who begin with it and do not count its steps."""
    path = tmp_path_factory.mktemp("made") / "study_file.toml"
    path.write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iclab.commands.sweep.Engine", Here)
        assert sweep(path) == 0
    return path.parent / "store"


def measure(run, *words):
    return cli.main(["measure", str(run.folder), *words])


def by_prompts(study, prompts, out="store"):
    (run,) = [run for run in runs(study.parent / out) if run.settings()["eval"]["prompts"] == prompts]
    return run


def forbid(monkeypatch):
    def never(training):
        raise AssertionError("a step was trained")

    monkeypatch.setattr(Training, "advance", never)


def curve_but_for_seconds(run):
    return [{k: v for k, v in point.items() if k != "seconds"} for point in run.curve()]


def assert_as_trained_alone(study, run, *words):
    """The same settings in a store of their own: all that is measured is equal to the bit."""
    assert sweep(study, *words, out="alone") == 0
    alone = Run(study.parent / "alone" / run.id)
    assert (run.folder / "results.jsonl").read_bytes() == (alone.folder / "results.jsonl").read_bytes()
    assert (run.folder / "weights.safetensors").read_bytes() == (alone.folder / "weights.safetensors").read_bytes()
    assert curve_but_for_seconds(run) == curve_but_for_seconds(alone)
    assert run.recorded().training == alone.recorded().training != ""
    assert not alone.recorded().origin


# ---- what one training is ------------------------------------------------------------------------------------------


def changed(**settings):
    return replace(WHOLE, eval=replace(WHOLE.eval, **settings))


SAME = {
    "prompts": changed(prompts=400),
    "bootstrap": changed(bootstrap=3),
    "analyses": changed(prompts=400, analyses=("weights", "layers", "probes")),
    "shifts": changed(shifts=()),
    "surgery": changed(surgery=TrainingConfig(steps=3)),
    "recipe": replace(WHOLE, recipe="fast"),
}
OTHER = {
    "seed": replace(WHOLE, seed=1),
    "task": replace(WHOLE, task=LinearRegression(2, 3, noise=0.25)),
    "steps": replace(WHOLE, train=TrainingConfig(steps=7, batch=4)),
    "rate": replace(WHOLE, train=TrainingConfig(steps=6, batch=4, lr=1e-3)),
    "model": replace(WHOLE, model=TransformerConfig(n_layer=1, n_head=1, d_model=8)),
    "every": changed(every=3),
    "evolution": changed(analyses=("evolution",)),
    "evolution on other shifts": changed(analyses=("evolution",), shifts=()),
    "evolution with probes": changed(prompts=400, analyses=("evolution", "probes")),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_measured_at_the_end_is_no_part_of_the_training(name):
    assert training_id(SAME[name]) == training_id(WHOLE) != WHOLE.id


def test_whatever_changes_weights_or_curve_is_another_training():
    found = {name: training_id(each) for name, each in {"whole": WHOLE, **OTHER}.items()}
    assert not [pair for pair in combinations(found, 2) if found[pair[0]] == found[pair[1]]]


def test_the_order_of_shifts_that_are_followed_is_that_of_the_rows():
    two = (("larger", ScaledInputs(TASK, 2.0)), ("smaller", ScaledInputs(TASK, 0.5)))
    one, other = (changed(analyses=("evolution",), shifts=shifts) for shifts in (two, two[::-1]))
    assert training_id(one) != training_id(other)


def test_a_model_of_tokens_is_made_for_the_longest_shift():
    task = LaundryList(items=12, shortest=4, longest=6)
    model, recipe = TokenTransformerConfig(n_layer=1, n_head=1, d_model=8), TokenTrainingConfig(steps=4, batch=4)

    def training(**settings):
        return training_id(Experiment(task, model, recipe, Evaluation(**settings)))

    longer, shorter = (replace(task, shortest=4, longest=size) for size in (8, 5))
    assert training(prompts=32) == training(shifts=(("short", shorter),)) == training(analyses=("mechanism",))
    assert training() != training(shifts=(("long", longer),))
    assert training() != training(every=2)


# ---- sweeps --------------------------------------------------------------------------------------------------------


def test_cells_that_differ_in_what_is_measured_train_once(study, steps):
    assert sweep(study, "eval.prompts=16,24,32", "--jobs", "3") == 0
    assert steps.taken == 6
    first, second = by_prompts(study, 16), by_prompts(study, 24)
    assert not first.recorded().origin
    origin = second.recorded().origin
    assert origin["run"] == first.id and origin["sweep"] == "store" and origin["device"] == "cpu"
    assert origin["weights.safetensors"] == first.recorded().digests["weights.safetensors"]
    assert f"takes the training of {first.folder}" in second.log.read_text()
    assert_as_trained_alone(study, second, "eval.prompts=24")


@pytest.mark.slow  # in workers of their own
def test_two_at_a_time_train_once_too(study):
    command = [sys.executable, "-m", "iclab.cli", "sweep", str(study), "--out", str(study.parent / "store")]
    subprocess.run([*command, "eval.prompts=16,24", "--jobs", "2"], check=True, capture_output=True, timeout=300)
    found = [bool(by_prompts(study, prompts).recorded().origin) for prompts in (16, 24)]
    assert sorted(found) == [False, True]


def test_a_run_waits_for_its_training_only(tmp_path):
    cells = {each.id: each for each in (WHOLE, SAME["prompts"], OTHER["seed"])}
    trainings = Trainings(cells, [tmp_path])
    one, same, other = (Run(tmp_path / id) for id in cells)
    assert trainings.waits(same, {one.id}) and not trainings.waits(other, {one.id})
    assert not trainings.waits(same, {other.id}) and not trainings.waits(same, ())


def test_one_more_analysis_trains_nothing_and_is_as_if_trained_alone(study, made, steps, monkeypatch, capsys):
    shutil.copytree(made, study.parent / "store")
    words = ("eval.prompts=400", 'eval.analyses=["weights","layers"]')
    assert sweep(study, *words, "--dry-run") == 0
    assert f"from {by_prompts(study, 16).id}" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        forbid(patch)
        assert sweep(study, *words) == 0
    assert_as_trained_alone(study, by_prompts(study, 400), *words)


def test_a_curve_that_was_followed_is_taken_with_what_it_says(study, steps, monkeypatch):
    follows = ('eval.analyses=["evolution"]',)
    assert sweep(study, *follows, "eval.prompts=300") == 0
    with monkeypatch.context() as patch:
        forbid(patch)
        assert sweep(study, *follows, "eval.prompts=400") == 0
    assert_as_trained_alone(study, by_prompts(study, 400), *follows, "eval.prompts=400")


@pytest.mark.parametrize(
    "words",
    [
        ("train.steps=7",),
        *(pytest.param((word,), marks=pytest.mark.slow) for word in ("seed=1", "task.noise=0.25", "eval.every=3")),
        ("eval.prompts=300", 'eval.analyses=["evolution"]'),
    ],
    ids=lambda words: words[-1],
)
def test_another_training_is_not_taken(study, made, steps, words, capsys):
    shutil.copytree(made, study.parent / "store")
    assert sweep(study, *words, "--dry-run") == 0
    assert "| new" in capsys.readouterr().out
    steps.taken = 0
    assert sweep(study, *words) == 0
    assert steps.taken in (6, 7)


def test_the_training_of_another_folder_is_taken_where_that_is_named(study, steps, capsys):
    assert sweep(study, out="sweeps/first") == 0
    first = by_prompts(study, 16, "sweeps/first")
    for place in (study.parent / "sweeps", study.parent / "sweeps" / "first", first.folder):
        assert sweep(study, "eval.prompts=24", "--reuse", str(place), "--dry-run", out="other") == 0
        assert f"from {first.folder}" in capsys.readouterr().out
    steps.taken = 0
    assert sweep(study, "eval.prompts=24", "--reuse", str(study.parent / "sweeps"), out="other") == 0
    assert steps.taken == 0
    assert sweep(study, "eval.prompts=32", out="without") == 0
    assert steps.taken == 6


def test_a_folder_without_runs_is_refused(study, capsys):
    assert sweep(study, "--reuse", str(study.parent / "nothing")) == 2
    assert capsys.readouterr().err.startswith(f"iclab: --reuse: {study.parent / 'nothing'} holds no runs")


def test_a_training_is_handed_on_with_its_first_origin(study, steps):
    assert sweep(study) == 0
    first = by_prompts(study, 16)
    assert sweep(study, "eval.prompts=24") == 0
    shutil.rmtree(first.folder)
    assert sweep(study, "eval.prompts=32") == 0
    assert by_prompts(study, 32).recorded().origin["run"] == first.id
    assert steps.taken == 6


def test_a_run_from_before_trainings_had_names_is_known_by_its_settings(study, steps):
    assert sweep(study) == 0
    run = by_prompts(study, 16)
    told = json.loads((run.folder / "status.json").read_text())
    atomic_write(run.folder / "status.json", json.dumps({k: v for k, v in told.items() if k != "training"}).encode())
    assert training_of(run) == told["training"]
    assert sweep(study, "eval.prompts=24") == 0
    assert steps.taken == 6


def test_a_training_of_another_kind_of_device_is_not_taken(study, steps):
    assert sweep(study) == 0
    run = by_prompts(study, 16)
    told = {**json.loads((run.folder / "environment.json").read_text()), "device": "cuda:0"}
    content = json.dumps(told).encode()
    atomic_write(run.folder / "environment.json", content)
    status = run.recorded()
    digests = {**status.digests, "environment.json": stores._digest(content)}
    run.record(status, digests=digests)
    assert sweep(study, "eval.prompts=24") == 0
    assert steps.taken == 12


# ---- damage --------------------------------------------------------------------------------------------------------


def spoil(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("weights.safetensors", spoil),
        ("metrics.jsonl", os.unlink),
        pytest.param("weights.safetensors", os.unlink, marks=pytest.mark.slow),
        pytest.param("metrics.jsonl", spoil, marks=pytest.mark.slow),
    ],
)
def test_a_damaged_training_is_not_taken(study, steps, name, how):
    assert sweep(study) == 0
    how(by_prompts(study, 16).folder / name)
    assert sweep(study, "eval.prompts=24") == 0
    assert steps.taken == 12
    run = by_prompts(study, 24)
    assert not run.recorded().origin
    assert_as_trained_alone(study, run, "eval.prompts=24")


def test_a_training_that_is_damaged_before_it_is_copied_is_told_and_not_taken(study, made, steps):
    shutil.copytree(made, study.parent / "store")
    source = by_prompts(study, 16)
    wanted = Experiment.from_mapping({**source.settings(), "eval": {**source.settings()["eval"], "prompts": 24}}, "f")
    run, trainings = Run(source.folder.parent / wanted.id), Trainings({wanted.id: wanted}, [source.folder.parent])
    run.create(wanted.mapping())
    assert trainings.sources(run) == [source]
    spoil(source.folder / "weights.safetensors")
    trainings.give(run)
    assert run.weights is None and not (run.folder / "weights.safetensors").exists()
    assert f"does not take the training of {source.folder}: " in run.log.read_text()


def test_settings_under_a_false_name_are_not_believed(study, steps):
    """A run whose status names a training that its settings do not have."""
    assert sweep(study, "seed=0,1") == 0
    zero, one = (next(run for run in runs(study.parent / "store") if run.settings()["seed"] == i) for i in (0, 1))
    one.record(one.recorded(), training=zero.recorded().training)
    spoil(zero.folder / "weights.safetensors")
    assert sweep(study, "eval.prompts=24") == 0
    assert steps.taken == 18
    assert "has another training" in by_prompts(study, 24).log.read_text()


def test_a_damaged_run_is_mended_by_the_training_of_another(study, steps):
    assert sweep(study, "eval.prompts=16,24") == 0
    run = by_prompts(study, 16)
    truth = run.rows()
    spoil(run.folder / "weights.safetensors")
    assert sweep(study, "eval.prompts=16,24") == 0
    assert steps.taken == 6 and run.rows() == truth and run.checked().state == "done"


@pytest.mark.parametrize("killed_at", [1, 3, *(pytest.param(at, marks=pytest.mark.slow) for at in (0, 2))])
def test_a_kill_in_the_midst_of_the_copy_leaves_no_half_of_a_training(study, made, steps, monkeypatch, killed_at):
    shutil.copytree(made, study.parent / "store")
    source, written = by_prompts(study, 16), 0
    wanted = Experiment.from_mapping({**source.settings(), "eval": {**source.settings()["eval"], "prompts": 24}}, "f")
    run = Run(source.folder.parent / wanted.id)
    run.create(wanted.mapping())

    class Killed(BaseException):
        pass

    def until(path, content):
        nonlocal written
        if written == killed_at:
            (path.parent / f".{path.name}.{os.getpid()}.tmp").write_bytes(content[: len(content) // 2])
            raise Killed
        written += 1
        atomic_write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(stores, "atomic_write", until)
        try:
            with run.hold():
                take(run, source, wanted)
        except Killed:
            pass
    whole = run.weights is not None
    assert whole == (killed_at == 3 == written)  # weights, curve and, last, the status
    shutil.rmtree(source.folder)
    steps.taken = 0
    assert sweep(study, "eval.prompts=24") == 0
    assert steps.taken == (0 if whole else 6)
    assert bool(run.recorded().origin) == whole
    assert not list(run.folder.glob(".*.tmp"))
    assert_as_trained_alone(study, run, "eval.prompts=24")


# ---- parts that are trained beside the model -----------------------------------------------------------------------


def test_parts_that_were_trained_beside_the_model_are_taken_where_they_would_be_the_same(study, steps, monkeypatch):
    beside = (
        'eval.analyses=["stitching"]',
        "eval.partners={ twin = { seed = 7 } }",
        "eval.surgery={ steps = 2, batch = 4 }",
    )
    assert sweep(study, "eval.prompts=64", *beside) == 0
    with monkeypatch.context() as patch:
        forbid(patch)
        assert sweep(study, "eval.prompts=80", *beside) == 0
    steps.taken = 0
    longer = (*beside[:2], "eval.surgery={ steps = 3, batch = 4 }")
    assert sweep(study, "eval.prompts=96", *longer) == 0
    assert steps.taken > 0
    assert_as_trained_alone(study, by_prompts(study, 80), "eval.prompts=80", *beside)


def test_of_another_partner_and_of_other_surgery_no_parts_are_taken(study, steps):
    evaluation = changed(
        prompts=64, analyses=("stitching",), partners=(("twin", Partner(7)),), surgery=TrainingConfig(steps=2)
    )
    other = replace(evaluation, eval=replace(evaluation.eval, partners=(("twin", Partner(8)),)))
    longer = replace(evaluation, eval=replace(evaluation.eval, surgery=TrainingConfig(steps=3)))
    same = replace(evaluation, eval=replace(evaluation.eval, prompts=80))
    source = Run(study.parent / evaluation.id)
    source.create(evaluation.mapping())
    for name in ("weights", "checkpoint_twin"):
        (source.folder / f"{name}.safetensors").write_bytes(b"as trained")
    source.record(source.recorded(), **source.keep_rows([{"value": 1.0}]))
    for each, taken in ((other, False), (longer, False), (same, True), (changed(prompts=80), False)):
        run = Run(study.parent / each.id)
        run.create(each.mapping())
        take(run, source, each)
        assert run.weights and (run.folder / "checkpoint_twin.safetensors").exists() == taken


# ---- iclab measure -------------------------------------------------------------------------------------------------


def test_a_run_is_measured_once_more_from_the_command_line(study, made, steps, capsys):
    shutil.copytree(made, study.parent / "store")
    source = by_prompts(study, 16)
    words = ["analyses=weights,layers", "eval.prompts=400"]
    capsys.readouterr()
    assert cli.main(["measure", source.id[:6], *words, "--root", str(study.parent)]) == 0
    said, run = capsys.readouterr().out, by_prompts(study, 400)
    assert f"run {run.id}" in said and "distance to algorithms" in said
    assert f"training of store/{source.id}" in said
    assert run.settings()["eval"]["analyses"] == ["weights", "layers"]
    assert_as_trained_alone(study, run, "eval.prompts=400", 'eval.analyses=["weights","layers"]')


def test_measuring_never_trains_and_does_nothing_twice(study, steps, monkeypatch, capsys):
    assert sweep(study) == 0
    source = by_prompts(study, 16)
    forbid(monkeypatch)
    assert measure(source, "prompts=24") == 0
    attempts = by_prompts(study, 24).recorded().attempts
    assert measure(source, "prompts=24") == 0 == measure(source)
    assert by_prompts(study, 24).recorded().attempts == attempts == 1 and len(runs(study.parent / "store")) == 2
    assert measure(source, "shifts.far={ kind = 'ScaledInputs', scale = 9.0 }") == 0
    assert "far" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["prompts=300", "analyses=evolution"], "eval.analyses would need a curve that says more than that of the run"),
        (["every=3"], "eval.every would need another curve than that of the run"),
        (["seed=3"], "seed decides what is trained, and is that of the run"),
        (["train.steps=9"], "train.steps decides what is trained"),
        (["promts=9"], "unknown setting 'promts'. Did you mean 'prompts'?"),
        (["prompts=9,10"], "prompts takes one value, given 2"),
        (["prompts"], "'prompts' is not a setting"),
        (["prompts=9", "eval.prompts=10"], "eval.prompts is given twice"),
        (["prompts=many"], "eval.prompts: expected an integer"),
        (["analyses=layer"], "unknown analysis 'layer'. Did you mean 'layers'?"),
        (["prompts=24", "device=cuda:99"], "cuda:99 is requested"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(study, made, steps, monkeypatch, capsys, words, told):
    shutil.copytree(made, study.parent / "store")
    capsys.readouterr()
    forbid(monkeypatch)
    assert measure(by_prompts(study, 16), *words) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1
    assert len(runs(study.parent / "store")) == 1


def test_how_to_get_a_curve_that_says_more_is_a_command_that_does_it(study, made, steps, capsys):
    shutil.copytree(made, study.parent / "store")
    source = by_prompts(study, 16)
    capsys.readouterr()
    assert measure(source, "prompts=300", "analyses=evolution") == 2
    said = capsys.readouterr().err
    assert f"""iclab sweep {source.folder.parent / "study.toml"} 'eval.analyses=["evolution"]'""" in said


@pytest.mark.parametrize("how", [spoil, os.unlink], ids=["spoilt", "gone"])
def test_without_a_whole_training_nothing_is_measured(study, made, steps, monkeypatch, capsys, how):
    shutil.copytree(made, study.parent / "store")
    source = by_prompts(study, 16)
    how(source.folder / "weights.safetensors")
    forbid(monkeypatch)
    assert measure(source, "prompts=24") == 2
    assert "weights.safetensors not as recorded; `iclab sweep" in capsys.readouterr().err
    assert len(runs(study.parent / "store")) == 1


def test_a_run_that_is_not_there_is_told(tmp_path, capsys):
    assert cli.main(["measure", "3f9a", "--root", str(tmp_path)]) == 2
    assert "iclab: measure: unknown run '3f9a'" in capsys.readouterr().err
