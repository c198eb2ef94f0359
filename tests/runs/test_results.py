"""Results that stay: what is kept of a sweep says what the sweep says, to its claims and to its pictures."""

import json

import pandas as pd
import pytest
from rich.console import Console

import iclab
from iclab.commands.sweep import verdict
from iclab.experiments.study import Study
from iclab.experiments.verdicts import judge
from iclab.runs import results
from iclab.runs.store import Run, Status
from tests.runs.test_sweep import STUDY

SEEDS = """
[sweep]
seed = [0, 1, 2]
"task.noise" = [0.5, 1.0]
[[claims]]
name = "It learns"
quantity = "excess"
predictor = "transformer"
at_most = 0.05
[[claims]]
name = "It learns at the little noise"
quantity = "excess"
predictor = "transformer"
at_most = 0.05
where = { "task.noise" = 0.5 }
"""


def rows(seed, noise):
    """Rows of a run as if it had been measured, more of them than anybody asks for."""
    own = {"distribution": "own", "layer": None, "position": None, "step": None}
    value = 0.01 + 0.001 * seed + 0.1 * (noise == 1) + 1e-9
    yield {**own, "predictor": "transformer", "quantity": "excess", "value": value, "stderr": 0.001234567}
    yield {**own, "predictor": "zero", "quantity": "risk", "value": 2.25, "stderr": float("nan")}
    yield {**own, "predictor": "zero", "quantity": "risk_ratio", "value": float("inf"), "stderr": 0.1}
    for position in range(3):
        for predictor in ("transformer", "ridge", "landweber"):
            for quantity in ("risk", "spd"):
                place = {"position": position, "predictor": predictor, "quantity": quantity}
                yield {**own, **place, "value": position + seed / 7, "stderr": 0.1}
    yield {**own, "layer": 1, "predictor": "ridge", "quantity": "fit_distance", "value": 0.3, "stderr": 0.1}


@pytest.fixture
def sweep(tmp_path):
    return swept(tmp_path / "study", STUDY.replace("[[claims]]", SEEDS + "\n[[claims]]", 1))


def swept(folder, text):
    """A folder of runs as a sweep of a task file leaves it."""
    folder.mkdir()
    (folder / "study.toml").write_text(text)
    for cell in Study.read(folder / "study.toml").cells:
        run = Run(folder / cell.experiment.id)
        run.create(cell.settings)
        kept = run.keep_rows(rows(cell.experiment.seed, cell.experiment.task.noise))
        run.record(Status(), state="done", seconds=2.5, **kept)
    return folder


def risks(table):
    """A picture: what it shows is the risks of two predictors by position."""
    own = table[(table["quantity"] == "risk") & table["predictor"].isin(["transformer", "ridge"])]
    return own[own["position"].notna()].groupby(["predictor", "position"])["value"].mean().to_dict()


def keep(sweep, *pictures):
    path = sweep.parent / "study.json"
    results.write(path, results.collect(sweep, "study", pictures))
    return path


def test_what_is_kept_is_judged_as_the_sweep_was(sweep):
    study, content = Study.read(sweep / "study.toml"), results.read(keep(sweep))
    told = [(one["outcome"], one["measured"]) for one in content["verdicts"]]
    assert [outcome for outcome, _ in told] == ["fails", "holds", "inconclusive"]
    for judged in (verdict(study, sweep, Console()), judge(study.heading.claims, results.cells(content))):
        assert [(one.outcome, one.measured) for one in judged] == told
    content["rows"][0]["runs"] = {run: [[9.0] * len(v), e] for run, (v, e) in content["rows"][0]["runs"].items()}
    changed = judge(study.heading.claims, results.cells(content))
    assert [one.outcome for one in changed] != [outcome for outcome, _ in told]


def test_a_picture_of_what_is_kept_is_that_of_the_sweep_and_nothing_else_is_kept(sweep):
    path = keep(sweep, risks)
    whole, kept = iclab.load(sweep), iclab.load(path)
    assert risks(kept) == pytest.approx(risks(whole), rel=1e-6) and len(risks(kept)) == 6
    assert set(kept["quantity"]) == {"excess", "risk"} and set(whole["quantity"]) > set(kept["quantity"])
    assert set(kept["predictor"]) == {"transformer", "ridge", "zero"}  # the last for a claim
    assert set(iclab.load(keep(sweep))["quantity"]) == {"excess", "risk"} and len(iclab.load(keep(sweep))) == 12


def test_a_table_of_what_is_kept_has_the_columns_of_the_sweep(sweep):
    whole, kept = iclab.load(sweep), iclab.load(keep(sweep, lambda table: len(table)))  # all rows are shown
    numbers = {"value": 1e-6, "stderr": 2e-2}
    assert list(kept.columns) == list(whole.columns) and list(kept.dtypes) == list(whole.dtypes)
    order = ["run", "quantity", "predictor", "layer", "position"]
    first, second = (table.sort_values(order, ignore_index=True) for table in (whole, kept))
    rest = [column for column in whole if column not in numbers]
    pd.testing.assert_frame_equal(first[rest], second[rest])
    for column, tolerance in numbers.items():
        pd.testing.assert_series_equal(first[column], second[column], rtol=tolerance)


def test_a_claim_about_a_setting_that_only_some_runs_have_is_judged(tmp_path):
    free = '[[claims]]\nname = "Free"\nquantity = "excess"\npredictor = "transformer"\nat_least = 0.0\n'
    text = STUDY.replace("[[claims]]", '[sweep]\nseed = [0, 1, 2]\n"train.loss" = ["squared", "by_labels"]\n[[claims]]')
    folder = swept(tmp_path / "study", f'{text}\n{free}where = {{ "train.loss" = "none" }}\n')
    (free,) = (one for one in results.read(keep(folder))["verdicts"] if one["claim"] == "Free")
    assert free["outcome"] == "holds" and len(free["cells"]) == 3
    again = judge(Study.read(folder / "study.toml").heading.claims, results.cells(results.read(keep(folder))))
    assert [one.outcome for one in again if one.claim.name == "Free"] == ["holds"]


def test_a_run_without_results_stays_one(sweep):
    run = Run(sorted(path for path in sweep.iterdir() if path.is_dir())[0])
    run.record(run.recorded(), state="diverged", error="the loss is nan")
    content = results.read(keep(sweep))
    assert sorted(one["state"] for one in content["runs"]) == ["diverged", *["done"] * 5]
    assert "not measured" in {one["outcome"] for one in content["verdicts"]}
    table = iclab.load(keep(sweep))
    assert list(table.loc[table["state"] == "diverged", "error"]) == ["the loss is nan"]


def test_it_is_a_line_for_each_run_and_verdict_without_what_is_no_number(sweep):
    path = keep(sweep, risks)
    text = path.read_text()
    assert sum(line.startswith('{"run":') for line in text.splitlines()) == 6
    assert sum(line.startswith('{"claim":') for line in text.splitlines()) == 3
    json.loads(text, parse_constant=lambda word: pytest.fail(word))


def test_an_infinite_value_is_kept(sweep):
    table = iclab.load(keep(sweep, lambda table: len(table)))
    assert set(table.loc[table["quantity"] == "risk_ratio", "value"]) == {float("inf")}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("rows"),
        lambda content: content.update(verdicts=[{"claim": 3}]),
        lambda content: content["rows"][0]["keys"].pop(),
        lambda content: content["runs"].pop(),
        lambda content: content.update(rows=[3]),
    ],
)
def test_what_is_no_result_is_refused_in_a_line(sweep, damage):
    path = keep(sweep)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"study\.json: it holds no results of a study"):
        iclab.load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        iclab.load(tmp_path / "study.json")


def test_a_position_that_is_no_whole_number_stays_what_it_is(tmp_path):
    about = '[[claims]]\nquantity = "risk"\npredictor = "zero"\nat_least = 0.0\n'
    places = {"half": "0.5", "two": "2", "under": '"under"'}
    claims = "".join(f'{about}name = "{name}"\nwhere = {{ position = {at} }}\n' for name, at in places.items())
    folder = swept(tmp_path / "study", STUDY.replace("[[claims]]", f"{claims}[[claims]]", 1))
    (run,) = (Run(path) for path in folder.iterdir() if path.is_dir())
    place = {
        "distribution": "own",
        "layer": None,
        "step": None,
        "predictor": "zero",
        "quantity": "risk",
        "stderr": None,
    }
    kept = run.keep_rows([{**place, "position": at, "value": 1.0} for at in (0.5, 2, "under", None, 0)])
    run.record(run.recorded(), **kept)
    content = results.read(keep(folder))
    assert [key[4] for block in content["rows"] for key in block["keys"]] == [0.5, 2, "under", "mean"]
    table = iclab.load(keep(folder))
    assert table["position"].dropna().tolist() == [0.5, 2.0] and table["region"].dropna().tolist() == ["under", "mean"]
