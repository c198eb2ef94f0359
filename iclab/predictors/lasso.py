"""The Lasso on every prefix, in scikit-learn's scaling, by its path:

    w_i = argmin_w 1/(2i)‖Xw − y‖² + α‖w‖₁.

With G = XᵀX/i and h = Xᵀy/i the minimum is where c = h − G w has c_j = α s_j with s_j = sign w_j for the active set
A = {w_j ≠ 0}, and |c_j| ≤ α elsewhere. As long as A and s stay the same, both are straight lines in the penalty a:

    w_A(a) = p − a q,    p = G_AA⁻¹ h_A,    q = G_AA⁻¹ s_A,    c(a) = (h − G p) + a G q.

From a = |h|_∞, where w = 0, the penalty falls to α through the breakpoints at which a coordinate joins (|c_j| = a) or
leaves (w_j = 0), each of them the largest root below the last. The end is exact up to the rounding of the last system.
Coordinate descent and accelerated gradients crawl where i < d and α is small, which is half of all prefixes.

Tibshirani 1996 (JRSS B 58); the path: Osborne, Presnell, Turlach 2000 (IMA J. Numer. Anal. 20), Efron et al. 2004.
Among in-context baselines: Garg, Tsipras, Liang, Valiant 2022, arXiv 2208.01066, §4 (best α at d = 20, s = 3: 0.01).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.errors import refuse
from iclab.predictors.predictor import Linear, in_double
from iclab.predictors.prefixes import in_chunks, moments

PARALLEL = 1e-9  # c_j and the penalty fall side by side (a coordinate that doubles an active one): they never meet
RESOLUTION = 1e-13  # of c, relative to |h|_∞: below such a penalty a coordinate would join by rounding alone


@dataclass(frozen=True)
class Lasso(Linear):
    """w_i = argmin_w 1/(2i)‖Xw − y‖² + alpha·‖w‖₁ over the first i examples.

    `steps` bounds the breakpoints, of which there are about as many as active coordinates; a prefix that has more
    keeps its minimum at the penalty that was reached.
    """

    alpha: float
    steps: int = 1000

    def __post_init__(self) -> None:
        given = {"alpha": self.alpha, "steps": self.steps}
        refuse("Lasso", [f"{name} must be positive, given {value}" for name, value in given.items() if not value > 0])

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        n, d = xs.shape[1:]
        return in_chunks(self._minimised, xs, ys, 2 * n * d**2)

    def _minimised(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        seen = torch.arange(xs.shape[1], dtype=xs.dtype, device=xs.device).clamp_min(1).unsqueeze(-1)
        gram, h = moments(xs, ys)
        gram, h = (gram / seen.unsqueeze(-1)).flatten(0, 1), (h / seen).flatten(0, 1)
        ws, left = torch.zeros_like(h), (h.abs().amax(-1) > self.alpha).nonzero().squeeze(-1)
        gram, h, path = gram[left], h[left], Path.start(h[left], self.alpha)
        for _ in range(self.steps):
            line, path = path.follow(gram, h)
            exists = line.isfinite().all(-1)
            ws[left[exists]] = line[exists]
            on = exists & (path.penalty > path.end)
            if not on.any():
                break
            left, gram, h, path = left[on], gram[on], h[on], path[on]
        return ws.view_as(xs)


@dataclass(frozen=True)
class Path:
    """Where each of many paths stands: the penalty, where it ends, the signs of the active coordinates, the last turn.

    `turned` has a ±1 at the coordinate that joined or left at this penalty: that root is not to be found again.
    """

    penalty: Float[Tensor, " left"]
    end: Float[Tensor, " left"]
    signs: Float[Tensor, "left d"]
    turned: Float[Tensor, "left d"]

    @classmethod
    def start(cls, h: Float[Tensor, "left d"], alpha: float) -> "Path":
        penalty, first = h.abs().max(-1)
        signs = torch.zeros_like(h).scatter(-1, first.unsqueeze(-1), h.gather(-1, first.unsqueeze(-1)).sign())
        return cls(penalty, (RESOLUTION * penalty).clamp_min(alpha), signs, signs)

    def __getitem__(self, chosen: Tensor) -> "Path":
        return Path(self.penalty[chosen], self.end[chosen], self.signs[chosen], self.turned[chosen])

    def follow(
        self, gram: Float[Tensor, "left d d"], h: Float[Tensor, "left d"]
    ) -> tuple[Float[Tensor, "left d"], "Path"]:
        """The weights at the next breakpoint, or at the end where that comes first, and the path from there."""
        p, q = self._line(gram, h)
        roots = self._roots(p, q, h - (gram @ p.unsqueeze(-1)).squeeze(-1), (gram @ q.unsqueeze(-1)).squeeze(-1))
        below = roots.where(roots <= self.penalty.view(-1, 1, 1) * (1 + PARALLEL), 0.0).flatten(1)
        root, which = below.max(-1)
        penalty = root.minimum(self.penalty).maximum(self.end)
        return p - penalty.unsqueeze(-1) * q, self._turn(penalty, which)

    def _line(self, gram: Float[Tensor, "left d d"], h: Float[Tensor, "left d"]) -> tuple[Tensor, Tensor]:
        """p and q, 0 outside the active set."""
        active = self.signs.abs()
        system = gram * (active.unsqueeze(-1) * active.unsqueeze(-2)) + torch.diag_embed(1 - active)
        solved = torch.linalg.solve_ex(system, torch.stack([h * active, self.signs], dim=-1))[0]
        return solved[..., 0], solved[..., 1]

    def _roots(
        self, p: Float[Tensor, "left d"], q: Float[Tensor, "left d"], c: Float[Tensor, "left d"], slope: Tensor
    ) -> Float[Tensor, "left 3 d"]:
        """Penalties at which each coordinate leaves, joins with +1 and joins with −1; 0 where it does not."""
        active = self.signs != 0
        leaves = _ratio(p, q).where(active & (self.turned == 0), 0.0)
        joins = [_ratio(c, s - slope).where(~active & (self.turned != s), 0.0) for s in (1.0, -1.0)]
        return torch.stack([leaves, *joins], dim=1)

    def _turn(self, penalty: Float[Tensor, " left"], which: Int[Tensor, " left"]) -> "Path":
        """The path after coordinate which mod d left, joined with +1 or joined with −1 (which div d = 0, 1, 2)."""
        d = self.signs.shape[-1]
        kind, j = which.unsqueeze(-1) // d, which.unsqueeze(-1) % d
        sign = torch.tensor([0.0, 1.0, -1.0], dtype=penalty.dtype, device=penalty.device)[kind]
        turned = self.signs.gather(-1, j).where(kind == 0, sign)
        turns = torch.zeros_like(self.signs).scatter(-1, j, turned)
        return Path(penalty, self.end, self.signs.scatter(-1, j, sign), turns)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return (numerator / denominator).where(denominator.abs() > PARALLEL, 0.0)
