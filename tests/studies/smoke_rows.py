"""Hashes of the rows of one tiny run of each study, to hold before and after a change of code side by side.

    python tests/studies/smoke_rows.py                 compare with tests/studies/smoke_rows.json
    python tests/studies/smoke_rows.py --write         keep what is measured now
    python tests/studies/smoke_rows.py induction …     of these studies alone

Rows are hashed to their last digit and in sorted order. The last digits depend on processor and library, so that this
is no test: both sides are measured on one machine.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from iclab.experiments.study import Study
from iclab.runs.store import Run
from iclab.runs.worker import DONE, work

TASKS = Path(__file__).parents[2] / "tasks"
KEPT = Path(__file__).with_suffix(".json")
BRIEF = {
    "train.steps": 4,
    "train.warmup": 0.0,
    "train.batch": 2,
    "train.prompts": 8,
    "eval.prompts": 24,
    "eval.every": 2,
    "eval.bootstrap": 5,
    "eval.surgery.steps": 2,
    "eval.probe.steps": 2,
}


def brief(path: Path) -> list[str]:
    """The settings of the command line for the smallest run of a task file."""
    first = Study.read(path).cells[0]
    if "train.sizes" in first.flat or first.settings["train"].get("kind") == "Unlearned":
        return ["scale=quick", "eval.prompts=16"]
    asked = first.flat["eval.analyses"]
    known = {*first.flat, "eval.every", *(["eval.probe.steps"] if "attention_probes" in asked else [])}
    known |= {"eval.surgery.steps"} if {"pasting", "stitching"} & {*asked} else set()
    return [f"{key}={value}" for key, value in BRIEF.items() if key in known]


def hashes(path: Path, folder: Path) -> dict[str, object]:
    """The id of the run, the number of its rows and their hash."""
    cell = Study.read(path, brief(path)).cells[0]
    run = Run(folder / cell.experiment.id)
    run.create(cell.settings)
    if work(run) != DONE:
        raise SystemExit(f"{path.stem}: {run.log.read_text()}")
    rows = sorted(json.dumps(row, sort_keys=True) for row in run.rows())
    return {"id": run.id, "rows": len(rows), "hash": hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]}


def main() -> int:
    """Measures, and keeps or compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--keep", type=Path, help="leave the runs in this folder")
    given = parser.parse_args()
    torch.set_num_threads(1)
    paths = [path for path in sorted(TASKS.glob("*.toml")) if not given.studies or path.stem in given.studies]
    before, found = json.loads(KEPT.read_text()) if KEPT.exists() else {}, {}
    with tempfile.TemporaryDirectory() as away:
        for path in paths:
            start = time.monotonic()
            found[path.stem] = hashes(path, (given.keep or Path(away)) / path.stem)
            same = found[path.stem] == before.get(path.stem)
            told = f"{found[path.stem]['rows']} rows, {time.monotonic() - start:.1f} s"
            print(f"{path.stem}: {'equal' if same else 'differs'} ({told})", flush=True)
    if given.write:
        KEPT.write_text(json.dumps(before | found, indent=1) + "\n")
    unequal = [name for name in found if found[name] != before.get(name)]
    print(f"{len(found) - len(unequal)} of {len(found)} studies equal")
    return 0 if given.write or not unequal else 1


if __name__ == "__main__":
    sys.exit(main())
