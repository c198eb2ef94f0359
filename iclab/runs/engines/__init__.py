"""Where the workers of a sweep work:

    local    processes of this machine, one for each core or GPU
    dask     a Dask cluster, of this machine, at an address, or one that dask-jobqueue starts; no common disk is needed
    slurm    job arrays of a Slurm cluster with shared files; the sweep can be left alone

Each is a `Workplace` of `iclab.runs.engine`. The store stays the truth: whichever engine works, a run is a folder with
a lock, a checkpoint and a status, and ends with the same numbers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from iclab.errors import UsageError, refuse, unknown

Name = Literal["local", "dask", "slurm"]


@dataclass(frozen=True)
class Site:
    """Where a sweep works, as the command line says it. Raises ``ValueError`` for options that do not belong together.

    `jobs` bounds the workers at a time; `address` is that of a Dask scheduler; `cluster` a class of dask-jobqueue, such
    as PBS; `options` are those of that class or of sbatch, as KEY=VALUE; `chunk` is the runs of a task of a Slurm
    array; with `detach` the sweep ends once everything is handed in; `pack` says which runs train together
    (`iclab.runs.packing`).
    """

    engine: str = "local"
    jobs: int | None = None
    address: str | None = None
    cluster: str | None = None
    options: tuple[str, ...] = ()
    chunk: int | None = None
    detach: bool = False
    pack: str = "auto"

    def __post_init__(self) -> None:
        from iclab.runs.packing import problems as problems_of

        names = get_args(Name)
        problems = [] if self.engine in names else [unknown("engine", self.engine, names)]
        problems += problems_of(self.pack)
        least = {"--jobs": self.jobs, "--chunk": self.chunk}
        problems += [
            f"{key} must be at least 1, given {value}"
            for key, value in least.items()
            if value is not None and value < 1
        ]
        needs = {
            "--address": (self.address, "dask"),
            "--cluster": (self.cluster, "dask"),
            "--option": (self.options, "dask" if self.cluster else "slurm"),
            "--chunk": (self.chunk, "slurm"),
            "--detach": (self.detach, "slurm"),
        }
        for key, (value, engine) in needs.items():
            if value and self.engine in names and self.engine != engine:
                problems.append(f"{key} is for --engine {engine}, given --engine {self.engine}")
        if self.address and self.cluster:
            problems.append("--address names a cluster that is there, --cluster one to start: give one of them")
        refuse("sweep", problems)
        if self.engine == "slurm":
            from iclab.runs.engines.slurm import options

            options(self.options)


HERE = Site()


def dask_engine() -> Any:
    """Returns the module of the Dask engine. Raises ``ValueError`` where its packages are not installed."""
    try:
        from iclab.runs.engines import dask
    except ModuleNotFoundError as error:
        raise UsageError(f"--engine dask needs the package {error.name}: pip install 'iclab[dask]'") from None
    return dask


@contextmanager
def opened(place: Site, folder: Path, devices: Sequence[str]) -> Iterator[Any]:
    """Yields the workplace for runs in a folder on such devices (as `device` of an experiment names them). Raises
    ``ValueError`` where it cannot be had."""
    from iclab.runs.engines.local import Processes, slots
    from iclab.runs.environment import usable_cores

    if place.engine == "slurm":
        from iclab.runs.engines import slurm

        yield slurm.Slurm(folder, slurm.options(place.options), place.chunk, place.jobs)
    elif place.engine == "dask":
        with dask_engine().opened(place, slots(place.jobs, devices, usable_cores())) as workplace:
            yield workplace
    else:
        yield Processes(slots(place.jobs, devices, usable_cores()))
