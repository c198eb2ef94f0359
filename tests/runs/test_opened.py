"""A run in the hand: with its model and its prompts, what its rows say is found again."""

import json
from dataclasses import replace

import pytest
import torch

import iclab
from iclab.analysis import ratio, risk
from iclab.analysis.next_token import hits
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.experiments.streams import experiment_generator
from iclab.learning.fitting import RidgeFit
from iclab.learning.random_feature_ridge import FrozenRidge
from iclab.learning.token_training import TokenTrainingConfig
from iclab.learning.training import TrainingConfig
from iclab.models import LinearAttentionConfig, RandomAttentionConfig, TokenTransformerConfig, TransformerConfig
from iclab.runs import worker
from iclab.runs.store import Run, Status
from iclab.tasks import LaundryList, LinearRegression, QueryAndKeys, RepeatedSequence, ScaledInputs
from tests.conftest import unchecked
from tests.runs.test_packing import made

TASK = LinearRegression(2, 4, noise=0.5)
FEW = Evaluation(prompts=16, bootstrap=2, shifts=(("larger", ScaledInputs(TASK, 2.0)),))
EXAMPLES = Experiment(
    TASK, TransformerConfig(n_layer=1, n_head=1, d_model=8), TrainingConfig(steps=6, batch=4), FEW, device="cpu"
)
CLOSED = replace(EXAMPLES, model=LinearAttentionConfig(), train=RidgeFit(prompts=32))
SHAPE = TokenTransformerConfig(n_layer=1, n_head=1, d_model=8)
TOKENS = {
    "laundry": LaundryList(items=6, shortest=2, longest=3),
    "induction": RepeatedSequence(vocab=8, shortest=3, longest=4),
}
LISTS = {
    name: Experiment(task, SHAPE, TokenTrainingConfig(steps=4, batch=4), Evaluation(prompts=16), device="cpu")
    for name, task in TOKENS.items()
}
FROZEN = Experiment(
    QueryAndKeys(4, 3),
    RandomAttentionConfig(heads=8),
    FrozenRidge(sizes=(16, 32)),
    Evaluation(prompts=24),
    device="cpu",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "study"


def worked(folder, experiment):
    """The run of an experiment, which is worked on by the first that asks for it."""
    (run,) = made(folder, [experiment])
    with unchecked():
        assert worker.work(run) == worker.DONE, run.log.read_text()
    return run


def stored(run, quantity, distribution="own", predictor="transformer", **place):
    """The value of a row, by the file of the run itself."""
    wanted = {"layer": None, "position": None, "quantity": quantity, "predictor": predictor, **place}
    wanted["distribution"] = distribution
    rows = map(json.loads, (run.folder / "results.jsonl").read_text().splitlines())
    (row,) = (row for row in rows if all(row.get(key) == value for key, value in wanted.items()))
    return row["value"]


def risk_of(run, distribution="own"):
    """The mean risk of the model in the hand on the prompts in the hand."""
    prompts = run.measurement(distribution).prompts
    with torch.no_grad():
        return risk(run.model(prompts.xs, prompts.ys), prompts.ys).value.mean().item()


@pytest.mark.parametrize("experiment", [EXAMPLES, CLOSED], ids=["gradients", "closed form"])
def test_a_model_on_its_prompts_has_the_risk_of_its_rows(folder, experiment):
    run = worked(folder, experiment)
    opened = iclab.open_run(run.folder)
    for distribution in ("own", "larger"):
        assert risk_of(opened, distribution) == pytest.approx(stored(run, "risk", distribution), rel=1e-6)
    assert opened.prompts.xs.shape == (16, 4, 2) and opened.task == experiment.task and opened.id == run.id
    assert opened.settings["task"]["noise"] == 0.5 and opened.experiment.id == experiment.id
    assert opened.rows["value"].notna().sum() == opened.rows["run"].eq(run.id).sum() == run.recorded().rows
    assert set(opened.measurement().answers) >= {"transformer", "bayes", "zero"}


def test_runs_of_a_pack_have_each_their_own_model_and_prompts(tmp_path):
    found = made(tmp_path / "study", [replace(EXAMPLES, seed=seed) for seed in (0, 1)])
    with unchecked():
        assert worker.work_together(found, {}) == worker.DONE
    assert found[0].environment()["pack"] == 2
    first, second = (iclab.open_run(run.folder) for run in found)
    for run, opened in zip(found, (first, second), strict=True):
        assert risk_of(opened) == pytest.approx(stored(run, "risk"), rel=1e-6)
    assert risk_of(replace(first, experiment=second.experiment)) != pytest.approx(stored(found[0], "risk"), rel=1e-3)


@pytest.mark.parametrize("name", LISTS)
def test_a_model_over_tokens_on_its_prompts_has_the_accuracy_of_its_rows(folder, name):
    run = worked(folder, LISTS[name])
    opened = iclab.open_run(str(run.folder))
    prompts = opened.prompts
    with torch.no_grad():
        right = hits(opened.model(prompts.tokens), prompts) * prompts.answer_mask
    share = (right.sum() / prompts.answer_mask.sum()).item()
    assert share == pytest.approx(stored(run, "accuracy"), rel=1e-6)
    assert list(opened.curve.columns[:1]) == ["step"] and opened.curve["step"].iloc[-1] == 4


def test_frozen_features_on_their_inputs_have_the_error_of_their_rows(folder):
    run = worked(folder, FROZEN)
    opened = iclab.open_run(run.folder)
    xs, ys, _ = opened.task.tokens(32, experiment_generator(opened.experiment, "train"))
    prompts = opened.prompts
    answers = opened.experiment.train.answers(opened.model, xs, ys, prompts.xs)[-1]
    error = ratio((answers - prompts.fs).square()[:, 0], (prompts.fs - prompts.fs.mean(0)).square()[:, 0])
    assert error.value.item() == pytest.approx(stored(run, "final_error", "key_1"), rel=1e-9)
    drawn_twice = iclab.open_run(worked(folder, replace(FROZEN, train=replace(FROZEN.train, draws=2))).folder)
    assert len(drawn_twice.prompts.xs) == 48 and torch.equal(drawn_twice.prompts.xs[:24], prompts.xs)


# ---- what cannot be opened -----------------------------------------------------------------------------------------


def refusal(folder):
    with pytest.raises(ValueError, match="open_run") as refused:
        iclab.open_run(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_is_no_run_is_refused_with_the_runs_that_there_are(tmp_path):
    assert "there is no folder" in refusal(tmp_path / "nothing")
    assert "holds no run" in refusal(tmp_path)
    seeds = made(tmp_path / "sweep", [replace(EXAMPLES, seed=seed) for seed in range(10)])
    told = refusal(tmp_path / "sweep")
    assert "is a sweep; give one of its runs" in told and "(seed=3, pending)" in told and "and 2 more" in told
    assert sum(run.id in told for run in seeds) == 8
    assert f"holds sweeps; give a run of one of them: {tmp_path / 'sweep'}" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (Status(), "is not finished: pending"),
        (Status("running"), "is not finished: interrupted at step 4"),
        (Status("diverged", error="the loss is nan"), "has no results: it diverged: the loss is nan"),
        (Status("failed", error="no memory"), "has no results: it failed: no memory"),
    ],
)
def test_a_run_that_is_not_finished_is_refused_with_its_state(tmp_path, status, told):
    (run,) = made(tmp_path, [EXAMPLES])
    run.record(status)
    (run.folder / "metrics.jsonl").write_text('{"step": 4, "loss": 1.0}\n' if status.state == "running" else "")
    assert told in refusal(run.folder)


def test_a_damaged_run_is_refused_by_the_file(folder, tmp_path):
    run = Run(tmp_path / EXAMPLES.id)
    run.folder.mkdir()
    for path in worked(folder, EXAMPLES).folder.iterdir():
        (run.folder / path.name).write_bytes(path.read_bytes())
    (run.folder / "results.jsonl").write_bytes(b"{}\n")
    assert "results.jsonl is damaged" in refusal(run.folder)


def test_an_unknown_distribution_is_refused_with_those_that_are_known(folder):
    opened = iclab.open_run(worked(folder, EXAMPLES).folder)
    with pytest.raises(ValueError, match=r"unknown distribution 'larg'. Did you mean 'larger'\? Known: larger, own"):
        opened.measurement("larg")


def test_prompts_of_a_device_that_is_not_here_are_refused_and_the_rest_is_there(folder, monkeypatch):
    run = worked(folder, EXAMPLES)
    monkeypatch.setattr(Run, "environment", lambda self: {"device": "cuda:7"})
    opened = iclab.open_run(run.folder)
    with pytest.raises(ValueError, match="its prompts were drawn on cuda:7, and the same seeds draw other prompts"):
        _ = opened.prompts
    assert opened.model(torch.zeros(1, 4, 2), torch.zeros(1, 4)).shape == (1, 4) and len(opened.rows)
