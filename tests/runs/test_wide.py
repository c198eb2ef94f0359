"""Wide tables: one quantity, what is compared in rows and columns, and every number with its error."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import iclab
from iclab.experiments.intervals import SeedMean
from iclab.runs.tables import frame, table_rows

SETTINGS = ("seed", "model.n_layer")
MEASURED = {"predictor": "transformer", "distribution": "own", "quantity": "excess", "stderr": 0.1}


def table(*rows, swept=SETTINGS, **more):
    """A long table of rows (settings, what else is stored), each as of a run of these settings."""
    lines = [
        line
        for values, stored in rows
        for line in table_rows(f"run {values}", "done", "", [{**MEASURED, **more, **stored}], values)
    ]
    return frame(lines, swept)


def excess():
    """Runs of two depths and three seeds, with numbers by position and region, layers and another predictor."""
    rows = []
    for seed in range(3):
        for depth in (1, 4):
            run, value = (seed, depth), 1.0 / depth + 0.01 * seed
            rows.append((run, {"value": value}))
            rows += [(run, {"value": 10.0 + at, "position": at}) for at in (0, 1, 2)]
            rows += [(run, {"value": 20.0, "position": "under"}), (run, {"value": 30.0, "layer": 1})]
            rows += [(run, {"value": 40.0, "step": 100}), (run, {"value": 50.0, "distribution": "skewed"})]
            rows += [(run, {"value": 60.0, "predictor": "ridge"}), (run, {"value": 0.5, "quantity": "risk"})]
            rows += [(run, {"value": 0.25, "quantity": "probe_r2", "layer": layer}) for layer in (0, 1)]
    return table(*rows)


def test_rows_are_what_differs_between_runs_unless_it_is_said():
    wide = iclab.pick(excess(), "excess")
    assert list(wide.index.names) == list(SETTINGS) and list(wide.columns) == ["value", "stderr"]
    assert wide["value"].to_dict() == {(s, d): 1 / d + 0.01 * s for s in range(3) for d in (1, 4)}
    one = iclab.pick(table(((0,), {"value": 2.0}), swept=["seed"]).drop(columns="seed"), "excess")
    assert one["value"].to_dict() == {"run (0,)": 2.0}


def test_columns_keep_values_and_errors_apart():
    wide = iclab.pick(excess(), "excess", columns="seed")
    assert wide["value"].index.name == "model.n_layer" and wide["value"].columns.tolist() == [0, 1, 2]
    assert wide["value"].loc[4].tolist() == pytest.approx([0.25, 0.26, 0.27])
    assert (wide["stderr"] == 0.1).all(axis=None) and wide["stderr"].shape == wide["value"].shape


def test_an_average_over_seeds_has_the_error_of_their_mean():
    wide = iclab.pick(excess(), "excess", over="seed")
    for depth in (1, 4):
        mean = SeedMean.of([1 / depth + 0.01 * seed for seed in range(3)], [0.1] * 3)
        assert wide.loc[depth].tolist() == pytest.approx([mean.value, mean.stderr])


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ({"by": "position"}, {0: 10.0, 1: 11.0, 2: 12.0}),
        ({"by": "region"}, {"mean": 1.0, "under": 20.0}),
        ({"by": "layer"}, {1: 30.0}),
        ({"by": "step"}, {100: 40.0}),
        ({"by": "distribution"}, {"own": 1.0, "skewed": 50.0}),
        ({"by": "predictor"}, {"transformer": 1.0, "ridge": 60.0}),
        ({"by": "run", "where": {"region": "under"}}, {"run (0, 1)": 20.0}),
        ({"by": "run", "where": {"position": 2}}, {"run (0, 1)": 12.0}),
        ({"by": "run", "where": {"predictor": "ridge"}}, {"run (0, 1)": 60.0}),
    ],
)
def test_what_is_named_nowhere_is_as_usual(given, first):
    of = {"seed": 0, "model.n_layer": 1}
    wide = iclab.pick(excess(), "excess", **{**given, "where": {**of, **given.get("where", {})}})
    assert wide["value"].to_dict() == first
    assert all(type(key) in (int, str) for key in wide.index.tolist())


def test_a_setting_that_a_run_does_not_have_is_none():
    rows = table(((0, 2), {"value": 1.0}), ((0, None), {"value": 2.0}))
    assert iclab.pick(rows, "excess", by="model.n_layer", over="seed")["value"].to_dict() == {2: 1.0, "none": 2.0}


def test_a_run_without_results_is_left_out():
    rows = pd.concat([excess(), frame(list(table_rows("bad", "diverged", "nan", [], (9, 1))), SETTINGS)])
    assert set(iclab.pick(rows, "excess", columns="seed")["value"].columns) == {0, 1, 2}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"quantity": "exces"}, r"unknown quantity 'exces'. Did you mean 'excess'\? Known: excess, probe_r2, risk"),
        ({"by": "model.layer"}, r"unknown column 'model.layer'. Did you mean 'model.n_layer'\? Known: .*seed"),
        ({"columns": "sed", "over": "sead"}, r"unknown column 'sed'.*; unknown column 'sead'"),
        ({"where": {"layr": 1}}, r"unknown column 'layr'. Did you mean 'layer'\?"),
        ({"by": "seed", "columns": "seed"}, "'seed' is named twice"),
        ({"by": "model.n_layer"}, "several numbers for one entry: name 'seed' in by, columns, over or where"),
        ({"by": "run", "where": {"predictor": "rigde"}}, r"unknown predictor 'rigde'. Did you mean 'ridge'\? Known"),
        (
            {"by": "run", "where": {"region": "undr"}},
            r"unknown region 'undr'. Did you mean 'under'\? Known: mean, under",
        ),
        ({"by": "run", "where": {"seed": 7}}, r"unknown seed '7'. Known: 0, 1, 2"),
        ({"quantity": "risk", "by": "layer"}, "'risk' has no layer here"),
        ({"quantity": "probe_r2"}, r"'probe_r2'.* is measured by layer alone; name 'layer' .*Known: 0, 1"),
        ({"quantity": "risk", "where": {"predictor": "ridge"}}, r"unknown predictor 'ridge'. Known: transformer"),
    ],
)
def test_what_cannot_be_picked_is_refused_in_a_line_that_names_it(given, told):
    with pytest.raises(ValueError, match=told) as refused:
        iclab.pick(excess(), given.pop("quantity", "excess"), **given)
    assert "\n" not in str(refused.value)


def test_of_a_table_without_results_nothing_is_known():
    with pytest.raises(ValueError, match=r"unknown quantity 'excess'. Known: none"):
        iclab.pick(frame(list(table_rows("bad", "diverged", "nan", [], (9, 1))), SETTINGS), "excess")


grids = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12, unique=True)


@given(grids, st.randoms(use_true_random=False))
def test_every_number_of_the_long_table_is_in_the_wide_one_at_its_place(cells, shuffle):
    rows = [(cell, {"value": float(i), "stderr": i / 8}) for i, cell in enumerate(cells)]
    shuffle.shuffle(rows)
    wide = iclab.pick(table(*rows), "excess", "seed", "model.n_layer")
    for i, (seed, depth) in enumerate(cells):
        assert (wide["value"].loc[seed, depth], wide["stderr"].loc[seed, depth]) == (i, i / 8)
    assert np.isfinite(wide["value"].to_numpy()).sum() == len(cells)
    assert list(wide.index) == sorted(wide.index) and list(wide["value"]) == sorted(wide["value"])
