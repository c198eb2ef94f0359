"""What is known of how long runs take: that of finished ones of the same settings on this machine, and nothing else."""

import json

import pytest

from iclab.experiments.experiment import Experiment
from iclab.models import TransformerConfig
from iclab.runs.environment import machine
from iclab.runs.forecast import forecast
from iclab.runs.store import Run, Status
from iclab.tasks import LinearRegression


def experiment(seed=0, layers=1):
    return Experiment(LinearRegression(2, 3), TransformerConfig(n_layer=layers), seed=seed)


def finished(folder, seed, seconds, layers=1, made_in=None, **status):
    one = experiment(seed, layers)
    run = Run(folder / one.id)
    run.create(one.mapping())
    (run.folder / "environment.json").write_text(json.dumps(machine("cpu") | (made_in or {})))
    run.record(Status("done", 1, seconds), **status)
    return run


def of(folder, *undone):
    return forecast({one.id: one.mapping() for one in undone}, [folder])


def test_runs_of_the_same_settings_tell_how_long_another_seed_takes(tmp_path):
    for seed, seconds in enumerate((60.0, 90.0, 600.0)):
        finished(tmp_path / "a", seed, seconds)
    known = of(tmp_path / "b", experiment(7), experiment(8))  # in the folder beside
    assert known.seconds(experiment(7).id) == 90
    assert known.estimate(1).startswith("estimate: 3.0 minutes with 1 worker, by finished runs")
    assert known.estimate(2).startswith("estimate: 1.5 minutes with 2 workers, ")
    assert known.estimate(9).startswith("estimate: 1.5 minutes")  # no more workers than runs
    assert known.told({experiment(7).id: 0.5, experiment(8).id: 1.0}, 1) == "0:00:45"


@pytest.mark.parametrize(
    "unlike",
    [
        {"layers": 2},
        {"made_in": {"platform": "another"}},
        {"made_in": {"cores": 77}},
        {"made_in": {"gpu": "a GPU", "device": "cuda"}},
        {"origin": {"run": "000000000000"}},
        {"state": "failed"},
    ],
)
def test_of_any_other_run_nothing_is_known(tmp_path, unlike):
    finished(tmp_path / "a", 0, 60.0, **unlike)
    known = of(tmp_path / "a", experiment(7))
    assert known.seconds(experiment(7).id) is None
    assert known.estimate(1) == "estimate: unknown, for no run with these settings has finished on this machine"
    assert known.told({}, 1) == "unknown"


def test_what_is_known_of_a_part_is_a_least_time(tmp_path):
    finished(tmp_path / "a", 0, 60.0)
    known = of(tmp_path / "a", experiment(7), experiment(7, layers=2))
    assert "at least 1.0 minutes" in known.estimate(1) and known.estimate(1).endswith("unknown for 1 of 2 runs")
    assert known.told({}, 1) == "at least 0:01:00"
    known.learn(experiment(7, layers=2).id, 30.0)  # it has ended meanwhile
    assert known.told({experiment(7, layers=2).id: 1.0}, 1) == "0:01:00"


def test_what_is_damaged_tells_nothing(tmp_path):
    for seed, name in enumerate(("config.toml", "environment.json", "status.json")):
        (finished(tmp_path / "a", seed, 60.0).folder / name).write_text("[[[")
    assert of(tmp_path / "a", experiment(7)).seconds(experiment(7).id) is None


def test_the_phase_is_in_the_file_of_a_running_run_alone(tmp_path):
    run = finished(tmp_path / "a", 0, 60.0)
    run.begin("measure risks")
    assert run.recorded().phase == "" and "phase" not in (run.folder / "status.json").read_text()
    running = run.record(run.recorded(), state="running")
    run.begin("measure risks")
    assert run.recorded().phase == "measure risks"
    run.record(running, state="done")
    assert "phase" not in (run.folder / "status.json").read_text()
