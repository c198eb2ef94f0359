"""Iterations that act on each eigenvector of G = XᵀX alone, on every prefix.

Let λ be an eigenvalue of G_i, v its eigenvector and λ_max the largest. An iteration from w = 0 whose step is a
polynomial in G learns along v some share s of what least squares does, which depends on λ/λ_max and not on the labels:

    w_i = Σ_v s(λ/λ_max) / λ · (v·h_i) v,        h_i = Xᵀy

    Newton      s(ρ) = 1 − (1 − ρ²)^(2^k)        Landweber      s(ρ) = 1 − (1 − ρ)^k

This closed form is what is computed: one decomposition of the prefixes serves any number of steps, and rounding errors
outside the range of G (there are such directions while i < d) are not iterated upon. Eigenvalues below d·eps·λ_max are
zero to the precision of G, and nothing is learned there.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from iclab.predictors.door import in_double, merge_label_dims, split_label_dims
from iclab.predictors.predictor import Linear
from iclab.predictors.prefixes import in_chunks, moments


class Spectral(Linear):
    """An iteration on G: subclasses define the share of least squares that is learned along an eigenvector."""

    @abstractmethod
    def share(self, ratio: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n d"]:
        """Returns s(ρ) for ρ = λ/λ_max in [0, 1]."""

    @in_double(query=False)
    def weights(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        n, d = xs.shape[1:]
        return in_chunks(self._filtered, xs, ys, 6 * n * d**2)

    def _filtered(self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n d"]:
        ratio, vectors, along = _decomposed(xs, ys)
        return (vectors @ (self.share(ratio) * along).unsqueeze(-1)).squeeze(-1)


def answers_of_each(
    iterations: Sequence[Spectral], xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n *labels"]
) -> Float[Tensor, "k batch n *labels"]:
    """Returns what each iteration answers, in float64, from one decomposition of the prefixes."""
    if ys.ndim == 3:
        result = answers_of_each(iterations, *split_label_dims(xs, ys))
        return torch.stack([merge_label_dims(each, ys.shape[-1]) for each in result])

    def answers(xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> Float[Tensor, "batch k n"]:
        ratio, vectors, along = _decomposed(xs, ys)
        terms = along * (vectors.mT @ xs.unsqueeze(-1)).squeeze(-1)
        return torch.stack([(each.share(ratio) * terms).sum(-1) for each in iterations], dim=1)

    n, d = xs.shape[1:]
    result = in_chunks(answers, xs.double(), ys.double(), 6 * n * d**2)
    return rearrange(result, "batch k n -> k batch n")


def _decomposed(xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"]) -> tuple[Tensor, Tensor, Tensor]:
    """λ/λ_max [batch n d], the eigenvectors [batch n d d], and v·h / λ along each [batch n d]; 0 where λ is,
    and not a number where G has overflowed."""
    gram, h = moments(xs, ys)
    beyond = ~gram.flatten(-2).isfinite().all(-1, keepdim=True)  # one such matrix is an error for all of them
    eigenvalues, vectors = torch.linalg.eigh(gram.masked_fill(beyond.unsqueeze(-1), 0.0))
    limits, largest = torch.finfo(eigenvalues.dtype), eigenvalues[..., -1:].clamp_min(0)
    kept = eigenvalues > eigenvalues.shape[-1] * limits.eps * largest
    ratio = (eigenvalues / largest.clamp_min(limits.tiny)).where(kept, 0.0)
    along = (vectors.mT @ h.unsqueeze(-1)).squeeze(-1) / eigenvalues.where(kept, 1.0)
    return ratio, vectors, along.where(kept, 0.0).masked_fill(beyond, torch.nan)
