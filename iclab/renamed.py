"""Names that have changed. An old one works for one more version, with a warning that gives the new one:

    modules             `MOVED`         methods, properties     `method`, `attribute`
    what they define    `old_names`     keywords                `old_keywords`

In files a class keeps the name that it had (`kind_name`, from ``file_kind``), so that no file and no id changes.
A subclass of the user's that defines a property under its old name is understood too (`adopt`).
"""

from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar
from warnings import warn

Class = TypeVar("Class", bound=type)


MOVED = {
    "iclab.training": "iclab.learning.training",
    "iclab.token_training": "iclab.learning.token_training",
    "iclab.fitting": "iclab.learning.fitting",
    "iclab.regression": "iclab.learning.random_feature_ridge",
    "iclab.descent": "iclab.learning.attention_training",
    "iclab.posterior": "iclab.theory.posterior",
    "iclab.words": "iclab.algorithm_names",
    "iclab.measures.beside": "iclab.measures.auxiliary",
    "iclab.features": "iclab.tasks.features",
}
ROOMS = (  # of modules that went from one package to another: the old one, the new one, names
    ("iclab.analysis", "iclab.theory", "asymptotics linear_attention one_layer random_features references"),
    ("iclab.analysis", "iclab.analysis.algorithms", "agreement identify iterations minima spectra report evolution"),
    ("iclab.analysis", "iclab.analysis.layers", "attention attention_probes concepts descent interpolation pasting"),
    ("iclab.analysis", "iclab.analysis.layers", "probing readout similarity stitching symmetries token_probes"),
    ("iclab.analysis", "iclab.analysis.heads", "circuits composition cuts edits folding list_recall low_rank movers"),
    ("iclab.analysis", "iclab.analysis.heads", "patching reach roles steering"),
    ("iclab.tasks", "iclab.tasks.examples", "classification derived dynamics inputs linear mixture nonlinear prompts"),
    ("iclab.tasks", "iclab.tasks.examples", "query_and_keys representation targets"),
    ("iclab.tasks", "iclab.tasks.tokens", "gaussian_classes laundry markov ordering recall"),
)
MOVED |= {f"{old}.{name}": f"{new}.{name}" for old, new, names in ROOMS for name in names.split()}


class Moved(ModuleType):
    """A module by its old name. A function of that name which its package has, such as `iclab.analysis.references`, can
    still be called: the import of a module puts it in the place of whatever its package called so."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        new = import_module(MOVED[self.__name__])
        return getattr(new, self.__name__.rpartition(".")[2])(*given, **named)


class Finder(MetaPathFinder, Loader):
    """Makes a module that was moved from the new one, when it is imported by its old name."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Returns how to make a module of `MOVED`; nothing for any other."""
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Returns the module, without content."""
        return Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Lets a module look up its content where that is now."""
        vars(module)["__getattr__"] = moved(module.__name__, MOVED[module.__name__])


def _warn(old: str, new: str) -> None:
    warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)


def moved(old: str, new: str) -> Callable[[str], Any]:
    """Returns the ``__getattr__`` of a module whose content has moved."""

    def look_up(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        _warn(old, new)
        return getattr(import_module(new), name)

    return look_up


def old_names(module: str, **new: str) -> Callable[[str], Any]:
    """Returns the ``__getattr__`` of a module in which names are others now: the new one by the old one."""

    def look_up(name: str) -> Any:
        if name not in new:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", new[name])
        return getattr(import_module(module), new[name])

    return look_up


def kind_name(cls: type) -> str:
    """Returns the name of a class in files: its own, unless it had another one when the first files were written."""
    return vars(cls).get("file_kind", cls.__name__)


def method(old: str, new: str) -> Callable[..., Any]:
    """Returns a method that has another name now."""

    def call(self: Any, *given: Any) -> Any:
        _warn(f"{type(self).__name__}.{old}", new)
        return getattr(self, new)(*given)

    call.__doc__ = f"Returns what `{new}` does, its new name."
    return call


def attribute(old: str, new: str) -> Any:
    """Returns a property that has another name now."""

    def get(self: Any) -> Any:
        _warn(f"{type(self).__name__}.{old}", new)
        return getattr(self, new)

    get.__doc__ = f"Returns `{new}`, its new name."
    return property(get)


def adopt(cls: type, new: Mapping[str, str]) -> None:
    """Gives what a class defines itself as a property under an old name its new one."""
    for old, name in new.items():
        if isinstance(vars(cls).get(old), property) and name not in vars(cls):
            _warn(f"{cls.__name__}.{old}", name)
            setattr(cls, name, vars(cls)[old])


def old_keywords(**new: str) -> Callable[[Class], Class]:
    """Lets the constructor of a class take keywords by their old names: the new one by the old one."""

    def decorate(cls: Class) -> Class:
        make: Any = cls.__init__

        @wraps(make)
        def init(self: Any, *given: Any, **named: Any) -> None:
            for old in named.keys() & new.keys():
                _warn(f"{cls.__name__}({old}=…)", f"{new[old]}=…")
                named[new[old]] = named.pop(old)
            make(self, *given, **named)

        cls.__init__ = init
        return cls

    return decorate
