"""What the workers of an engine find where they work, side by side with this machine."""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from iclab.commands import terminal
from iclab.errors import UsageError
from iclab.runs.engines import Site, dask_engine, slurm
from iclab.runs.engines.local import slots
from iclab.runs.engines.places import differing, place, versions
from iclab.runs.environment import checks, usable_cores

NODES = 2  # between which the lock is tried
WAIT = 600.0  # seconds for which a queue may let a worker wait
COLUMNS = ("worker", "host", "iclab", "its source", "torch", "python", "devices", "cores")

Answers = Mapping[str, Mapping[str, Any]]


def doctor(where: Site, folder: Path, to: Console) -> bool:
    """Prints what is found on this machine or, for another engine, at each of its workers; returns whether runs can be
    trusted to it. Raises ``ValueError`` where it cannot be reached."""
    if where.engine == "local":
        to.print(terminal.table("iclab on this machine", ["what", "found"], checks(folder), to))
        return True
    answers = _at_nodes(where, folder) if where.engine == "slurm" else _at_workers(where)
    listed = {"this machine": place(), **answers}
    columns = [*COLUMNS, *(["lock"] if where.engine == "slurm" else [])]
    rows = [[name, *(_shown(told.get(column, "")) for column in columns[1:])] for name, told in listed.items()]
    to.print(terminal.table(f"workers of --engine {where.engine}", columns, rows, to))
    problems = [*others(answers), *(lock_problems(answers) if where.engine == "slurm" else [])]
    for line in problems or ["all agree"]:
        to.print(Text(line), soft_wrap=True)
    return not problems


def _shown(value: Any) -> str:
    return {True: "got it", False: "did not get it"}.get(value, "") if isinstance(value, bool) else str(value)


def others(answers: Answers) -> list[str]:
    """Returns a line for each worker whose numbers could be others."""
    here = versions()
    unlike = {name: differing(here, {key: one[key] for key in here}) for name, one in answers.items()}
    return [f"{name} is of another version: {what}; install the same there" for name, what in unlike.items() if what]


def lock_problems(answers: Answers) -> list[str]:
    """Returns what is wrong with the locks of the disk: of all workers that ask at the same time one must get it."""
    errors = [f"{name}: {told['lock']}" for name, told in answers.items() if isinstance(told["lock"], str)]
    got = [name for name, told in answers.items() if told["lock"] is True]
    remedy = "mount Lustre with -o flock (not localflock), NFS as version 4, or choose a folder elsewhere with --out"
    if errors:
        return [f"no locks between nodes: {'; '.join(errors)}; {remedy}"]
    if len(got) != 1:
        whose = "no worker got the lock" if not got else f"{' and '.join(got)} got the lock of one file at once"
        return [f"{whose}, so that a run could be worked on twice: {remedy}"]
    return []


def _at_workers(where: Site) -> Answers:
    """What each worker of a Dask cluster tells."""
    dask = dask_engine()
    with dask.connected(where, slots(where.jobs, ["auto"], usable_cores())) as client:
        try:
            client.submit(place, pure=False).result(timeout=WAIT if where.cluster else 30.0)
        except TimeoutError:
            raise UsageError("--engine dask: no worker has come") from None
        except (ImportError, AttributeError):
            pass  # which `asked` reports for each worker
        return dask.asked(client, place)


def _at_nodes(where: Site, folder: Path) -> Answers:
    """What a task on each of a few nodes of a Slurm tells, that ask for one lock in the folder at the same time."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    given = {"nodes": str(NODES), "ntasks": str(NODES), **slurm.options(where.options)}
    named = [f"--{key}={value}" if value else f"--{key}" for key, value in given.items()]
    with tempfile.TemporaryDirectory(prefix=".iclab_doctor_", dir=nearest) as shared:
        work = [sys.executable, "-m", "iclab.runs.engines.places", shared, given["ntasks"]]
        output = slurm.call("srun", "--label", *named, *work)
    return dict(answers(output.splitlines()))


def answers(lines: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns what tasks told in lines such as `0: {...}`; other lines are passed over."""
    pairs = [line.partition(":") for line in lines]
    return {f"task {task.strip()}": json.loads(text) for task, _, text in pairs if text.strip().startswith("{")}
