"""Studies by name: listed, swept from any folder, and there where the package is installed from a wheel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import iclab
from iclab import cli, shipped
from iclab.commands import tasks
from iclab.errors import UsageError
from iclab.experiments.study import Outline, Study
from tests.studies.wheel import unpack


def call(capsys, *words):
    return cli.main(words), *capsys.readouterr()


def test_each_study_is_listed_with_its_runs_and_seeds(capsys):
    code, output, _ = call(capsys, "tasks")
    assert code == 0 and all(f"| {name} " in output for name in shipped.studies())


@pytest.mark.parametrize("name", ["linear_regression", "lu2024_samples", "random_feature_heads", "garg2022_shifts"])
def test_an_outline_counts_the_cells_of_the_study(name):
    path = shipped.studies()[name]
    outline, study = Outline.read(path), Study.read(path)
    assert (outline.heading, outline.cells) == (study.heading, len(study.cells))
    assert outline.seeds == len({cell.experiment.seed for cell in study.cells})


def test_words_must_all_be_there(capsys):
    _, output, _ = call(capsys, "tasks", "FU", "staircase")
    assert "random_feature_staircase" in output and "fu2023_newton" not in output
    code, _, error = call(capsys, "tasks", "staircase", "Newton")
    assert code == 2 and error == "iclab: no study has 'staircase Newton' in its name, title, question or paper; " + (
        "`iclab tasks` lists all\n"
    )


def test_minutes_are_those_of_the_kept_results(monkeypatch):
    runs = {"a": [{"seconds": 61.0}, {"seconds": 60.0}], "b": []}
    monkeypatch.setattr(tasks, "kept_results", lambda: {name: Path(name) for name in runs})
    monkeypatch.setattr(tasks, "read", lambda path: {"runs": runs[path.name]})
    assert [tasks._minutes(name) for name in ("a", "b", "never run")] == [3, None, None]


def test_a_study_is_swept_by_name_from_an_empty_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, output, _ = call(capsys, "sweep", "linear_regression", "--dry-run", "seed=0")
    assert code == 0 and "Linear regression" in output and "runs/linear_regression" in output
    assert call(capsys, "quantities", "linear_regression", "excess")[0] == 0


def test_a_file_of_the_user_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, there = Path("linear_regression.toml"), shipped.studies()["linear_regression"]
    assert shipped.task_file(own) == there == shipped.task_file(Path("linear_regression"))
    own.write_text("")
    assert shipped.task_file(own) == own
    Path("linear_regression").mkdir()  # such as a folder of runs
    assert shipped.task_file(Path("linear_regression")) == there


def test_an_unknown_name_is_refused_with_the_nearest_and_a_path_is_not_looked_for():
    with pytest.raises(UsageError, match=r"unknown study 'induktion'\. Did you mean 'induction'\? Known: .* more;"):
        shipped.task_file(Path("induktion"))
    assert shipped.task_file(Path("tasks/induktion.toml")) == Path("tasks/induktion.toml")


WHEEL = """
import sys
import iclab
from pathlib import Path
from iclab import shipped
assert Path(iclab.__file__).is_relative_to(sys.argv[1]), iclab.__file__
assert {path.parent for path in shipped.studies().values()} == {shipped.HERE / "tasks"}
assert shipped.kept_results() and list(shipped.folder("paper_figs").glob("*.py"))
from iclab.experiments.study import Study, given_study
assert given_study("recall").is_relative_to(sys.argv[1])
from iclab.cli import main
sys.exit(main(["sweep", "linear_regression", "--dry-run"]))
"""


def test_a_wheel_has_what_the_commands_name(tmp_path):
    site = tmp_path / "site"
    unpack(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", WHEEL, str(site)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "runs/linear_regression" in done.stdout, done.stdout + done.stderr
    assert (site / "iclab" / "py.typed").is_file()


def test_the_module_is_the_command(capsys):
    assert call(capsys, "--version") == (0, f"iclab {iclab.__version__}\n", "")
    done = subprocess.run([sys.executable, "-m", "iclab", "--version"], capture_output=True, text=True)
    assert done.stdout == f"iclab {iclab.__version__}\n"


def test_shells_complete_the_commands(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--tyro-print-completion", "bash"])
    assert "complete -F _tyro_iclab iclab" in capsys.readouterr().out


def test_the_public_names_are_listed():
    assert set(dir(iclab)) == set(iclab.__all__) and all(hasattr(iclab, name) for name in dir(iclab))
