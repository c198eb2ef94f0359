"""Study: a task file, which poses one question about a grid of experiments.

It may name code of the user's own under `imports` (`iclab.experiments.plugins`), which is imported before all else.
Its sections `[task]`, `[model]`, `[train]` and `[eval]` describe an experiment, `[sweep]` lists what is varied and
`[[claims]]` what is expected. Settings come from several places, each laid over the one before:

    the named `recipe`  <  the file  <  the chosen table `[scale.NAME]`  <  `[sweep]`  <  the command line
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from iclab.errors import UsageError, refuse, unknown
from iclab.experiments import config, experiment, grid, plugins, trials
from iclab.experiments.claims import Claim, premise_problems
from iclab.experiments.config import FAILED, Reader
from iclab.experiments.experiment import Experiment
from iclab.experiments.identity import Import
from iclab.experiments.mappings import Nested, flatten, merge, put
from iclab.experiments.measurable import claim_problems
from iclab.files import read_text
from iclab.shipped import folder

RECIPES = Path(__file__).parent / "recipes"
OVERRIDES = "overrides = "


@dataclass(frozen=True)
class Heading:
    """The head of a task file: title, question, paper and claims."""

    title: str
    question: str
    paper: str
    claims: tuple[Claim, ...] = ()

    def __post_init__(self) -> None:
        blank = [name for name in ("title", "question", "paper") if not getattr(self, name).strip()]
        refuse("heading", [f"{name} must not be empty" for name in blank])


@dataclass(frozen=True)
class Cell:
    """A cell of the grid: its swept values, and the experiment that they define."""

    values: Mapping[str, Any]
    experiment: Experiment

    @cached_property
    def settings(self) -> Nested:
        """Returns the settings of the experiment, every default spelled out."""
        return self.experiment.mapping()

    @cached_property
    def flat(self) -> Mapping[str, Any]:
        """Returns the same by dotted key."""
        return flatten(self.settings)


@dataclass(frozen=True)
class Study:
    """A task file with the settings of the command line: its heading and every cell of its grid."""

    path: Path
    text: str
    overrides: tuple[str, ...]
    heading: Heading
    cells: tuple[Cell, ...]

    @classmethod
    def read(cls, path: Path, overrides: Iterable[str] = ()) -> "Study":
        """Reads and checks the file and every cell. Raises one ``ValueError`` with a line for each problem."""
        text = read_text(path)
        content = config.parse(text, path)
        refuse(str(path), [] if content else ["the file is empty; a task file needs title, question, paper and [task]"])
        recorded = content.pop("overrides", []) if text.startswith(OVERRIDES) else []
        imports = plugins.bring(content.pop("imports", []), path)
        draft = Draft(path, content, recorded, tuple(overrides), imports)
        heading, cells = draft.heading(), draft.cells()
        draft.check_claims(heading, cells)
        config.refuse_lines(draft.problems)
        return cls(path, _without_overrides(text), draft.overrides, heading, cells)

    def as_used(self) -> str:
        """Returns the text of the file under a line with the settings of the command line. Read again, it is this
        study."""
        line = f"{OVERRIDES}{json.dumps(self.overrides, ensure_ascii=False)}\n"
        return (line if self.overrides else "") + self.text


@dataclass(frozen=True)
class Outline:
    """What can be said of a task file before its cells are made."""

    heading: Heading
    cells: int
    seeds: int

    @classmethod
    def read(cls, path: Path) -> "Outline":
        """Reads the head of a file and counts its grid. Raises one ``ValueError`` with a line for each problem."""
        content = config.load(path)
        draft = Draft(path, {key: value for key, value in content.items() if key != "imports"}, [], ())
        heading = draft.heading()
        config.refuse_lines(draft.problems)
        choices = list(grid.cross(draft.axes))
        return cls(heading, len(choices), len({repr(flatten(values).get("seed")) for values in choices}))


def _without_overrides(text: str) -> str:
    first, _, rest = text.partition("\n")
    return rest if first.startswith(OVERRIDES) else text


# ---- recipes -------------------------------------------------------------------------------------------------------


def recipes() -> dict[str, Path]:
    """Returns the named settings that come with the package."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}


@cache
def recipe(name: str) -> Nested:
    """Returns the settings of a recipe, without its title and paper. Raises ``ValueError`` where it is not known.

    >>> sorted(recipes())[:3]
    ['akyurek2022', 'fast', 'garg2022']
    >>> recipe("interleaved")["model"]["layout"]
    'interleaved'
    """
    known = recipes()
    refuse("recipe", [] if name in known else [unknown("recipe", name, known)])
    return {key: value for key, value in config.load(known[name]).items() if key not in ("title", "paper")}


def given_study(name: str) -> Path:
    """Returns the task file of a study of models that are given, which comes with the package: it lacks the model."""
    found = {path.stem: path for path in sorted((folder("tasks") / "given").glob("*.toml"))}
    refuse("given", [] if name in found else [unknown("study", name, found)])
    return found[name]


# ---- reading -------------------------------------------------------------------------------------------------------

HEADING = {f.name for f in fields(Heading)}
EXPERIMENT = {f.name for f in fields(Experiment)}


class Draft:
    """A study while it is read: the settings from all places, and the problems found in them so far."""

    def __init__(
        self, path: Path, content: Nested, recorded: Any, given: tuple[str, ...], imports: tuple[Import, ...] = ()
    ) -> None:
        self.path, self.imports = path, imports
        self.problems: list[str] = []
        self.made: dict[Any, Any] = {}
        self.tried: dict[Any, list[str]] = {}
        self.overrides, self.command = self._command(recorded, given)
        scale = self._scale(content.get("scale", {}))
        self.body = merge({k: v for k, v in content.items() if k != "scale"}, scale)
        self.axes = self._axes(content.get("sweep", {}), scale) | self.command
        self._check_sections()

    def note(self, text: str, source: object = None) -> None:
        """Adds a problem, of the file unless another source is given."""
        self.problems.append(f"{source or self.path}: {text}")

    def heading(self) -> Any:
        """Returns the heading, or FAILED."""
        given = {key: value for key, value in self.body.items() if key in HEADING}
        if isinstance(given.get("claims"), list):
            given["claims"] = [with_dotted_where(claim) for claim in given["claims"]]
        return self._read(lambda reader: reader.read(Heading, given))

    def cells(self) -> tuple[Cell, ...]:
        """Returns the cells that can be read, each experiment once."""
        try:
            choices = list(grid.cross(self.axes))
        except UsageError as error:
            self.note(str(error))
            return ()
        made = [(values, self._experiment(values)) for values in choices]
        cells = [Cell(values, experiment) for values, experiment in made if experiment is not FAILED]
        return tuple({cell.experiment.id: cell for cell in cells}.values())

    def check_claims(self, heading: Any, cells: Iterable[Cell]) -> None:
        """Adds a problem for each premise that is no claim, and for each key of a claim that no cell of a valid grid
        has."""
        given = () if heading is FAILED else heading.claims
        claims = () if self.problems else given
        for text in premise_problems(given):
            self.note(text)
        known = {key for cell in cells for key in cell.flat} if claims else set()
        if any(claim.unknown_keys(known) for claim in claims):  # some keys have no value, such as what is none
            known |= {key for cell in cells for key in _known(cell.settings)}
        for claim in claims:
            spoken_of = [cell.experiment for cell in cells if claim.concerns(cell.flat)]
            for text in [*claim.unknown_keys(known), *claim_problems(claim, spoken_of)]:
                self.note(text)

    # ---- the places that settings come from ------------------------------------------------------------------------

    def _command(self, recorded: Any, given: tuple[str, ...]) -> tuple[tuple[str, ...], grid.Axes]:
        """The settings of the command line; those recorded in the file stand where they are not given anew."""
        if not isinstance(recorded, list) or not all(isinstance(text, str) for text in recorded):
            self.note("overrides: expected a list of texts")
            recorded = []
        before, old_problems = grid.settings(recorded)
        now, new_problems = grid.settings(given)
        for text in old_problems + new_problems:
            self.note(text, "command line")
        kept = [text for text in recorded if text.partition("=")[0] not in now]
        return (*kept, *given), before | now

    def _scale(self, scales: Any) -> Nested:
        """The table `[scale.NAME]` that the command line chose."""
        chosen = self.command.pop("scale", None)
        if not isinstance(scales, Mapping) or not all(isinstance(table, Mapping) for table in scales.values()):
            self.note("scale: expected tables, e.g. [scale.paper]")
        elif chosen is not None and len(chosen) == 1 and str(chosen[0]) in scales:
            return scales[str(chosen[0])]
        elif chosen is not None:
            self.note(unknown("scale", ",".join(map(str, chosen)), scales), "command line")
        return {}

    def _axes(self, sweep: Any, scale: Nested) -> grid.Axes:
        """The axes of the file; what the scale fixes is no longer varied, what it varies replaces the file's list."""
        axes: grid.Axes = {}
        for table, fixed in ((sweep, scale), (scale.get("sweep", {}), {})):
            if not isinstance(table, Mapping):
                self.note("sweep: expected a table with a list for each key")
                continue
            result, problems = grid.axes_of(table)
            axes |= grid.without(result, fixed)
            for text in problems:
                self.note(text)
        return axes

    def _check_sections(self) -> None:
        known = HEADING | EXPERIMENT | {"sweep", "scale"}
        for name in self.body.keys() - known:
            self.note(unknown("key", name, known))
        if "imports" in {*self.body, *(key.partition(".")[0] for key in self.axes)}:
            self.note("imports: belongs at the top of the file, and nowhere else")

    # ---- one cell --------------------------------------------------------------------------------------------------

    def _experiment(self, values: Nested) -> Any:
        settings = {key: value for key, value in self.body.items() if key in EXPERIMENT}
        for key in sorted(values, key=lambda key: key.count(".")):  # a table before the entries laid over it
            settings = put(settings, key, values[key])
        settings = merge(self._recipe(settings.get("recipe")), settings)
        settings |= {"imports": self.imports} if self.imports else {}
        result = self._read(lambda reader: experiment.read(settings, reader), settings)
        for text in trials.of_experiment(result, self.tried) if result is not FAILED else []:
            self.note(text)
        return result

    def _recipe(self, name: Any) -> Nested:
        """The settings of the recipe that a cell names; anything but a text is refused where the cell is read."""
        try:
            return recipe(name) if name and isinstance(name, str) else {}
        except UsageError as error:
            self.note(str(error), self._source("recipe"))
            return {}

    def _read(self, read: Any, settings: Nested | None = None) -> Any:
        reader = Reader(self._source, lambda: _known(settings), made=self.made)
        value = read(reader)
        self.problems += reader.problems
        return value

    def _source(self, key: str) -> object:
        """Where a key was given: the command line, the file, or both for a section that each has a part in."""
        if any(key == k or key.startswith((f"{k}.", f"{k}[")) for k in self.command):
            return "command line"
        return f"{self.path} + command line" if any(k.startswith(f"{key}.") for k in self.command) else self.path


def _known(settings: Nested | None) -> Iterable[str]:
    """The keys that the sections of an experiment may have."""
    return () if settings is None else experiment.known_keys(settings)


def with_dotted_where(claim: Any) -> Any:
    """Returns a claim as it is given, with dotted keys in `where`: they may be quoted or nested, as in `[sweep]`."""
    where = claim.get("where") if isinstance(claim, Mapping) else None
    return {**claim, "where": flatten(where)} if isinstance(where, Mapping) else claim
