"""Constructions in three precisions: the errors are those of the arithmetic, and what makes no sense says so."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from iclab.commands import precision
from iclab.constructed import Construction, Start
from iclab.constructed.start import Akyurek2022Descent, Akyurek2022Ridge, VonOswald2022
from iclab.constructed.start import shape as shape_of
from iclab.experiments.config import kinds
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.training import TrainingConfig
from iclab.measures import Workspace
from iclab.tasks import LinearRegression, Uniform
from tests.commands.test_cli import call
from tests.conftest import analysed

FIGURE = Path(__file__).parents[2] / "paper_figs" / "precision.py"
LADDERS = [replace(ladder, sizes=ladder.sizes[:2]) for ladder in precision.LADDERS]
EPS = {name: torch.finfo(dtype).eps for name, dtype in precision.DTYPES.items()}


@pytest.fixture(scope="module")
def rows():
    return [row for ladder in LADDERS for row in ladder.rows()]


def test_every_construction_is_measured():
    made = {type(ladder.made(ladder.sizes[0])[0]) for ladder in LADDERS}
    assert made == set(kinds(Construction).values())


def test_exact_constructions_err_by_rounding_and_approximate_ones_by_more(rows):
    for row in rows:
        if row["error"] is not None:
            exact = "Akyürek" not in row["construction"]
            assert EPS[row["dtype"]] / 100 < row["error"] < (10 * EPS[row["dtype"]] if exact else 1e-2)
            assert exact or row["error"] > 50 * EPS[row["dtype"]]


def test_a_precision_that_makes_no_sense_is_refused_with_the_reason(rows):
    refused = [row for row in rows if row["error"] is None]
    assert {row["construction"].split(" (")[1] for row in refused} == {"Akyürek et al. 2022)"}
    assert {row["dtype"] for row in refused} == {"bfloat16"}
    assert all("errors could reach" in row["note"] for row in refused)
    assert all(row["note"] == "" for row in rows if row["error"] is not None)


def test_another_algorithm_has_an_error_in_every_precision():
    """The measure can fail: the construction of one step size beside the algorithm of another."""
    (ladder,) = [each for each in LADDERS if each.key == "layers"]
    for size in ladder.sizes:
        one, _, n = ladder.made(size)
        algorithm = replace(one, lr=1.1 * one.lr).algorithm(n)
        assert all(row["error"] > 0.05 for row in replace(ladder, sizes=[size], algorithm=algorithm).rows())


def started(construction, d, n, **settings):
    """An experiment that measures the construction and trains nothing."""
    evaluation = Evaluation(prompts=64, bootstrap=2, analyses=("precision",), **settings)
    task = LinearRegression(d, n, noise=0.1, inputs=Uniform())
    shape = shape_of(construction, d, n)
    return Experiment(
        task, shape, TrainingConfig(steps=0), evaluation, start=Start(construction=construction), device="cpu"
    )


def test_an_experiment_that_starts_from_a_construction_measures_the_same(rows):
    for ladder in LADDERS:
        construction, d, n = ladder.made(ladder.sizes[-1])
        experiment, told = started(construction, d, n), []
        found = analysed(experiment, experiment.initial(), "precision", workspace=Workspace(log=told.append))
        before = {row["dtype"]: row for row in rows if (row["construction"], row["key"]) == (ladder.name, ladder.key)}
        assert {row["predictor"] for row in found} == {name for name, row in before.items() if row["error"] is not None}
        assert len(told) == len(precision.DTYPES) - len(found) and all("is refused" in line for line in told)
        for row in found:
            assert 0.1 < row["value"] / before[row["predictor"]]["error"] < 10


def test_constructions_of_other_settings_compute_their_algorithms():
    others = [
        VonOswald2022(steps=2, lr=0.05, gamma=0.01),
        Akyurek2022Descent(lr=0.1, lam=0.3, largest_x=1.0, largest_y=6.0),
        Akyurek2022Ridge(lam=2.0, largest_x=1.0, largest_y=6.0),
    ]
    for construction in others:
        experiment = started(construction, 2, 5)
        (row, *_) = analysed(experiment, experiment.initial(), "precision")
        assert row["predictor"] == "float64" and row["value"] < 1e-6


def test_the_analysis_needs_a_construction_to_start_from():
    with pytest.raises(ValueError, match=r"'precision' needs start\.construction"):
        Experiment(LinearRegression(2, 5), eval=Evaluation(analyses=("precision",)))


def test_the_command_prints_a_table_and_writes_what_the_figure_reads(capsys, tmp_path, monkeypatch):
    least = [replace(ladder, sizes=ladder.sizes[:1]) for ladder in LADDERS]
    monkeypatch.setattr(precision, "LADDERS", least)
    code, out, err = call(capsys, "precision", "--out", str(tmp_path / "table"))
    assert code == 0, err
    assert "bfloat16" in out and "refused" in out and "von Oswald" in out
    written = json.loads((tmp_path / "table" / "precision.json").read_text())
    assert len(written) == 3 * len(least)
    picture = tmp_path / "picture.png"
    monkeypatch.setattr(sys, "argv", [str(FIGURE), str(tmp_path / "table"), str(picture)])
    try:
        runpy.run_path(str(FIGURE), run_name="__main__")
    finally:
        plt.close("all")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_figure_has_a_line_for_each_precision_that_is_not_refused(rows):
    figure = runpy.run_path(str(FIGURE))["draw"](pd.DataFrame(rows))
    try:
        panels = [axes for axes in figure.axes if axes.get_lines()]
        assert len(panels) == len(LADDERS)
        for axes, ladder in zip(panels, LADDERS, strict=True):
            approximate = "Akyürek" in ladder.name
            assert len(axes.get_lines()) == (2 if approximate else 3)
            assert bool(axes.texts) == approximate
    finally:
        plt.close(figure)


def test_a_figure_of_no_table_is_refused(tmp_path):
    done = subprocess.run([sys.executable, FIGURE, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "`iclab precision" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
