"""Pages that are made from the package when the site is built: papers, figures, quantities, theorems, commands, API.

They are written into `docs/generated/`, which git ignores. A paper's page is its section of `paper_figs/README.md`,
with the task file of each study.
"""

import io
import pkgutil
import re
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from textwrap import fill
from unicodedata import normalize
from unittest.mock import patch

from iclab.commands.report import markdown

from iclab import cli
from iclab.commands.results import BLOCK, Book
from iclab.constructed import THEOREMS
from iclab.experiments.measurable import quantities
from iclab.shipped import folder

COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
SECTION = re.compile(r"^## ", re.MULTILINE)
IMAGE = re.compile(r"!\[(?P<title>[^\]]*)\]\((?P<path>results/[^)]*)\)")
SEEN = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")
PARTS = {
    "tasks": "Tasks and prompts",
    "predictors": "Predictors",
    "theory": "Theory: Bayes predictors, exact risks",
    "models": "Models",
    "learning": "Learning",
    "constructed": "Constructions and theorems",
    "analysis": "Analysis",
    "measures": "Measures",
    "experiments": "Experiments",
    "runs": "Runs",
    "plots": "Plots",
}
SINGLE = ("analysis.heads", "theory", "learning", "constructed", "experiments", "runs")  # each module has its own page


def write(docs: Path) -> None:
    """Writes all pages; one that is as before keeps its time, so that it is not built again."""
    root, pages = docs / "generated", dict(_pages())
    for name, text in pages.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
    for path in list(root.rglob("*.*")):
        if path.is_file() and path.relative_to(root).as_posix() not in pages:
            path.unlink()


def _pages() -> Iterator[tuple[str, str]]:
    papers = list(_papers(Book.of(folder("paper_figs"))))
    for paper in papers:
        yield f"papers/{paper.slug}.md", paper.text
    yield "papers/index.md", _contents(papers)
    yield "gallery.md", _gallery(papers)
    yield "quantities.md", _quantities()
    yield "theorems.md", _theorems()
    yield "commands.md", _commands()
    yield from _api()


# ---- papers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paper:
    """The page of a paper."""

    title: str
    text: str

    @property
    def slug(self) -> str:
        """Returns the name of its file."""
        authors = normalize("NFKD", self.title.rpartition(": ")[2]).encode("ascii", "ignore").decode()
        return "_".join(re.findall(r"[a-z0-9]+", authors.lower()))


def _papers(book: Book) -> Iterator[Paper]:
    """Yields the page of each paper."""
    page = book.folder / "README.md"
    studies = {name: study.text for name, study in book.studies.items()}

    def with_task_file(block: re.Match[str]) -> str:
        text = "" if block["part"] else studies.get(block["study"], "")
        return f"{block['body']}\n{_folded(block['study'], text)}" if text else block["body"]

    filled = BLOCK.sub(with_task_file, book.filled(page))
    for section in SECTION.split(COMMENT.sub("", filled))[1:]:
        title, _, body = section.partition("\n")
        yield Paper(title, _raised(f"## {title}\n{body}"))


def _folded(study: str, text: str) -> str:
    summary = f"The task file, <code>{study}.toml</code>: <code>iclab sweep {study}</code>"
    return f"<details><summary>{summary}</summary>\n\n```toml\n{text}```\n\n</details>\n"


def _raised(text: str) -> str:
    """Headings one level up, with pictures and links as seen from the page."""
    parts = FENCE.split(text)
    parts[::2] = [re.sub(r"^#(#+ )", r"\1", part, flags=re.MULTILINE) for part in parts[::2]]
    text = "".join(parts).replace("](../iclab/constructed/ERRATA.md)", "](../theorems.md)")
    return IMAGE.sub(r"![\g<title>](../../../paper_figs/\g<path>)", text)


def _contents(papers: list[Paper]) -> str:
    text = (folder("paper_figs") / "README.md").read_text().partition("\n## ")[0].partition("\n")[2]
    text = COMMENT.sub("", text).replace("[results](results)", "`paper_figs/results`")
    tree = "\n".join(f"{paper.title} <{paper.slug}>" for paper in papers)
    return f"# Papers\n{_raised(text)}\n```{{toctree}}\n:maxdepth: 1\n\n{tree}\n```\n"


def _gallery(papers: list[Paper]) -> str:
    """Every picture of every paper."""
    lines = ["# Gallery", "", "All figures that are drawn from kept results. Each title leads to claims and verdicts."]
    for paper in papers:
        pictures = [
            f"**{title}**\n\n![{title}]({path.removeprefix('../')})\n" for title, path in SEEN.findall(paper.text)
        ]
        lines += ["", f"## [{paper.title}](papers/{paper.slug}.md)", "", *pictures] if pictures else []
    return "\n".join(lines) + "\n"


# ---- reference -----------------------------------------------------------------------------------------------------


def _quantities() -> str:
    rows = [[f"`{name}`", f"`{analysis}`", meaning] for name, analysis, meaning in quantities(None)]
    return (
        "# Quantities\n\nWhat claims and tables may name, as `iclab quantities` lists it. `{a,b}` is either of them,"
        " `*` any letters. An analysis is made wherever it applies, or where `eval.analyses` names it.\n\n"
        + markdown(["quantity", "analysis", "meaning"], rows)
        + "\n"
    )


def _theorems() -> str:
    rows = [[f"`{each.name}`", each.paper, each.statement, each.reason, each.expected] for each in THEOREMS]
    return (
        "# Theorems and errata\n\nEach statement is checked on random cases by `iclab verify NAME`: the measured error"
        " of a construction is at most the bound. A statement that was published wrong is expected to fail where its"
        " correction holds. [Theorems](../theorems.md) explains the commands.\n\n"
        + markdown(["theorem", "paper", "statement", "bound", "expected"], rows)
        + "\n\n```{include} ../../iclab/constructed/ERRATA.md\n:heading-offset: 1\n```\n"
    )


def _commands() -> str:
    lines = ["# Commands", "", "The help of each command, as `iclab COMMAND --help` prints it.", ""]
    for name in cli.COMMANDS:
        lines += [f"## iclab {name}", "", "```text", _help(name), "```", ""]
    return "\n".join(lines)


def _help(command: str) -> str:
    text = io.StringIO()
    narrow = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    with redirect_stdout(text), patch.dict("os.environ", narrow), suppress(SystemExit):
        cli.main([command, "--help"])
    lines = (line.rstrip() for line in text.getvalue().strip().splitlines())
    return "\n".join(line if line.startswith(" ") else fill(line, 100) for line in lines)


# ---- API -----------------------------------------------------------------------------------------------------------


def _api() -> Iterator[tuple[str, str]]:
    """Yields a page for the package, and one for each public module: what `__all__` names, or what it defines."""
    yield "api/iclab.rst", _module("iclab", "iclab")
    tree = ["iclab"]
    for part, title in PARTS.items():
        names = [
            f"iclab.{part}",
            *(name for single in SINGLE if single.split(".")[0] == part for name in _modules(single)),
        ]
        tree += names[:1]
        below = names[1:]
        yield f"api/{names[0]}.rst", _module(names[0], title) + _tree(below)
        for name in below:
            yield f"api/{name}.rst", _module(name, name)
    yield "api/index.rst", f"API reference\n=============\n\n{API}\n{_tree(tree)}"


API = """Names are imported from the module at the head of a page. Formulas and shapes are in the text of modules and
classes; ``[batch n d]`` is the shape of a tensor, and the letters are those of the :doc:`/glossary`.
"""


def _modules(package: str) -> list[str]:
    home = import_module(f"iclab.{package}")
    return [f"iclab.{package}.{each.name}" for each in pkgutil.iter_modules(home.__path__) if not each.ispkg]


def _module(name: str, title: str) -> str:
    return f"{title}\n{'=' * len(title)}\n\n.. automodule:: {name}\n   :members:\n   :show-inheritance:\n"


def _tree(names: list[str]) -> str:
    return "\n.. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {name}\n" for name in names) if names else ""
