"""Algorithms whose one number may differ from position to position, on fixed prompts.

Let G_i = XᵀX and h_i = Xᵀy be those of the first i examples, and v the eigenvectors of G_i with eigenvalues λ. Ridge
and gradient descent, with a step for each position or the largest safe one, all answer

    ŷ_i = Σ_v g(λ; θ_i) (v·h_i) (v·x_i)

    ridge               g = 1 / (λ + θ)
    descent, k steps    g = (1 − (1 − sλ)^k) / λ = s Σ_{j<k} (1 − sλ)^j,    s = θ · (a unit of each position)
    Landweber           g = (1 − (1 − λ/λ_max)^θ) / λ

so that one decomposition of the prefixes serves any θ. Eigenvalues below d·eps·λ_max are zero to the precision of G,
and h, which is in the range of G, has nothing along them. One pass of SGD is no function of G: with T_ij = x_i·x_j for
j < i its errors solve (I + θT)e = y (see `predictors.gradient`), a system for each θ, and ŷ_i = θ_i (T e)_i.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.linalg import solve_triangular

from iclab.predictors.door import merge_label_dims, split_label_dims
from iclab.predictors.prefixes import in_chunks, moments

Gain = Callable[[Float[Tensor, "prompts n d"], Float[Tensor, "n 1"]], Float[Tensor, "prompts n d"]]


class Spectra:
    """Prompts, and the eigenvalues of their prefixes with what each adds to an answer, (v·h)(v·x), in float64. Of
    vectors as labels each coordinate is a prompt of its own here."""

    def __init__(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n *labels"]) -> None:
        self.xs, self.ys = xs, ys

    def __getitem__(self, chosen: slice) -> "Spectra":
        """Some of the prompts."""
        part = Spectra(self.xs[chosen], self.ys[chosen])
        c = self.ys.shape[2:].numel()
        start, stop, _ = chosen.indices(len(self.xs))
        part.decomposed = tuple(each[start * c : stop * c] for each in self.decomposed)
        return part

    @cached_property
    def decomposed(self) -> tuple[Tensor, ...]:
        """Returns λ and (v·h)(v·x), [prompts n d] each; 0 where λ is."""
        parts = in_chunks(_decomposed, *self.singly, 6 * self.xs[0].numel() * self.xs.shape[2])
        return parts[..., 0], parts[..., 1]

    @property
    def singly(self) -> tuple[Float[Tensor, "prompts n d"], Float[Tensor, "prompts n"]]:
        """Returns prompts whose labels are numbers, in float64."""
        xs, ys = self.xs.double(), self.ys.double()
        return split_label_dims(xs, ys) if ys.ndim == 3 else (xs, ys)

    def merge_label_dims(self, answers: Float[Tensor, "prompts n"]) -> Float[Tensor, "batch n *labels"]:
        """Returns answers as labels are."""
        return merge_label_dims(answers, self.ys.shape[2]) if self.ys.ndim == 3 else answers

    def answers(self, gain: Gain, parameters: Float[Tensor, " n"]) -> Float[Tensor, "batch n *labels"]:
        """Returns Σ_v g(λ; θ_i) (v·h_i) (v·x_i)."""
        levels, weights = self.decomposed
        return self.merge_label_dims((gain(levels, parameters.to(levels).unsqueeze(-1)) * weights).sum(-1))


# The answers of an algorithm to prompts, with a parameter for each position.
Between = Callable[[Spectra, Float[Tensor, " n"]], Float[Tensor, "batch n *labels"]]


def filtered(gain: Gain) -> Between:
    """Returns the answers of an algorithm from its gain."""
    return lambda spectra, parameters: spectra.answers(gain, parameters)


def one_pass(spectra: Spectra, sizes: Float[Tensor, " n"]) -> Float[Tensor, "batch n *labels"]:
    """Returns the answers of one pass of SGD with a size of step for each position."""
    distinct, which = sizes.unique(return_inverse=True)

    def answers(xs: Float[Tensor, "prompts n d"], ys: Float[Tensor, "prompts n"]) -> Float[Tensor, "prompts n"]:
        kernel, of_each = (xs @ xs.mT).tril(-1), distinct.to(xs).reshape(-1, 1, 1)
        systems = kernel.unsqueeze(1) * of_each
        labels = ys.reshape(len(ys), 1, -1, 1).expand(*systems.shape[:-1], 1)
        errors = solve_triangular(systems, labels, upper=False, unitriangular=True).squeeze(-1)[:, which]
        return sizes.to(xs) * (kernel * errors.where(kernel != 0, 0.0)).sum(-1)  # later ones may overflow

    return spectra.merge_label_dims(in_chunks(answers, *spectra.singly, 3 * len(distinct) * spectra.xs.shape[1] ** 2))


def ridge(levels: Float[Tensor, "prompts n d"], lam: Float[Tensor, "n 1"]) -> Float[Tensor, "prompts n d"]:
    """Returns the gain of ridge regression."""
    return 1 / (levels + lam)


def descent(steps: int, unit: Float[Tensor, " n"]) -> Gain:
    """Returns the gain of some steps of gradient descent of size θ·unit."""

    def gain(levels: Float[Tensor, "prompts n d"], eta: Float[Tensor, "n 1"]) -> Float[Tensor, "prompts n d"]:
        size = eta * unit.to(eta).unsqueeze(-1)
        left = 1 - size * levels
        total = torch.ones_like(left)
        for _ in range(steps - 1):
            total = 1 + left * total
        return size * total

    return gain


def landweber(levels: Float[Tensor, "prompts n d"], steps: Float[Tensor, "n 1"]) -> Float[Tensor, "prompts n d"]:
    """Returns the gain of gradient descent of the largest safe step; the number of steps need not be whole."""
    ratio = levels / levels[..., -1:].clamp_min(torch.finfo(levels.dtype).tiny)
    share = -torch.expm1(torch.special.xlog1py(steps.expand_as(ratio), -ratio))
    return share / levels.where(levels > 0, 1.0)


def _decomposed(xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d 2"]:
    gram, h = moments(xs, ys)
    levels, vectors = torch.linalg.eigh(gram)
    kept = levels > levels.shape[-1] * torch.finfo(levels.dtype).eps * levels[..., -1:]
    along = (vectors.mT @ torch.stack([h, xs], dim=-1)).prod(-1)
    return rearrange([levels.where(kept, 0.0), along.where(kept, 0.0)], "two batch n d -> batch n d two")
