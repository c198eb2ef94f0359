"""What an engine says of its workplace."""

from unittest.mock import create_autospec

from iclab.commands.progress import Plain
from iclab.commands.sweep import longest_first
from iclab.experiments.study import Study
from iclab.runs import engine
from iclab.runs.engine import Engine
from iclab.runs.engines.local import Processes
from iclab.runs.store import Run
from iclab.shipped import studies


def test_what_is_lacking_is_said_once_and_again_after_it_was_there(monkeypatch):
    monkeypatch.setattr(engine, "PAUSE", 0.0)
    display, workplace = create_autospec(Plain), create_autospec(Processes)
    workplace.lacks.side_effect = ["", "no worker", "no worker", "", "no worker"]
    made, said = Engine([], workplace, display), []
    for _ in range(5):
        made._look()
        said.append(display.note.call_count)
    assert said == [0, 1, 1, 1, 2]
    display.note.assert_called_with("no worker")


# ---- the order ------------------------------------------------------------------------------------------------------

TABLE = """title = "A study for tests"
question = "Which begins?"
paper = "none"
[task]
kind = "LinearRegression"
d = 2
n = 3
[sweep]
model.n_layer = [1, 4]
train.steps = [10, 20]
seed = [0, 1]
"""


def test_what_takes_long_is_begun_first_and_else_the_order_of_the_file_stands(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(TABLE)
    study = Study.read(path)
    cells = {cell.experiment.id: cell.experiment for cell in study.cells}
    order = [cells[run.id] for run in longest_first([Run(tmp_path / id) for id in cells], study)]
    assert [(one.model.n_layer, one.train.steps, one.seed) for one in order] == [
        (layers, steps, seed) for layers, steps in ((4, 20), (4, 10), (1, 20), (1, 10)) for seed in (0, 1)
    ]


def test_learners_of_which_that_is_not_known_keep_the_order_of_the_file(tmp_path):
    study = Study.read(studies()["random_feature_heads"])
    runs = [Run(tmp_path / cell.experiment.id) for cell in study.cells]
    assert longest_first(runs, study) == runs
