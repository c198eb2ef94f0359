"""The examples of docs/extending.md, run as they are printed, by a package that is not this folder.

What stands first on the path is a copy of all files that the wheel holds, in a folder of its own; metadata are those of
the installed package.
At once every task file is read, its code is tried, one study runs and theorems are verified; what is left is slow.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.studies.wheel import unpack

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCK = re.compile(r"```(?:python|toml)\n# (\S+\.(?:py|toml))\n(.*?)```", re.DOTALL)
TINY = ["train.steps=2", "train.batch=4", "eval.prompts=32", "eval.bootstrap=5"]
SCRIPT = """
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

import iclab
from iclab.cli import main
from iclab.commands import terminal
from iclab.runs import worker
from iclab.runs.results import load
from iclab.runs.store import runs
from iclab.tasks import LinearRegression
from iclab.experiments.study import Study
from iclab.commands.sweep import prepare

assert Path(iclab.__file__).is_relative_to(sys.argv[1]), iclab.__file__
tiny = sys.argv[2:]
for file in ("waves", "smoother", "recurrent", "entropy"):
    assert main(["sweep", f"{file}.toml", "--dry-run", *tiny]) == 0, file
def work(file):
    study = Study.read(Path(f"{file}.toml"), tiny)
    for run in prepare(study, Path("runs") / file, terminal.console()):
        assert worker.work(run) == 0, run.log.read_text()
work("smoother")
assert "smoother" in set(load("runs/smoother").predictor)
assert main(["verify", "my_theorems.py"]) == 0
import my_format
Path("weights.gamma").write_text("0.5 0\\n0 0.5\\n")
ones = torch.ones(1, 3, 2)
assert iclab.load_model("weights.gamma")(ones, ones[..., 0]).tolist() == [[0.0, 1.0, 2.0]]
"""
REST = """
assert main(["sweep", "waves.toml", *tiny, "task.frequency=1.0", "--jobs", "1"]) == 0  # with a worker of its own
work("recurrent")
work("entropy")
probes = load("runs/recurrent").query("quantity == 'probe_r2' and predictor == 'moment' and region == 'mean'")
layers = probes.groupby("model.kind").layer.apply(sorted).to_dict()
assert layers == {"GRUConfig": [0, 1, 2], "StateSpaceConfig": [0, 1]}, layers
for run in runs(Path("runs/recurrent")):
    model, prompts = iclab.load_model(run.folder), LinearRegression(d=3, n=11, noise=0.5).sample(2, torch.Generator())
    trained = load_file(run.folder / "weights.safetensors")
    assert type(model).__module__ in ("my_models", "my_state_space")
    assert all(torch.equal(trained[name], value) for name, value in model.state_dict().items())
    assert model(prompts.xs, prompts.ys).shape == (2, 11)
study = Study.read(Path("given.toml"), [word for word in tiny if not word.startswith("train.")])
for run in prepare(study, Path("runs") / "given", terminal.console()):
    assert worker.work(run) == 0, run.log.read_text()
assert "probe_r2_untrained" in set(load("runs/given").quantity)
entropies = load("runs/entropy").query("quantity == 'attention_entropy'")
assert len(entropies) == 2 and (entropies.value > 0).all()
assert main(["falsify", "my_theorems.py:ridge_shrinks_printed", "--examples", "50"]) == 0
"""
END = """
print("all examples ran")
"""


@pytest.fixture(scope="module")
def examples():
    return dict(BLOCK.findall(PAGE))


def test_every_example_fits_on_a_page(examples):
    assert {name.rpartition(".")[2] for name in examples} == {"py", "toml"}
    lines = {name: sum(bool(line.strip()) for line in text.splitlines()) for name, text in examples.items()}
    long = {name: count for name, count in lines.items() if count > 30}
    assert not long


@pytest.mark.parametrize("rest", [pytest.param("", id="first"), pytest.param(REST, id="all", marks=pytest.mark.slow)])
def test_the_examples_run_outside_of_the_package(examples, tmp_path, rest):
    site, work = tmp_path / "site", tmp_path / "work"
    unpack(site)
    work.mkdir()
    for name, text in examples.items():
        (work / name).write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", SCRIPT + rest + END, str(site), *TINY]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert "all examples ran" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
