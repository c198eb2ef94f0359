"""A study of two runs, and what it measures where nothing disturbs it."""

import pytest
import torch

from iclab.runs.store import runs
from tests.conftest import unchecked
from tests.runs.engines.begun import STUDY_TIME, finished
from tests.runs.test_sweep import STUDY, assert_the_same


@pytest.fixture
def study(tmp_path):
    """In a folder whose name needs quotes and more than ASCII."""
    path = tmp_path / "Übung für 100%" / "study_file.toml"
    path.parent.mkdir()
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The runs of seeds 0 to 3, made on this machine."""
    path = tmp_path_factory.mktemp("undisturbed") / "study_file.toml"
    path.write_text(STUDY)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # loaded here, and not in every fork
    with unchecked():
        code, output = finished(path, *STUDY_TIME, "seed=0:4")
    assert code == 0, output
    return {run.id: run for run in runs(path.parent / "store")}


@pytest.fixture
def same(undisturbed):
    """Holds all runs of a store to what they measure when nothing disturbs them."""

    def check(store, count):
        found = runs(store)
        assert len(found) == count
        for run in found:
            assert run.checked().state == "done", run.checked()
            assert_the_same(run, undisturbed[run.id])

    return check
