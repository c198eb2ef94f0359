"""The environment that a run was made in: versions, device, threads, and the revision of the source."""

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch

import iclab
from iclab.experiments.identity import NUMERICS, Import
from iclab.experiments.plugins import versions
from iclab.files import atomic_write
from iclab.runs.locks import locked


def environment(device: str = "auto") -> dict[str, Any]:
    """Returns what can make two runs of one experiment differ."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "iclab": version("iclab"),
        "numerics": NUMERICS,
        "revision": revision(),
        **machine(device),
        "threads": torch.get_num_threads(),
    }


def machine(device: str = "auto") -> dict[str, Any]:
    """Returns what decides how long a run takes on a device of this machine."""
    cuda = torch.cuda.is_available()
    chosen = ("cuda" if cuda else "cpu") if device == "auto" else device
    gpu = torch.cuda.get_device_name(chosen) if cuda and chosen.startswith("cuda") else None
    return {"platform": platform.platform(), "device": chosen, "gpu": gpu, "cores": usable_cores()}


def write_environment(path: Path, device: str, imports: Iterable[Import] = (), pack: int = 1) -> None:
    """Keeps the environment beside a run, with the versions of what it imports from outside the package and, where it
    trained in a pack, with the number of replicas there: after some hundred steps in single precision its numbers
    differ from those of a training alone, as those of another seed would."""
    imported = versions(imports)
    content = environment(device) | ({"imports": imported} if imported else {}) | ({"pack": pack} if pack > 1 else {})
    atomic_write(path, json.dumps(content, indent=1).encode())


def usable_cores() -> int:
    """Returns the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def revision() -> str | None:
    """Returns the git revision of iclab's own source, marked where files were changed since; None outside of a
    repository."""
    source = Path(str(iclab.__file__)).parent
    tracked = _git(source, "ls-files", "--error-unmatch", "errors.py")
    if tracked is None:
        return None
    changed = _git(source, "status", "--porcelain", "--untracked-files=no", ".")
    return f"{_git(source, 'rev-parse', 'HEAD')}{' (changed)' if changed else ''}"


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# ---- what a user may want to know ----------------------------------------------------------------------------------


def checks(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields everything that `iclab doctor` reports, as pairs."""
    for what, value in environment().items():
        yield what, "none" if value is None else str(value)
    yield f"runs in {folder}", writable(folder)
    for extra in metadata("iclab").get_all("Provides-Extra") or []:
        missing = [name for name in _wanted(extra) if not _installed(name)]
        yield f"extra [{extra}]", f"missing: {', '.join(missing)}" if missing else "complete"


def writable(folder: Path) -> str:
    """Returns whether runs can be kept in a folder, or in the nearest one above it that exists; nothing is left
    there."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with TemporaryFile(dir=nearest) as file:
            file.write(b"0")
            file.flush()
            locked(file)
    except OSError as error:
        return f"cannot be written: {error.strerror or error}"
    return f"can be written, {shutil.disk_usage(nearest).free / 2**30:.1f} GiB free"


def _wanted(extra: str) -> list[str]:
    """The packages that an extra requires."""
    wanted = [text for text in requires("iclab") or [] if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", text)]
    return [re.split(r"[\s<>=!~;\[(]", text, maxsplit=1)[0] for text in wanted]


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
