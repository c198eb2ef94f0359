"""Checks shapes and types under test: beartype, with an integer accepted where a float is asked for (PEP 484).

The check of a function is made when it is first called: to make those of all of them takes longer than most tests.
"""

from functools import wraps
from typing import Any

from beartype import BeartypeConf, beartype

_checking = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function):
    """The function with its arguments and answers checked.

    jaxtyping asks for two checks of each function: of the arguments before a call, with no word about the answer, and
    of the arguments and the answer after it. The second need not look at the arguments again: their sizes are kept.
    """
    made, answer = [], function.__annotations__.get("return", Any)
    if answer is not Any:
        function.__annotations__ = {"return": answer}

    @wraps(function)
    def first(*args, **kwargs):
        if not made:
            made.append(_checking(function))
        return made[0](*args, **kwargs)

    return first
