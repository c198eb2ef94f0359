"""The studies that come with the package, as a table."""

from collections.abc import Iterator, Sequence

from rich.console import Console, Group

from iclab.commands import terminal
from iclab.errors import UsageError
from iclab.experiments.study import Outline
from iclab.runs.results import read
from iclab.shipped import kept_results, studies

COLUMNS = ("study", "title", "paper", "runs", "seeds", "minutes")


def listed(words: Sequence[str], to: Console) -> Group:
    """Returns the table of the studies in which all words are. Raises ``ValueError`` where there is none."""
    if not (rows := list(_rows(words))):
        raise UsageError(
            f"no study has {' '.join(words)!r} in its name, title, question or paper; `iclab tasks` lists all"
        )
    return terminal.table("studies: iclab sweep STUDY", COLUMNS, rows, to)


def _rows(words: Sequence[str]) -> Iterator[list[str | int | None]]:
    for name, path in studies().items():
        outline = Outline.read(path)
        heading = outline.heading
        text = " ".join([name, heading.title, heading.question, heading.paper]).lower()
        if all(word.lower() in text for word in words):
            paper = heading.paper.partition(":")[0]
            yield [name, heading.title, paper, outline.cells, outline.seeds, _minutes(name)]


def _minutes(name: str) -> int | None:
    """Minutes of one core that the runs of kept results took, rounded up; none where nothing is kept."""
    path = kept_results().get(name)
    seconds = sum(run["seconds"] for run in read(path)["runs"]) if path else 0
    return None if seconds == 0 else -int(-seconds // 60)
