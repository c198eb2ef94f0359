"""How linear a predictor is in its query: a measure that was released, and the one that is meant.

Akyürek, Schuurmans, Andreas, Ma, Zhou 2022 (arXiv 2211.15661, §4.2 and Fig. 6) fit a linear map ŵ to the answers f(x_q)
to many queries after one prompt, and report its R². Whether f is linear is measured by the R² of the map as a fit to f,

    1 − Σ_q (f(x_q) − ŵ·x_q)² / Σ_q (f(x_q) − f̄)²,

which is 1 for every linear f. The released plotting code scores the map against the labels y_q = w·x_q instead,

    1 − Σ_q (y_q − ŵ·x_q)² / Σ_q (y_q − ȳ)².

Of least squares without noise, which is linear, that is n/d on average over isotropic inputs for n < d examples: ŵ = Pw
with the projection P onto n of d dimensions, and E‖(I − P)w‖² = (1 − n/d)‖w‖². It rises with n as the figure does,
where nothing becomes more linear.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.constructed.theorem import CONDITION, Case, Integers, Reals, Theorem
from iclab.predictors import LeastSquares

PAPER = "Akyürek et al. 2022 (arXiv 2211.15661)"
QUERIES = 4  # for each dimension


def unexplained(
    answers: Float[Tensor, " q"], weights: Float[Tensor, " d"], queries: Float[Tensor, "q d"]
) -> Float[Tensor, ""]:
    """Returns 1 − R² of a linear map of the queries, scored against some answers."""
    return (answers - queries @ weights).square().sum() / (answers - answers.mean()).square().sum()


def _least_squares(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, their labels, and the answers of least squares to them after the n examples of the case."""
    xs, ys = replace(case, n=case.n + QUERIES * case.d).prompt()
    prompt = xs[:, : case.n + 1], ys[:, : case.n + 1]
    queries, labels = xs[0, case.n + 1 :], ys[0, case.n + 1 :]
    return queries, labels, queries @ LeastSquares().weights(*prompt)[0, -1]


def _bound(case: Case) -> float:
    return (64 * (case.n + QUERIES * case.d) * case.eps * case.condition) ** 2


def _against_answers(case: Case) -> tuple[float, float]:
    queries, _, answers = _least_squares(case)
    return unexplained(answers, torch.linalg.lstsq(queries, answers).solution, queries).item(), _bound(case)


def _against_labels(case: Case) -> tuple[float, float]:
    queries, labels, answers = _least_squares(case)
    return unexplained(labels, torch.linalg.lstsq(queries, answers).solution, queries).item(), _bound(case)


LINEARITY = Theorem(
    "akyurek2022_linearity",
    f"{PAPER}, §4.2 and Fig. 6, R² of the linear map as a fit to the answers",
    "the answers of least squares are linear in the query, R² = 1, after any number of examples",
    {"d": Integers(1, 8), "n": Integers(1, 12), "size": Reals(0.1, 2.0, log=True), "condition": CONDITION},
    _against_answers,
    "1 − R² is the square of rounding, eps for each term times the condition of the queries",
)

THEOREMS: list[Theorem] = [
    LINEARITY,
    LINEARITY.as_printed(
        f"{PAPER}, Fig. 6 as its released plotting code has it, R² of the linear map against the labels",
        "the R² that the code prints for a predictor that is linear in the query, such as least squares, is 1",
        _against_labels,
        "akyurek2022_linearity_released",
    ),
]
