"""Claims, each outcome shown by a table made for it."""

from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclab.experiments.claims import OUTCOMES, Cell, Claim, judge
from iclab.experiments.study import Study


def row(value, stderr=0.01, predictor="transformer", quantity="excess", **columns):
    measured = {"predictor": predictor, "quantity": quantity, "value": value, "stderr": stderr}
    return {"distribution": "own", "layer": None, "position": None, **measured, **columns}


def cell(*rows, run="a", state="done", **config):
    settings = {"model.layout": "lagged", "train.targets": "sampled", **config}
    return Cell(run, settings, state, rows)


def claim(where=(), **bound):
    return Claim("A claim", "excess", "transformer", tuple(dict(where).items()), **bound or {"at_most": 0.05})


def verdict(made, *cells):
    (found,) = judge([made], cells)
    return found


@pytest.mark.parametrize(
    ("bound", "value", "stderr", "outcome"),
    [
        ({"at_most": 0.05}, 0.03, 0.01, "holds"),
        ({"at_most": 0.05}, 0.031, 0.01, "inconclusive"),
        ({"at_most": 0.05}, 0.069, 0.01, "inconclusive"),
        ({"at_most": 0.05}, 0.071, 0.01, "fails"),
        ({"at_least": 0.05}, 0.071, 0.01, "holds"),
        ({"at_least": 0.05}, 0.069, 0.01, "inconclusive"),
        ({"at_least": 0.05}, 0.029, 0.01, "fails"),
        ({"within": (1.0, 0.1)}, 1.05, 0.02, "holds"),
        ({"within": (1.0, 0.1)}, 0.95, 0.02, "holds"),
        ({"within": (1.0, 0.1)}, 0.93, 0.02, "inconclusive"),
        ({"within": (1.0, 0.1)}, 1.13, 0.02, "inconclusive"),
        ({"within": (1.0, 0.1)}, 1.15, 0.02, "fails"),
        ({"within": (1.0, 0.1)}, 0.85, 0.02, "fails"),
        ({"at_most": 0.05}, 0.05, None, "holds"),
        ({"at_most": 0.05}, 0.0501, None, "fails"),
        ({"at_most": 0.05}, float("inf"), 0.01, "fails"),
        ({"at_most": 0.05}, float("nan"), 0.01, "not measured"),
        ({"at_most": 0.05}, None, 0.01, "not measured"),
        ({"at_most": 0.05}, 0.01, float("nan"), "inconclusive"),
    ],
)
def test_two_standard_errors_decide(bound, value, stderr, outcome):
    assert verdict(claim(**bound), cell(row(value, stderr))).outcome == outcome


@given(value=st.floats(-1, 1), stderr=st.floats(0, 1), bound=st.floats(-1, 1))
def test_a_claim_and_its_opposite_never_both_hold(value, stderr, bound):
    above, below = (
        verdict(claim(**{side: bound}), cell(row(value, stderr))).outcome for side in ("at_least", "at_most")
    )
    possible = {("holds", "fails"), ("fails", "holds"), ("inconclusive", "inconclusive"), ("holds", "holds")}
    at_the_edge = {("holds", "inconclusive"), ("inconclusive", "holds")}  # the value just two standard errors off
    assert (above, below) in (possible | at_the_edge if isclose(abs(value - bound), 2 * stderr) else possible)
    assert (above == below == "holds") is (value == bound and stderr == 0)


def test_the_worst_cell_decides():
    cells = [cell(row(0.01), run="good"), cell(row(0.045), run="close"), cell(row(0.02), run="fine")]
    found = verdict(claim(), *cells)
    assert (found.outcome, found.run, found.value) == ("inconclusive", "close", 0.045)
    found = verdict(claim(), *cells, cell(row(0.3), run="bad"), cell(row(0.2), run="poor"))
    assert (found.outcome, found.run, len(found.cells)) == ("fails", "bad", 5)


@pytest.mark.parametrize("state", ["failed", "diverged", "pending", "interrupted", "running"])
def test_a_run_without_result_leaves_a_claim_not_measured(state):
    found = verdict(claim(), cell(row(0.01)), cell(run="b", state=state))
    assert (found.outcome, found.note) == ("not measured", f"1 of 2 runs {state}")


def test_one_counterexample_refutes_whatever_is_missing():
    found = verdict(claim(), cell(row(0.3)), cell(run="b", state="failed"))
    assert (found.outcome, found.run, found.note) == ("fails", "a", "1 of 2 runs failed")


def test_where_selects_cells():
    shallow, deep = (
        cell(row(0.5), run="shallow", **{"model.n_layer": 1}),
        cell(row(0.01), run="deep", **{"model.n_layer": 4}),
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


def test_a_verdict_tells_layouts_and_targets():
    cells = [cell(row(0.01)), cell(row(0.01), run="b", **{"model.layout": "paired", "train.targets": "posterior_mean"})]
    record = verdict(claim(), *cells).record()
    assert record["layout"] == "lagged, paired"
    assert record["targets"] == "posterior_mean, sampled"
    assert record["cells"] == ["a", "b"]


def test_outcomes_are_ordered_from_bad_to_good():
    assert OUTCOMES == ("fails", "not measured", "inconclusive", "holds")


# ---- in files ------------------------------------------------------------------------------------------------------

STUDY = """title = "A study"
question = "What is claimed?"
paper = "none"
[task]
kind = "LinearRegression"
d = 3
n = 4
[[claims]]
name = "It learns"
quantity = "excess"
predictor = "transformer"
"""


def read(tmp_path, text, *settings):
    path = tmp_path / "claims.toml"
    path.write_text(STUDY + text)
    return Study.read(path, settings).heading.claims


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ('{ "model.n_layer" = 4, seed = 1 }', {"model.n_layer": 4, "seed": 1}),
        (
            '{ model.n_layer = 4, task.kind = "LinearRegression" }',
            {"model.n_layer": 4, "task.kind": "LinearRegression"},
        ),
        ('{ position = 3, distribution = "own", layer = 2 }', {"position": 3, "distribution": "own", "layer": 2}),
        ('{ position = "mean", "train.clip" = "none" }', {"position": "mean", "train.clip": "none"}),
        ("{ model.norm = true, task.noise = 0.5 }", {"model.norm": True, "task.noise": 0.5}),
    ],
)
def test_where_is_read_with_quoted_or_nested_keys(tmp_path, where, expected):
    (found,) = read(tmp_path, f"where = {where}\nwithin = [1, 0.5]\n")
    assert dict(found.where) == expected
    assert found.expected == "1 ± 0.5"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "claim 'It learns': give exactly one of at_most, at_least, within; given none"),
        ("at_most = 1\nat_least = 0\n", "claim 'It learns': give exactly one of"),
        ('at_most = "1"\n', 'claims[0].at_most: expected a number or "none", given "1"'),
        ("within = [1.0]\n", "claims[0].within: expected a list of 2"),
        ("within = [1.0, -0.1]\n", "needs a tolerance of 0 or more, given -0.1"),
        ("at_most = 1\nat_mots = 1\n", "unknown key 'claims[0].at_mots'. Did you mean 'claims[0].at_most'?"),
        ("at_most = 1\nwhere = 3\n", "claims[0].where: expected a table, given 3"),
        ("at_most = 1\nwhere = { model.n_layer = [1] }\n", "claims[0].where.model.n_layer: expected true or false or"),
        (
            "at_most = 1\nwhere = { model.n_layers = 1 }\n",
            "unknown key 'model.n_layers'. Did you mean 'model.n_layer'?",
        ),
        ("at_most = 1\nwhere = { positon = 1 }\n", "unknown key 'positon'. Did you mean 'position'?"),
    ],
)
def test_mistakes_in_claims_are_told(tmp_path, text, problem):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, text)
    assert problem in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_setting_whose_default_is_none_can_be_asked_for(tmp_path):
    (found,) = read(tmp_path, 'at_most = 1\nwhere = { model.scale = "none" }\n')
    assert found.concerns({"model.n_layer": 1})
    assert not found.concerns({"model.scale": 2.0})
