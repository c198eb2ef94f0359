"""Logistic regression on every prefix, for labels −1 and 1, and the test whether labels are such.

    w_i = argmin_w Σ_{j<i} log(1 + exp(−y_j w·x_j)) + ½·lam·‖w‖²,        ŷ_i = 2 P(y_i = 1) − 1 = tanh(w_i·x_i / 2)

by Newton's iteration from 0. A step goes the best of the fractions 1, ½, ¼, ... of its length, or nowhere, so that the
objective never rises. Where classes can be separated it has a minimum only thanks to the penalty; as lam falls, w turns
to the direction of the largest margin. The minimum is where the gradient vanishes, whatever matrix the steps are made
with, so that this one may have a larger penalty where inputs are so large that rounding would make it singular.

Source: Bai, Chen, Wang, Xiong, Mei 2023, arXiv 2306.04637, §3 (logistic regression) and §4 ("pre-ICL testing",
Lemma 18 and Prop. 19); the penalty is this project's, as theirs is without. While all labels seen are the same, their
code answers that label.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from iclab.errors import refuse
from iclab.predictors.predictor import Predictor, exclusive_cumsum, in_double
from iclab.predictors.prefixes import in_chunks

HALVINGS = 8  # of a step
CONVERGED = 1e-13  # the largest change of a weight, relative to the largest weight
ROUNDING = 1e-13  # of an objective, relative to it
JITTER = 1e-12  # least eigenvalue of the matrix of a step, relative to its trace


@dataclass(frozen=True)
class LogisticRegression(Predictor):
    """tanh(w_i·x_i / 2) with the w_i of least penalised logistic loss. Of a label only the sign is read."""

    lam: float
    steps: int = 30

    def __post_init__(self) -> None:
        problems = [] if 0 < self.lam < float("inf") else [f"lam must be positive and finite, given {self.lam}"]
        problems += [] if self.steps >= 1 else [f"steps must be at least 1, given {self.steps}"]
        refuse("LogisticRegression", problems)

    @in_double
    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        n, d = xs.shape[1:]
        return in_chunks(self._answers, xs, ys, n * (3 * d**2 + (HALVINGS + 6) * n))

    def _answers(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        signed, ws = (xs * ys.sign().unsqueeze(-1)).detach(), torch.zeros_like(xs)  # gradients are those in the query
        for _ in range(self.steps if xs.numel() else 0):
            step = self._step(signed, ws)
            ws = ws + step
            if step.abs().max() <= CONVERGED * ws.abs().max():
                break
        return torch.tanh((ws * xs).sum(-1) / 2)

    def _step(self, signed: Float[Tensor, "batch n d"], ws: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n d"]:
        """The damped Newton step of every prefix, from its examples y_j x_j."""
        margins = ws @ signed.mT
        wrong = torch.sigmoid(-margins).tril(-1)
        gradient = self.lam * ws - wrong @ signed
        squares = (signed.unsqueeze(-1) * signed.unsqueeze(-2)).flatten(2)
        hessian = ((wrong * (1 - wrong)) @ squares).unflatten(2, 2 * signed.shape[-1:])
        ridge = (JITTER * hessian.diagonal(dim1=-2, dim2=-1).sum(-1)).clamp_min(self.lam)
        hessian.diagonal(dim1=-2, dim2=-1).add_(ridge.unsqueeze(-1))
        root, _ = torch.linalg.cholesky_ex(hessian)  # not a number where squares overflow, and only there
        step = -torch.cholesky_solve(gradient.unsqueeze(-1), root).squeeze(-1)
        return self._fraction(signed, ws, margins, step).unsqueeze(-1) * step

    def _fraction(
        self,
        signed: Float[Tensor, "batch n d"],
        ws: Float[Tensor, "batch n d"],
        margins: Float[Tensor, "batch n n"],
        step: Float[Tensor, "batch n d"],
    ) -> Float[Tensor, "batch n"]:
        """Of 0, 1, ½, ¼, ... the one of least objective, and the largest of those that rounding cannot distinguish:
        near the minimum that is 1, so that the error can go below √eps, where an objective has no digits left."""
        halves = torch.arange(HALVINGS, dtype=ws.dtype, device=ws.device)
        tried = torch.cat([torch.zeros_like(halves[:1]), 0.5**halves]).view(-1, 1, 1)
        along, across, size = (ws * step).sum(-1), step @ signed.mT, step.square().sum(-1)
        losses = softplus(-(margins + tried.unsqueeze(-1) * across)).tril(-1).sum(-1)
        objective = losses + self.lam * (tried * along + tried.square() * size / 2)
        near = objective <= objective.amin(0) + ROUNDING * (1 + losses[0])
        return tried.where(near, 0.0).amax(0)


@dataclass(frozen=True)
class BinaryTest(Predictor):
    """The answer of the `classifier` while all labels seen are −1 or 1, that of the `regressor` afterwards."""

    classifier: Predictor
    regressor: Predictor

    @in_double
    def __call__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        others = exclusive_cumsum((ys.abs() != 1).to(ys.dtype))
        return torch.where(others == 0, self.classifier(xs, ys), self.regressor(xs, ys))
