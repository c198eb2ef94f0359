"""Algorithms in words, from the names that families of them have in tables and claims.

    words.algorithm("gradient_descent_8", 0.69)        gradient descent, 8 steps (η ≈ 0.69)
    words.algorithm("newton", 14, "≥")                 Newton's iteration (≥ 14 steps)

A parameter at an end of the search grid is written with ≤ or ≥: values beyond it were not tried.
"""

from collections.abc import Mapping, Sequence

CERTAIN = 0.95  # the probability from which on the nearest family is named without its rivals
SOME = 3  # rivals that are named
MOST_STEPS = 8  # of gradient descent with a step size to be fitted; the family of so many is the last of its kind
NAMES = {
    "bayes": "the Bayes predictor",
    "trained_bayes": "the Bayes predictor of the training",
    "newton": "Newton's iteration",
    "landweber": "gradient descent of the largest safe step",
    "one_pass_sgd": "one pass of SGD",
    "zero": "the zero predictor",
}
SYMBOLS = {"ridge": "λ", "gradient_descent": "η", "one_pass_sgd": "lr", "nearest_neighbours": "k"}
LEGENDS = {
    "bayes": "Bayes",
    "trained_bayes": "Bayes for the training distribution",
    "landweber": "GD, largest safe step",
    "newton": "Newton's iteration",
    "one_pass_sgd": "SGD, one pass",
    "zero": "zero predictor",
}
STEPPED = {"gradient_descent": "GD", "newton": "Newton"}
COUNTS = ("newton", "landweber")  # whose parameter is a number of steps


def algorithm(family: str, value: float | None = None, grid_bound_mark: str = "") -> str:
    """Names a family with its fitted parameter, where it has one; the mark is "≤" or "≥" at an end of the grid."""
    kind, _, steps = family.rpartition("_")
    if kind == "gradient_descent":
        name = f"gradient descent, {'≥ ' if int(steps) == MOST_STEPS else ''}{_steps(float(steps))}"
    else:
        kind, name = family, NAMES.get(family, family.replace("_", " "))
    return name if value is None else f"{name} ({_parameter(kind, value, grid_bound_mark)})"


def short(name: str) -> str:
    """Names a predictor in a legend.

    >>> short("gradient_descent_8"), short("newton_3"), short("nearest_neighbours")
    ('GD, 8 steps', 'Newton, 3 steps', 'nearest neighbours')
    """
    kind, _, count = name.rpartition("_")
    if kind in STEPPED and count.isdigit():
        return f"{STEPPED[kind]}, {_steps(float(count))}"
    return LEGENDS.get(name, name.replace("_", " "))


def _parameter(kind: str, value: float, grid_bound_mark: str) -> str:
    if kind in COUNTS:
        return f"{grid_bound_mark} {_steps(value)}".lstrip()
    return f"{SYMBOLS.get(kind, 'parameter')} {grid_bound_mark or '≈'} {value:.3g}"


def _steps(value: float) -> str:
    return f"{value:.4g} step{'' if value == 1 else 's'}"


def share(value: float) -> str:
    """Writes a relative distance in per cent."""
    return f"{100 * value:.2g} %" if value < 1 else f"{100 * value:.0f} %"


def sentence(where: str, what: str, distance: float, probability: float, scale: str, alike: Sequence[str] = ()) -> str:
    """Returns a sentence that names the nearest algorithm, its distance, its probability, and the families that cannot
    be distinguished from it."""
    text = f"{where}: {what}, {share(distance)} of the {scale} away; probability {probability:.2g}"
    return text + told_apart(alike)


def rivals(probabilities: Mapping[str, float], name: str) -> tuple[str, ...]:
    """Returns the families that cannot be distinguished from `name`, likeliest first, given the probability that each
    is the nearest. They are nearest in more than 5 % of the cases, relative to the likeliest family: among many similar
    families each is rarely the nearest."""
    least = (1 - CERTAIN) * max(probabilities.values())
    near = sorted((k for k, p in probabilities.items() if p > least), key=lambda k: -probabilities[k])
    return tuple(k for k in near if k != name) if name in near else ()


def told_apart(alike: Sequence[str]) -> str:
    """Returns the end of a sentence that names indistinguishable families, or an empty text."""
    names = [algorithm(name) for name in alike[:SOME]] + [f"{len(alike) - SOME} more"] * (len(alike) > SOME)
    return f", indistinguishable from {', '.join(names)}" if alike else ""
