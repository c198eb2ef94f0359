"""The laws of predictors, each on every closed form, and for each law a cheat that breaks it.

A new predictor joins by one entry in `CASES`: how it is made, which laws it need not obey, and its textbook formula for
one query in plain numpy. Prompts are drawn by shape, spread of the spectrum and seed, so a failing one can be replayed.

Tolerances. Two ways to compute the same number differ by eps times what conditioning makes of it, κ for orthogonal
methods and κ² for those that form XᵀX. `slack` is 1000·eps·κ² for the worst prefix of the prompts at hand, and 3e-9 on
top. Only causality and precision compare the same arithmetic with itself, and leave no room for conditioning.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct
from sklearn.linear_model import Lasso as SklearnLasso
from sklearn.linear_model import LassoLars
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor

from iclab.predictors import (
    Averaging,
    Bayesian,
    BinaryTest,
    BoostedTrees,
    DiscreteMMSE,
    Featurised,
    GradientDescent,
    GradientDescentPlusPlus,
    GreedyTree,
    HalfSplit,
    Landweber,
    Lasso,
    LeastSquares,
    Linear,
    LogisticRegression,
    Mixture,
    NearestNeighbours,
    Newton,
    Posterior,
    Predictor,
    Ridge,
    SparsePosterior,
    StochasticGradientDescent,
    TrainedNetwork,
    Zero,
    trees,
)
from iclab.predictors.spectral import answers_of_each
from iclab.tasks.features import Concatenated, Identity, Representation
from tests.conftest import generator

EPS = torch.finfo(torch.float64).eps

# ---- prompts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Prompts with inputs of the given spectral spread (largest over smallest standard deviation) in a random basis."""

    batch: int
    n: int
    d: int
    spread: int
    seed: int

    @property
    def rng(self) -> torch.Generator:
        return generator(self.seed)

    @cached_property
    def xs(self) -> Float[Tensor, "batch n d"]:
        rng = self.rng
        scales = torch.logspace(0, -1, self.d, base=self.spread, dtype=torch.float64)
        return (
            torch.randn(self.batch, self.n, self.d, generator=rng, dtype=torch.float64) * scales @ rotation(self.d, rng)
        )

    @cached_property
    def ys(self) -> Float[Tensor, "batch n"]:
        rng = generator(self.seed + 1)
        ws = torch.randn(self.batch, self.d, 1, generator=rng, dtype=torch.float64)
        noise = torch.randn(self.batch, self.n, generator=rng, dtype=torch.float64)
        return (self.xs @ ws).squeeze(-1) + noise / 2


def rotation(d: int, rng: torch.Generator) -> Float[Tensor, "d d"]:
    """An orthogonal matrix."""
    return torch.linalg.qr(torch.randn(d, d, generator=rng, dtype=torch.float64))[0]


DRAWN = st.builds(
    Drawn,
    batch=st.integers(1, 3),
    n=st.integers(1, 9),
    d=st.integers(1, 5),
    spread=st.sampled_from([1, 3, 10]),
    seed=st.integers(0, 2**31),
)
PLAIN = Drawn(batch=3, n=8, d=3, spread=1, seed=2)  # no prefix has κ above 6: a relative error of 1e-6 shows


def condition(xs: Float[Tensor, "batch n d"]) -> float:
    """The largest κ of any prefix, within its rank."""
    worst = 1.0
    for i in range(1, xs.shape[1] + 1):
        values = torch.linalg.svdvals(xs[:, :i])
        least = values.where(values > 1e-12 * values[:, :1], torch.inf).amin(-1)
        worst = max(worst, (values[:, 0] / least).max().item())
    return worst


def slack(xs: Float[Tensor, "batch n d"]) -> float:
    """What rounding may do to two ways of computing one number. The constant is what the fast paths of ridge and least
    squares may lose before they hand a prefix over: eps times a condition of 1e7."""
    return 1000 * EPS * condition(xs) ** 2 + 3e-9


def close(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Equal up to tolerance times the size of the numbers at hand."""
    scale = 1 + wanted.abs().max().item()
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * scale)


# ---- textbook formulas: from X [i, d], y [i] and the query x [d] to a number ---------------------------------------

Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def covariance(d: int) -> Float[Tensor, "d d"]:
    root = torch.eye(d, dtype=torch.float64) + 0.3 * torch.ones(d, d, dtype=torch.float64).triu(1)
    return root @ root.mT


def mean(d: int) -> Float[Tensor, " d"]:
    return torch.linspace(-1, 1, d, dtype=torch.float64)


def pool(d: int) -> Float[Tensor, "6 d"]:
    return torch.randn(6, d, generator=generator(d), dtype=torch.float64)


def ridge_formula(lam: float) -> Formula:
    def answer(X, y, x):
        return x @ np.linalg.solve(X.T @ X + lam * np.eye(len(x)), X.T @ y)

    return answer


def tiny_ridge_formula(lam: float) -> Formula:
    """By singular values, s/(s² + lam): the normal equations would lose every digit."""

    def answer(X, y, x):
        U, s, V = np.linalg.svd(X, full_matrices=False)
        kept = np.where(s > 1e-12 * s.max(initial=0), s / (s**2 + lam), 0)
        return x @ V.T @ (kept * (U.T @ y))

    return answer


def pinv_formula(X, y, x):
    return x @ np.linalg.pinv(X, rcond=1e-12) @ y if len(y) else 0.0


def posterior_formula(S: np.ndarray, m: np.ndarray, noise: float) -> Formula:
    def answer(X, y, x):
        if not len(y):
            return m @ x
        K = X @ S @ X.T + noise**2 * np.eye(len(y))
        return m @ x + x @ S @ X.T @ np.linalg.pinv(K, rcond=1e-13, hermitian=True) @ (y - X @ m)

    return answer


def averaging_formula(X, y, x):
    return sum(y[j] * (X[j] @ x) for j in range(len(y))) / max(len(y), 1)


def descent_formula(steps: int, lr: Callable[[int], float], P: np.ndarray, lam: float = 0.0) -> Formula:
    def answer(X, y, x):
        w = np.zeros(len(x))
        for _ in range(steps):
            w = w - lr(len(y)) * P @ (sum((w @ X[j] - y[j]) * X[j] for j in range(len(y))) + lam * w)
        return w @ x

    return answer


def plus_plus_formula(steps: int, lr: float, gamma: float) -> Formula:
    """Tokens (x_j, y_j) and the query (x, 0): all inputs and labels move at once, and the query ends with −ŷ."""

    def answer(X, y, x):
        X, y = np.vstack([X, x]), np.append(y, 0.0)
        for _ in range(steps):
            seen = X[:-1]
            delta = lr * seen.T @ y[:-1]
            X, y = X - gamma * X @ (seen.T @ seen), y - X @ delta
        return -y[-1]

    return answer


def stochastic_formula(lr: float, lam: float) -> Formula:
    def answer(X, y, x):
        w = np.zeros(len(x))
        for a, b in zip(X, y, strict=True):
            w = w - lr * (a * (a @ w - b) + lam * w)
        return w @ x

    return answer


def newton_formula(steps: int, norm: Callable[[np.ndarray], float] = lambda S: np.linalg.norm(S @ S, 2)) -> Formula:
    def answer(X, y, x):
        S = X.T @ X
        if not S.any():
            return 0.0
        M = S / norm(S)
        for _ in range(steps):
            M = 2 * M - M @ S @ M
        return x @ M @ X.T @ y

    return answer


def landweber_formula(steps: int) -> Formula:
    def answer(X, y, x):
        w = np.zeros(len(x))
        for _ in range(steps if X.any() else 0):
            w = w + X.T @ (y - X @ w) / np.linalg.norm(X, 2) ** 2
        return w @ x

    return answer


def neighbours_formula(k: int, power: int) -> Formula:
    def answer(X, y, x):
        if not len(y):
            return 0.0
        distances = [np.sqrt(((a - x) ** 2).sum()) for a in X]
        nearest = sorted(range(len(y)), key=distances.__getitem__)[:k]
        weights = [distances[j] ** -power for j in nearest]
        return sum(w * y[j] for w, j in zip(weights, nearest, strict=True)) / sum(weights)

    return answer


def grown(X, y, z, depth: int) -> float:
    """The answer to z of a greedy tree, all splits tried one by one."""
    splits = [
        (sum(((y[side] - y[side].mean()) ** 2).sum() for side in (X[:, c] <= t, X[:, c] > t)), c, t)
        for c in range(X.shape[1])
        for t in (low + (high - low) / 2 for low, high in pairwise(sorted(set(X[:, c]))))
    ]
    if not depth or not splits:
        return y.mean()
    bound = min(splits)[0] + 1e-9 * ((y - y.mean()) ** 2).sum()
    c, t = next((c, t) for error, c, t in splits if error <= bound)
    beside = (X[:, c] <= t) == (z[c] <= t)
    return grown(X[beside], y[beside], z, depth - 1)


def tree_formula(depth: int, signs: bool = False) -> Formula:
    def answer(X, y, x):
        seen = np.sign if signs else np.asarray
        return grown(seen(X), y, seen(x), depth) if len(y) else 0.0

    return answer


def boosted_formula(rounds: int, depth: int, rate: float) -> Formula:
    def answer(X, y, x):
        if not len(y):
            return 0.0
        points, f = np.vstack([X, x]), np.full(len(y) + 1, y.mean())
        for _ in range(rounds):
            f = f + rate * np.array([grown(X, y - f[:-1], z, depth) for z in points])
        return f[-1]

    return answer


def network_formula(width: int, steps: int, lr: float, seed: int) -> Formula:
    """Adam, one example and one hidden unit after the other."""

    def answer(X, y, x):
        W = torch.randn(len(x), width, generator=generator(seed), dtype=torch.float64).numpy().T.copy()
        theta = np.hstack([W, np.zeros((width, 1))])  # a row for each unit: its weights, then its part in the answer
        m, v = np.zeros_like(theta), np.zeros_like(theta)
        for t in range(1, steps + 1):
            g = np.zeros_like(theta)
            for z, b in zip(X, y, strict=True):
                error = sum(unit[-1] * max(unit[:-1] @ z, 0) for unit in theta) - b
                for k, unit in enumerate(theta):
                    if unit[:-1] @ z > 0:
                        g[k] += 2 / len(y) * error * np.append(unit[-1] * z, unit[:-1] @ z)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            theta = theta - lr * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return sum(unit[-1] * max(unit[:-1] @ x, 0) for unit in theta)

    return answer


def lasso_formula(alpha: float) -> Formula:
    """By least angles, from scikit-learn: coordinate descent can take millions of rounds where two coordinates nearly
    tie."""

    def answer(X, y, x):
        return LassoLars(alpha, fit_intercept=False).fit(X, y).coef_ @ x if len(y) else 0.0

    return answer


def discrete_formula(members: np.ndarray, noise: float) -> Formula:
    def answer(X, y, x):
        losses = np.array([sum((b - w @ a) ** 2 for a, b in zip(X, y, strict=True)) for w in members])
        if noise:
            return softmax(-losses / (2 * noise**2)) @ members @ x
        return members[losses <= losses.min() + 1e-9].mean(0) @ x

    return answer


def mixture_formula(parts: list[tuple[float, np.ndarray, float]]) -> Formula:
    """Parts are (log weight, prior covariance, noise)."""

    def answer(X, y, x):
        evidence = [
            log_weight + multivariate_normal.logpdf(y, cov=X @ S @ X.T + s**2 * np.eye(len(y)))
            if len(y)
            else log_weight
            for log_weight, S, s in parts
        ]
        answers = [posterior_formula(S, np.zeros(len(x)), s)(X, y, x) for _, S, s in parts]
        return float(softmax(np.array(evidence, float)) @ np.array(answers))

    return answer


REPRESENTATION, OTHER = Representation(width=4, depth=2, slope=0.1, seed=1), Representation(width=3, depth=1, seed=2)


def network(features: Representation, x: np.ndarray) -> np.ndarray:
    """The representation of one input, unit by unit."""
    for B in features.weights(len(x)):
        sums = [sum(b * a for b, a in zip(row.tolist(), x, strict=True)) for row in B]
        x = np.array([s if s > 0 else features.slope * s for s in sums])
    length = np.sqrt(sum(x**2))
    return x / max(length, 1e-12)


def featurised_formula(formula: Formula, features: Callable[[np.ndarray], np.ndarray]) -> Formula:
    def answer(X, y, x):
        z = features(x)
        return formula(np.array([features(a) for a in X]).reshape(len(y), len(z)), y, z)

    return answer


def representation_mixture() -> Mixture:
    """One of the two representations side by side bears the weights."""
    first, second = torch.diag(torch.tensor([1.0] * 4 + [0.0] * 3)), torch.diag(torch.tensor([0.0] * 4 + [1.0] * 3))
    return Mixture((Posterior(first, 0.5), Posterior(second, 0.5)))


def featurised_mixture_formula(noise: float) -> Formula:
    """Each representation on its own: p(k) ∝ exp(−½ yᵀC⁻¹y − ½ log det C) with C = F Fᵀ + σ²I."""

    def answer(X, y, x):
        answers, evidence = [], []
        for features in (REPRESENTATION, OTHER):
            F = np.array([network(features, a) for a in X]).reshape(len(y), features.width)
            C = F @ F.T + noise**2 * np.eye(len(y))
            evidence.append(-(y @ np.linalg.solve(C, y) + np.linalg.slogdet(C)[1]) / 2 if len(y) else 0.0)
            answers.append(featurised_formula(ridge_formula(noise**2), lambda a, f=features: network(f, a))(X, y, x))
        return float(softmax(np.array(evidence)) @ np.array(answers))

    return answer


def half_split_formula(formulas: list[Formula]) -> Formula:
    def answer(X, y, x):
        m = (len(y) + 1) // 2
        losses = [sum((f(X[:m], y[:m], X[j]) - y[j]) ** 2 for j in range(m, len(y))) for f in formulas]
        return formulas[int(np.argmin(losses))](X[:m], y[:m], x)

    return answer


def logistic_formula(lam: float) -> Formula:
    """Newton's iteration, each step halved until the objective rises by no more than rounding, until none is left."""

    def objective(Z, w):
        return sum(np.logaddexp(0, -(Z @ w))) + lam * w @ w / 2

    def answer(X, y, x):
        w, Z = np.zeros(len(x)), X * np.sign(y)[:, None]
        for _ in range(100):
            p = 1 / (1 + np.exp(Z @ w))
            H = lam * np.eye(len(x)) + sum((q * (1 - q) * np.outer(z, z) for q, z in zip(p, Z, strict=True)), 0.0)
            step = np.linalg.solve(H, Z.T @ p - lam * w)
            while np.abs(step).max() > 1e-16 and objective(Z, w + step) > objective(Z, w) * (1 + 1e-14):
                step = step / 2
            w = w + step
            if np.abs(step).max() <= 1e-15 * np.abs(w).max():
                break
        return np.tanh(w @ x / 2)

    return answer


def supports(d: int, s: int) -> list[np.ndarray]:
    """The diagonal of the prior covariance for every choice of s coordinates."""
    return [np.isin(np.arange(d), chosen).astype(float) for chosen in combinations(range(d), s)]


# ---- the matrix ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A predictor for given d and n, its textbook formula, and the laws that it is not bound to."""

    make: Callable[[int, int], Predictor]
    formula: Callable[[int], Formula]
    free_of: tuple[str, ...] = ()


def rates(n: int) -> Float[Tensor, " n"]:
    return 0.5 / (torch.arange(n, dtype=torch.float64) + 8)


CASES = {
    "zero": Case(lambda d, n: Zero(), lambda d: lambda X, y, x: 0.0),
    "averaging": Case(lambda d, n: Averaging(), lambda d: averaging_formula),
    "least squares": Case(lambda d, n: LeastSquares(), lambda d: pinv_formula),
    "ridge": Case(lambda d, n: Ridge(0.3), lambda d: ridge_formula(0.3)),
    "ridge, slight penalty": Case(lambda d, n: Ridge(1e-9), lambda d: tiny_ridge_formula(1e-9)),
    "posterior": Case(
        lambda d, n: Posterior(covariance(d), 0.5, mean(d)),
        lambda d: posterior_formula(covariance(d).numpy(), mean(d).numpy(), 0.5),
        free_of=("linearity", "rotation"),
    ),
    "posterior without noise": Case(
        lambda d, n: Posterior(covariance(d), 0.0),
        lambda d: posterior_formula(covariance(d).numpy(), np.zeros(d), 0.0),
        free_of=("rotation",),
    ),
    "gradient descent": Case(
        lambda d, n: GradientDescent(3, 0.03), lambda d: descent_formula(3, lambda i: 0.03, np.eye(d))
    ),
    "gradient descent, preconditioned and decayed, a step per position": Case(
        lambda d, n: GradientDescent(2, rates(n), preconditioner=covariance(d), lam=0.2),
        lambda d: descent_formula(2, lambda i: 0.5 / (i + 8), covariance(d).numpy(), lam=0.2),
        free_of=("rotation",),
    ),
    "gradient descent ++": Case(
        lambda d, n: GradientDescentPlusPlus(3, 0.03, 0.02), lambda d: plus_plus_formula(3, 0.03, 0.02)
    ),
    "stochastic gradient descent": Case(
        lambda d, n: StochasticGradientDescent(0.1, 0.3), lambda d: stochastic_formula(0.1, 0.3), free_of=("order",)
    ),
    "newton": Case(lambda d, n: Newton(4), lambda d: newton_formula(4)),
    "newton from the Frobenius norm": Case(
        lambda d, n: Newton(5, "frobenius"), lambda d: newton_formula(5, lambda S: np.linalg.norm(S @ S))
    ),
    "landweber": Case(lambda d, n: Landweber(5), lambda d: landweber_formula(5)),
    "nearest neighbours": Case(lambda d, n: NearestNeighbours(3), lambda d: neighbours_formula(3, 0)),
    "nearest neighbours by distance": Case(
        lambda d, n: NearestNeighbours(4, "distance"), lambda d: neighbours_formula(4, 1)
    ),
    "nearest neighbours by squared distance": Case(
        lambda d, n: NearestNeighbours(2, "squared distance"), lambda d: neighbours_formula(2, 2)
    ),
    "greedy tree": Case(lambda d, n: GreedyTree(2), lambda d: tree_formula(2), free_of=("linearity", "rotation")),
    "greedy tree of signs": Case(
        lambda d, n: GreedyTree(3, signs=True), lambda d: tree_formula(3, signs=True), free_of=("linearity", "rotation")
    ),
    "boosted trees": Case(
        lambda d, n: BoostedTrees(3, 2, 0.3), lambda d: boosted_formula(3, 2, 0.3), free_of=("linearity", "rotation")
    ),
    "trained network": Case(
        lambda d, n: TrainedNetwork(3, 5, 0.1, seed=1),
        lambda d: network_formula(3, 5, 0.1, seed=1),
        free_of=("linearity", "rotation"),
    ),
    "lasso": Case(lambda d, n: Lasso(0.1), lambda d: lasso_formula(0.1), free_of=("linearity", "rotation")),
    "lasso, slight penalty": Case(  # no textbook: coordinate descent crawls
        lambda d, n: Lasso(1e-9), lambda d: pinv_formula, free_of=("formula", "linearity", "rotation")
    ),
    "discrete": Case(
        lambda d, n: DiscreteMMSE(pool(d), 0.5),
        lambda d: discrete_formula(pool(d).numpy(), 0.5),
        free_of=("linearity", "rotation"),
    ),
    "discrete without noise": Case(
        lambda d, n: DiscreteMMSE(pool(d), 0.0),
        lambda d: discrete_formula(pool(d).numpy(), 0.0),
        free_of=("linearity", "rotation"),
    ),
    "sparse posterior": Case(
        lambda d, n: SparsePosterior(d, (d + 1) // 2, prior=2.0, noise=0.5),
        lambda d: mixture_formula([(0.0, 4 * np.diag(chosen), 0.5) for chosen in supports(d, (d + 1) // 2)]),
        free_of=("linearity", "rotation"),
    ),
    "ridge on a representation": Case(
        lambda d, n: Featurised(Ridge(0.3), REPRESENTATION),
        lambda d: featurised_formula(ridge_formula(0.3), lambda x: network(REPRESENTATION, x)),
        free_of=("rotation",),
    ),
    "ridge on inputs beside a representation": Case(
        lambda d, n: Featurised(Ridge(0.3), Concatenated((Identity(), REPRESENTATION))),
        lambda d: featurised_formula(ridge_formula(0.3), lambda x: np.concatenate([x, network(REPRESENTATION, x)])),
        free_of=("rotation",),
    ),
    "mixture of representations": Case(
        lambda d, n: Featurised(representation_mixture(), Concatenated((REPRESENTATION, OTHER))),
        lambda d: featurised_mixture_formula(0.5),
        free_of=("linearity", "rotation"),
    ),
    "half split": Case(
        lambda d, n: HalfSplit((Ridge(0.3), Ridge(5.0), Averaging())),
        lambda d: half_split_formula([ridge_formula(0.3), ridge_formula(5.0), averaging_formula]),
        free_of=("linearity", "order"),
    ),
    "logistic regression": Case(
        lambda d, n: LogisticRegression(0.3), lambda d: logistic_formula(0.3), free_of=("linearity",)
    ),
    "test for classes": Case(
        lambda d, n: BinaryTest(LogisticRegression(0.3), Ridge(0.3)),
        lambda d: lambda X, y, x: (logistic_formula if set(y) <= {-1.0, 1.0} else ridge_formula)(0.3)(X, y, x),
        free_of=("linearity",),
    ),
    "mixture of noise levels": Case(
        lambda d, n: Mixture(
            (Posterior(torch.eye(d).double(), 0.3), Posterior(torch.eye(d).double(), 1.5)), log_weights=(0.0, 1.0)
        ),
        lambda d: mixture_formula([(0.0, np.eye(d), 0.3), (1.0, np.eye(d), 1.5)]),
        free_of=("linearity",),
    ),
}


def bound_to(law: str):
    """Parametrises a test over the predictors that the law binds."""
    names = [name for name, case in CASES.items() if law not in case.free_of]
    return pytest.mark.parametrize("case", [CASES[name] for name in names], ids=names)


# ---- the laws ------------------------------------------------------------------------------------------------------


def obeys_causality(predictor: Predictor, drawn: Drawn) -> None:
    """Replacing x_j (j > i) and y_j (j ≥ i) moves nothing up to i, for every i.

    What replaces them is 1e8 times as large, so that even a label that only leaks through rounding (eps of its size)
    shows against a tolerance of 1e-11. All futures go into one call, together with the true one.
    """
    _obeys_causality(predictor, drawn, past=lambda i, j: j <= i)


def weights_obey_causality(predictor: Linear, drawn: Drawn) -> None:
    """The weights at i do not change with x_i either."""
    _obeys_causality(predictor.weights, drawn, past=lambda i, j: j < i)


def _obeys_causality(answer: Callable[[Tensor, Tensor], Tensor], drawn: Drawn, past: Callable) -> None:
    xs, ys, rng = drawn.xs, drawn.ys, generator(drawn.seed + 2)
    j = torch.arange(drawn.n)
    i = torch.arange(drawn.n + 1).view(-1, 1, 1)  # the last one keeps everything
    other_xs, other_ys = (1e8 * torch.randn(v.shape, generator=rng, dtype=v.dtype) for v in (xs, ys))
    futures_xs = torch.where(past(i, j).unsqueeze(-1), xs, other_xs).flatten(0, 1)
    futures_ys = torch.where(j < i, ys, other_ys).flatten(0, 1)
    answers = answer(futures_xs, futures_ys).unflatten(0, (drawn.n + 1, drawn.batch))
    for k in range(drawn.n):
        close(answers[k, :, : k + 1], answers[-1, :, : k + 1], 1e-11)


def obeys_independence(predictor: Predictor, drawn: Drawn) -> None:
    """The answer to a prompt is the same beside others and alone."""
    alone = [predictor(x.unsqueeze(0), y.unsqueeze(0)) for x, y in zip(drawn.xs, drawn.ys, strict=True)]
    close(torch.cat(alone), predictor(drawn.xs, drawn.ys), slack(drawn.xs))


def obeys_precision(predictor: Predictor, drawn: Drawn) -> None:
    """float32 in, float32 out, and not a digit lost in between: the float64 answer to the same numbers, rounded."""
    xs, ys = drawn.xs.float(), drawn.ys.float()
    got = predictor(xs, ys)
    assert got.dtype == torch.float32
    assert torch.equal(got, predictor(xs.double(), ys.double()).float())


def obeys_finiteness(predictor: Predictor, xs: Tensor, ys: Tensor) -> None:
    """One finite number for every position."""
    answers = predictor(xs, ys)
    assert answers.shape == ys.shape
    assert answers.isfinite().all()


def obeys_weights(predictor: Linear, drawn: Drawn) -> None:
    """The call is weights·x."""
    weighed = (predictor.weights(drawn.xs, drawn.ys) * drawn.xs).sum(-1)
    close(weighed, predictor(drawn.xs, drawn.ys), slack(drawn.xs))


def obeys_coordinates(predictor: Predictor, drawn: Drawn) -> None:
    """Labels that are vectors are answered coordinate by coordinate, by weights too where there are some."""
    labels = [drawn.ys, drawn.ys.flip(-1) + 1, 2 - drawn.ys.square()]
    told = [(predictor, 1)] + ([(predictor.weights, 2)] if isinstance(predictor, Linear) else [])
    for answer, axes in told:
        alone = torch.stack([answer(drawn.xs, ys) for ys in labels], dim=-1)
        found = answer(drawn.xs, torch.stack(labels, dim=-1))
        assert found.shape == alone.shape and found.ndim == axes + 2
        close(found, alone, slack(drawn.xs))


def obeys_order_freeness(predictor: Predictor, drawn: Drawn) -> None:
    """Shuffling the examples before the last position does not change the answer there."""
    shuffled = torch.cat([torch.randperm(drawn.n - 1, generator=drawn.rng), torch.tensor([drawn.n - 1])])
    got = predictor(drawn.xs[:, shuffled], drawn.ys[:, shuffled])[:, -1]
    xs = torch.cat([drawn.xs, drawn.xs[:, shuffled]])
    close(got, predictor(drawn.xs, drawn.ys)[:, -1], slack(xs))


def obeys_linearity(predictor: Predictor, drawn: Drawn) -> None:
    """Labels superpose."""
    one, other = drawn.ys, drawn.ys.flip(-1) + 1
    wanted = 2 * predictor(drawn.xs, one) - 3 * predictor(drawn.xs, other)
    close(predictor(drawn.xs, 2 * one - 3 * other), wanted, slack(drawn.xs))


def obeys_rotation(predictor: Predictor, drawn: Drawn) -> None:
    """Turning all inputs changes nothing."""
    turned = drawn.xs @ rotation(drawn.d, drawn.rng)
    close(predictor(turned, drawn.ys), predictor(drawn.xs, drawn.ys), slack(drawn.xs))


def obeys_formula(predictor: Predictor, formula: Formula, xs: Tensor, ys: Tensor, tolerance: float) -> None:
    """The textbook, position by position."""
    wanted = [[formula(X[:i], y[:i], X[i]) for i in range(len(y))] for X, y in zip(xs.numpy(), ys.numpy(), strict=True)]
    close(predictor(xs, ys), torch.tensor(np.array(wanted, dtype=float)), tolerance)


def obeys_chain_rule(predictor: Bayesian, xs: Tensor, ys: Tensor, density: Callable[[np.ndarray, np.ndarray], float]):
    """Σ log_density is the density of all labels together."""
    wanted = torch.tensor([density(X, y) for X, y in zip(xs.numpy(), ys.numpy(), strict=True)], dtype=xs.dtype)
    close(predictor.log_density(xs, ys).sum(-1), wanted, slack(xs))


@bound_to("causality")
@given(drawn=DRAWN)
def test_the_future_moves_no_answer(case: Case, drawn: Drawn):
    obeys_causality(case.make(drawn.d, drawn.n), drawn)


@bound_to("causality")
@given(drawn=DRAWN)
def test_weights_know_only_what_was_seen(case: Case, drawn: Drawn):
    predictor = case.make(drawn.d, drawn.n)
    if isinstance(predictor, Linear):
        weights_obey_causality(predictor, drawn)
        obeys_weights(predictor, drawn)


@bound_to("independence")
@given(drawn=DRAWN)
def test_prompts_do_not_meet_in_a_batch(case: Case, drawn: Drawn):
    obeys_independence(case.make(drawn.d, drawn.n), drawn)


@bound_to("precision")
@given(drawn=DRAWN)
def test_single_precision_is_only_the_rounding_of_double(case: Case, drawn: Drawn):
    obeys_precision(case.make(drawn.d, drawn.n), drawn)


def degenerate(drawn: Drawn) -> dict[str, tuple[Tensor, Tensor]]:
    """Prompts on which formulas divide by zero."""
    xs, ys = drawn.xs, drawn.ys
    in_subspace = xs.clone()
    in_subspace[..., drawn.d // 2 :] = 0
    turned = in_subspace @ rotation(drawn.d, drawn.rng)
    return {
        "zero inputs": (torch.zeros_like(xs), ys),
        "zero labels": (xs, torch.zeros_like(ys)),
        "one input, repeated": (xs[:, :1].expand_as(xs).contiguous(), ys),
        "two inputs, repeated": (xs[:, [i % 2 for i in range(drawn.n)]] if drawn.n > 1 else xs, ys),
        "zeros between": (xs * (torch.arange(drawn.n) % 2).unsqueeze(-1), ys),
        "a subspace": (turned, ys),
        "equal coordinates": (xs[..., :1].expand_as(xs).contiguous(), ys),
        "one example": (xs[:, :1], ys[:, :1]),
        "tiny": (1e-100 * xs, 1e-100 * ys),
        "huge": (1e6 * xs, 1e6 * ys),  # steps of gradient descent diverge here, and 1e6 keeps that in range
    }


@bound_to("finiteness")
@given(drawn=DRAWN)
def test_degenerate_prompts_have_finite_answers(case: Case, drawn: Drawn):
    for xs, ys in degenerate(drawn).values():
        obeys_finiteness(case.make(drawn.d, xs.shape[1]), xs, ys)


@bound_to("finiteness")
def test_no_prompts_and_no_examples_have_no_answers(case: Case):
    for batch, n in ((0, 4), (2, 0)):
        obeys_finiteness(case.make(3, n), torch.zeros(batch, n, 3), torch.zeros(batch, n))


@bound_to("coordinates")
@given(drawn=DRAWN)
def test_vectors_are_answered_coordinate_by_coordinate(case: Case, drawn: Drawn):
    obeys_coordinates(case.make(drawn.d, drawn.n), drawn)


@bound_to("order")
@given(drawn=DRAWN)
def test_the_order_of_examples_plays_no_part(case: Case, drawn: Drawn):
    obeys_order_freeness(case.make(drawn.d, drawn.n), drawn)


@bound_to("linearity")
@given(drawn=DRAWN)
def test_labels_superpose(case: Case, drawn: Drawn):
    obeys_linearity(case.make(drawn.d, drawn.n), drawn)


@bound_to("rotation")
@given(drawn=DRAWN)
def test_no_direction_is_special(case: Case, drawn: Drawn):
    obeys_rotation(case.make(drawn.d, drawn.n), drawn)


@bound_to("formula")
@given(drawn=DRAWN)
def test_the_textbook_says_the_same(case: Case, drawn: Drawn):
    obeys_formula(case.make(drawn.d, drawn.n), case.formula(drawn.d), drawn.xs, drawn.ys, slack(drawn.xs))


# ---- for every law a predictor that breaks it ----------------------------------------------------------------------


def test_the_plain_prompts_are_well_conditioned():
    """So that what the cheats do at a relative size of 1e-6 is far above `slack`."""
    assert slack(PLAIN.xs) < 1e-8  # a hundredth


def peeks(xs, ys):
    return LeastSquares()(xs, ys) + 1e-6 * ys


def peeks_through_rounding(xs, ys):
    """The published shortcut y − diag(L) L⁻¹y for ridge."""
    root, _ = torch.linalg.cholesky_ex(xs @ xs.mT + 0.3 * torch.eye(xs.shape[1], dtype=xs.dtype))
    z = torch.linalg.solve_triangular(root, ys.unsqueeze(-1), upper=False).squeeze(-1)
    return ys - root.diagonal(dim1=-2, dim2=-1) * z


def foresees_inputs(xs, ys):
    return LeastSquares()(xs, ys) + 1e-6 * xs.mean((1, 2)).unsqueeze(-1)


@pytest.mark.parametrize("cheat", [peeks, peeks_through_rounding, foresees_inputs])
def test_causality_can_fail(cheat: Predictor):
    with pytest.raises(AssertionError):
        obeys_causality(cheat, PLAIN)


class WeighsTheQuery(LeastSquares):
    """Weights that know a little of x_i."""

    def weights(self, xs, ys):
        return super().weights(xs, ys) + 1e-6 * xs


def test_causality_of_weights_can_fail():
    with pytest.raises(AssertionError):
        weights_obey_causality(WeighsTheQuery(), PLAIN)


class AnswersOtherwise(LeastSquares):
    """A call that is not quite weights·x."""

    def __call__(self, xs, ys):
        return (1 + 1e-6) * super().__call__(xs, ys)


def test_weights_can_fail():
    with pytest.raises(AssertionError):
        obeys_weights(AnswersOtherwise(), PLAIN)


def test_independence_can_fail():
    with pytest.raises(AssertionError):
        obeys_independence(lambda xs, ys: Averaging()(xs, ys) + 1e-6 * ys.mean(), PLAIN)


def works_in_the_precision_of_its_inputs(xs, ys):
    root = torch.linalg.cholesky(xs @ xs.mT + 0.3 * torch.eye(xs.shape[1], dtype=xs.dtype))
    return (root.tril(-1) @ torch.linalg.solve_triangular(root, ys.unsqueeze(-1), upper=False)).squeeze(-1)


def returns_double(xs, ys):
    return Averaging()(xs.double(), ys.double())


@pytest.mark.parametrize("cheat", [works_in_the_precision_of_its_inputs, returns_double])
def test_precision_can_fail(cheat: Predictor):
    with pytest.raises(AssertionError):
        obeys_precision(cheat, PLAIN)


def divides_by_zero(xs, ys):
    """Neighbours weighted by 1/r without a thought for r = 0."""
    weights = (1 / torch.cdist(xs, xs)).tril(-1)
    return (weights * ys.unsqueeze(1)).sum(-1) / weights.sum(-1)


def answers_less(xs, ys):
    return Zero()(xs, ys)[:, 1:]


@pytest.mark.parametrize("cheat", [divides_by_zero, answers_less])
def test_finiteness_can_fail(cheat: Predictor):
    with pytest.raises(AssertionError):
        obeys_finiteness(cheat, *degenerate(PLAIN)["one input, repeated"])


def tells_coordinates_of_each_other(xs, ys):
    said = LeastSquares()(xs, ys)
    return said + 1e-6 * said.mean(-1, keepdim=True) if ys.ndim == 3 else said


def folds_the_other_way(xs, ys):
    """Coordinates of one prompt go to another."""
    if ys.ndim == 2:
        return LeastSquares()(xs, ys)
    return LeastSquares()(xs, ys.permute(2, 0, 1).reshape(len(ys), ys.shape[2], -1).mT)


@pytest.mark.parametrize("cheat", [tells_coordinates_of_each_other, folds_the_other_way])
def test_coordinatewise_answers_can_fail(cheat: Predictor):
    with pytest.raises(AssertionError):
        obeys_coordinates(cheat, PLAIN)


def echoes_the_last_label(xs, ys):
    return LeastSquares()(xs, ys) + 1e-6 * torch.nn.functional.pad(ys[:, :-1], (1, 0))


@pytest.mark.parametrize("cheat", [StochasticGradientDescent(0.1), echoes_the_last_label])
def test_order_freeness_can_fail(cheat: Predictor):
    with pytest.raises(AssertionError):
        obeys_order_freeness(cheat, PLAIN)


def squares_labels(xs, ys):
    return LeastSquares()(xs, ys) + 1e-6 * torch.nn.functional.pad(ys[:, :-1].square().cumsum(1), (1, 0))


@pytest.mark.parametrize("cheat", [Lasso(0.1), squares_labels])
def test_linearity_can_fail(cheat: Predictor):
    with pytest.raises(AssertionError):
        obeys_linearity(cheat, PLAIN)


@pytest.mark.parametrize("cheat", [Lasso(0.1), Posterior(torch.diag(torch.tensor([1, 1, 1 + 1e-5])), 0.5)])
def test_rotation_can_fail(cheat: Predictor):
    with pytest.raises(AssertionError):
        obeys_rotation(cheat, PLAIN)


def penalises_the_mean(xs, ys):
    """Ridge with the penalty of the mean objective: lam·i on the sum."""
    return torch.stack([Ridge(0.3 * max(i, 1))(xs, ys)[:, i] for i in range(xs.shape[1])], dim=1)


@pytest.mark.parametrize("cheat", [Ridge(0.3 * (1 + 1e-5)), penalises_the_mean])
def test_the_textbook_can_say_otherwise(cheat: Predictor):
    with pytest.raises(AssertionError):
        obeys_formula(cheat, ridge_formula(0.3), PLAIN.xs, PLAIN.ys, slack(PLAIN.xs))


# ---- degenerate prompts have the right answers too -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["least squares", "ridge", "ridge, slight penalty", "posterior", "averaging"])
@given(drawn=DRAWN)
def test_the_textbook_says_the_same_of_degenerate_prompts(name: str, drawn: Drawn):
    case = CASES[name]
    for kind, (xs, ys) in degenerate(drawn).items():
        if kind not in ("tiny", "huge"):  # pseudo-inverses with an absolute penalty have nothing to say there
            obeys_formula(case.make(drawn.d, xs.shape[1]), case.formula(drawn.d), xs, ys, 100 * slack(xs))


@given(drawn=DRAWN)
def test_least_squares_does_not_depend_on_the_units(drawn: Drawn):
    wanted = LeastSquares()(drawn.xs, drawn.ys)
    for unit in (1e-100, 1e-6, 1e6, 1e100):
        close(LeastSquares()(unit * drawn.xs, drawn.ys), wanted, slack(drawn.xs))


@pytest.mark.parametrize("late", [0, 3])
def test_least_squares_survives_bad_luck_at_d(late: int):
    """X_d is nearly singular in two prompts of four. That spoils the fast path for all that follows, where the problem
    is a tame one; in between the answer itself is of size 1e7."""
    rng = generator(late)
    xs = torch.randn(4, 12, 4, generator=rng, dtype=torch.float64)
    xs[:2, late] = xs[:2, 1] + 1e-7 * torch.randn(2, 4, generator=rng, dtype=torch.float64)
    ys = torch.randn(4, 12, generator=rng, dtype=torch.float64)
    wanted = [
        [pinv_formula(X[:i], y[:i], X[i]) for i in range(12)] for X, y in zip(xs.numpy(), ys.numpy(), strict=True)
    ]
    tame = [*range(max(late, 1) + 1), *range(6, 12)]
    close(LeastSquares()(xs, ys)[:, tame], torch.tensor(wanted)[:, tame], 1e-10)


def test_examples_that_tie_share_their_places():
    """Two labels of one input, and one place: their mean, in whatever order they came."""
    xs = torch.tensor([[[0.0], [1.0], [1.0], [1.5]]])
    ys = torch.tensor([[9.0, 1.0, 3.0, 0.0]])
    for weighting in ("uniform", "distance", "squared distance"):
        assert NearestNeighbours(1, weighting)(xs, ys)[0, -1] == 2.0


def test_an_exact_match_takes_all_the_weight():
    xs = torch.tensor([[[0.0], [1.0], [1.0], [1.0]]])
    ys = torch.tensor([[9.0, 1.0, 3.0, 0.0]])
    assert NearestNeighbours(3, "distance")(xs, ys)[0].tolist() == [0.0, 9.0, 1.0, 2.0]
    assert NearestNeighbours(3)(xs, ys)[0, -1] == pytest.approx(13 / 3)


def test_without_noise_the_pool_members_that_fit_share_the_weight():
    pool = torch.tensor([[1.0, 0.0], [1.0, 2.0], [-1.0, 0.0]])
    xs = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    ys = torch.tensor([[1.0, 2.0, 3.0]])
    wanted = torch.tensor([[[1 / 3, 2 / 3], [1.0, 1.0], [1.0, 2.0]]])
    torch.testing.assert_close(DiscreteMMSE(pool, 0.0).weights(xs, ys), wanted)


@given(drawn=DRAWN)
def test_a_pool_of_one_is_known_from_the_start(drawn: Drawn):
    only = pool(drawn.d)[:1]
    close(DiscreteMMSE(only, 0.5).weights(drawn.xs, drawn.ys), only.expand_as(drawn.xs), 10 * EPS)


# ---- trees and networks --------------------------------------------------------------------------------------------


def grows_as_in_scikit_learn(tree: Predictor, depth: int, drawn: Drawn) -> None:
    """Where the answer there does not hang on the coin by which equal splits are told apart; that is most of them."""
    sure = 0
    for X, y, answers in zip(drawn.xs.float(), drawn.ys, tree(drawn.xs.float().double(), drawn.ys), strict=True):
        for i in range(1, drawn.n):
            there = [
                DecisionTreeRegressor(max_depth=depth, random_state=coin).fit(X[:i], y[:i]).predict(X[i : i + 1])[0]
                for coin in range(5)
            ]
            if np.ptp(there) < 1e-12:
                sure += 1
                assert answers[i].item() == pytest.approx(there[0], abs=1e-9)
    assert sure > 0.6 * drawn.batch * (drawn.n - 1)


SMALL = Drawn(batch=2, n=20, d=3, spread=3, seed=5)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_greedy_tree_is_that_of_scikit_learn(depth: int):
    grows_as_in_scikit_learn(GreedyTree(depth), depth, SMALL)


def test_a_tree_can_differ_from_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(AssertionError):
        grows_as_in_scikit_learn(GreedyTree(2), 3, SMALL)
    monkeypatch.setattr(trees, "_middle", lambda low, high: low)  # the threshold at an example
    with pytest.raises(AssertionError):
        grows_as_in_scikit_learn(GreedyTree(2), 2, SMALL)


def boosts_as_scikit_learn(predictor: Predictor, drawn: Drawn) -> None:
    """In one dimension no coin is thrown."""
    assert drawn.d == 1
    for X, y, answers in zip(drawn.xs.float(), drawn.ys, predictor(drawn.xs.float().double(), drawn.ys), strict=True):
        for i in range(1, drawn.n):
            there = GradientBoostingRegressor(n_estimators=7, max_depth=2, learning_rate=0.3).fit(X[:i], y[:i])
            assert answers[i].item() == pytest.approx(there.predict(X[i : i + 1])[0], abs=1e-9)


def test_boosted_trees_are_those_of_scikit_learn():
    line = Drawn(batch=2, n=12, d=1, spread=1, seed=5)
    boosts_as_scikit_learn(BoostedTrees(7, 2, 0.3), line)
    for cheat in (BoostedTrees(6, 2, 0.3), BoostedTrees(7, 1, 0.3), BoostedTrees(7, 2, 0.31)):
        with pytest.raises(AssertionError):
            boosts_as_scikit_learn(cheat, line)


def test_a_tree_that_is_deep_enough_remembers_every_example():
    """Each input comes twice: the second time the label is known, whatever the first split was."""
    xs, ys = PLAIN.xs[:, [0, 1, 2, 3, 0, 1, 2, 3]], PLAIN.ys[:, [0, 1, 2, 3, 0, 1, 2, 3]]
    close(GreedyTree(3)(xs, ys)[:, 4:], ys[:, 4:], 10 * EPS)
    assert (GreedyTree(1)(xs, ys)[:, 4:] - ys[:, 4:]).abs().max() > 0.1


def test_a_network_learns_its_prompt_with_enough_steps():
    """Asked for an input that it was trained on, it answers the label; with few steps it does not."""
    xs, ys = PLAIN.xs[:, [0, 1, 2, 3, 3]], PLAIN.ys[:, [0, 1, 2, 3, 3]]
    close(TrainedNetwork(32, 2000)(xs, ys)[:, -1], ys[:, -1], 1e-3)
    assert (TrainedNetwork(32, 20)(xs, ys)[:, -1] - ys[:, -1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: GreedyTree(-1), "depth must be at least 0, given -1"),
        (lambda: BoostedTrees(-1, -2), "rounds must be at least 0, given -1.*depth must be at least 0, given -2"),
        (lambda: BoostedTrees(rate=0), "rate must be positive, given 0"),
        (lambda: TrainedNetwork(0, -1, 0), "width .* given 0.*steps .* given -1.*lr must be positive, given 0"),
    ],
)
def test_trees_and_networks_say_what_is_wrong(make: Callable[[], Predictor], complaint: str):
    with pytest.raises(ValueError, match="(?s)" + complaint):
        make()


# ---- limits, each with the bound that theory gives -------------------------------------------------------------------


def extremes(xs: Float[Tensor, "batch n d"]) -> tuple[Tensor, Tensor]:
    """The least nonzero and the largest singular value of every prefix, as [batch, n]; 1 and 1 before any example."""
    values = [torch.linalg.svdvals(xs[:, :i]) for i in range(1, xs.shape[1])]
    least = [v.where(v > 1e-12 * v[:, :1], torch.inf).amin(-1) for v in values]
    one = torch.ones_like(xs[:, 0, 0])
    return torch.stack([one, *least], 1), torch.stack([one, *(v[:, 0] for v in values)], 1)


def within(got: Linear, limit: Linear, drawn: Drawn, bound: Tensor) -> None:
    """|w − w*| ≤ bound·|w*| at every position, up to rounding."""
    wanted = limit.weights(drawn.xs, drawn.ys)
    gap = (got.weights(drawn.xs, drawn.ys) - wanted).norm(dim=-1)
    assert (gap <= (bound + 10 * slack(drawn.xs)) * (wanted.norm(dim=-1) + slack(drawn.xs))).all()


def ridge_tends_to_least_squares(make: Callable[[float], Linear], drawn: Drawn) -> None:
    """Along a singular value s ridge keeps s²/(s² + lam) of the weights: the gap is at most lam/s²."""
    least, _ = extremes(drawn.xs)
    for lam in (1e-2, 1e-4, 1e-8, 1e-12, 1e-300):
        within(make(lam), LeastSquares(), drawn, lam / least.square())


@given(drawn=DRAWN)
def test_ridge_tends_to_least_squares_as_its_penalty_vanishes(drawn: Drawn):
    ridge_tends_to_least_squares(Ridge, drawn)


def test_the_limit_of_ridge_can_fail():
    with pytest.raises(AssertionError):
        ridge_tends_to_least_squares(lambda lam: Ridge(lam + 1e-5), PLAIN)


def descent_tends_to_least_squares(make: Callable[[int, float], Linear], drawn: Drawn) -> None:
    """Along a singular value s, t steps leave (1 − lr·s²)^t of the gap, if lr ≤ 1/s_max²."""
    lr = 1 / drawn.xs.square().sum((1, 2)).max().item()
    least, _ = extremes(drawn.xs)
    for t in (1, 30, 300):
        within(make(t, lr), LeastSquares(), drawn, (1 - lr * least.square()).clamp_min(0) ** t)


@given(drawn=DRAWN)
def test_gradient_descent_tends_to_least_squares(drawn: Drawn):
    descent_tends_to_least_squares(GradientDescent, drawn)


def test_the_limit_of_gradient_descent_can_fail():
    with pytest.raises(AssertionError):
        descent_tends_to_least_squares(lambda t, lr: GradientDescent(t, lr, lam=0.1), PLAIN)


def newton_tends_to_least_squares(make: Callable[[int], Linear], drawn: Drawn) -> None:
    """Along a singular value s, k steps leave (1 − (s/s_max)⁴)^(2^k) of the gap."""
    least, largest = extremes(drawn.xs)
    for k in (0, 3, 10, 40, 100, 5000):
        within(make(k), LeastSquares(), drawn, (2.0 ** min(k, 1000) * torch.log1p(-((least / largest) ** 4))).exp())


@given(drawn=DRAWN)
def test_newton_tends_to_least_squares(drawn: Drawn):
    newton_tends_to_least_squares(Newton, drawn)


def test_the_limit_of_newton_can_fail():
    with pytest.raises(AssertionError):
        newton_tends_to_least_squares(lambda k: Newton(max(k - 1, 0)), PLAIN)


@given(drawn=DRAWN)
def test_both_starts_of_newton_tend_to_the_same_weights(drawn: Drawn):
    """From the Frobenius norm ½·log₂ d steps more leave no more than from the spectral norm, to a factor of e."""
    least, largest = extremes(drawn.xs)
    d = drawn.xs.shape[-1]
    for k in (10, 40, 100, 5000):
        left = (-(2.0 ** min(k, 1000)) / d**0.5 * (least / largest) ** 4).exp()
        within(Newton(k, "frobenius"), LeastSquares(), drawn, left)
    same = Newton(2000).weights(drawn.xs, drawn.ys)
    np.testing.assert_array_equal(Newton(2000, "frobenius").weights(drawn.xs, drawn.ys), same)


def newton_is_later_by(make: Callable[[int], Linear], steps: int) -> None:
    """4^steps equal eigenvalues and a small one: c = 2^steps. Along the small one, where the label is, the two weights
    differ by a few ρ² = 1e-12 of themselves."""
    d = 4**steps + 1
    xs = torch.eye(d + 1, d, dtype=torch.float64).unsqueeze(0)
    xs[:, d - 1] *= 1e-3  # ρ = 1e-6 in the last direction
    ys = torch.zeros(1, d + 1, dtype=torch.float64)
    ys[:, d - 1] = 1.0
    for k in (0, 30, 38, 41):
        sooner, later = Newton(k).weights(xs, ys)[0, -1, -1], make(k + steps).weights(xs, ys)[0, -1, -1]
        torch.testing.assert_close(later, sooner, rtol=1e-11, atol=0.0)
        assert 0 < sooner < 999  # neither is at the end, which is 1000


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_newton_from_the_frobenius_norm_is_later_by_half_the_binary_logarithm_of_the_dimensions(steps: int):
    newton_is_later_by(lambda k: Newton(k, "frobenius"), steps)


def test_that_newton_is_later_can_fail():
    with pytest.raises(AssertionError):
        newton_is_later_by(Newton, 1)
    with pytest.raises(AssertionError):
        newton_is_later_by(lambda k: Newton(k + 1, "frobenius"), 1)


def test_on_the_largest_eigenvalue_newton_from_the_frobenius_norm_takes_the_steps_it_is_said_to_take():
    for d, left in ((4, 1e-3), (16, 1e-6), (64, 1e-12)):
        xs, ys = torch.eye(d + 1, d, dtype=torch.float64).unsqueeze(0), torch.ones(1, d + 1, dtype=torch.float64)
        assert Newton(0).weights(xs, ys)[0, -1].tolist() == [1.0] * d
        gaps = [(1 - Newton(k, "frobenius").weights(xs, ys)[0, -1]).abs().max().item() for k in range(12)]
        first = next(k for k, gap in enumerate(gaps) if gap <= left)
        told = np.log2(d**0.5 * np.log(1 / left))
        assert told - 0.5 <= first < told + 1  # a whole number above log₂(ln δ / ln(1 − 1/√d)), which is half below


def landweber_tends_to_least_squares(make: Callable[[int], Linear], drawn: Drawn) -> None:
    """Along a singular value s, k steps leave (1 − (s/s_max)²)^k of the gap."""
    least, largest = extremes(drawn.xs)
    for k in (0, 3, 10, 1000, 10**9):
        within(make(k), LeastSquares(), drawn, torch.special.xlog1py(torch.tensor(k), -((least / largest) ** 2)).exp())


@given(drawn=DRAWN)
def test_landweber_tends_to_least_squares(drawn: Drawn):
    landweber_tends_to_least_squares(Landweber, drawn)


def test_the_limit_of_landweber_can_fail():
    with pytest.raises(AssertionError):
        landweber_tends_to_least_squares(lambda k: Landweber(k // 2), PLAIN)


@given(drawn=DRAWN)
def test_iterations_from_one_decomposition_answer_as_each_on_its_own(drawn: Drawn):
    each = [Newton(0), Newton(3), Landweber(1), Landweber(64)]
    together = answers_of_each(each, drawn.xs, drawn.ys)
    for alone, answers in zip(each, together, strict=True):
        close(answers, alone(drawn.xs, drawn.ys), slack(drawn.xs))
    vectors = torch.stack([drawn.ys, 1 - drawn.ys], dim=-1)
    for alone, answers in zip(each, answers_of_each(each, drawn.xs, vectors), strict=True):
        close(answers, alone(drawn.xs, vectors), slack(drawn.xs))


def approaches_ridge(make: Callable[[Tensor], Predictor]) -> None:
    """The mean square distance to ridge falls with the size of the pool, about as 1/size once the pool is dense.

    From 16 to 4096 members in two dimensions it falls by a factor of several hundred; 30 leaves room for the draw.
    """
    drawn = Drawn(batch=64, n=6, d=2, spread=1, seed=3)
    members = torch.randn(4096, 2, generator=generator(4), dtype=torch.float64)
    wanted = Ridge(0.25)(drawn.xs, drawn.ys)
    gaps = [(make(members[:m])(drawn.xs, drawn.ys) - wanted).square().mean().item() for m in (16, 256, 4096)]
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2]
    assert gaps[0] > 30 * gaps[2]


def test_a_pool_tends_to_ridge_as_it_grows():
    approaches_ridge(lambda members: DiscreteMMSE(members, 0.5))


def test_the_approach_to_ridge_can_fail():
    with pytest.raises(AssertionError):
        approaches_ridge(lambda members: DiscreteMMSE(members, 1.0))


# ---- what is special of something is that thing ----------------------------------------------------------------------


@given(drawn=DRAWN)
def test_an_isotropic_posterior_is_ridge(drawn: Drawn):
    got = Posterior(4 * torch.eye(drawn.d), 0.5)(drawn.xs, drawn.ys)
    close(got, Ridge(0.25 / 4)(drawn.xs, drawn.ys), slack(drawn.xs))


@given(drawn=DRAWN)
def test_sparse_with_every_coordinate_is_ridge(drawn: Drawn):
    got = SparsePosterior(drawn.d, drawn.d, prior=2.0, noise=0.5)(drawn.xs, drawn.ys)
    close(got, Ridge(0.25 / 4)(drawn.xs, drawn.ys), slack(drawn.xs))


def sparse_as_mixture(d: int, s: int, noise: float) -> Mixture:
    return Mixture(tuple(Posterior(torch.diag(torch.tensor(kept)), noise) for kept in supports(d, s)))


@given(drawn=DRAWN)
def test_sparse_is_the_mixture_over_supports(drawn: Drawn):
    s = (drawn.d + 1) // 2
    sparse, mixture = SparsePosterior(drawn.d, s, noise=0.5), sparse_as_mixture(drawn.d, s, 0.5)
    close(sparse.weights(drawn.xs, drawn.ys), mixture.weights(drawn.xs, drawn.ys), slack(drawn.xs))
    close(sparse.log_density(drawn.xs, drawn.ys), mixture.log_density(drawn.xs, drawn.ys), slack(drawn.xs))


def test_sparse_without_noise_is_the_limit():
    """A noise of 1e-5 is 1e-10 in the penalty, well below what the limit is computed with (1e-8 of the inputs)."""
    rng = generator(7)
    xs = torch.randn(50, 9, 5, generator=rng, dtype=torch.float64)
    ys = xs[..., 1] - 2 * xs[..., 4]
    got = SparsePosterior(5, 2).weights(xs, ys)
    median = (got - sparse_as_mixture(5, 2, 1e-5).weights(xs, ys)).norm(dim=-1).median(0).values
    assert (median < 1e-6).all()
    close(got[:, 5:], torch.tensor([0, 1.0, 0, 0, -2], dtype=torch.float64).expand(50, 4, 5), 1e-6)


@given(drawn=DRAWN)
def test_a_pool_is_the_mixture_of_certainties(drawn: Drawn):
    certain = torch.zeros(drawn.d, drawn.d, dtype=torch.float64)
    mixture = Mixture(tuple(Posterior(certain, 0.5, w) for w in pool(drawn.d)))
    discrete = DiscreteMMSE(pool(drawn.d), 0.5)
    close(discrete.weights(drawn.xs, drawn.ys), mixture.weights(drawn.xs, drawn.ys), slack(drawn.xs))
    close(discrete.log_density(drawn.xs, drawn.ys), mixture.log_density(drawn.xs, drawn.ys), slack(drawn.xs))


@given(drawn=DRAWN)
def test_a_mixture_of_mixtures_is_a_mixture(drawn: Drawn):
    parts = [Posterior(torch.eye(drawn.d).double(), noise) for noise in (0.3, 1.0, 3.0)]
    nested = Mixture((Mixture(tuple(parts[:2])), parts[2]), log_weights=(float(np.log(2)), 0.0))
    close(nested(drawn.xs, drawn.ys), Mixture(tuple(parts))(drawn.xs, drawn.ys), slack(drawn.xs))


@given(drawn=DRAWN)
def test_all_neighbours_together_are_the_running_mean(drawn: Drawn):
    seen = torch.arange(drawn.n).clamp_min(1)
    running = torch.nn.functional.pad(drawn.ys[:, :-1].cumsum(1), (1, 0)) / seen
    close(NearestNeighbours(drawn.n)(drawn.xs, drawn.ys), running, 100 * EPS)


@given(drawn=DRAWN)
def test_the_first_step_of_one_pass_is_a_step_on_the_batch(drawn: Drawn):
    one, batch = StochasticGradientDescent(0.1), GradientDescent(1, 0.1)
    close(one(drawn.xs, drawn.ys)[:, :2], batch(drawn.xs, drawn.ys)[:, :2], 100 * EPS)


@given(drawn=DRAWN)
def test_plus_plus_without_contraction_is_gradient_descent(drawn: Drawn):
    got = GradientDescentPlusPlus(4, 0.03, 0.0)(drawn.xs, drawn.ys)
    close(got, GradientDescent(4, 0.03)(drawn.xs, drawn.ys), slack(drawn.xs))


@bound_to("chunks")
def test_working_in_chunks_changes_nothing(case: Case, monkeypatch: pytest.MonkeyPatch):
    drawn = Drawn(batch=9, n=7, d=4, spread=3, seed=8)
    wanted = case.make(4, 7)(drawn.xs, drawn.ys)
    monkeypatch.setattr("iclab.predictors.prefixes.BUDGET", 50)
    close(case.make(4, 7)(drawn.xs, drawn.ys), wanted, slack(drawn.xs))


@pytest.mark.gpu
@bound_to("devices")
def test_devices_agree(case: Case):
    drawn = Drawn(batch=9, n=9, d=4, spread=3, seed=8)
    for kind, (xs, ys) in {"usual": (drawn.xs, drawn.ys), **degenerate(drawn)}.items():
        predictor = case.make(4, xs.shape[1])
        # The evidence of labels of 1e6 is of size 1e13, and its rounding is felt in the weights of a mixture.
        tolerance = 1e-5 if kind == "huge" else slack(xs)
        close(predictor(xs.cuda(), ys.cuda()).cpu(), predictor(xs, ys), tolerance)


# ---- densities -------------------------------------------------------------------------------------------------------


def gaussian_density(S: np.ndarray, noise: float, m: np.ndarray | None = None) -> Callable:
    def density(X, y):
        centre = np.zeros(len(y)) if m is None else X @ m
        return multivariate_normal.logpdf(y, centre, X @ S @ X.T + noise**2 * np.eye(len(y)))

    return density


def mixture_density(densities: list[Callable]) -> Callable:
    return lambda X, y: logsumexp([density(X, y) for density in densities]) - np.log(len(densities))


DENSITIES = {
    "posterior": lambda d: gaussian_density(covariance(d).numpy(), 0.5, mean(d).numpy()),
    "discrete": lambda d: mixture_density([gaussian_density(np.zeros((d, d)), 0.5, w) for w in pool(d).numpy()]),
    "sparse posterior": lambda d: mixture_density(
        [gaussian_density(4 * np.diag(kept), 0.5) for kept in supports(d, (d + 1) // 2)]
    ),
}


@pytest.mark.parametrize("name", DENSITIES)
@given(drawn=DRAWN)
def test_densities_of_labels_multiply_to_the_density_of_all(name: str, drawn: Drawn):
    predictor = CASES[name].make(drawn.d, drawn.n)
    assert isinstance(predictor, Bayesian)
    obeys_chain_rule(predictor, drawn.xs, drawn.ys, DENSITIES[name](drawn.d))


def test_the_chain_rule_can_fail():
    near = Posterior(covariance(3), 0.5 * (1 + 1e-6), mean(3))
    with pytest.raises(AssertionError):
        obeys_chain_rule(near, PLAIN.xs, PLAIN.ys, DENSITIES["posterior"](3))


def variance_formula(S: np.ndarray, noise: float) -> Formula:
    """σ² (1 + |R⁻ᵀx|²) with QR = [X; σ S^-½]; without noise what of S^½x lies outside the span of X S^½."""

    def answer(X, y, x):
        root = np.linalg.cholesky(S).T  # S = rootᵀ·root
        if noise == 0:
            a, A = root @ x, X @ root.T
            return a @ (a - np.linalg.pinv(A, rcond=1e-12) @ (A @ a)) if len(y) else a @ a
        R = np.linalg.qr(np.vstack([X, noise * np.linalg.inv(root).T])).R
        return noise**2 * (1 + (np.linalg.solve(R.T, x) ** 2).sum())

    return answer


@pytest.mark.parametrize("noise", [0.5, 1e-5, 0.0])
@given(drawn=DRAWN)
def test_the_variance_is_that_of_the_textbook(noise: float, drawn: Drawn):
    posterior = Posterior(covariance(drawn.d), noise)
    formula = variance_formula(covariance(drawn.d).numpy(), noise)
    obeys_formula(lambda xs, ys: posterior.variance(xs), formula, drawn.xs, drawn.ys, slack(drawn.xs))


def mixture_variance_formula(parts: list[tuple[float, np.ndarray, float]]) -> Callable:
    """E y² − (E y)² of the mixture, each component's by its own textbook."""

    def answer(X, y, x):
        rows = []
        for log_weight, S, noise in parts:
            known = multivariate_normal.logpdf(y, cov=X @ S @ X.T + noise**2 * np.eye(len(y))) if len(y) else 0.0
            mean = posterior_formula(S, np.zeros(len(x)), noise)(X, y, x)
            rows.append((log_weight + known, mean, mean**2 + variance_formula(S, noise)(X, y, x)))
        evidence, mean, square = np.array(rows).T
        shares = softmax(evidence)
        return shares @ square - (shares @ mean) ** 2

    return answer


def two_noise_levels(d: int, far: float = 1.5) -> Mixture:
    return Mixture((Posterior(torch.eye(d), 0.3), Posterior(torch.eye(d), far)), log_weights=(0.0, 1.0))


@given(drawn=DRAWN)
def test_the_variance_of_a_mixture_is_that_within_its_components_and_between_them(drawn: Drawn):
    formula = mixture_variance_formula([(0.0, np.eye(drawn.d), 0.3), (1.0, np.eye(drawn.d), 1.5)])
    obeys_formula(two_noise_levels(drawn.d).variance, formula, drawn.xs, drawn.ys, slack(drawn.xs))


def test_the_variance_of_a_mixture_can_differ():
    formula = mixture_variance_formula([(0.0, np.eye(3), 0.3), (1.0, np.eye(3), 1.5)])
    within = lambda xs, ys: Posterior(torch.eye(3), 0.3).variance(xs)  # noqa: E731
    for cheat in (two_noise_levels(3, far=1.5 * (1 + 1e-6)).variance, within):
        with pytest.raises(AssertionError):
            obeys_formula(cheat, formula, PLAIN.xs, PLAIN.ys, slack(PLAIN.xs))


# ---- features, validation, classes -----------------------------------------------------------------------------------


def test_the_formulas_of_features_and_validation_can_say_otherwise():
    """No choice, and refitting to all examples; one representation alone, another prior, another noise."""
    validated = half_split_formula([ridge_formula(0.3), ridge_formula(5.0)])

    def refits(xs, ys):
        chosen = HalfSplit((Ridge(0.3), Ridge(5.0))).weights(xs, ys) - HalfSplit((Ridge(0.3),)).weights(xs, ys)
        return torch.where(chosen.abs().sum(-1) == 0, Ridge(0.3)(xs, ys), Ridge(5.0)(xs, ys))

    for cheat in (HalfSplit((Ridge(0.3),)), refits):
        with pytest.raises(AssertionError):
            obeys_formula(cheat, validated, PLAIN.xs, PLAIN.ys, slack(PLAIN.xs))
    formula = CASES["mixture of representations"].formula(3)
    one, other = representation_mixture().components
    assert isinstance(one, Posterior)
    noisier = Posterior(one.covariance, 1.0)
    for mixture in (Mixture((one,)), Mixture((one, other), (0.0, 1e-5)), Mixture((other, noisier))):
        with pytest.raises(AssertionError):
            cheat = Featurised(mixture, Concatenated((REPRESENTATION, OTHER)))
            obeys_formula(cheat, formula, PLAIN.xs, PLAIN.ys, slack(PLAIN.xs))


def classes(drawn: Drawn) -> Tensor:
    return drawn.ys.sign()


@given(drawn=DRAWN)
def test_logistic_regression_of_classes_is_that_of_the_textbook(drawn: Drawn):
    obeys_formula(LogisticRegression(0.3), logistic_formula(0.3), drawn.xs, classes(drawn), slack(drawn.xs))


def test_logistic_regression_is_that_of_scikit_learn_and_can_differ():
    drawn = Drawn(batch=2, n=14, d=3, spread=3, seed=11)

    def formula(X, y, x):
        if len(set(y)) < 2:
            return logistic_formula(0.3)(X, y, x)  # of one class there is none in the library
        there = SklearnLogisticRegression(C=1 / 0.3, fit_intercept=False, tol=1e-12, solver="newton-cholesky")
        return np.tanh(there.fit(X, y).decision_function(x[None])[0] / 2)

    obeys_formula(LogisticRegression(0.3), formula, drawn.xs, classes(drawn), 1e-8)
    for cheat in (LogisticRegression(0.3, steps=2), LogisticRegression(0.3 * (1 + 1e-5)), Ridge(0.3)):
        with pytest.raises(AssertionError):
            obeys_formula(cheat, formula, drawn.xs, classes(drawn), 1e-8)


def test_classes_are_taken_for_classes_until_a_label_is_none():
    drawn = Drawn(batch=3, n=8, d=3, spread=1, seed=4)
    test = BinaryTest(LogisticRegression(0.3), Ridge(0.3))
    ys = classes(drawn)
    torch.testing.assert_close(test(drawn.xs, ys), LogisticRegression(0.3)(drawn.xs, ys))
    ys[:, 4] = 0.99
    torch.testing.assert_close(test(drawn.xs, ys)[:, :5], LogisticRegression(0.3)(drawn.xs, ys)[:, :5])
    torch.testing.assert_close(test(drawn.xs, ys)[:, 5:], Ridge(0.3)(drawn.xs, ys)[:, 5:])


# ---- libraries -------------------------------------------------------------------------------------------------------


def library_formula(make: Callable[[int], object]) -> Formula:
    """scikit-learn: make(i).fit(X, y).predict(x)."""

    def answer(X, y, x):
        return make(len(y)).fit(X, y).predict(x[None])[0] if len(y) else 0.0  # pyright: ignore

    return answer


LIBRARY = {
    "ridge": (Ridge(0.3), lambda i: SklearnRidge(0.3, fit_intercept=False)),
    "lasso": (Lasso(0.03), lambda i: SklearnLasso(0.03, fit_intercept=False, tol=1e-14, max_iter=10**6)),
    "nearest neighbours": (NearestNeighbours(3), lambda i: KNeighborsRegressor(min(3, i))),
    "nearest neighbours by distance": (
        NearestNeighbours(3, "distance"),
        lambda i: KNeighborsRegressor(min(3, i), weights="distance"),
    ),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_scikit_learn_says_the_same(name: str):
    predictor, make = LIBRARY[name]
    drawn = Drawn(batch=4, n=14, d=5, spread=3, seed=11)
    # scikit-learn's Lasso stops at a duality gap of 1e-14·|y|², which is 1e-7 in the weights
    tolerance = 1e-6 if name == "lasso" else slack(drawn.xs)
    obeys_formula(predictor, library_formula(make), drawn.xs, drawn.ys, tolerance)


def test_scikit_learns_gaussian_process_has_the_same_variance():
    drawn = Drawn(batch=2, n=9, d=3, spread=1, seed=12)

    def formula(X, y, x):
        if not len(y):
            return x @ x + 0.25
        process = GaussianProcessRegressor(DotProduct(0.0, "fixed"), alpha=0.25, optimizer=None)  # pyright: ignore
        return process.fit(X, y).predict(x[None], return_std=True)[1][0] ** 2 + 0.25

    posterior = Posterior(torch.eye(3), 0.5)
    obeys_formula(lambda xs, ys: posterior.variance(xs), formula, drawn.xs, drawn.ys, 1e-9)


# ---- refusals --------------------------------------------------------------------------------------------------------

REFUSED = {
    "ridge": (lambda: Ridge(0.0), ["lam must be positive"]),
    "ridge, no number": (lambda: Ridge(float("nan")), ["lam must be positive"]),
    "lasso": (lambda: Lasso(-1.0, steps=0), ["alpha must be positive", "steps must be positive"]),
    "newton": (lambda: Newton(-1), ["steps must be at least 0"]),
    "landweber": (lambda: Landweber(-1), ["steps must be at least 0"]),
    "gradient descent": (lambda: GradientDescent(-1, 0.1, lam=-1.0), ["steps must be", "lam must be"]),
    "gradient descent ++": (lambda: GradientDescentPlusPlus(-1, 0.1, 0.1), ["steps must be"]),
    "stochastic gradient descent": (lambda: StochasticGradientDescent(0.1, lam=-0.1), ["lam must be"]),
    "neighbours": (lambda: NearestNeighbours(0), ["k must be at least 1"]),
    "posterior": (
        lambda: Posterior(torch.diag(torch.tensor([1.0, -1.0])), -1.0),
        ["negative eigenvalues", "noise must be a standard deviation"],
    ),
    "posterior, symmetry": (lambda: Posterior(torch.ones(2, 2).triu(), 0.5), ["symmetric"]),
    "discrete": (lambda: DiscreteMMSE(torch.ones(0, 3), float("nan")), ["pool must be", "noise must be"]),
    "sparse": (
        lambda: SparsePosterior(4, 5, prior=0.0, noise=-1.0),
        ["sparsity must lie in 1..d = 4", "prior must be", "noise must be"],
    ),
    "sparse, many supports": (lambda: SparsePosterior(40, 8), ["at most 20000 supports"]),
    "half split": (lambda: HalfSplit(()), ["candidates must not be empty"]),
    "logistic regression": (lambda: LogisticRegression(0.0, steps=0), ["lam must be positive", "steps must be at"]),
    "mixture, variance": (
        lambda: Mixture((DiscreteMMSE(pool(3), 0.5),)).variance(PLAIN.xs, PLAIN.ys),
        ["DiscreteMMSE reports no variance"],
    ),
    "mixture": (lambda: Mixture((), log_weights=(0.0,)), ["must not be empty", "1 entries for 0 components"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_parameters_are_refused_with_every_reason(name: str):
    make, reasons = REFUSED[name]
    with pytest.raises(ValueError) as refusal:
        make()
    assert all(reason in str(refusal.value) for reason in reasons)


@pytest.mark.parametrize("predictor", [Posterior(torch.eye(3), 0.0), SparsePosterior(3, 1), DiscreteMMSE(pool(3), 0.0)])
def test_labels_without_noise_have_no_density(predictor: Bayesian):
    with pytest.raises(ValueError, match="no density"):
        predictor.log_density(PLAIN.xs, PLAIN.ys)
