"""Checks shapes and types under test: beartype, with an integer accepted where a float is asked for (PEP 484).

jaxtyping's own decorator binds the arguments of every call anew and looks at them twice; with it most of the time of
the suite went into checks. Here one call of beartype looks at the arguments, calls the function and looks at its
answer, all where names of sizes stand for one size; of a function that speaks of no sizes, nothing of these is kept.
The check of a function is made when it is first called: to make those of all of them takes longer than most tests.
"""

from dataclasses import dataclass, is_dataclass
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_checking = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_sizes = jaxtyping.jaxtyped
_one_call = _sizes("context")  # where a name stands for one size; it holds nothing, and serves all calls


@dataclass
class Now:
    """The number of the test that runs, and which calls of a function are checked in it: the first ones, and then one
    in so many, for to look at thousands of calls takes longer than they do."""

    test: int = 0
    first: int = 20
    then: int = 20


now = Now()


def install(package):
    """Checks every function and dataclass of a package that is imported from now on."""
    jaxtyping.install_import_hook(package, "tests.typechecker.checked")
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
    made, sizes, test, calls = None, False, 0, 0

    @wraps(target)
    def first(*args, **kwargs):
        nonlocal made, sizes, test, calls
        test, calls = now.test, calls + 1 if test == now.test else 1
        if jaxtyping.config.jaxtyping_disable or (calls > now.first and calls % now.then):
            return target(*args, **kwargs)
        if made is None:
            speaking = resolved(target)
            sizes = speaks_of_sizes(speaking)
            made = whole(speaking) if sizes else _checking(speaking)
        if not sizes:
            return made(*args, **kwargs)
        with _one_call:
            return made(*args, **kwargs)

    return first


def speaks_of_sizes(function):
    """Whether an annotation holds a shape, or is a name in quotes, which may stand for anything."""
    return any(isinstance(hint, str) or "jaxtyping." in repr(hint) for hint in function.__annotations__.values())


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
