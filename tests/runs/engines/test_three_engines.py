"""One sweep of forty runs by each engine: the same rows, curves and weights, to the bit."""

import pytest

from iclab.runs.store import runs
from tests.runs.engines.begun import begin
from tests.runs.test_sweep import assert_the_same

GRID = ("train.steps=20", "seed=0:8", "train.lr=1e-3,2e-3,5e-3,1e-2,2e-2")
ENGINES = {
    "local": ("--jobs", "2"),
    "dask": ("--engine", "dask", "--jobs", "2"),
    "slurm": ("--engine", "slurm", "--option", "time=20", "--chunk", "10"),
}


@pytest.mark.slurm
@pytest.mark.usefixtures("at_hand")
def test_a_sweep_of_forty_runs_by_three_engines(study, tmp_path):
    pytest.importorskip("distributed")
    found = {}
    for name, words in ENGINES.items():
        path = tmp_path / name / study.name
        path.parent.mkdir()
        path.write_bytes(study.read_bytes())
        sweep = begin(path, *GRID, *words)
        assert sweep.wait(1800) == 0, sweep.told()
        found[name] = {run.id: run for run in runs(path.parent / "store")}
    assert [len(each) for each in found.values()] == [40, 40, 40]
    for id, run in found["local"].items():
        assert run.checked().state == "done"
        for name in ("dask", "slurm"):
            assert_the_same(found[name][id], run)
            assert (found[name][id].folder / "results.jsonl").read_bytes() == (
                run.folder / "results.jsonl"
            ).read_bytes()
