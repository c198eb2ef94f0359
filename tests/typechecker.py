"""Checks shapes and types under test: beartype, with an integer accepted where a float is asked for (PEP 484).

jaxtyping's own decorator binds the arguments of every call anew and looks at them twice; with it most of the time of
the suite went into checks. Here one call of beartype looks at the arguments, calls the function and looks at its
answer, all where names of sizes stand for one size. The check of a function is made when it is first called: to make
those of all of them takes longer than most tests.
"""

from dataclasses import is_dataclass
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_checking = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_sizes = jaxtyping.jaxtyped  # jaxtyped("context"): where a name stands for one size


def install(package):
    """Checks every function and dataclass of a package that is imported from now on."""
    jaxtyping.install_import_hook(package, "typechecker.checked")
    jaxtyping.jaxtyped = lambda *, typechecker: typechecker  # the hook writes @jaxtyping.jaxtyped(typechecker=...)


def checked(target):
    """The same with its arguments and answers checked; of a dataclass, what it is made of."""
    if isinstance(target, type):
        if is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = checked(target.__init__)
        return target
    if isinstance(target, classmethod | staticmethod):
        return type(target)(checked(target.__func__))
    if isinstance(target, property):
        return property(*(one and checked(one) for one in (target.fget, target.fset, target.fdel)))
    made = []

    @wraps(target)
    def first(*args, **kwargs):
        if jaxtyping.config.jaxtyping_disable:
            return target(*args, **kwargs)
        if not made:
            made.append(whole(resolved(target)))
        with _sizes("context"):
            return made[0](*args, **kwargs)

    return first


def whole(function):
    """The function with a check of its arguments and its answer. Of a generator both are checked where it is called:
    beartype alone would look at the arguments where the first value is asked for, among the sizes of another call."""
    return _sizes(function, typechecker=_checking) if isgeneratorfunction(function) else _checking(function)


def resolved(function):
    """The same function, where a name in quotes that is imported for readers alone asks for nothing."""
    for name, hint in function.__annotations__.items():
        if isinstance(hint, str):
            try:
                eval(hint, function.__globals__)
            except NameError:
                function.__annotations__[name] = Any
    return function
