"""Verdicts, each outcome shown by runs made for it, and error rates by runs whose truth is known."""

from math import inf, isclose, isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclab.experiments.claims import Claim
from iclab.experiments.verdicts import OUTCOMES, Cell, judge


def row(value, stderr=0.01, predictor="transformer", quantity="excess", **columns):
    measured = {"predictor": predictor, "quantity": quantity, "value": value, "stderr": stderr}
    return {"distribution": "own", "layer": None, "position": None, **measured, **columns}


def cell(*rows, run="a", state="done", **config):
    settings = {"model.layout": "lagged", "train.targets": "sampled", **config}
    return Cell(run, settings, state, rows)


def seeds(*values, stderr=0.001, **config):
    """Runs that differ in the seed alone."""
    return [cell(row(v, stderr), run=f"{config}{i}", seed=i, **config) for i, v in enumerate(values)]


def claim(where=(), name="A claim", **more):
    bound = {} if more.keys() & {"at_most", "at_least", "within"} else {"at_most": 0.05}
    return Claim(name, "excess", "transformer", tuple(dict(where).items()), **bound, **more)


def verdict(made, *cells):
    (found,) = judge([made], cells)
    return found


# ---- one network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "value", "stderr", "outcome"),
    [
        ({"at_most": 0.05}, 0.03, 0.002, "holds"),
        ({"at_most": 0.05}, 0.031, 0.002, "inconclusive"),
        ({"at_most": 0.05}, 0.069, 0.002, "inconclusive"),
        ({"at_most": 0.05}, 0.071, 0.002, "fails"),
        ({"at_least": 0.05}, 0.071, 0.002, "holds"),
        ({"at_least": 0.05}, 0.069, 0.002, "inconclusive"),
        ({"at_least": 0.05}, 0.029, 0.002, "fails"),
        ({"within": (1.0, 0.1)}, 1.05, 0.004, "holds"),
        ({"within": (1.0, 0.1)}, 0.95, 0.004, "holds"),
        ({"within": (1.0, 0.1)}, 0.93, 0.004, "inconclusive"),
        ({"within": (1.0, 0.1)}, 1.13, 0.004, "inconclusive"),
        ({"within": (1.0, 0.1)}, 1.15, 0.004, "fails"),
        ({"within": (1.0, 0.1)}, 0.85, 0.004, "fails"),
        ({"at_most": 0.05}, 0.05, 0.0, "holds"),
        ({"at_most": 0.05}, 0.0501, 0.0, "fails"),
        ({"at_most": 0.05}, float("inf"), 0.01, "fails"),
        ({"at_most": 0.05}, float("nan"), 0.01, "not measured"),
        ({"at_most": 0.05}, None, 0.01, "not measured"),
        ({"at_most": 0.05}, 0.01, float("nan"), "inconclusive"),
    ],
)
def test_of_one_network_ten_prompt_errors_decide(bound, value, stderr, outcome):
    found = verdict(claim(**bound), cell(row(value, stderr)))
    assert found.outcome == outcome
    assert found.of == ("" if outcome == "not measured" else "this network")


@given(value=st.floats(-1, 1), stderr=st.floats(0, 1), bound=st.floats(-1, 1))
def test_within_ten_prompt_errors_of_its_bound_one_network_decides_nothing(value, stderr, bound):
    outcome = verdict(claim(at_most=bound), cell(row(value, stderr))).outcome
    if abs(value - bound) < 9.999 * stderr:
        assert outcome == "inconclusive"


@given(value=st.floats(-1, 1), stderr=st.floats(0, 0.1), bound=st.floats(-1, 1))
def test_a_claim_and_its_opposite_never_both_hold(value, stderr, bound):
    above, below = (
        verdict(claim(**{side: bound}), cell(row(value, stderr))).outcome for side in ("at_least", "at_most")
    )
    possible = {("holds", "fails"), ("fails", "holds"), ("inconclusive", "inconclusive"), ("holds", "holds")}
    at_the_edge = {("holds", "inconclusive"), ("inconclusive", "holds")}  # the value just ten standard errors off
    assert (above, below) in (possible | at_the_edge if isclose(abs(value - bound), 10 * stderr) else possible)
    exact = stderr == 0 and value not in (0.0, 1.0)  # which may be shares
    assert (above == below == "holds") is (value == bound and exact)


@pytest.mark.parametrize("missing", [None, nan])
def test_a_missing_error_is_not_zero(missing):
    found = verdict(claim(), cell(row(0.0001, missing)))
    assert (found.outcome, found.note) == ("inconclusive", "no error is known")
    assert verdict(claim(), *seeds(0.001, 0.0011, 0.0012, stderr=missing)).outcome == "holds"  # the spread is known
    assert verdict(claim(), *seeds(0.001, 0.001, 0.001, stderr=missing)).outcome == "inconclusive"
    assert verdict(claim(), *seeds(*[0.001] * 6, stderr=missing)).outcome == "holds"


def test_a_share_of_one_has_the_error_of_its_wilson_interval():
    surely, hardly = (claim(at_least=bound) for bound in (0.95, 0.99))
    of_prompts = {"eval.prompts": 1000}
    assert verdict(surely, cell(row(1.0, 0.0), **of_prompts)).outcome == "holds"
    assert verdict(hardly, cell(row(1.0, 0.0), **of_prompts)).outcome == "inconclusive"
    assert verdict(hardly, cell(row(1.0, 0.0), **{"eval.prompts": 100_000})).outcome == "holds"
    assert verdict(hardly, cell(row(1.0, 0.0))).note == "no error is known"
    assert verdict(claim(at_least=0.999), *seeds(1.0, 1.0, 1.0, stderr=0.0, **of_prompts)).outcome == "inconclusive"


# ---- seeds ---------------------------------------------------------------------------------------------------------


def test_the_spread_over_seeds_decides_and_not_the_prompts():
    measured = (0.040, 0.059, 0.045, 0.048, 0.056)
    found = verdict(claim(), *seeds(*measured, stderr=0.0012))
    assert (found.outcome, found.seeds, found.of) == ("inconclusive", 5, "5 seeds")
    assert (round(found.low, 3), round(found.high, 3)) == (0.04, 0.059)
    assert verdict(claim(at_most=0.06), *seeds(*measured)).outcome == "holds"
    assert verdict(claim(at_most=0.039), *seeds(*measured)).outcome == "fails"


def test_the_distance_is_that_to_the_bound_in_halves_of_the_interval():
    found = verdict(claim(at_most=0.06), *seeds(0.04, 0.05, 0.045))
    assert isclose(found.distance, (0.06 - found.value) / (found.high - found.value))
    assert isnan(verdict(claim(kind="every"), *seeds(0.04, 0.05)).distance)


def test_seeds_of_a_task_are_seeds_too_but_runs_of_one_training_seed_count_once():
    drawn = [cell(row(0.01 + 0.001 * i), run=str(i), **{"seed": i, "task.seed": i}) for i in range(3)]
    assert verdict(claim(), *drawn).seeds == 3
    one = [cell(row(0.01 + 0.001 * i, 0.002), run=str(i), **{"seed": 0, "task.seed": i}) for i in range(3)]
    found = verdict(claim(), *one)
    assert (found.of, found.value, found.stderr) == ("this network", pytest.approx(0.011), pytest.approx(0.002))


def test_a_claim_over_several_settings_is_one_about_each():
    shallow, deep = seeds(0.01, 0.011, 0.012, **{"model.n_layer": 1}), seeds(0.2, 0.21, 0.22, **{"model.n_layer": 4})
    found = verdict(claim(), *shallow, *deep)
    assert (found.outcome, found.seeds, found.note) == ("fails", 3, "decided by model.n_layer=4")
    assert verdict(claim(), *shallow).outcome == "holds"


def replicates(means, bound, count=250):
    """Runs of settings with these true means, three seeds each, again and again."""
    drawn = np.random.default_rng(0).normal(means, 1.0, (count, 3, len(means)))
    runs = [(seed, setting) for seed in range(3) for setting in range(len(means))]
    for values in drawn:
        yield claim(at_most=bound), [cell(row(values[i]), run=f"{i}", seed=i[0], k=i[1]) for i in runs]


def rate(outcome, judged):
    """How often an outcome came about."""
    found = list(judged)
    return found.count(outcome) / len(found)


MOST = 0.025 + 4 * (0.025 * 0.975 / 250) ** 0.5  # of 250 cases, with four standard errors of their count


def test_however_many_settings_a_true_claim_fails_in_one_case_of_forty_at_most():
    cases = list(replicates([0.0] * 9, bound=0.0))  # nine settings at the bound
    assert rate("fails", (verdict(made, *cells).outcome for made, cells in cases)) <= MOST

    def worst(made, cells):
        """The cheat: each setting by itself, and the worst decides."""
        settings = [[one for one in cells if one.config["k"] == k] for k in range(9)]
        return min((verdict(made, *each).outcome for each in settings), key=OUTCOMES.index)

    assert rate("fails", (worst(*case) for case in cases)) > 1.5 * MOST


def test_a_claim_that_one_setting_violates_holds_in_one_case_of_forty_at_most():
    cases = replicates([-50.0] * 8 + [0.0], bound=0.0)  # just not violated, the hardest case
    assert rate("holds", (verdict(made, *cells).outcome for made, cells in cases)) <= MOST


def test_what_is_never_reached_in_any_seed_decides_and_in_some_does_not():
    never = claim(at_least=1e9)
    assert verdict(never, *seeds(inf, inf, stderr=None)).outcome == "holds"
    assert verdict(claim(at_most=1e9), *seeds(inf, inf, stderr=None)).outcome == "fails"
    assert verdict(never, *seeds(inf, 300.0)).outcome == "inconclusive"


# ---- every run, and a share of them --------------------------------------------------------------------------------


def test_every_is_refuted_by_one_run_beyond_chance_among_so_many():
    every = claim(kind="every")
    found = verdict(every, *seeds(0.01, 0.02, 0.03))
    assert (found.outcome, found.measured) == ("holds", "3 of 3 [29%, 100%], worst 0.03")
    found = verdict(every, *seeds(0.01, 0.02, 0.2))
    assert (found.outcome, found.worst) == ("fails", 0.2) and found.measured.startswith("2 of 3 ")
    assert verdict(every, *seeds(0.01, 0.02, 0.0522)).outcome == "inconclusive"  # 2.2 errors, of three runs
    assert verdict(every, *seeds(0.01, 0.02, 0.0525)).outcome == "fails"  # 2.5 errors
    assert verdict(claim(kind="every", at_most=0.0), *seeds(0.0, 0.0, stderr=0.0)).outcome == "holds"


def test_every_counts_runs_of_several_seeds_without_an_error_but_not_a_single_network():
    every = claim(kind="every", at_most=1)
    assert verdict(every, *seeds(1, 1, stderr=None)).outcome == "holds"
    assert verdict(every, *seeds(1, 2, stderr=None)).outcome == "fails"
    assert verdict(every, *seeds(1, stderr=None)).note == "no error is known"


@pytest.mark.parametrize(
    ("inside", "runs", "share", "outcome"),
    [
        (7, 9, 0.5, "inconclusive"),
        (9, 9, 0.5, "holds"),
        (6, 6, 0.5, "holds"),
        (5, 5, 0.5, "inconclusive"),
        (1, 9, 0.5, "fails"),
        (6, 6, 0.9, "inconclusive"),
        (36, 36, 0.9, "holds"),
        (25, 36, 0.9, "fails"),
    ],
)
def test_a_share_holds_where_its_interval_lies_above_it(inside, runs, share, outcome):
    found = verdict(claim(kind="share", share=share), *seeds(*[0.01] * inside, *[0.9] * (runs - inside)))
    assert found.outcome == outcome and isclose(found.value, inside / runs)


def test_a_wrong_share_holds_in_one_case_of_forty_at_most():
    rng = np.random.default_rng(0)
    made = claim(kind="share", share=0.6)
    drawn = np.where(rng.random((250, 20)) < 0.6, 0.01, 0.9)
    outcomes = [verdict(made, *seeds(*values)).outcome for values in drawn]
    assert rate("holds", outcomes) <= MOST and rate("fails", outcomes) <= MOST


# ---- premises ------------------------------------------------------------------------------------------------------


def judged(*claims, value=0.04):
    return [found.outcome for found in judge(claims, seeds(value, value + 0.001, value + 0.002))]


def test_where_the_premise_fails_a_claim_is_void():
    trained = claim(name="It is trained", at_most=0.01)
    rests = claim(name="It does this", at_most=1.0, premise="It is trained")
    assert judged(trained, rests) == ["fails", "void"]
    assert judged(rests, trained, value=0.001) == ["holds", "holds"]
    assert judged(claim(name="It is trained", at_most=0.0415), rests) == ["inconclusive", "inconclusive"]


def test_what_rests_on_a_void_claim_is_void():
    chain = [claim(name=str(i), at_most=1.0, premise=str(i - 1) if i else None) for i in range(3)]
    assert judged(claim(name="0", at_most=0.01), *chain[1:]) == ["fails", "void", "void"]
    found = judge([claim(name="0", at_most=0.01), chain[1]], seeds(0.04, 0.041, 0.042))[1]
    assert found.note == "its premise fails: 0"


def test_a_claim_that_fails_under_a_premise_that_holds_fails():
    assert judged(claim(name="0", at_most=1.0), claim(name="1", at_most=0.01, premise="0")) == ["holds", "fails"]


# ---- what is missing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["failed", "diverged", "pending", "interrupted", "running"])
@pytest.mark.parametrize("kind", [{}, {"kind": "every"}, {"kind": "share", "share": 0.5}])
def test_a_run_without_result_leaves_a_claim_not_measured(state, kind):
    found = verdict(claim(**kind), cell(row(0.01), seed=0), cell(run="b", state=state, seed=1))
    assert (found.outcome, found.note) == ("not measured", f"1 of 2 runs {state}")


def test_a_setting_that_is_whole_refutes_whatever_is_missing_of_others():
    whole, broken = seeds(0.3, 0.31, 0.32, k=1), [cell(run="b", state="failed", k=2)]
    found = verdict(claim(), *whole, *broken)
    assert (found.outcome, found.note) == ("fails", "1 of 4 runs failed")
    assert verdict(claim(kind="every"), *seeds(0.3, 0.01), cell(run="b", state="failed")).outcome == "fails"


def test_where_selects_cells():
    shallow, deep = (
        cell(row(0.5), run="shallow", **{"model.n_layer": 1}),
        cell(row(0.01, 0.001), run="deep", **{"model.n_layer": 4}),
    )
    found = verdict(claim({"model.n_layer": 4}), shallow, deep)
    assert (found.outcome, found.run, len(found.cells)) == ("holds", "deep", 1)
    assert verdict(claim({"model.n_layer": 3}), shallow, deep).note == "no cell of this sweep has these settings"
    assert verdict(claim({"model.n_layer": True}), shallow, deep).outcome == "not measured"


def test_where_selects_among_rows_and_defaults_to_the_mean_over_the_training_distribution():
    rows = [row(0.01), row(0.6, position=0), row(0.7, distribution="skewed"), row(0.8, predictor="ridge")]
    rows += [row(0.9, quantity="spd"), row(0.65, distribution="skewed", position=0)]
    assert verdict(claim(), cell(*rows)).value == 0.01
    assert verdict(claim({"position": 0}), cell(*rows)).value == 0.6
    assert verdict(claim({"distribution": "skewed"}), cell(*rows)).value == 0.7
    assert verdict(claim({"distribution": "skewed", "position": 0}), cell(*rows)).value == 0.65


def test_rows_of_single_layers_are_judged_only_where_one_is_chosen():
    rows = [row(0.01, layer=0), row(0.5, layer=1), row(0.2)]
    assert verdict(claim(), cell(*rows)).value == 0.2
    assert verdict(claim({"layer": 1}), cell(*rows)).value == 0.5
    assert verdict(claim(), cell(*rows[:2])).outcome == "not measured"


@pytest.mark.parametrize(
    ("other", "note"),
    [
        ({"quantity": "exces"}, "unknown quantity 'excess'. Did you mean 'exces'?"),
        ({"predictor": "transformers"}, "unknown predictor 'transformer'. Did you mean 'transformers'?"),
        ({"distribution": "skewed"}, "no row has this quantity for these settings"),
    ],
)
def test_a_claim_about_what_no_row_holds_says_so(other, note):
    found = verdict(claim(), cell(row(0.01, **other)))
    assert found.outcome == "not measured"
    assert found.note.startswith(note)


# ---- as plain data -------------------------------------------------------------------------------------------------


def test_a_record_holds_what_a_table_and_a_reader_need():
    made = claim(kind="share", share=0.5, written="after", origin="ours")
    record = verdict(made, *seeds(0.01, 0.02)).record()
    assert {key: record[key] for key in ("kind", "share", "written", "origin", "premise")} == {
        "kind": "share",
        "share": 0.5,
        "written": "after",
        "origin": "ours",
        "premise": None,
    }
    assert (record["outcome"], record["seeds"], record["value"], record["stderr"]) == ("inconclusive", 2, 1.0, None)


def test_a_verdict_tells_layouts_and_targets():
    cells = [cell(row(0.01)), cell(row(0.01), run="b", **{"model.layout": "paired", "train.targets": "posterior_mean"})]
    record = verdict(claim(), *cells).record()
    assert record["layout"] == "lagged, paired"
    assert record["targets"] == "posterior_mean, sampled"
    assert record["cells"] == ["a", "b"]


def test_outcomes_are_ordered_from_bad_to_good():
    assert OUTCOMES == ("fails", "not measured", "inconclusive", "void", "holds")
