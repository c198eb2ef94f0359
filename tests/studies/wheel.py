"""A package as a wheel has it. No wheel is built in tests, as that needs the network; where its files come from and go
to is read in pyproject.toml."""

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def unpack(site: Path) -> None:
    """Writes the files of a wheel into a folder."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for pattern in settings["include"]:
        for source in ROOT.glob(pattern.removeprefix("/")):
            top, *rest = source.relative_to(ROOT).parts
            target = site.joinpath(settings["sources"].get(top, top), *rest)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copy if source.is_file() else _copy_folder
            copy(source, target)


def _copy_folder(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
