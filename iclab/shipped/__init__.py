"""What comes with the package besides its modules: task files, scripts of figures, results that are kept.

A wheel has them in this folder. In a checkout they are the folders of the same names at its top level.
"""

from pathlib import Path

from iclab.errors import UsageError, unknown

HERE = Path(__file__).parent


def folder(name: str) -> Path:
    """Returns `tasks` or `paper_figs`, wherever the package is installed."""
    inside = HERE / name
    return inside if inside.is_dir() else HERE.parents[1] / name


def studies() -> dict[str, Path]:
    """Returns the task files by name, in the order of the alphabet.

    >>> studies()["linear_regression"].name
    'linear_regression.toml'
    """
    return {path.stem: path for path in sorted(folder("tasks").glob("*.toml"))}


def task_file(given: Path) -> Path:
    """Returns the task file that is meant by a path, or by the name of a study of the package. A file of the user comes
    first. Raises ``ValueError`` for a name that is not known.

    >>> task_file(Path("linear_regression")) == studies()["linear_regression"]
    True
    """
    if given.is_file() or len(given.parts) > 1 or given.suffix not in ("", ".toml"):
        return given
    known = studies()
    if given.stem not in known and (given.suffix or given.exists()):
        return given
    if given.stem not in known:
        raise UsageError(
            f"{unknown('study', given.stem, known)}; `iclab tasks` lists all. A file of your own needs its path"
        )
    return known[given.stem]


def kept_results() -> dict[str, Path]:
    """Returns the files of results that come with the package, by study."""
    return {path.stem: path for path in sorted((folder("paper_figs") / "results").glob("*.json"))}
