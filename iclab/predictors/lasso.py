"""The Lasso on every prefix, in scikit-learn's scaling, by active sets:

    w_i = argmin_w 1/(2i)‖Xw − y‖² + α‖w‖₁.

With X and y divided by √i and c = Xᵀ(y − Xw), the minimum is where c_j = α s_j with s_j = sign w_j for the active set
A = {w_j ≠ 0}, and |c_j| ≤ α elsewhere (the conditions of Karush, Kuhn and Tucker). From w = 0 and A = ∅ it is reached
by moves along some u, each of which lowers the objective:

    c_A = α s_A      The j with the largest |c_j| > α enters, with s_j = sign c_j. So that c_A stays as it is,
                     u_j = s_j and u_A = −(X_AᵀX_A)⁻¹ X_Aᵀx_j s_j, and the least is at the length (|c_j| − α)/‖Xu‖².
    otherwise        Newton's step u_A = (X_AᵀX_A)⁻¹ (c_A − α s_A), where the least is at the length 1.

Where active coordinates reach zero first, the move ends and they leave. Ties do no harm: all that reach zero together
leave together, so that w_A has no zero when the next one enters. Each move therefore has a length, the objective falls,
and no A comes twice with c_A = α s_A. Nor do columns that depend on each other: Xu is zero where x_j depends on X_A,
‖w‖₁ falls along u as far as it goes, and a coordinate that it takes to zero makes room; X_A keeps its full rank.

The moves read XᵀX and Xᵀy, which have squared the inputs. Whatever they find is put to the conditions on the examples
themselves, and what fails is not a number: seen where κ(X) > 1e4 and the penalty is below 1e-7 of |Xᵀy|_∞.
Coordinate descent and accelerated gradients crawl where i < d and α is small, which is half of all prefixes.

Tibshirani 1996 (JRSS B 58); active sets: Osborne, Presnell, Turlach 2000 (IMA J. Numer. Anal. 20); why they end:
Lawson, Hanson 1974 (Solving Least Squares Problems, ch. 23).
Among in-context baselines: Garg, Tsipras, Liang, Valiant 2022, arXiv 2208.01066, §4 (best α at d = 20, s = 3: 0.01).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.door import in_double
from iclab.predictors.predictor import Linear, exclusive_cumsum
from iclab.predictors.prefixes import in_chunks, moments

ROUNDING = 8 * torch.finfo(torch.float64).eps  # of Σ_k x_j·x_k w_k, relative to ‖x_j‖ Σ_k ‖x_k‖ |w_k|
RESOLUTION = 1e-12  # of a penalty, relative to |Xᵀy|_∞: rounding alone decides about what is smaller
TIE = 1e-10  # relative: pulls and lengths nearer than that differ by rounding alone
OPTIMAL = 1e-9  # what the conditions may be off by, relative to |Xᵀy|_∞


@dataclass(frozen=True)
class Lasso(Linear):
    """w_i = argmin_w 1/(2i)‖Xw − y‖² + alpha·‖w‖₁ over the first i examples; where several are, one of them.

    Weights fulfil the conditions of a minimum to 1e-9 of |Xᵀy/i|_∞, or to the rounding of Xᵀ(Xw) where w is so large
    that this is more. What does not is not a number, as where `steps` moves do not suffice, of which there are one to
    three for each active coordinate. A penalty below 1e-12 of |Xᵀy/i|_∞ is raised to that.

    >>> import torch
    >>> xs, ys = torch.eye(3).unsqueeze(0), torch.tensor([[2.0, 0.1, 0.0]])
    >>> Lasso(alpha=0.1).weights(xs, ys)[0, 2].round(decimals=3)  # the small coefficient is set to zero
    tensor([1.8000, 0.0000, 0.0000])
    """

    alpha: float
    steps: int = 1000

    def __post_init__(self) -> None:
        given = {"alpha": self.alpha, "steps": self.steps}
        refuse("Lasso", [f"{name} must be positive, given {value}" for name, value in given.items() if not value > 0])

    @in_double(query=False)
    @torch.no_grad()
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        """Returns w_i at every position i, constants to autograd."""
        n, d = xs.shape[1:]
        return in_chunks(self._minimised, xs, ys, 4 * n * d**2)

    def _minimised(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        ws = minimum(Moments.of(xs, ys), self.alpha, self.steps).view_as(xs)
        return ws.where(optimal(ws, xs, ys, self.alpha).unsqueeze(-1), torch.nan)


def optimal(
    ws: Float[Tensor, "batch n d"], xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"], alpha: float
) -> Bool[Tensor, "batch n"]:
    """Returns where the optimality conditions hold on the examples, and α‖w‖₁ is no more than the objective of w =
    0."""
    seen = torch.arange(xs.shape[1], dtype=xs.dtype, device=xs.device).clamp_min(1).unsqueeze(-1)
    c = (ys.unsqueeze(1) - ws @ xs.mT).tril(-1) @ xs / seen
    off = torch.where(ws == 0, c.abs() - alpha, (c - alpha * ws.sign()).abs())
    pull = (exclusive_cumsum(xs * ys.unsqueeze(-1)) / seen).abs().amax(-1, keepdim=True)
    bound = OPTIMAL * pull + rounding((exclusive_cumsum(xs.square()) / seen).sqrt(), ws)
    start = exclusive_cumsum(ys.square()) / (2 * seen.squeeze(-1))
    return (off <= bound).all(-1) & (alpha * ws.abs().sum(-1) <= start)


def rounding(norms: Float[Tensor, "*problems d"], ws: Float[Tensor, "*problems d"]) -> Float[Tensor, "*problems d"]:
    """Returns what rounding may make of XᵀXw, from the norms of the columns."""
    return ROUNDING * norms * (norms * ws.abs()).sum(-1, keepdim=True)


def minimum(problem: "Moments", alpha: float, steps: int) -> Float[Tensor, "problems d"]:
    """Returns argmin ½‖Xw − y‖² + α‖w‖₁, or the point that is reached after that many moves."""
    ws = torch.zeros_like(problem.h)
    point, left = Point.start(problem.h, alpha), torch.arange(len(ws), device=ws.device)
    for _ in range(steps):
        c = problem.h - problem.columns(point.ws)
        enters = point.entering(problem, c)
        on = ~point.settled | (enters != 0).any(-1)
        if not on.any():
            break
        left, problem, point, c, enters = left[on], problem[on], point[on], c[on], enters[on]
        point = point.moved(problem, c, enters)
        ws[left] = point.ws
    return ws


@dataclass(frozen=True)
class Moments:
    """XᵀX and Xᵀy of many problems."""

    gram: Float[Tensor, "problems d d"]
    h: Float[Tensor, "problems d"]

    @classmethod
    def of(cls, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> "Moments":
        """Returns those of every prefix, for X and y divided by √i."""
        seen = torch.arange(xs.shape[1], dtype=xs.dtype, device=xs.device).clamp_min(1).unsqueeze(-1)
        gram, h = moments(xs, ys)
        return cls((gram / seen.unsqueeze(-1)).flatten(0, 1), (h / seen).flatten(0, 1))

    def __getitem__(self, chosen: Tensor) -> "Moments":
        return Moments(self.gram[chosen], self.h[chosen])

    @property
    def norms(self) -> Float[Tensor, "problems d"]:
        """Returns ‖x_j‖."""
        return self.gram.diagonal(dim1=-2, dim2=-1).sqrt()

    def columns(self, us: Float[Tensor, "problems d"]) -> Float[Tensor, "problems d"]:
        """Returns XᵀXu."""
        return (self.gram @ us.unsqueeze(-1)).squeeze(-1)

    def solve(self, active: Float[Tensor, "problems d"], rhs: Float[Tensor, "problems d"]) -> Tensor:
        """Returns (X_AᵀX_A)⁻¹ rhs_A, and 0 outside of A."""
        system = self.gram * (active.unsqueeze(-1) * active.unsqueeze(-2)) + torch.diag_embed(1 - active)
        return torch.linalg.solve_ex(system, (rhs * active).unsqueeze(-1))[0].squeeze(-1)


@dataclass(frozen=True)
class Point:
    """The state of each of many problems: its penalty, and whether it is `settled`: c_A = α s_A."""

    ws: Float[Tensor, "problems d"]
    signs: Float[Tensor, "problems d"]
    settled: Bool[Tensor, " problems"]
    alpha: Float[Tensor, "problems 1"]

    @classmethod
    def start(cls, h: Float[Tensor, "problems d"], alpha: float) -> "Point":
        """Returns w = 0."""
        zeros, least = torch.zeros_like(h), RESOLUTION * h.abs().amax(-1, keepdim=True)
        return cls(zeros, zeros, torch.ones_like(h[:, 0], dtype=torch.bool), least.clamp_min(alpha))

    def __getitem__(self, chosen: Tensor) -> "Point":
        return Point(self.ws[chosen], self.signs[chosen], self.settled[chosen], self.alpha[chosen])

    def entering(self, problem: Moments, c: Float[Tensor, "problems d"]) -> Float[Tensor, "problems d"]:
        """Returns s_j of the coordinate that enters, the first of those that tie, and 0 elsewhere."""
        slack = rounding(problem.norms, self.ws) + ROUNDING * self.alpha
        excess = (c.abs() - self.alpha - slack).where((self.signs == 0) & self.settled.unsqueeze(-1), 0.0)
        most = excess.amax(-1, keepdim=True)
        near = (excess > 0) & (excess >= most * (1 - TIE) - slack)
        j = near.byte().argmax(-1, keepdim=True)
        return torch.zeros_like(c).scatter(-1, j, c.gather(-1, j).sign().where(most > 0, 0.0))

    def moved(self, problem: Moments, c: Float[Tensor, "problems d"], enters: Float[Tensor, "problems d"]) -> "Point":
        """Returns the point after one move along u, to the least of the objective or to where coordinates reach
        zero."""
        signs = self.signs + enters
        rhs = (c - self.alpha * signs).where(~self.settled.unsqueeze(-1), -problem.columns(enters))
        u = problem.solve(self.signs.abs(), rhs) + enters
        reach = (-self.ws / u).clamp_min(0).where(u * signs < 0, torch.inf)
        falls = (enters * c).sum(-1) - self.alpha.squeeze(-1)
        length = self._least(problem, u, falls).minimum(reach.amin(-1))
        length = length.where(length.isfinite(), 0.0).unsqueeze(-1)
        stays = reach > length * (1 + TIE)
        return Point((self.ws + length * u).where(stays, 0.0), signs.where(stays, 0.0), stays.all(-1), self.alpha)

    def _least(
        self, problem: Moments, u: Float[Tensor, "problems d"], falls: Float[Tensor, " problems"]
    ) -> Float[Tensor, " problems"]:
        """The length of least objective, which falls at that rate where a coordinate enters: ∞ where Xu is zero."""
        squared = (u * problem.columns(u)).sum(-1)
        zero = squared <= ROUNDING * (problem.norms * u.abs()).sum(-1).square()
        return torch.where(self.settled, (falls / squared).where(~zero, torch.inf), 1.0)
