"""Results that stay, and pages that are made of them.

A folder of figures holds scripts, each with the name of its study (`STUDY`) and a function `draw` of a table, and
`results/<study>.json`. Task files are in `tasks/`, next to the folder. Pages are its README.md, the Markdown files next
to the folder, and those of `docs/` there. What stands between two comments of a page is made from the results:

    <!-- results: STUDY -->       paper, training time, claims and figures of a study        ... <!-- end -->
    <!-- results: STUDY PART -->  one of: claims, verdicts, runs, figures, layers KEY=VALUE ...
    <!-- results: all tally -->   verdicts of all studies, counted

A sentence that says what became of a claim is followed by `<!-- OUTCOME: STUDY: CLAIM -->`, such as `holds`, `fails` or
`not run`: a page whose sentences are no longer true is refused.
"""

import io
import re
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from os.path import relpath
from pathlib import Path
from typing import Any

import pandas
from rich.console import Console, RenderableType
from rich.text import Text

from iclab.commands import terminal, verdicts
from iclab.commands.terminal import Entry
from iclab.errors import UsageError, refuse, unknown
from iclab.experiments.claims import Claim
from iclab.experiments.findings import Findings
from iclab.experiments.study import Study
from iclab.files import atomic_write, read_json, read_text, write_json
from iclab.plots import contents, save, shown
from iclab.runs.results import Picture, cells, collect, kept_table, load, read, records, write
from iclab.runs.store import sweeps

BLOCK = re.compile(r"(<!-- results: (?P<study>\S+)(?: (?P<part>[^\n]*?))? -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
SENTENCE = re.compile(r"(?<!`)<!-- (?P<outcome>[a-z ]+): (?P<study>\w+): (?P<claim>.+?) -->", re.DOTALL)
DIGESTS = "pictures.json"
MARKS = (BLOCK, SENTENCE)
LAYERS = ("fit_distance", "fit_parameter", "fit_probability", "fit_low", "fit_high")


@dataclass(frozen=True)
class Script:
    """A script that draws the results of a study, which it loads by `load`."""

    path: Path
    study: str
    title: str
    draw: Callable[[pandas.DataFrame], Any]
    caption: str = ""
    load: Callable[[Path], pandas.DataFrame] = load


@dataclass(frozen=True)
class Book:
    """A folder of figures with its results and pages."""

    folder: Path
    scripts: Mapping[str, Sequence[Script]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Book":
        """Returns the folder with all of its scripts. Raises ``ValueError`` where it has none."""
        found: dict[str, list[Script]] = {}
        for path in sorted(folder.glob("*.py")):
            names = runpy.run_path(str(path))
            if "STUDY" in names and "draw" in names:
                text = names["__doc__"] or path.stem
                told = text.partition("\n")[0], names["draw"], _caption(text)
                script = Script(path, names["STUDY"], *told, names.get("load", load))
                found.setdefault(script.study, []).append(script)
        refuse("results", [] if found else [f"{folder} has no scripts with STUDY and draw"])
        return cls(folder, found)

    @property
    def results(self) -> Path:
        """Returns the folder of results and pictures."""
        return self.folder / "results"

    @cached_property
    def studies(self) -> dict[str, Study]:
        """Returns the task files, by name."""
        return {path.stem: Study.read(path) for path in sorted((self.folder.parent / "tasks").glob("*.toml"))}

    @cached_property
    def kept(self) -> dict[str, dict[str, Any]]:
        """Returns the results of each study that has some."""
        paths = {name: self.results / f"{name}.json" for name in self.studies}
        return {name: read(path) for name, path in paths.items() if path.is_file()}

    def pages(self) -> list[Path]:
        """Returns the pages that have a part made from results, or a sentence that they must bear out."""
        home = self.folder.parent
        known = [self.folder / "README.md", *sorted(home.glob("*.md")), *sorted((home / "docs").rglob("*.md"))]
        return [path for path in known if path.is_file() and any(mark.search(read_text(path)) for mark in MARKS)]

    # ---- what is kept ----------------------------------------------------------------------------------------------

    def keep(self, folder: Path) -> Iterator[str]:
        """Writes the results of the sweeps in a folder that are of its studies; yields a line for each."""
        known = {path.name: path for path in sweeps(folder)}
        refuse("results", [] if known else [f"{folder} holds no runs; expected a folder that `iclab sweep` made"])
        self.results.mkdir(exist_ok=True)
        for name, path in known.items():
            if name in self.studies:
                target = self.results / f"{name}.json"
                write(target, collect(path, name, self.pictures(name)))
                yield f"kept {target}, {target.stat().st_size / 1024:.0f} kB"
        for name in self.scripts.keys() - self.studies.keys():  # of a command that trains nothing
            source = folder / name / f"{name}.json"
            if source.is_file():
                write_json(self.results / source.name, {"study": name, "rows": read_json(source), "verdicts": []})
                yield f"kept {self.results / source.name}"

    def pictures(self, name: str) -> list[Picture]:
        """Returns what shows the table of a study: its figures, and the tables of layers in pages."""
        parts = [part for page in self.pages() for part in BLOCK.finditer(read_text(page)) if part["study"] == name]
        of_layers = [part["part"] for part in parts if (part["part"] or "").startswith("layers")]
        return [
            *(partial(shown, script.draw) for script in self.scripts.get(name, ())),
            *(partial(_layers, part=part) for part in of_layers),
        ]

    def draw(self) -> Iterator[str]:
        """Draws all figures that there are results for; yields a line for each. What they show is kept beside them as
        digests, by which a test sees a picture that is not of its script or results."""
        digests = {}
        for script in self.drawn():
            table, target = script.load(self.source(script)), self.results / f"{script.path.stem}.png"
            save(script.draw, table, target)
            digests[script.path.stem] = contents(script.draw, table)
            yield f"drew {target}"
        if digests:
            write_json(self.results / DIGESTS, digests)

    def drawn(self) -> list[Script]:
        """Returns the scripts that there are results for."""
        return [script for each in self.scripts.values() for script in each if self.source(script).is_file()]

    def source(self, script: Script) -> Path:
        """Returns the file of the results that a script draws."""
        return self.results / f"{script.study}.json"

    # ---- pages -----------------------------------------------------------------------------------------------------

    def filled(self, page: Path) -> str:
        """Returns the text of a page with its parts made anew. Raises ``ValueError`` for names that are not known, and
        for sentences that are not true."""
        text, problems = read_text(page), []

        def fill(match: re.Match[str]) -> str:
            try:
                return f"{match[1]}{self._part(page, match['study'], match['part'] or '')}\n{match[5]}"
            except UsageError as error:
                problems.append(str(error))
                return match[0]

        filled = BLOCK.sub(fill, text)
        problems += [problem for match in SENTENCE.finditer(text) for problem in self._untrue(match)]
        refuse(str(page), problems)
        return filled

    def _untrue(self, sentence: re.Match[str]) -> Iterator[str]:
        """The problems of a sentence about a claim."""
        study, claim = sentence["study"], " ".join(sentence["claim"].split())
        if study not in self.studies:
            yield unknown("study", study, self.studies)
        elif claim not in (known := self.outcomes(study)):
            yield f"{study}: {unknown('claim', claim, known)}"
        elif known[claim]["outcome"] != sentence["outcome"]:
            yield f"{study}: {claim!r}: the page says {sentence['outcome']}, the results {known[claim]['outcome']}"

    def outcomes(self, name: str) -> dict[str, dict[str, Any]]:
        """Returns the verdicts on the claims of a task file, by name: "not run" where there is no result, or one of
        a claim that was otherwise."""
        judged = {one["claim"]: one for one in self.kept.get(name, {}).get("verdicts", ())}
        return {c.name: _record(c, judged.get(c.name)) for c in self.studies[name].heading.claims}

    def outdated(self, name: str) -> int:
        """Returns how many runs of a task file, as it is now, have no part in its results."""
        known = {one["run"] for one in self.kept.get(name, {}).get("runs", ()) if one["state"] == "done"}
        return sum(cell.experiment.id not in known for cell in self.studies[name].cells)

    def _part(self, page: Path, name: str, part: str) -> str:
        if (name, part) == ("all", "tally"):
            return self._tally()
        parts = {"": self._section, "claims": self._claims, "verdicts": self._verdicts, "runs": self._runs}
        kind = part.partition(" ")[0]
        known = {*self.studies, "all", *(self.scripts if kind == "figures" else ())}
        refuse("results", [] if name in known else [unknown("study", name, known)])
        if kind == "figures":
            return self._figures(page, name)
        if kind == "layers":
            return _fenced(_layers(kept_table(self.kept[name]), part) if name in self.kept else verdicts.NOT_RUN)
        refuse("results", [] if part in parts else [unknown("part", part, [*parts, "figures", "layers"])])
        return "\n\n".join(filter(None, [parts[part](name), self._figures(page, name) if part == "" else ""]))

    def _section(self, name: str) -> str:
        """Title, question and paper of a study, how it was run, and its claims."""
        heading = self.studies[name].heading
        drawn = "".join(f", `{script.path.name}`" for script in self.scripts.get(name, ()))
        source = f"`{name}.toml`{drawn}: {heading.question} *{heading.paper.partition(':')[0]}.*"
        return "\n\n".join([f"### {heading.title}", source, self._how(name), self._claims(name)])

    def _how(self, name: str) -> str:
        """How many runs there are, how long they took, and what is missing."""
        runs, missing = self.kept.get(name, {}).get("runs", ()), self.outdated(name)
        done = [one for one in runs if one["state"] == "done"]
        if not done:
            return "Not run with the present settings."
        minutes = sum(one["seconds"] for one in runs) / 60
        counted = f"{len(done)} run{'' if len(done) == 1 else 's'}, {minutes:.1f} minutes of one core"
        return f"{counted}; {missing} of {len(self.studies[name].cells)} not run." if missing else f"{counted}."

    def _claims(self, name: str) -> str:
        rows = [verdicts.parts(record) for record in self.outcomes(name).values()]
        return terminal.markdown(verdicts.PARTS, rows)

    def _verdicts(self, name: str) -> str:
        return _fenced(_printed(verdicts.of_records(list(self.outcomes(name).values()), _wide())))

    def _runs(self, name: str) -> str:
        if name not in self.kept:
            return _fenced(verdicts.NOT_RUN)
        known = []
        for one, cell in zip(self.kept[name]["runs"], cells(self.kept[name]), strict=True):
            told = (one["run"], one["state"], one["error"], one["seconds"])
            known.append(Entry(*told, cell.config, cell.rows))
        return _fenced(_printed(terminal.of_entries(f"runs/{name}", known, _wide())))

    def _figures(self, page: Path, name: str) -> str:
        """The pictures of a study that has results, as a page shows them."""
        title = self.studies[name].heading.title if name in self.studies else name
        scripts = self.scripts.get(name, ()) if (self.results / f"{name}.json").is_file() else ()
        known = [(self.results / f"{script.path.stem}.png", script.caption) for script in scripts]
        pictures = [(Path(relpath(path, page.parent)).as_posix(), caption) for path, caption in known]
        return "\n\n".join(f"![{title}]({path})\n\n{caption}" for path, caption in pictures)

    def _tally(self) -> str:
        judged = [record for name in self.studies for record in self.outcomes(name).values()]
        return terminal.markdown(*verdicts.tally(judged)) + f"\n\n{verdicts.origins(judged)}"


def _record(claim: Claim, judged: Mapping[str, Any] | None) -> dict[str, Any]:
    now = {"claim": claim.name, "expected": claim.expected, "kind": claim.kind, "share": claim.share}
    now |= {"written": claim.written, "origin": claim.origin}
    if judged is None or any(judged.get(key) != value for key, value in now.items() if key != "origin"):
        return {**now, "measured": "", "outcome": verdicts.NOT_RUN}
    return {**judged, "origin": claim.origin}


def _caption(text: str) -> str:
    """The docstring of a script but for the lines that show how it is called."""
    return " ".join(" ".join(line for line in text.splitlines() if not line.startswith("    ")).split())


def _layers(table: pandas.DataFrame, part: str) -> str:
    """The nearest algorithm of each layer of the run with these settings, as `iclab show` prints it."""
    chosen = table.loc[table["quantity"].isin(LAYERS) & table["layer"].notna()]
    for word in part.split()[1:]:
        key, _, value = word.partition("=")
        refuse("results", [] if key in chosen else [unknown("setting", key, chosen.columns)])
        chosen = chosen.loc[chosen[key].map(str) == value]
    section = Findings(records(chosen)).by_layer()
    return _printed(terminal.table(section.title, section.columns, section.body, _wide()))


def _wide() -> Console:
    return Console(file=io.StringIO(), width=terminal.WIDE, highlight=False)


def _printed(shown: RenderableType) -> str:
    to = _wide()
    to.print(shown)
    assert isinstance(to.file, io.StringIO)
    return "\n".join(line.rstrip() for line in to.file.getvalue().rstrip().splitlines())


def _fenced(text: str) -> str:
    return f"```\n{text}\n```"


def update(folder: Path, runs: Path | None, to: Console) -> None:
    """Keeps the results of a folder of runs, draws the figures and writes the pages."""
    book = Book.of(folder)
    for line in book.keep(runs) if runs is not None else ():
        to.print(Text(line))
    for line in book.draw():
        to.print(Text(line))
    for page in book.pages():
        atomic_write(page, book.filled(page).encode())
        to.print(Text(f"wrote {page}"))
