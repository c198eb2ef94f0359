"""Matrices of low rank as pairs of factors, and their singular value decompositions, without ever forming them.

    M = A B,    A [d e],  B [e f],  e small

    M N = (A (B C)) D                      two factors again, (A B)(C D)
    Mᵀ = Bᵀ Aᵀ,    tr M = tr B A
    A = Q_a R_a,  Bᵀ = Q_b R_b,  R_a R_bᵀ = U′ S V′ᵀ      so that M = (Q_a U′) S (Q_b V′)ᵀ at a cost of (d + f) e²
    ‖M‖ = ‖R_a R_bᵀ‖                       Frobenius

Row vectors are multiplied from the left, x M: a component i reads u_i and writes v_i,

    x M = Σ_i (x·u_i) s_i v_iᵀ.

The signs of u_i and v_i can be flipped together. Here the entry of v_i that is largest in size is positive. Components
whose singular values are equal are not determined at all, only the space that they span: rounding of relative size ε
turns component i by about ε / gap_i, where gap_i is the distance of s_i from its nearest neighbour, divided by s_0.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis.scale import unit


@dataclass(frozen=True)
class LowRank:
    """M = A B. Leading axes are a batch of matrices, and are broadcast.

    >>> import torch
    >>> A, B = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]])
    >>> M = LowRank(A, B)  # rank 1, never formed
    >>> M.dense()
    tensor([[3., 4.],
            [6., 8.]])
    >>> M.norm(), M.svd().S
    (tensor(11.1803), tensor([11.1803], dtype=torch.float64))
    """

    A: Float[Tensor, "*left d e"]
    B: Float[Tensor, "*right e f"]

    def __matmul__(self, other: "LowRank") -> "LowRank":
        return LowRank(self.A @ (self.B @ other.A), other.B)

    @property
    def mT(self) -> "LowRank":
        """Returns the transpose."""
        return LowRank(self.B.mT, self.A.mT)

    def __getitem__(self, index: int | tuple[int, ...]) -> "LowRank":
        return LowRank(self.A[index], self.B[index])

    def dense(self) -> Float[Tensor, "*batch d f"]:
        """Returns M itself."""
        return self.A @ self.B

    def trace(self) -> Float[Tensor, "*batch"]:
        """Returns tr M = Σ_kl A_kl B_lk."""
        return (self.A * self.B.mT).sum((-2, -1))

    def norm(self) -> Float[Tensor, "*batch"]:
        """Returns ‖M‖ (Frobenius), without the loss of digits that tr(AᵀA BBᵀ) has."""
        R_a, R_b = (torch.linalg.qr(part, mode="r").R for part in (self.A, self.B.mT))
        return torch.linalg.matrix_norm(R_a @ R_b.mT)

    def svd(self) -> "Components":
        """Returns the components, in float64."""
        (Q_a, R_a), (Q_b, R_b) = (torch.linalg.qr(part.double()) for part in (self.A, self.B.mT))
        U, S, Vh = torch.linalg.svd(R_a @ R_b.mT, full_matrices=False)
        U, V = Q_a @ U, Q_b @ Vh.mT
        largest = V.gather(-2, V.abs().argmax(-2, keepdim=True))
        return Components(U * largest.sign(), S, V * largest.sign())


@dataclass(frozen=True)
class Components:
    """M = Σ_i s_i u_i v_iᵀ: columns u_i and v_i, singular values from the largest on."""

    U: Float[Tensor, "*batch d e"]
    S: Float[Tensor, "*batch e"]
    V: Float[Tensor, "*batch f e"]

    def __getitem__(self, index: int | tuple[int, ...]) -> "Components":
        return Components(self.U[index], self.S[index], self.V[index])

    def gaps(self) -> Float[Tensor, "*batch e"]:
        """Returns how far each singular value is from its nearest neighbour (below the last there is 0), relative to
        s_0."""
        ends = torch.full_like(self.S[..., :1], torch.inf), torch.zeros_like(self.S[..., :1])
        steps = torch.cat([ends[0], self.S, ends[1]], -1).diff(dim=-1).abs()
        return torch.minimum(steps[..., :-1], steps[..., 1:]) / torch.where(self.S[..., :1] > 0, self.S[..., :1], 1.0)

    def shares(self) -> Float[Tensor, "*batch e"]:
        """Returns s_i² / Σ s²; none where all are zero."""
        return unit(self.S).square()

    def directions(self) -> Float[Tensor, "*batch f e"]:
        """Returns what is written: the v_i, and nothing where s_i is but rounding."""
        rounding = self.V.shape[-2] * torch.finfo(self.S.dtype).eps * self.S[..., :1]
        return self.V * (rounding < self.S).unsqueeze(-2)

    def scaled(self, factors: Float[Tensor, "*batch e"]) -> "Components":
        """Returns each component times a factor; a negative one turns what it writes."""
        return Components(self.U, self.S * factors.abs(), self.V * factors.sign().unsqueeze(-2))

    def low_rank(self) -> LowRank:
        """Returns M = (U √S)(√S Vᵀ): factors of equal norm."""
        root = self.S.sqrt().unsqueeze(-2)
        return LowRank(self.U * root, (self.V * root).mT)
