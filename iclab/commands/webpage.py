"""One page of HTML on a sweep, or on all sweeps of a folder: claims, figures, learning curves, runs and what they were
made in. It holds all that it shows, its script included, and asks no network for anything.

Names, logs and settings may be anyone's: the template escapes whatever it is given, and the page itself forbids its
reader's browser to load anything or to run a script that is not its own.
"""

import base64
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from iclab.commands import bounds, terminal, verdicts, zoomable
from iclab.commands.results import Book, Script
from iclab.errors import UsageError, refuse
from iclab.experiments import config
from iclab.experiments.mappings import flatten
from iclab.files import atomic_write, regular
from iclab.plots import Line, identification, svg, training
from iclab.runs.results import environments
from iclab.runs.store import STATES, Run, now, runs, sweeps
from iclab.runs.store import verdicts as judged
from iclab.runs.tables import Look, differing, table_of
from iclab.shipped import folder as shipped_folder

NAME = "report.html"
PICTURES = 6  # of single runs, where no script draws the study
PANELS = 8  # quantities whose learning curves are drawn
TAIL, LINES = 64 * 1024, 30  # the end of a log that is read, and how much of it is shown
UNFINISHED = ("failed", "diverged", "interrupted", "damaged")
EXTRA = "pip install 'iclab[report]'"
DASHES = {"solid": "", "dashed": "8 4", "dotted": "2 3", "dashdot": "8 3 2 3"}  # in a legend
# What no page may hold; browsers replace some of it, too.
UNPRINTABLE = dict.fromkeys([*range(9), 11, *range(14, 32), 127], "\ufffd")


@dataclass(frozen=True)
class Table:
    """A table as it is laid out. `anchors` are names of its rows, to which links lead."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    anchors: Sequence[str] = ()


@dataclass(frozen=True)
class Claim:
    """A claim as it is shown: its entries by column, the picture of its interval, and links to its runs."""

    entries: Mapping[str, str]
    note: str
    picture: bounds.Picture | None
    links: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Figure:
    """A picture as the address of its data; `plot` is the same for the script, where there is one."""

    title: str
    source: str
    plot: Any = None


@dataclass(frozen=True)
class Log:
    """The end of the log of a run that did not come to its end."""

    anchor: str
    title: str
    text: str


@dataclass(frozen=True)
class Sweep:
    """What a page shows of one sweep."""

    folder: Path
    number: int
    scripts: Sequence[Script] = ()

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Returns status, settings and rows of each run, by id, in the order of the settings that differ."""
        looks = {run.id: run.look() for run in runs(self.folder)}
        settings = {id: flatten(each) for id, (_, each, _) in looks.items()}
        keys = differing(list(settings.values()))
        return dict(sorted(looks.items(), key=lambda look: [_order(settings[look[0]].get(key)) for key in keys]))

    @cached_property
    def entries(self) -> list[terminal.Entry]:
        """Returns the runs as they are listed."""
        return terminal.entries(self.looks)

    @property
    def name(self) -> str:
        """Returns the name of the folder."""
        return self.folder.absolute().name

    @cached_property
    def content(self) -> dict[str, Any]:
        """Returns the task file as it was used; nothing where it cannot be read."""
        try:
            return config.load(self.folder / "study.toml")
        except (UsageError, OSError):
            return {}

    @property
    def title(self) -> str:
        """Returns the title of the study, or else the name of the folder."""
        return str(self.content.get("title") or self.name)

    @property
    def counted(self) -> str:
        """Returns how many runs there are in each state, and how long they took."""
        states = Counter(entry.state for entry in self.entries)
        told = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
        minutes = sum(entry.seconds for entry in self.entries) / 60
        return f"{len(self.entries)} run{'s'[len(self.entries) == 1 :]}: {told}; {minutes:.1f} minutes of one core"

    # ---- claims ----------------------------------------------------------------------------------------------------

    @cached_property
    def verdicts(self) -> tuple[list[dict[str, Any]], str]:
        """Returns the verdicts as they were last judged, or what keeps them from being read."""
        try:
            return judged(self.folder), ""
        except UsageError as error:
            return [], str(error)

    @property
    def tally(self) -> list[str]:
        """Returns the verdicts, counted."""
        return list(verdicts.tally_lines(self.verdicts[0]))

    @cached_property
    def claims(self) -> list[Claim]:
        """Returns the claims with what became of them."""
        known = bounds.claims(self.content, self.folder)
        return [self._claim(record, known.get(record["claim"])) for record in self.verdicts[0]]

    def _claim(self, record: Mapping[str, Any], claim: Any) -> Claim:
        entries = dict(zip(verdicts.PARTS, verdicts.parts(record), strict=True))
        links = [(self.anchor(id), id) for id in record.get("cells") or () if id in self.looks]
        return Claim(entries, str(record.get("note") or ""), bounds.picture(record, claim), links)

    # ---- runs ------------------------------------------------------------------------------------------------------

    def anchor(self, id: str) -> str:
        """Returns the name that the row of a run has in the page."""
        return f"sweep{self.number}-run{list(self.looks).index(id)}"

    @property
    def runs(self) -> Table:
        """Returns the runs, with their results."""
        columns, rows = terminal.filled(*terminal.run_rows(self.entries))
        return Table("Runs, with the settings that differ", columns, rows, [self.anchor(id) for id in self.looks])

    @property
    def shared(self) -> Table:
        """Returns the settings that are the same in all runs."""
        settings = [entry.settings for entry in self.entries if entry.settings] or [{}]
        swept = differing(settings)
        rows = [[key, str(value)] for key, value in settings[0].items() if key not in swept]
        return Table("Settings that all runs share", ["setting", "value"], rows)

    @property
    def made_in(self) -> Table:
        """Returns the environments that runs were made in."""
        whole = [id for id, (status, _, _) in self.looks.items() if status.state != "damaged"]
        found = environments(Run(self.folder / id) for id in whole)
        columns = list(dict.fromkeys(key for each in found for key in each))
        rows = [[each.get(key) for key in columns] for each in found]
        return Table("Environments", *terminal.filled(columns, rows))

    @property
    def logs(self) -> list[Log]:
        """Returns the ends of the logs of the runs that did not come to their ends."""
        return [
            Log(self.anchor(entry.id), f"{entry.id}: {entry.state}", tail(Run(self.folder / entry.id)))
            for entry in self.entries
            if entry.state in UNFINISHED
        ]

    # ---- pictures --------------------------------------------------------------------------------------------------

    @property
    def figures(self) -> list[Figure | str]:
        """Returns what the scripts of the study draw, or else the nearest algorithms of single runs; a text in place of
        what cannot be drawn."""
        if self.scripts:
            return [_drawn(one.title, partial(self._by_script, one), one.path.name) for one in self.scripts]
        return list(self._identifications())

    def _by_script(self, script: Script) -> Any:
        return script.draw(script.load(self.folder))

    def _by_algorithms(self, id: str) -> Any:
        return identification(table_of({id: self.looks[id]}))

    def _identifications(self) -> Iterator[Figure | str]:
        """The nearest algorithms of one run of each setting, at most so many."""
        labels = zoomable.labels({entry.id: entry.settings for entry in self.entries})
        near = {e.id for e in self.entries if any(row["quantity"].startswith("fit_distance") for row in e.rows)}
        firsts = list({label: id for id, label in reversed(labels.items()) if id in near}.values())[::-1]
        for id in firsts[:PICTURES]:
            title = " ".join(["Distances to algorithms, run", id, labels[id]]).strip()
            yield _drawn(title, partial(self._by_algorithms, id), id)
        if len(firsts) > PICTURES:
            yield f"{len(firsts) - PICTURES} more settings: `iclab show RUN --figure PICTURE` draws a run."

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """Returns label, colour and dash of each kind of learning curve."""
        looks = {line.label: (line.color, line.dash) for lines in self.lines.values() for line in lines}
        return [(label, *look) for label, look in looks.items()]

    @cached_property
    def lines(self) -> dict[str, list[Line]]:
        """Returns the learning curves of all runs, by quantity."""
        curves = {id: Run(self.folder / id).curve() for id in self.looks}
        settings = {entry.id: entry.settings for entry in self.entries}
        return zoomable.learning_curves(curves, zoomable.labels(settings))

    @property
    def curves(self) -> list[Figure]:
        """Returns a picture for each quantity that was watched in training, as far as there is room."""
        chosen = list(self.lines.items())[:PANELS]
        stills = [_source(svg(partial(training, lines, quantity))) for quantity, lines in chosen]
        moving = [zoomable.plot(lines, quantity) if zoomable.library() else None for quantity, lines in chosen]
        titles = [f"Learning curves of all runs: {quantity}" for quantity, _ in chosen]
        return [Figure(*each) for each in zip(titles, stills, moving, strict=True)]

    @property
    def not_drawn(self) -> list[str]:
        """Returns the quantities for whose learning curves there was no room."""
        return list(self.lines)[PANELS:]


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, before all else by its text."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def _drawn(title: str, draw: Callable[[], Any], name: str) -> Figure | str:
    try:
        return Figure(title, _source(svg(draw)))
    except Exception as error:  # a script may be anyone's, and what it draws may be missing
        return f"{name} draws nothing: {type(error).__name__}: {error}"


def _source(picture: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"


def tail(run: Run) -> str:
    """Returns the last lines of the log of a run."""
    try:
        with open(regular(run.log), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except (OSError, UsageError):
        return "no log"
    return "\n".join(lines[-LINES:])


# ---- the page ------------------------------------------------------------------------------------------------------


def page(folder: Path, scripts: Mapping[str, Sequence[Script]]) -> str:
    """Returns the page on the sweeps at or below a folder. Raises ``ValueError`` where there are none."""
    found = sweeps(folder)
    refuse("report", [] if found else [f"no runs in {folder}; `iclab sweep FILE` makes some"])
    shown = [Sweep(path, i, scripts.get(path.absolute().name, ())) for i, path in enumerate(found)]
    home = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    home.finalize = _printable
    home.policies["json.dumps_kwargs"] = {"sort_keys": False}  # Bokeh refers to what came before
    library, show = zoomable.library(), home.get_template("webpage.js").render()
    own = [Markup(text) for text in ((library, show) if library else ())]
    return home.get_template("webpage.html").render(
        sweeps=shown,
        title=shown[0].title if found == [folder] else f"Sweeps in {folder.absolute().name}",
        style=Markup(home.get_template("webpage.css").render()),
        scripts=own,
        allowed=" ".join(f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'" for text in own),
        extra=EXTRA,
        dashes=DASHES,
        made=f"{now()} by iclab {version('iclab')}",
        width=bounds.WIDTH,
    )


def _printable(entry: Any) -> Any:
    """A text without what a page may not hold."""
    return entry.translate(UNPRINTABLE) if type(entry) is str else entry


def write(folder: Path, target: Path | None, figures: Path | None, to: Console) -> None:
    """Writes the page on a folder of sweeps, with the figures that scripts in another folder draw."""
    scripts = Book.of(figures or shipped_folder("paper_figs")).scripts
    content = page(folder, scripts).encode(errors="replace")
    path = target or folder / NAME
    atomic_write(path, content)
    to.print(Text(f"wrote {path}, {len(content) / 1e6:.1f} MB"))
    if zoomable.library() is None:
        to.print(Text(f"Learning curves are pictures; to zoom them: {EXTRA}"))
