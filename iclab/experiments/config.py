"""Plain mappings (the content of a TOML file) to frozen dataclasses and back: annotations are the schema.

    bool, int, float, str        the same in the file; an integer will do for a float, nothing else is converted
    X | None                     left out, or the word "none"
    Literal["a", "b"]            one of these
    tuple[X, ...], tuple[X, Y]   a list
    tuple[tuple[str, X], ...]    a table from names to X, for a class that must be hashable; dict[str, X] otherwise
    a dataclass                  a table of its fields
    an abstract class            a table whose `kind` is the name of the class below it that is meant
    a tensor                     nothing: a field, or an alternative of one, that only Python can set

A field that was added to a class later, `field(default=..., metadata={"since": "0.1"})` with the version that it
came with, is written only where it has another value than its default: what was written before it was there, and every
id made of that, stays as it is.

A reader goes on after a problem, so that all problems of a file are reported at once, each with its dotted key.
"""

import dataclasses
import inspect
import re
import tomllib
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w
from jaxtyping import AbstractArray

from iclab.errors import UsageError, unknown
from iclab.experiments.mappings import Nested, join
from iclab.experiments.outside import blamed, outside, place, told
from iclab.files import read_text
from iclab.renamed import kind_name
from iclab.retired import RETIRED

T = TypeVar("T")

FAILED: Any = object()  # in the place of a value that could not be read and whose problem is noted
SCALARS: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "a text in quotes"}
NONE = "none"


# ---- files ---------------------------------------------------------------------------------------------------------


def parse(text: str, source: object) -> dict[str, Any]:
    """Returns the mapping that TOML text holds. Raises ``ValueError`` with the source, the line and the column."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{source}: not TOML that can be read: nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{source}: not TOML: {error}") from None


def load(path: Path) -> dict[str, Any]:
    """Returns the mapping in a TOML file."""
    return parse(read_text(path), path)


def dump(mapping: Nested) -> str:
    """Writes TOML text."""
    return tomli_w.dumps(mapping)


# ---- the schema that annotations are -------------------------------------------------------------------------------


@cache
def schema(cls: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Returns the fields of a dataclass that its constructor takes and a file can hold, each with its type."""
    hints = {name: _without_tensors(hint) for name, hint in get_type_hints(cls).items()}
    return {f.name: (f, hints[f.name]) for f in dataclasses.fields(cls) if f.init and hints[f.name] is not NoneType}


def _without_tensors(hint: Any) -> Any:
    """The annotation without alternatives that are tensors; None's type where nothing else is left."""
    tensors = [m for m in members(hint) if isinstance(m, type) and issubclass(m, AbstractArray)]
    left = [m for m in members(hint) if m not in tensors]
    return hint if not tensors else reduce(or_, left) if left else NoneType


def kinds(base: type) -> dict[str, type]:
    """Returns the classes that can stand where `base` is annotated, by name: itself and all below it that are not
    abstract. A class whose objects are compared by identity holds what a file cannot (tensors), and is left out."""
    return {kind_name(kind): kind for kind in every_kind(base)}


def every_kind(base: type) -> Iterator[type]:
    """Yields the same classes as `kinds`, of one name as often as there are; one of several bases more than once."""
    waiting = [base]
    while waiting:
        cls = waiting.pop()
        if not _no_kind_because(cls):
            yield cls
        waiting += reversed(cls.__subclasses__())


def _no_kind_because(cls: type) -> str:
    """Why a class is no kind that a file can name, as the end of a sentence; nothing where it is one."""
    if cls in RETIRED:
        return "was replaced"
    if inspect.isabstract(cls):
        return f"is abstract: it lacks {', '.join(sorted(getattr(cls, '__abstractmethods__')))}"  # noqa: B009
    if not dataclasses.is_dataclass(cls):
        return "is no dataclass: it lacks @dataclass(frozen=True)"
    params = getattr(cls, "__dataclass_params__")  # noqa: B009
    return "" if params.eq else "is compared by identity: it may hold what no file can"


def kind_problems(cls: type) -> list[str]:
    """Returns the problems of a class from outside the package as one whose fields are read from a file."""
    own = vars(cls).get("__annotations__", {})
    if own and "__dataclass_params__" not in vars(cls):
        return ["has fields of its own and lacks @dataclass(frozen=True)"]
    if not getattr(cls, "__dataclass_params__").frozen:  # noqa: B009
        return ["is not frozen: it needs @dataclass(frozen=True)"]
    try:
        hints = {name: hint for name, (_, hint) in schema(cls).items()}
    except Exception as error:  # annotations are code, and may be any
        return [f"has annotations that cannot be read: {told(error)}"]
    unfit = [name for name, hint in hints.items() if not _holdable(hint)]
    problems = [f"has a field {name}: {_type(hints[name])}, which no file can hold" for name in unfit]
    return problems + ["has a field kind, a name that files need for the class"] * ("kind" in hints)


def _holdable(hint: Any) -> bool:
    """Whether a file can hold what is annotated so."""
    if len(members(hint)) > 1:
        return all(_holdable(m) for m in members(hint) if m is not NoneType)
    if named(hint) is not None or get_origin(hint) is tuple:
        inner = [named(hint)] if named(hint) is not None else [m for m in get_args(hint) if m is not Ellipsis]
        return all(map(_holdable, inner))
    return hint in SCALARS or get_origin(hint) is Literal or is_table(hint)


def _type(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


def has_kinds(hint: Any) -> bool:
    """Returns whether the table of an annotated class needs a `kind`: abstract classes and their subclasses do."""
    return isinstance(hint, ABCMeta)


@cache
def is_table(hint: Any) -> bool:
    """Returns whether the annotation is a class whose fields are read from a table."""
    return isinstance(hint, type) and (dataclasses.is_dataclass(hint) or has_kinds(hint))


@cache
def named(hint: Any) -> Any:
    """Returns X, where the annotation is a table from names to X, else None."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (dict, Mapping) and args[0] is str:
        return args[1]
    pair = origin is tuple and len(args) == 2 and args[1] is Ellipsis and get_origin(args[0]) is tuple
    return get_args(args[0])[1] if pair and get_args(args[0])[0] is str else None


def members(hint: Any) -> tuple[Any, ...]:
    """Returns the alternatives of a union; any other annotation is its own only one."""
    if isinstance(hint, type):
        return (hint,)
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def required(spec: dataclasses.Field[Any]) -> bool:
    """Returns whether a field has no default."""
    return spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING


@cache
def default(spec: dataclasses.Field[Any]) -> Any:
    """Returns the default of a field, None where it has none."""
    return spec.default_factory() if callable(spec.default_factory) else (None if required(spec) else spec.default)


def described(hint: Any) -> str:
    """Returns what is expected, in words."""
    if hint in SCALARS:
        return SCALARS[hint]
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(shown, get_args(hint)))
    if len(members(hint)) > 1:
        return " or ".join(shown(NONE) if m is NoneType else described(m) for m in members(hint))
    if named(hint) is not None or get_origin(hint) is not tuple:
        return "a table"
    inner = get_args(hint)
    if inner[-1] is Ellipsis:
        return f"a list, each {described(inner[0])}"
    return f"a list of {len(inner)}: {', '.join(map(described, inner))}"


def shown(value: Any) -> str:
    """Returns a value as it is written in a file, shortened."""
    text = f'"{value}"' if isinstance(value, str) else _printed(value)
    return text if len(text) <= 80 else f"{text[:60]} … ({len(text)} characters)"


def _printed(value: Any) -> str:
    try:
        return str(value).lower() if isinstance(value, bool) else str(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"an integer of {value.bit_length()} bits"


def known_keys(hint: Any, given: Any, key: str = "", preset: Any = None) -> Iterator[str]:
    """Yields all dotted keys that can be set, for the kinds of class that `given` names."""
    given = given if isinstance(given, Mapping) else {}
    for member in filter(is_table, members(hint)):
        final = _named_kind(member, given, preset)
        yield from [join(key, "kind")] if has_kinds(member) else []
        for name, (spec, inner) in (schema(final) if final else {}).items():
            yield join(key, name)
            yield from known_keys(inner, given.get(name), join(key, name), default(spec))


def _named_kind(base: type, given: Nested, preset: Any = None) -> type | None:
    """The class that a table stands for: the one named, the default's, or the only one there is."""
    known = kinds(base)
    if "kind" in given and has_kinds(base):
        return known.get(given["kind"]) if isinstance(given["kind"], str) else None
    if isinstance(preset, base):
        return type(preset)
    return next(iter(known.values())) if len(known) == 1 else None


# ---- reading -------------------------------------------------------------------------------------------------------


@dataclass
class Reader:
    """Reads values against annotations and notes the problems; `source` says where a key was given, `known` lists all
    keys, for a problem. `made` keeps the objects of tables that were read before: the cells of a sweep have most in
    common."""

    source: Callable[[str], object]
    known: Callable[[], Iterable[str]] = tuple
    problems: list[str] = field(default_factory=list)
    made: dict[Any, Any] = field(default_factory=dict)

    def fail(self, key: str, text: str) -> Any:
        """Adds a problem and returns FAILED."""
        self.problems.append(f"{self.source(key)}: {text}")
        return FAILED

    def wrong(self, key: str, hint: Any, given: Any) -> Any:
        """Adds the problem that a value has another type than expected."""
        return self.fail(key, f"{key}: expected {described(hint)}, given {shown(given)}")

    def read(self, hint: Any, given: Any, key: str = "", preset: Any = None) -> Any:
        """Returns the value of an annotation, or FAILED. `preset` is the default that it replaces."""
        if given is FAILED:
            return FAILED
        if len(members(hint)) > 1:
            return self._union(hint, given, key, preset)
        if hint in SCALARS:
            return self._scalar(hint, given, key)
        if get_origin(hint) is Literal:
            return self._literal(hint, given, key)
        if named(hint) is not None:
            return self._names(hint, given, key)
        if get_origin(hint) is tuple:
            return self._list(hint, given, key)
        if is_table(hint):
            return given if isinstance(given, hint) else self._table(hint, given, key, preset)
        raise TypeError(f"{key}: settings of type {hint} are not read from files")

    def _union(self, hint: Any, given: Any, key: str, preset: Any) -> Any:
        trials = []
        for member in (m for m in members(hint) if m is not NoneType):
            trials.append(Reader(self.source, self.known, made=self.made))
            value = trials[-1].read(member, given, key, preset)
            if not trials[-1].problems:
                return value
        if given == NONE and NoneType in members(hint):
            return None
        if len(trials) == 1 and isinstance(given, Mapping | list):
            self.problems += trials[0].problems  # they say what is wrong inside
            return FAILED
        return self.wrong(key, hint, given)

    def _scalar(self, hint: Any, given: Any, key: str) -> Any:
        fits = type(given) is hint or (hint is float and type(given) is int)
        if not fits:
            return self.wrong(key, hint, given)
        if type(given) is int and not -(2**63) <= given < 2**63:
            return self.fail(key, f"{key}: expected an integer of at most 64 bits, given {shown(given)}")
        if hint is float and not abs(given) < float("inf"):
            return self.fail(key, f"{key}: expected a finite number, given {shown(given)}")
        return float(given) if hint is float else given

    def _literal(self, hint: Any, given: Any, key: str) -> Any:
        for value in get_args(hint):
            if type(given) is type(value) and given == value:
                return value
        if not isinstance(given, str):
            return self.wrong(key, hint, given)
        return self.fail(key, f"{key}: {unknown('value', given, map(str, get_args(hint)))}")

    def _list(self, hint: Any, given: Any, key: str) -> Any:
        inner = get_args(hint)
        several = inner[-1] is Ellipsis
        if several and isinstance(given, str):
            problem = f"given {shown(given)}; in a list: [{shown(given)}]"
            return self.fail(key, f"{key}: expected {described(hint)}, {problem}")
        if not isinstance(given, list | tuple) or not (several or len(given) == len(inner)):
            return self.wrong(key, hint, given)
        each = [inner[0]] * len(given) if several else inner
        values = [self.read(h, g, f"{key}[{i}]") for i, (h, g) in enumerate(zip(each, given, strict=True))]
        return FAILED if FAILED in values else tuple(values)

    def _names(self, hint: Any, given: Any, key: str) -> Any:
        if not isinstance(given, Mapping):
            return self.wrong(key, hint, given)
        values = {name: self.read(named(hint), value, join(key, name)) for name, value in given.items()}
        if FAILED in values.values():
            return FAILED
        return tuple(values.items()) if get_origin(hint) is tuple else values

    def _table(self, base: type, given: Any, key: str, preset: Any) -> Any:
        if dataclasses.is_dataclass(given):
            return self.fail(key, f"{key}: expected {base.__name__}, given {type(given).__name__}")
        if not isinstance(given, Mapping):
            return self.wrong(key, base, given)
        before = (base, key, type(preset), repr(given)) if key else None  # the whole is never the same
        if before in self.made:
            return self.made[before]
        final = _named_kind(base, given, preset)
        if final is None:
            return self._no_kind(base, given, key)
        if unfit := kind_problems(final) if outside(final) and has_kinds(base) else []:
            return self.fail(key, f"{key}: {kind_name(final)} {'; '.join(unfit)} ({place(final)})")
        fields = {k: v for k, v in given.items() if not (k == "kind" and has_kinds(base))}
        value = self._build(final, fields, key, {"kind"} if has_kinds(base) else set())
        if value is not FAILED and outside(final) and has_kinds(base):
            value = self._tried(value, key)
        if before and value is not FAILED:
            self.made[before] = value
        return value

    def _tried(self, value: Any, key: str) -> Any:
        """The object of a class from outside, or FAILED where it does not do what its kind must."""
        from iclab.experiments.trials import problems  # which needs torch, and reading plain data does not

        failures = [self.fail(key, f"{key}: {text}") for text in problems(value)]
        return FAILED if failures else value

    def _no_kind(self, base: type, given: Nested, key: str) -> Any:
        names = kinds(base)
        if "kind" not in given:
            return self.fail(join(key, "kind"), f"missing key {join(key, 'kind')!r}. Known: {', '.join(sorted(names))}")
        kind = given["kind"]
        if not isinstance(kind, str):
            return self.wrong(join(key, "kind"), str, kind)
        same = (cls for cls in _all_below(base) if kind_name(cls) == kind and outside(cls) and cls not in RETIRED)
        why = next((f"{kind} {_no_kind_because(cls)} ({place(cls)})" for cls in same), "")
        return self.fail(join(key, "kind"), f"{join(key, 'kind')}: {why or unknown(_in_words(base), kind, names)}")

    def _build(self, final: type, given: Nested, key: str, besides: set[str]) -> Any:
        fields = schema(final)
        for name in given.keys() - fields.keys():
            self.unknown_key(join(key, name), [join(key, n) for n in {*fields, *besides}])
        missing = [n for n, (spec, _) in fields.items() if required(spec) and n not in given]
        for name in missing:
            self.fail(join(key, name), f"missing key {join(key, name)!r}: expected {described(fields[name][1])}")
        values = {
            name: self.read(hint, given[name], join(key, name), default(spec))
            for name, (spec, hint) in fields.items()
            if name in given
        }
        if missing or FAILED in values.values():
            return FAILED
        try:
            return final(**values)
        except ValueError as error:
            return self.fail(key, f"{key}: {error}" if key else str(error))
        except Exception as error:
            if not blamed(error):
                raise
            return self.fail(key, f"{key}: {told(error)}" if key else told(error))

    def unknown_key(self, key: str, here: Iterable[str]) -> Any:
        """Adds the problem that a key is unknown, with the nearest key of its table or the table that has such a
        key."""
        elsewhere = [k for k in self.known() if k.rpartition(".")[2] == key.rpartition(".")[2]]
        if elsewhere and key not in elsewhere:
            hint, known = f" Did you mean {elsewhere[0]!r}?", ", ".join(sorted(here))
            return self.fail(key, f"unknown key {key!r}.{hint} Known: {known}")
        return self.fail(key, unknown("key", key, here))


def _all_below(base: type) -> Iterator[type]:
    yield base
    for child in base.__subclasses__():
        yield from _all_below(child)


def _in_words(base: type) -> str:
    """The name of a class as it is said: "model config" of an `AnyModelConfig`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", base.__name__).lower().removeprefix("any ")


def read(cls: type[T], mapping: Nested, source: object) -> T:
    """Returns an object of a dataclass from a mapping. Raises one ``ValueError`` that lists every problem on its own
    line.

    >>> from iclab.models import TransformerConfig
    >>> read(TransformerConfig, {"n_layer": 2}, "file.toml").n_layer
    2
    >>> try:
    ...     read(TransformerConfig, {"n_layers": 2}, "file.toml")
    ... except ValueError as error:
    ...     print(str(error).split(" Known:")[0])
    file.toml: unknown key 'n_layers'. Did you mean 'n_layer'?
    """
    reader = Reader(lambda key: source, lambda: known_keys(cls, mapping))
    value = reader.read(cls, mapping)
    refuse_lines(reader.problems)
    return value


def refuse_lines(problems: Iterable[str], most: int = 40) -> None:
    """Raises one ``ValueError`` with one line per distinct problem."""
    lines = list(dict.fromkeys(map(_on_one_line, problems)))
    if lines:
        more = [f"… and {len(lines) - most} more problems"] if len(lines) > most else []
        raise UsageError("\n".join(lines[:most] + more))


def _on_one_line(text: str) -> str:
    """What a file holds may contain line breaks and control characters; a message shows them as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# ---- writing -------------------------------------------------------------------------------------------------------


def to_mapping(value: Any, hint: Any = None) -> Any:
    """Returns the mapping from which `read` makes the same object. Every default is spelled out, except None and those
    of fields that came later (`since`)."""
    if value is None:
        return NONE
    if type(value) in (int, str, bool) and hint is type(value):
        return value
    hint = next((m for m in members(hint) if is_table(m) or (m is float and int not in members(hint))), hint)
    if dataclasses.is_dataclass(value):
        kind = {"kind": kind_name(type(value))} if has_kinds(hint or type(value)) else {}
        return kind | {name: to_mapping(v, h) for name, v, h in _set_fields(value)}
    if named(hint) is not None:
        return {name: to_mapping(v, named(hint)) for name, v in dict(value).items()}
    if isinstance(value, tuple):
        inner = get_args(hint) or (None,)
        each = [inner[0]] * len(value) if inner[-1] is Ellipsis or len(inner) != len(value) else inner
        return [to_mapping(v, h) for v, h in zip(value, each, strict=True)]
    return float(value) if hint is float and type(value) is int else value


def _set_fields(value: Any) -> Iterator[tuple[str, Any, Any]]:
    for name, (spec, hint) in schema(type(value)).items():
        given = getattr(value, name)
        if required(spec) or not _left_out(given, spec):
            yield name, given, hint


def _left_out(given: Any, spec: dataclasses.Field[Any]) -> bool:
    """Whether a value is a default that no file spells out."""
    usual = default(spec)
    return (given is None and usual is None) or ("since" in spec.metadata and given == usual)
