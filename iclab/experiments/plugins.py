"""Code of users: the files and modules that a task file names under `imports`, and the entry points `iclab.kinds` of
installed packages. To import them is enough, since a class counts as known by being a subclass.

    imports = ["my_tasks.py", "my_package.models"]

A name that ends in .py is a file, from the folder of the task file on; any other is a module that Python can import. A
file is imported as the module of its stem, so that files named after it can import it. What is run is the text whose
digest the settings record, and a run's folder keeps that text (`imports/my_tasks.py`): a run resumes from its copy when
the user's file has moved or changed. Of a module the name alone is recorded, its version stands in environment.json.

A newer version of a file takes the place of the older one in the same process.
"""

import hashlib
import sys
import sysconfig
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from iclab.constructed import THEOREMS, Theorem
from iclab.errors import Damaged, UsageError, refuse
from iclab.experiments import analysis, config
from iclab.experiments.analysis import Analysis
from iclab.experiments.identity import KEPT, STUDY, Import, remedy
from iclab.experiments.outside import BROUGHT, blamed, place, told
from iclab.files import atomic_write, read_bytes
from iclab.models.formats import format_kinds
from iclab.renamed import kind_name
from iclab.retired import RETIRED

GROUP = "iclab.kinds"
LARGEST = 2**20  # bytes of a source file


@dataclass(frozen=True, eq=False)
class Source:
    """A file that was imported: where it stood, what it held, and the module that came of it."""

    path: Path
    content: bytes
    module: ModuleType
    kinds: frozenset[type]

    @property
    def digest(self) -> str:
        """Returns twelve digits that stand for the text."""
        return digest_of(self.content)


SOURCES: dict[str, Source] = {}  # by the name of the module


def digest_of(content: bytes) -> str:
    """Returns twelve digits that stand for a text."""
    return hashlib.sha256(content).hexdigest()[:12]


# ---- from a task file ----------------------------------------------------------------------------------------------


def bring(names: Any, file: Path) -> tuple[Import, ...]:
    """Imports entry points and what a task file names, in this order; returns what is to be recorded of the latter.
    The kinds of files that it does not name are none while it is read. Raises ``ValueError`` with a line for each
    problem."""
    load_entry_points()
    problems = _name_problems(names)
    config.refuse_lines(f"{file}: imports: {text}" for text in problems)
    for source in SOURCES.values():
        RETIRED.update(source.kinds)
    imports: list[Import] = []
    for name in dict.fromkeys(names):
        try:
            imports.append(_bring(name, file))
        except UsageError as error:
            problems.append(f"{file}: imports: {error}")
    config.refuse_lines(problems)
    return tuple(imports)


def _bring(name: str, file: Path) -> Import:
    if not name.endswith(".py"):
        bring_module(name)
        return Import(name)
    kept = file.parent / KEPT / Path(name).name
    path = kept if file.name == STUDY and kept.is_file() else file.parent / name
    return Import(path.name, bring_file(path).digest)


def _name_problems(names: Any) -> list[str]:
    """Returns the problems of a list of imports before any is made."""
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        problem = f"expected a list of files and modules, each a text in quotes, given {config.shown(names)}"
        return [f"{problem}; in a list: [{config.shown(names)}]" if isinstance(names, str) else problem]
    files = {name: Path(name).name for name in dict.fromkeys(names) if name.endswith(".py")}
    twice = sorted({each for each in files.values() if list(files.values()).count(each) > 1})
    return [f"several files are named {each}: each needs a name of its own" for each in twice]


def bring_file(path: Path) -> Source:
    """Imports a file, unless its very text is imported already. Raises ``ValueError``."""
    return bring_text(path, read_bytes(path, LARGEST))


def bring_text(path: Path, content: bytes) -> Source:
    """Imports the text of a file; one that is imported already has its kinds again. Raises ``ValueError``."""
    path, name = path.resolve(), path.stem
    before = SOURCES.get(name) or _imported_by_python(path, content)
    if before and before.content == content:
        with _sound(str(path)):
            RETIRED.difference_update(before.kinds)
        return before
    _refuse_taken(path, before)
    if before:
        RETIRED.update(before.kinds)
    module = ModuleType(name)
    module.__file__ = str(path)
    BROUGHT.add(name)
    sys.modules[name] = module
    SOURCES.pop(name, None)
    try:
        with _sound(str(path)):
            exec(compile(content, str(path), "exec"), vars(module))
    except UsageError:
        sys.modules.pop(name, None)
        raise
    SOURCES[name] = Source(path, content, module, _kinds_of(name))
    return SOURCES[name]


def _imported_by_python(path: Path, content: bytes) -> Source | None:
    """Takes over a file that the user has imported without a task file, as in a notebook."""
    name, module = path.stem, sys.modules.get(path.stem)
    if module is None or getattr(module, "__file__", None) != str(path):
        return None
    BROUGHT.add(name)
    SOURCES[name] = Source(path, content, module, _kinds_of(name))
    return SOURCES[name]


def _kinds_of(name: str) -> frozenset[type]:
    """Returns the kinds that a module defines."""
    return frozenset(kind for kind in _kinds() if kind.__module__ == name)


def _refuse_taken(path: Path, before: Source | None) -> None:
    """Refuses a file whose module would stand in the way of another one."""
    name = path.stem
    there = None if before else sys.modules.get(name)
    standard = name in sys.stdlib_module_names
    taken = standard or there is not None or _installed(name)
    where = getattr(there, "__file__", None)
    problem = f"{path}: the name {name!r} is that of a module which is there already" + (f" ({where})" if where else "")
    refuse("rename the file", [problem] if taken else [])


def _installed(name: str) -> bool:
    """Returns whether a package of this name is installed."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return False
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    origin = getattr(spec, "origin", None)
    return origin is not None and any(Path(origin).is_relative_to(each) for each in places)


def bring_module(name: str) -> ModuleType:
    """Imports a module by name. Raises ``ValueError``."""
    BROUGHT.add(name)
    with _sound(name):
        return import_module(name)


@contextmanager
def _sound(what: str) -> Iterator[None]:
    """Refuses what goes wrong while something is imported, in one line; what it defined so far is no kind then."""
    before, problems = set(_kinds()), []
    try:
        yield
    except (Exception, SystemExit) as error:
        problems = [_why(what, error)]
    new = set(_kinds()) - before
    problems = problems or _clashes(new)
    if problems:
        RETIRED.update(new)
        raise UsageError("; ".join(problems))


def _why(what: str, error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename or what}:{error.lineno}: {type(error).__name__}: {error.msg}"
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and (what == missing or what.startswith(f"{missing}.")):
        return f"no module {what!r} can be imported: {missing!r} is neither installed nor on PYTHONPATH"
    return told(error) if blamed(error) else f"{what}: {told(error)}"


# ---- entry points --------------------------------------------------------------------------------------------------


@cache
def load_entry_points() -> tuple[str, ...]:
    """Imports the entry points `iclab.kinds` of all installed packages, once; returns the modules. Raises
    ``ValueError`` that names package and entry point."""
    problems, loaded = [], []
    for each in entry_points(group=GROUP):
        try:
            BROUGHT.add(each.module)
            with _sound(each.value):
                each.load()
            loaded.append(each.module)
        except UsageError as error:
            problems.append(f"the package {_package(each)} names a plug-in that cannot be used, {each.name}: {error}")
    config.refuse_lines(problems)
    return tuple(dict.fromkeys(loaded))


def _package(each: EntryPoint) -> str:
    return f"{each.dist.name} {each.dist.version}" if each.dist else "of no name"


# ---- kinds of one name ---------------------------------------------------------------------------------------------


def _roots() -> list[type]:
    """Returns the classes of the package that others derive from."""
    return [each for root in (ABC, Protocol) for each in _below(root) if each.__module__.startswith("iclab.")]


def _below(base: Any) -> list[type]:
    return base.__subclasses__()


def _kinds() -> Iterator[type]:
    yield from (kind for root in _roots() for kind in config.every_kind(root))
    yield from analysis.kinds()
    yield from format_kinds()


def _clashes(new: Iterable[type]) -> list[str]:
    """Returns the kinds that have the name of another one of the same base."""
    import_module(analysis.OURS)
    named = ((kind, other) for kind in new if issubclass(kind, Analysis) for other in analysis.kinds())
    twice = [(kind, other) for kind, other in named if kind is not other and kind.name == other.name]
    problems = [f"two analyses have the name {kind.name!r}: {place(kind)} and {place(other)}" for kind, other in twice]
    pairs: dict[tuple[type, type], type] = {}
    for kind in sorted(new, key=kind_name):
        for base in (base for base in kind.__mro__ if base in _roots()):  # the narrowest first
            same = (other for other in config.every_kind(base) if kind_name(other) == kind_name(kind))
            pairs |= {(kind, other): base for other in same if other is not kind and (kind, other) not in pairs}
    return problems + [
        f"{kind_name(kind)} is the name of two kinds of {base.__name__}: {place(kind)} and {place(other)}"
        for (kind, other), base in pairs.items()
    ]


# ---- copies in the store -------------------------------------------------------------------------------------------


def keep(folder: Path, imports: Iterable[Import]) -> None:
    """Writes the text of each imported file into the folder of a sweep or a run. Raises ``OSError``."""
    for each in imports:
        path = folder / KEPT / each.name
        if each.digest and not (path.is_file() and digest_of(path.read_bytes()) == each.digest):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, SOURCES[Path(each.name).stem].content)


def bring_back(settings: Mapping[str, Any], folder: Path) -> None:
    """Imports what the settings of a run record, files from the copies in its folder. Raises ``ValueError``."""
    load_entry_points()
    reader = config.Reader(lambda key: folder / "config.toml")
    imports = reader.read(tuple[Import, ...], settings.get("imports", []), "imports")
    config.refuse_lines(reader.problems)
    for each in imports:
        if each.digest is None:
            bring_module(each.name)
            continue
        path = folder / KEPT / Path(each.name).name
        before = SOURCES.get(path.stem)
        if before and before.digest == each.digest:
            bring_text(before.path, before.content)
        else:
            bring_text(path, _unchanged(path, each.digest, folder))


def _unchanged(path: Path, digest: str, folder: Path) -> bytes:
    """Returns the text of a copy. Raises `Damaged` where it is not the text of this digest."""
    try:
        content = read_bytes(path, LARGEST)
    except UsageError as error:
        raise Damaged(f"{error}; {remedy(folder)}") from None
    if digest_of(content) != digest:
        raise Damaged(f"{path} is damaged: its text is not what the run was made with; {remedy(folder)}")
    return content


def versions(imports: Iterable[Import]) -> dict[str, str | None]:
    """Returns the digest of each file and the version of each module's package, those of entry points included."""
    names = [each.name for each in imports if each.digest is None]
    modules = [*names, *load_entry_points()]
    packages = packages_distributions() if modules else {}
    result = {name: _version(packages.get(name.partition(".")[0], [])) for name in modules}
    return {each.name: each.digest for each in imports if each.digest} | result


def _version(packages: list[str]) -> str | None:
    try:
        return version(packages[0]) if packages else None
    except PackageNotFoundError:
        return None


# ---- theorems ------------------------------------------------------------------------------------------------------


def theorems_of(module: ModuleType) -> list[Theorem]:
    """Returns the list THEOREMS of a module, empty where it has none. Raises ``ValueError``."""
    theorems = getattr(module, "THEOREMS", [])
    sound = isinstance(theorems, list | tuple) and all(isinstance(each, Theorem) for each in theorems)
    what = getattr(module, "__file__", module.__name__)
    refuse(f"{what}", [] if sound else ["THEOREMS must be a list of iclab.constructed.Theorem"])
    taken = [each.name for each in theorems if each.name in {each.name for each in THEOREMS}]
    refuse(f"{what}", [f"the theorem {name!r} has the name of another one" for name in taken])
    return list(theorems)
