"""Runs that train as a pack: each is a run of its own, and its bits depend on nothing but that it was in a pack."""

import json
from dataclasses import replace

import pytest
import torch

from iclab import cli
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.pack import PackTraining
from iclab.learning.training import TrainingConfig, pack_of
from iclab.models import TransformerConfig
from iclab.runs import packing, worker
from iclab.runs.packing import Packs, pays
from iclab.runs.store import Run, runs
from iclab.tasks import LinearRegression, RepeatedSequence
from tests.runs.test_reuse import Here
from tests.runs.test_sweep import STUDY
from tests.test_stops import SMALL, again, ask, heard  # noqa: F401  (a fixture)

DIVERGES = replace(SMALL, train=replace(SMALL.train, lr=1e30, warmup=0.0, clip=None))


def seeds(count, experiment=SMALL):
    return [replace(experiment, seed=seed) for seed in range(count)]


def made(folder, experiments):
    """New runs of some experiments."""
    found = [Run(folder / one.id) for one in experiments]
    for run, one in zip(found, experiments, strict=True):
        run.create(one.mapping())
    return found


def bits(run):
    """All that a training leaves, but for the seconds."""
    curve = [{key: value for key, value in point.items() if key != "seconds"} for point in run.curve()]
    return curve, run.rows(), (run.folder / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Three seeds that trained as a pack and nobody disturbed."""
    found = made(tmp_path_factory.mktemp("calm"), seeds(3))
    assert worker.work_together(found, {}) == worker.DONE
    return {run.id: bits(run) for run in found}


# ---- work on a pack ------------------------------------------------------------------------------------------------


def test_each_replica_is_a_run_of_its_own(tmp_path):
    found = made(tmp_path, seeds(3))
    assert worker.work_together(found, {}) == worker.DONE
    for run in found:
        status = run.checked()
        assert (status.state, status.attempts) == ("done", 1) and status.seconds > 0
        assert run.environment()["pack"] == pack_of(run.checkpoint) == 3
        assert "trains in a pack of 3" in run.log.read_text()
        assert [point["step"] for point in run.curve()] == [3, 6, 8]


def test_its_numbers_are_those_of_a_training_alone_to_rounding(tmp_path, calm):
    (alone,) = made(tmp_path, seeds(1))
    assert worker.work(alone) == worker.DONE and "pack" not in alone.environment()
    curve, rows, _ = calm[alone.id]
    for one, other in zip(alone.curve(), curve, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    risks = [[row["value"] for row in each if row["quantity"] == "risk"] for each in (alone.rows(), rows)]
    assert risks[0] == pytest.approx(risks[1], rel=1e-4)


def test_its_bits_depend_on_no_companion(tmp_path, calm):
    several = [*seeds(2), replace(SMALL, train=replace(SMALL.train, lr=1e-3), seed=7), DIVERGES]
    found = made(tmp_path, list(reversed(several)))
    assert worker.work_together(found, {}) == worker.FAILED
    states = {run.id: run.status().state for run in found}
    assert states.pop(DIVERGES.id) == "diverged" and set(states.values()) == {"done"}
    for one in seeds(2):
        assert bits(Run(tmp_path / one.id)) == calm[one.id]


@pytest.mark.parametrize("step", [1, 3, 4, 7])
@pytest.mark.parametrize("alone", [False, True])
def test_a_pack_that_is_stopped_goes_on_with_the_same_bits(tmp_path, calm, monkeypatch, step, alone, heard):  # noqa: F811
    """Together or one by one: whoever began in a pack goes on in one, beside a copy of itself if need be."""
    found, advance, taken = made(tmp_path, seeds(3)), PackTraining.advance, []

    def stopping(pack):
        losses = advance(pack)
        taken.append(losses)
        if len(taken) == step:
            ask()
        return losses

    monkeypatch.setattr(PackTraining, "advance", stopping)
    assert worker.work_together(found, {}) == worker.STOPPED
    assert [(run.status().state, run.status().attempts) for run in found] == [("pending", 1)] * 3
    assert [pack_of(run.checkpoint) for run in found] == [3] * 3
    again()
    for unit in [[run] for run in found] if alone else [found]:
        assert worker.work_together(unit, {}) == worker.DONE
    for run in found:
        assert bits(run) == calm[run.id] and run.status().attempts == 2
        assert run.environment()["pack"] == 3


def test_a_pack_of_which_one_lost_its_checkpoint_goes_on_with_the_same_bits(tmp_path, calm, monkeypatch, heard):  # noqa: F811
    """As where the worker is killed between two files."""
    found = made(tmp_path, seeds(3))
    with monkeypatch.context() as patch:
        advance = PackTraining.advance
        patch.setattr(PackTraining, "advance", lambda pack: (advance(pack), pack.trainings[0].step == 5 and ask())[0])
        assert worker.work_together(found, {}) == worker.STOPPED
    again()
    found[1].start_anew()
    assert worker.work_together(found, {}) == worker.DONE
    assert {run.id: bits(run) for run in found} == calm


def test_what_goes_on_alone_after_a_pack_has_other_bits(tmp_path):
    """So that the laws above can fail."""
    longer = replace(SMALL, train=replace(SMALL.train, steps=150))
    packed, alone = made(tmp_path / "packed", seeds(2, longer)), made(tmp_path / "alone", seeds(2, longer))
    assert worker.work_together(packed, {}) == worker.DONE
    assert [worker.work(run) for run in alone] == [worker.DONE] * 2
    assert [bits(run) for run in packed] != [bits(run) for run in alone]


def test_a_training_that_began_alone_goes_on_alone(tmp_path, monkeypatch, heard):  # noqa: F811
    from iclab.learning.training import Training

    first, second, third = made(tmp_path, seeds(3))
    with monkeypatch.context() as patch:
        advance = Training.advance
        patch.setattr(Training, "advance", lambda one: (advance(one), one.step == 3 and ask())[0])
        assert worker.work(first) == worker.STOPPED
    again()
    assert worker.work_together([first, second, third], {}) == worker.DONE
    assert ["pack" in run.environment() for run in (first, second, third)] == [False, True, True]


def test_runs_that_are_no_pack_say_so_and_go_on_alone(tmp_path):
    wider = replace(SMALL, model=replace(SMALL.model, d_model=16))
    found = made(tmp_path, [SMALL, wider])
    assert worker.work_together(found, {}) == worker.DONE
    assert all("goes on alone: PackTraining: the models are of 2 shapes" in run.log.read_text() for run in found)
    assert not any("pack" in run.environment() for run in found)


def test_a_damaged_run_costs_the_others_nothing(tmp_path, calm):
    found = made(tmp_path, seeds(3))
    (found[0].folder / "config.toml").write_text("task = 1")
    assert worker.work_together(found, {}) == worker.FAILED
    assert found[0].status().state == "interrupted"
    assert [bits(run) for run in found[1:]] == [calm[run.id] for run in found[1:]]


def test_a_run_that_another_process_holds_is_left_to_it(tmp_path, calm):
    found = made(tmp_path, seeds(3))
    with found[1].hold() as mine:
        assert mine and worker.hold_and_work(found, {}) == worker.BUSY
    assert [run.status().state for run in found] == ["done", "pending", "done"]
    assert bits(found[0]) == calm[found[0].id]


def test_a_pack_that_memory_does_not_hold_is_halved(tmp_path, calm, monkeypatch):
    sizes, follow = [], packing._follow

    def bounded(replicas):
        sizes.append(len(replicas))
        if len(replicas) > 2:
            raise torch.OutOfMemoryError("too large")
        follow(replicas)

    monkeypatch.setattr(packing, "_follow", bounded)
    found = made(tmp_path, seeds(4))
    assert worker.work_together(found, {}) == worker.DONE
    assert sizes == [4, 2, 2]
    assert [bits(run) for run in found[:3]] == [calm[run.id] for run in found[:3]]


# ---- which runs are a pack -----------------------------------------------------------------------------------------


def packs(experiments, pack="auto"):
    return Packs({one.id: one for one in experiments}, pack)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"model": TransformerConfig(n_layer=1, n_head=1, d_model=8, layout="interleaved")}, True),
        ({"train": TrainingConfig(batch=2**13)}, False),  # 2^13 · 4 · 8 numbers
        ({"train": TrainingConfig(batch=2**10)}, True),  # 2^10 · 4 · 8
        ({"train": TrainingConfig(batch=2**10), "model": TransformerConfig(d_model=8, layout="interleaved")}, False),
    ],
)
def test_packs_pay_on_a_cpu_where_tensors_are_small(changes, expected):
    assert pays(replace(SMALL, **changes)) == expected


def test_tokens_do_not_pay_on_a_cpu():
    from iclab.learning.token_training import TokenTrainingConfig
    from iclab.models import TokenTransformerConfig

    experiment = Experiment(
        RepeatedSequence(vocab=8, shortest=3, longest=3),
        TokenTransformerConfig(),
        TokenTrainingConfig(steps=2),
        device="cpu",
    )
    assert not pays(experiment)
    assert packs([experiment, replace(experiment, seed=1)], "4").key(experiment.id)


def test_runs_of_one_shape_have_a_key_in_common():
    rates = [replace(SMALL, train=replace(SMALL.train, lr=lr)) for lr in (1e-3, 2e-3)]
    noises = [replace(SMALL, task=LinearRegression(2, 4, noise=noise)) for noise in (0.1, 0.2)]
    others = [
        replace(SMALL, train=replace(SMALL.train, steps=9)),
        replace(SMALL, task=LinearRegression(3, 4, noise=0.5)),
    ]
    known = packs([SMALL, *rates, *noises, *others])
    assert len({known.key(one.id) for one in (SMALL, *rates, *noises)}) == 1
    assert known.key(SMALL.id) and [known.key(one.id) for one in others] == ["", ""]
    assert not any(packs([SMALL, *rates], "off").key(one.id) for one in (SMALL, *rates))


@pytest.mark.parametrize(
    ("pack", "alike", "undone", "workers", "expected"),
    [
        ("auto", 5, 5, 1, [5]),
        ("auto", 5, 5, 2, [3, 2]),
        ("auto", 8, 8, 2, [4, 4]),
        ("auto", 3, 3, 16, [3]),
        ("auto", 6, 12, 2, [3, 3]),  # another shape takes its time, too
        ("auto", 5, 100, 2, [5]),
        ("auto", 20, 20, 1, [7, 7, 6]),
        ("auto", 9, 9, None, [5, 4]),
        ("3", 4, 4, 1, [2, 2]),
        ("2", 5, 5, 1, [3, 2]),
        ("64", 80, 80, 1, [40, 40]),
    ],
)
def test_packs_leave_work_for_every_worker_and_none_is_of_one_run(tmp_path, pack, alike, undone, workers, expected):
    known, found, waiting = packs(seeds(2), pack), [], alike
    while waiting:
        found.append(known.size(Run(tmp_path / SMALL.id), waiting, alike, undone, workers))
        waiting -= found[-1]
    assert found == expected


# ---- whole sweeps --------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setattr("iclab.commands.sweep.Engine", Here)
    (tmp_path / "study_file.toml").write_text(STUDY)

    def call(*words):
        return cli.main(["sweep", str(tmp_path / "study_file.toml"), "--out", str(tmp_path / "store"), *words])

    return call


def sizes(folder):
    return sorted(run.environment().get("pack", 1) for run in runs(folder))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("seed=0:3", "--jobs", "1"), [3, 3, 3]),
        (("seed=0:4", "--jobs", "2"), [2, 2, 2, 2]),
        (("seed=0:4", "--jobs", "1", "--pack", "3"), [2, 2, 2, 2]),
        (("seed=0:3", "--jobs", "1", "--pack", "off"), [1, 1, 1]),
        (("seed=0:2", "eval.prompts=8,16", "--jobs", "1"), [1, 1, 2, 2]),  # two trainings; the others take them
    ],
)
def test_a_sweep_packs_what_it_is_told(sweep, tmp_path, words, expected):
    assert sweep(*words) == 0
    assert sizes(tmp_path / "store") == expected
    assert all(run.checked().state == "done" for run in runs(tmp_path / "store"))


def test_the_plan_tells_the_packs(sweep, capsys):
    assert sweep("seed=0:4", "task.noise=0.5", "train.steps=20,30", "--jobs", "1", "--dry-run") == 0
    told = capsys.readouterr().out
    assert [told.count(f"new, pack {i}") for i in (1, 2)] == [4, 4]
    assert sweep("seed=0:4", "--pack", "off", "--dry-run") == 0
    assert "new, pack" not in capsys.readouterr().out


def test_where_a_training_was_made_is_told_of_those_that_take_it(sweep, tmp_path):
    assert sweep("seed=0:2", "--jobs", "1") == 0
    assert sweep("seed=0:2", "--jobs", "1", "eval.prompts=8") == 0
    taken = [run for run in runs(tmp_path / "store") if run.settings()["eval"]["prompts"] == 8]
    assert [json.loads((run.folder / "status.json").read_text())["origin"]["pack"] for run in taken] == ["2", "2"]


@pytest.mark.slow
def test_sixteen_seeds_in_packs_learn_what_they_learn_alone(tmp_path):
    """Paired differences of the final excess are within three standard errors of none."""
    longer = replace(SMALL, train=replace(SMALL.train, steps=300, batch=16), eval=Evaluation(prompts=2000, bootstrap=5))
    packed, alone = made(tmp_path / "packed", seeds(16, longer)), made(tmp_path / "alone", seeds(16, longer))
    for first in (0, 8):
        assert worker.work_together(packed[first : first + 8], {}) == worker.DONE
    assert [worker.work(run) for run in alone] == [worker.DONE] * 16
    last = [torch.tensor([run.curve()[-1]["excess"] for run in each]) for each in (packed, alone)]
    apart = last[0] - last[1]
    assert apart.abs().max() > 0, "else the same numbers were compared"
    assert apart.mean().abs() <= 3 * apart.std() / 4
