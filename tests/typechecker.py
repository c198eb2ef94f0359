"""Checks shapes and types under test: beartype, with an integer accepted where a float is asked for (PEP 484).

The check of a function is made when it is first called: to make those of all of them takes longer than most tests.
"""

from functools import wraps

from beartype import BeartypeConf, beartype

_checking = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function):
    """The function with its arguments and answers checked."""
    made = []

    @wraps(function)
    def first(*args, **kwargs):
        if not made:
            made.append(_checking(function))
        return made[0](*args, **kwargs)

    return first
