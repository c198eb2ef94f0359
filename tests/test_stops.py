"""Stopping in order: what must be whole is, and a run that was stopped at any step ends as if it had not been."""

import signal

import pytest

from iclab import stops
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.training import Training, TrainingConfig
from iclab.measures.monitor import ExampleMonitor
from iclab.models import TransformerConfig
from iclab.runs.store import Run
from iclab.runs.worker import STOPPED, work
from iclab.stops import Stopped, whole
from iclab.tasks import LinearRegression

SMALL = Experiment(
    task=LinearRegression(2, 4, noise=0.5),
    model=TransformerConfig(n_layer=1, n_head=1, d_model=8),
    train=TrainingConfig(steps=8, batch=4, warmup=0.25),
    eval=Evaluation(prompts=30, every=3, bootstrap=5),
    device="cpu",
)


@pytest.fixture(autouse=True)
def heard():
    """Requests are heard in this process, and none is left over."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    stops.listen(signal.SIGTERM)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)
    vars(stops._requests).update(inside=0, waiting=False)


def ask():
    signal.raise_signal(signal.SIGTERM)


def again():
    """What a new process is: nobody has asked it to stop yet."""
    vars(stops._requests).update(inside=0, waiting=False)
    stops.listen(signal.SIGTERM)


def test_a_request_is_heard_at_once():
    with pytest.raises(Stopped):
        ask()


def test_what_must_not_be_cut_in_two_is_done_first():
    done = []
    with pytest.raises(Stopped), whole():
        with whole():
            ask()
            done.append("the inner part")
        done.append("the outer part")
    assert done == ["the inner part", "the outer part"]


def test_a_second_request_is_no_other():
    with pytest.raises(Stopped):
        ask()
    ask()
    signal.raise_signal(signal.SIGINT)


def test_an_error_inside_is_told_before_a_request():
    with pytest.raises(ValueError, match="of its own"), whole():
        ask()
        raise ValueError("of its own")


def made(folder):
    run = Run(folder / SMALL.id)
    run.create(SMALL.mapping())
    return run


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    run = made(tmp_path_factory.mktemp("calm"))
    assert work(run) == 0
    return run


def points(run):
    """The curve, without how long it took."""
    return [{key: value for key, value in point.items() if key != "seconds"} for point in run.curve()]


def ended_as(run, calm):
    same = points(run) == points(calm) and run.rows() == calm.rows()
    return same and (run.folder / "weights.safetensors").read_bytes() == calm.weights.read_bytes()


def stopped_in_step(run, at, monkeypatch):
    advance = Training.advance

    def asked(training):
        if training.step == at - 1:
            ask()
        return advance(training)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "advance", asked)
        assert work(run) == STOPPED
    again()


@pytest.mark.parametrize("at", range(1, SMALL.train.steps + 1))
def test_a_run_that_is_stopped_keeps_its_last_step_and_ends_as_if_it_had_not_been(tmp_path, calm, monkeypatch, at):
    run = made(tmp_path)
    stopped_in_step(run, at, monkeypatch)
    assert run.status().state == "pending"
    assert work(run) == 0
    assert f"continues at step {at} of 8" in run.log.read_text()
    assert ended_as(run, calm)


def test_a_run_that_is_stopped_again_and_again_gets_on(tmp_path, calm, monkeypatch):
    """With a time limit of one step it is done after as many lives."""
    run = made(tmp_path)
    for at in range(1, SMALL.train.steps + 1):
        stopped_in_step(run, at, monkeypatch)
    assert work(run) == 0 and run.status().attempts == 9
    assert ended_as(run, calm)


def test_a_point_that_a_stop_kept_from_being_measured_is_measured_later(tmp_path, calm, monkeypatch):
    run, look = made(tmp_path), ExampleMonitor.__call__

    def asked(monitor, model):
        ask()
        return look(monitor, model)

    with monkeypatch.context() as patched:
        patched.setattr(ExampleMonitor, "__call__", asked)
        assert work(run) == STOPPED
    again()
    assert not run.curve() and run.checkpoint.exists()
    assert work(run) == 0
    assert ended_as(run, calm)


def test_the_test_sees_losses_that_are_forgotten(tmp_path, calm, monkeypatch):
    """The mean loss of the next point would be that since the stop alone."""
    run, resume = made(tmp_path), Training.resume

    def forgetting(training, path):
        resume(training, path)
        training.losses = []

    stopped_in_step(run, 2, monkeypatch)
    monkeypatch.setattr(Training, "resume", forgetting)
    assert work(run) == 0
    assert not ended_as(run, calm)


def test_seconds_of_a_killed_attempt_count(tmp_path):
    run = made(tmp_path)
    status = run.record(run.recorded(), state="running", attempts=1, started="2026-01-01T00:00:00+00:00", seconds=5.0)
    run.note("a sign of life")
    lost = run.lost_seconds(status)
    assert lost > 0
    assert work(run) == 0
    assert run.status().seconds >= 5.0 + lost
