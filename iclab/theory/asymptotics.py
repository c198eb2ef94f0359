"""The in-context risk of linear attention fitted without a penalty, in the limit of large dimension.

Inputs x ~ N(0, I/d), labels y = w·x + ε with ε ~ N(0, ρ), contexts of ℓ examples. Γ is the solution of least norm of
one regression on the last label of n prompts whose w are drawn from k vectors N(0, I) (on the sphere |w|² = d in the
paper, which is the same in the limit), and is tested on new vectors. With d → ∞ and

    τ = n/d²,     α = ℓ/d,     κ = k/d,     x = (1 + ρ)/α,     m = M_κ(x)

the risk E(ŷ − y)² at the last position tends to

    τ < 1    τ(1 + x)/(1 − τ) · [1 − τ(1 − μ)² − μ(x − ρ)/x] − 2τ(1 − μ) + 1 + ρ,            μ = x M_{κ/τ}(x)
    τ > 1    (s − 1/(τ−1)) (1 + x)(x m)² + (3−2τ)/(τ−1) · m x² + ((1+ρ)m/(τ−1) + 1) x + ρ m/(τ−1) + ρ
             with s = 1/(1 − κ m²/(κ + m)²)

where M_κ(σ) = lim 1/d tr(F + σI)⁻¹ for the second moment F = 1/k Σ w wᵀ of the k vectors: 1/M = σ + κ/(κ + M).
It is infinite at τ = 1 (double descent in the number of prompts). With τ, κ → ∞ it tends to 1 + ρ − 1/(1 + x): that of
the best Γ. At κ = 1 the limits α, τ → ∞ part: the risk then falls to ρ for κ ≥ 1, and stays at 1 − κ + ρ below.

Source: Lu, Letey, Zavatone-Veth, Maiti, Pehlevan 2024, arXiv 2405.11751, ridgeless limits of the ICL error.
"""

from math import inf, sqrt

from iclab.errors import refuse


def resolvent(sigma: float, kappa: float) -> float:
    """Returns M_κ(σ), the Stieltjes transform at −σ of the Marchenko–Pastur law with ratio 1/κ; κ may be infinite."""
    b = sigma + 1 - 1 / kappa
    root = sqrt(b**2 + 4 * sigma / kappa)
    return 2 / (b + root) if b > 0 else kappa * (root - b) / (2 * sigma)  # neither cancels


def icl_risk(tau: float, alpha: float, kappa: float, rho: float) -> float:
    """Returns the risk on new tasks, against noisy labels; infinite at tau = 1. `kappa` may be infinite, `rho` is
    noise².

    Raises ``ValueError`` where a ratio is not positive or `rho` is negative.
    """
    ratios = {"tau": tau, "alpha": alpha, "kappa": kappa}
    problems = [f"{name} must be positive, given {value}" for name, value in ratios.items() if not value > 0]
    refuse("icl_risk", problems + ([] if 0 <= rho < inf else [f"rho must be 0 or more and finite, given {rho}"]))
    x = (1 + rho) / alpha
    if tau == 1:
        return inf
    return _few_prompts(tau, kappa, rho, x) if tau < 1 else _many_prompts(tau, kappa, rho, x)


def _few_prompts(tau: float, kappa: float, rho: float, x: float) -> float:
    mu = x * resolvent(x, kappa / tau)
    inside = 1 - tau * (1 - mu) ** 2 - mu * (x - rho) / x
    return tau * (1 + x) / (1 - tau) * inside - 2 * tau * (1 - mu) + 1 + rho


def _many_prompts(tau: float, kappa: float, rho: float, x: float) -> float:
    m, over = resolvent(x, kappa), 1 / (tau - 1)
    s = 1 / (1 - m**2 / kappa / (1 + m / kappa) ** 2)
    fourth = (s - over) * (1 + x) * (x * m) ** 2 + (3 - 2 * tau) * over * m * x**2
    return fourth + ((1 + rho) * m * over + 1) * x + rho * m * over + rho
