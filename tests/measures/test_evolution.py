"""Along the training curve: a change of algorithm is found where it is, and noise is no change."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from math import inf, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

import iclab
from iclab.analysis.algorithms.evolution import plateau_exit, transitions
from iclab.experiments.claims import Claim
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.experiments.verdicts import Cell, judge
from iclab.learning.training import Training, TrainingConfig
from iclab.measures import evolution
from iclab.models import TransformerConfig
from iclab.runs.store import Run
from iclab.runs.worker import STOPPED, Stopped, work
from iclab.tasks import LinearRegression

STEPS = [1, 2, 4, 8, 16, 32, 64, 128, 256]


def entered(names, find=transitions):
    """(family, step) of each transition along the powers of two."""
    return [(each.after, each.at.step) for each in find(STEPS[: len(names)], names)]


# ---- transitions ---------------------------------------------------------------------------------------------------


@given(name=st.sampled_from("abc"), n=st.integers(0, 9))
def test_a_model_that_stays_what_it_is_has_no_transitions(name, n):
    assert entered([name] * n) == []


def test_a_transition_lies_between_the_last_of_the_old_and_the_first_of_the_new():
    (found,) = transitions(STEPS, list("aaabbbbbb"))
    assert (found.before, found.after) == ("a", "b")
    assert found.at.step == pytest.approx(sqrt(4 * 8)) and found.at.stderr == 2.0
    assert found.at.step - found.at.stderr >= 3 and found.at.step + found.at.stderr <= 8


def ignores_a_single_flip(find):
    """One point at which another family is nearest, anywhere, changes nothing."""
    steady = list("aaaabbbbb")
    for k in range(1, 9):
        if k not in (3, 4, 5):  # beside the change itself a flip blurs when it was
            flipped = [*steady[:k], "c", *steady[k + 1 :]]
            assert entered(flipped, find) == [("b", pytest.approx(sqrt(8 * 16)))]


def test_one_noisy_flip_is_no_transition():
    ignores_a_single_flip(transitions)


def test_a_detector_that_takes_every_change_for_a_transition_is_caught():
    def without_persistence(steps, names):
        doubled = [name for name in names for _ in range(2)]
        return transitions([step for step in steps for _ in range(2)], doubled)

    with pytest.raises(AssertionError):
        ignores_a_single_flip(without_persistence)


def test_a_family_that_passes_through_on_the_way_widens_the_error_and_enters_nothing():
    (found,) = transitions(STEPS, list("aaacbbbbb"))
    assert found.after == "b" and found.at.step == pytest.approx(sqrt(4 * 16)) and found.at.stderr == 6.0


def test_a_way_there_and_back_are_two_transitions_and_a_last_point_alone_is_none():
    assert [name for name, _ in entered(list("aabbaaaab"))] == ["b", "a"]


@given(names=st.lists(st.sampled_from("abc"), min_size=1, max_size=9))
def test_what_is_entered_stays_for_two_points_and_differs_from_what_was_left(names):
    found = transitions(STEPS[: len(names)], names)
    for before, after in zip([None, *found], found, strict=False):
        assert after.before == (before.after if before else names[0]) != after.after
        assert any(names[k : k + 2] == [after.after] * 2 for k in range(len(names)))
    assert [each.at.step for each in found] == sorted(each.at.step for each in found)


# ---- the plateau ---------------------------------------------------------------------------------------------------


def finds_the_fall(find):
    """Late points lie close together and jitter: 1 % between neighbours 2 % apart is steeper against log t than a fall
    by 1/3 between points a factor 2 apart, and still no exit."""
    late = list(range(1000, 1400, 20))
    steps, risks = [*STEPS, *late], [5.0] * 5 + [3.0, 1.5, 1.2, 1.1] + [1.0 + 0.05 * (k % 2) for k in range(len(late))]
    found = find(steps, risks)
    assert found.step == pytest.approx(sqrt(16 * 32)) and found.stderr == 8.0


def test_the_exit_from_the_plateau_is_where_the_risk_falls_fastest():
    finds_the_fall(plateau_exit)


def test_an_exit_from_points_that_are_not_thinned_out_is_noise():
    def unthinned(steps, risks):
        pairs = list(zip(steps, risks, strict=True))
        both = pairwise(pairs)
        _, one, other = max(((r - q) / (t - s) * s, s, t) for (s, r), (t, q) in both)
        return plateau_exit([one, other * 2], [1.0, 0.0])

    with pytest.raises(AssertionError):
        finds_the_fall(unthinned)


def test_a_risk_that_never_falls_has_no_exit():
    assert plateau_exit(STEPS, [1.0] * 9) is None
    assert plateau_exit(STEPS, [float(s) for s in STEPS]) is None
    assert plateau_exit([], []) is None


# ---- rows, claims and tables ---------------------------------------------------------------------------------------


def curve(names, families="abc"):
    """Points at powers of two whose nearest family is the named one; probes of two layers."""
    distances = ({name: 0.1 if name == nearest else 1.0 for name in families} for nearest in names)
    each = zip(STEPS, distances, strict=False)
    return [
        {"step": s, "risk": 1 / s, "excess": 0.5 / s, "distances": d, "probes": {"w": [None, 0.5]}} for s, d in each
    ]


def verdict(rows, **claim):
    """The verdict on six seeds that agree."""
    (found,) = judge([Claim("c", **claim)], [Cell(str(seed), {"seed": seed}, "done", rows) for seed in range(6)])
    return found.outcome


def test_claims_are_judged_on_transitions_and_on_points_of_the_curve():
    rows = list(evolution.rows(curve("aaaabbbbb")))
    entry = {"quantity": "transition", "predictor": "b"}
    assert verdict(rows, **entry, at_most=20) == "holds"  # between 8 and 16
    assert verdict(rows, **entry, at_most=3) == "fails" and verdict(rows, **entry, at_most=11) == "inconclusive"
    assert verdict(rows, quantity="transition", predictor="c", at_most=1e9) == "fails"  # never entered
    assert verdict(rows, quantity="transition", predictor="c", at_least=100) == "holds"
    assert verdict(rows, quantity="transition", predictor="a", at_most=1) == "holds"  # from the first point on
    here = {"quantity": "evolution_distance", "predictor": "b", "at_most": 0.5}
    assert verdict(rows, **here, where=(("step", 16),)) == "holds"
    assert verdict(rows, **here, where=(("step", 8),)) == "fails"
    assert verdict(rows, **here) == "not measured"  # the curve as a whole has no distance
    assert verdict(rows, quantity="evolution_risk", predictor="transformer", at_most=1, where=(("step", 4),)) == "holds"


def test_rows_say_what_the_points_carry_and_no_more():
    rows = list(evolution.rows(curve("aabb")))
    probes = [row for row in rows if row["quantity"] == "evolution_probe_r2"]
    assert [(row["predictor"], row["layer"], row["step"], row["value"]) for row in probes] == [
        ("w", 1, step, 0.5) for step in (1, 2, 4, 8)
    ]
    bare = list(evolution.rows([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]))
    assert bare == [] and list(evolution.rows([])) == []
    assert {row["value"] for row in rows if row["predictor"] == "c" and row["quantity"] == "transition"} == {inf}


def test_what_a_curve_of_tokens_gains_is_its_last_value_less_its_first():
    """Not its largest: the middle point, which a maximum would take, counts for nothing."""
    points = [
        {"step": step, "tokens": {"loss": {"transformer": loss}, "prefix_matching": {"transformer": [0.1, score]}}}
        for step, loss, score in ((1, 3.0, 0.1), (10, 2.0, 0.9), (20, 1.0, 0.6))
    ]
    gained = {(row["quantity"], row["layer"]): row["value"] for row in evolution.rows(points)}
    assert gained["gain_prefix_matching", 1] == pytest.approx(0.5) and gained["gain_prefix_matching", 0] == 0
    assert gained["gain_loss", None] == -2.0


def test_a_shift_has_rows_of_its_own():
    points = [
        {**own, "shifts": {"larger": {k: other[k] for k in ("risk", "distances")}}}
        for own, other in zip(curve("aaaa"), curve("aabb"), strict=True)
    ]
    rows = list(evolution.rows(points))
    entry = {"quantity": "transition", "predictor": "b", "at_most": 10}
    assert verdict(rows, **entry) == "fails"
    assert verdict(rows, **entry, where=(("distribution", "larger"),)) == "holds"
    assert {row["distribution"] for row in rows} == {"own", "larger"}


TASK = LinearRegression(2, 6, noise=0.5)
SMALL = Experiment(
    task=TASK,
    model=TransformerConfig(n_layer=1, n_head=1, d_model=8),
    train=TrainingConfig(steps=12, batch=4, warmup=0.2),
    eval=Evaluation(prompts=30, every=3, bootstrap=5, analyses=("evolution",)),
    device="cpu",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from start to end, for tests to read or to copy."""
    run = Run(tmp_path_factory.mktemp("whole") / SMALL.id)
    run.create(SMALL.mapping())
    assert work(run) == 0
    return run


def test_a_run_that_was_resumed_has_the_points_from_before(tmp_path, monkeypatch, whole):
    """The curve of a first attempt is in its file alone: the second says only the points after the checkpoint."""
    run = Run(tmp_path / SMALL.id)
    run.create(SMALL.mapping())
    save, saved = Training.save, []

    def stopped_after_five(training, path, mark=None):
        save(training, path, mark)
        saved.append(training.step)
        if len(saved) == 5:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(Training, "save", stopped_after_five)
        assert work(run) == STOPPED
    before = run.curve()
    assert len(before) == 5
    assert work(run) == 0
    assert run.curve()[:5] == before  # to the seconds that they took: they were not said again
    assert run.rows() == whole.rows()
    assert "starts anew" not in run.log.read_text()


def test_a_curve_that_lost_a_point_is_not_gone_on_from(tmp_path, whole):
    run = Run(tmp_path / SMALL.id)
    shutil.copytree(whole.folder, run.folder)
    rows, points = run.rows(), run.curve()
    (run.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(point)}\n" for point in points[:-1]))
    run.record(run.recorded(), state="interrupted")
    assert work(run) == 0
    assert run.rows() == rows and len(run.curve()) == len(points)
    assert "starts anew" in run.log.read_text()


def test_the_table_has_a_column_for_the_step_that_holds_it_for_the_curve_alone(whole):
    table = iclab.load(whole.folder.parent)
    on_the_way = table[table["step"].notna()]
    assert set(on_the_way["quantity"]) == {"evolution_risk", "evolution_excess", "evolution_distance"}
    assert on_the_way["step"].unique().tolist() == [1, 2, 3, 4, 6, 8, 9, 12]
    assert set(on_the_way["region"]) == {"mean"}
    assert {"transition", "risk", "fit_distance"} <= set(table.loc[table["step"].isna(), "quantity"])


def test_a_run_with_too_few_prompts_says_that_it_looks_for_no_algorithm(tmp_path):
    few = replace(SMALL, eval=Evaluation(prompts=10, bootstrap=5))
    run = Run(tmp_path / few.id)
    run.create(few.mapping())
    assert work(run) == 0
    assert "no nearest algorithms: eval.prompts is 10, and they need 20 or more" in run.log.read_text()
    assert not any(row["quantity"].startswith("fit_") for row in run.rows())
