"""What a worker reports of the place where it works; what must be the same there for numbers to be the same.

    python -m iclab.runs.engines.places [FOLDER COUNT]

prints it as a line of JSON. With a folder it also says whether it got the lock of a file there that as many processes,
on other machines, ask for at the same time.
"""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

import iclab
from iclab.runs.environment import usable_cores
from iclab.runs.store import Run

TOGETHER = 30.0  # seconds in which all who ask for a lock must have come

Versions = dict[str, str]


@cache
def versions() -> Versions:
    """Returns what must be the same for numbers to be the same: PyTorch, iclab, and the text of its modules."""
    found = hashlib.sha256()
    for path in sorted(Path(iclab.__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return {"iclab": iclab.__version__, "its source": found.hexdigest()[:12], "torch": torch.__version__}


def differing(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Returns in what two places differ, in words; nothing where they do not."""
    return ", ".join(f"{name} {there[name]} there and {here[name]} here" for name in here if here[name] != there[name])


def place() -> dict[str, Any]:
    """Returns what is to be known of the place of this process."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "host": platform.node(),
        **versions(),
        "python": platform.python_version(),
        "devices": ", ".join(gpus) or "cpu",
        "cores": usable_cores(),
    }


def got_lock(folder: Path, count: int) -> bool:
    """Asks for the lock of a file and keeps it until so many have asked; returns whether this process got it. Raises
    ``OSError`` where the disk has no locks, and ``TimeoutError`` where the others do not come."""
    with Run(folder).hold() as mine:
        (folder / f"{platform.node()}_{os.environ.get('SLURM_PROCID', '')}_{os.getpid()}.asked").touch()
        end = time.monotonic() + TOGETHER
        while len([name for name in os.listdir(folder) if name.endswith(".asked")]) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{count} processes should use {folder}, and fewer do: is it there on all machines?")
            time.sleep(0.05)
    return mine


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the place; returns the exit status."""
    answer, given = place(), sys.argv[1:] if arguments is None else arguments
    if given:
        folder, count = given
        try:
            answer["lock"] = got_lock(Path(folder), int(count))
        except OSError as error:
            answer["lock"] = str(error)
    print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
