"""`iclab identify`: models of other people, from their files to the algorithm that they are nearest to."""

import pytest
import torch

from iclab.commands import terminal
from iclab.commands.identify import Checkpoint, study_of
from iclab.commands.sweep import prepare
from iclab.errors import UsageError
from iclab.experiments.findings import Findings
from iclab.runs import worker
from tests.commands.test_cli import call
from tests.models.test_formats import CODE, ORIGINALS
from tests.models.test_given import CODE as GIVEN

QUICK = ("eval.prompts=64", "eval.bootstrap=5")


def made(name, folder):
    """The checkpoint of another code, as a place to identify."""
    place, _, _ = ORIGINALS[name](folder / "model")
    return Checkpoint(place)


@pytest.mark.parametrize(
    ("name", "task"), [("Garg", (4, 5, 0.25, 0.5)), ("Bai", (4, 5, 0.25, 0.5)), ("Raventós", (3, 5, 0.5, 1.0))]
)
def test_files_tell_what_the_model_was_trained_on_and_its_layers_are_read(name, task, tmp_path):
    (cell,) = study_of(made(name, tmp_path), QUICK).cells
    found = cell.experiment
    assert (found.task.d, found.task.n, found.task.noise, found.task.prior) == task
    assert found.eval.analyses == ("layers", "probes") and not found.model.trainable


def test_settings_that_are_given_stand_before_those_of_the_files(tmp_path):
    cells = study_of(
        made("Garg", tmp_path), (*QUICK, "task.noise=0.5,1.0", "task.n=6", 'eval.analyses=["layers"]')
    ).cells
    assert [cell.experiment.task.noise for cell in cells] == [0.5, 1.0]
    assert {(cell.experiment.task.n, cell.experiment.eval.analyses) for cell in cells} == {(6, ("layers",))}


def test_ridge_that_somebody_else_wrote_is_found_to_be_ridge(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_ridge.py").write_text(GIVEN)
    study = study_of(Checkpoint(None, "their_ridge:ridge"), ("task.d=2", "task.n=7", "task.noise=0.3", *QUICK))
    (run,) = prepare(study, tmp_path / "store", terminal.console())
    assert worker.work(run) == worker.DONE, run.log.read_text()
    assert "output: ridge (λ ≈ 0.25" in " ".join(Findings(run.rows()).sentences())


@pytest.mark.slow
def test_the_command_prints_the_report_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_code.py").write_text(GIVEN)
    words = ["--module", "their_code:ridge", "task.d=2", "task.n=7", "task.noise=0.3", *QUICK, "--figure", "near.png"]
    status, out, err = call(capsys, "identify", *words)
    assert status == 0, err
    assert "output: ridge (λ ≈ 0.25" in out and "nearest_neighbours" in out
    assert (tmp_path / "near.png").stat().st_size > 1000


def test_layers_of_a_module_and_weights_from_a_file_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_layers.py").write_text(GIVEN)
    spaces: dict = {}
    exec(GIVEN, spaces)
    torch.save(spaces["Running"]().state_dict(), "w.pt")
    checkpoint = Checkpoint(tmp_path / "w.pt", "their_layers:Running", ("one", "two"))
    (cell,) = study_of(checkpoint, (*QUICK, "task.d=2", "task.n=5")).cells
    assert cell.experiment.model.layered and cell.experiment.model.digest
    assert cell.experiment.eval.analyses == ("layers", "probes")
    (bare,) = study_of(Checkpoint(None, "their_layers:Running"), (*QUICK, "task.d=2", "task.n=5")).cells
    assert bare.experiment.eval.analyses == ()


def test_a_format_of_ones_own_is_opened_and_its_text_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_format.py").write_text(CODE)
    (tmp_path / "a.digits").write_text("0.5")
    (cell,) = study_of(
        Checkpoint(tmp_path / "a.digits", imports=("their_format.py",)), (*QUICK, "task.d=2", "task.n=5")
    ).cells
    assert [each.name for each in cell.experiment.imports] == ["their_format.py"]
    assert cell.experiment.model.start().slope.item() == 0.5
    study_of(made("Garg", tmp_path), QUICK)  # a study that does not name the file: the format is none again
    with pytest.raises(UsageError, match="no format of models that is known"):
        study_of(Checkpoint(tmp_path / "a.digits"), QUICK)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "there is no "),
        ([], "give a CHECKPOINT, or --module package.module:make"),
        (["a", "b"], "takes one CHECKPOINT, given a, b"),
        (["--module", "json:loads", "task.d=2", "task.n=5"], "loads() missing 1 required"),
    ],
)
def test_what_cannot_be_identified_is_told_in_one_line(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(capsys, "identify", *words)
    assert status == 2 and told in err + out


def test_a_model_over_tokens_is_sent_to_other_commands(tmp_path):
    with pytest.raises(UsageError, match="see `iclab recall` and `iclab channels`"):
        study_of(made("Lens, attention alone", tmp_path), QUICK)
