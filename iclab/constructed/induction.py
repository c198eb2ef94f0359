"""Induction heads: attention in two layers that looks up what followed before, as transformers over tokens.

The head of layer 0 copies each token's predecessor (previous-token head), the head of layer 1 looks for places whose
predecessor is the current token and reads the token there (match head): Elhage et al. 2021
(transformer-circuits.pub/2021/framework), Olsson et al. 2022 (arXiv 2209.11895). Averaging over all matches, it is the
statistical induction head of Edelman et al. 2024 (arXiv 2402.11004).

The stream holds, one-hot, the token, its predecessor and the position, and last the answer. Scores are q_t·k_s, and a
null slot of score 0 and value 0 stands beside the tokens s ≤ t:

    layer 0    B if s = t − 1, else −B                                 value: token s, written as predecessor
    layer 1    L if the predecessor of s is token t, else −B           value: token s, written as answer.

With B = 1000, exp(±B) is 0 or outweighs everything, to the last bit, in float32 and float64: layer 0 is one-hot, and
token 0, which has no predecessor, reads nothing. Let c_j count the pairs (x_{s−1}, x_s) = (x_t, j), s ≤ t, N = Σ c_j.
Layer 1 gives each of the N matches the weight e^L/(1 + N e^L), so that the answer holds

    a_j = c_j/(N + A)  with  e^{−L} = A.

Induction (A = 0, which is L = B): the share c_j/N of each token among those that followed, 0 where there are none. In
the second of two copies of distinct tokens there is one match, and the next token is certain.

Posterior mean. If rows of a transition matrix are independent and Dirichlet(α_1, …, α_k), the probability of j next is
(c_j + α_j)/(N + A) with A = Σ α_j. The null slot has weight A/(N + A) = 1 − Σ_i a_i, and the unembedding adds the
prior:

    p_j = a_j + (α_j/A) (1 − Σ_i a_i) = (c_j + α_j)/(N + A).

So smoothing costs nothing: the null slot stands for A examples that were seen before. (A first token drawn from the
stationary distribution of the matrix is further evidence about it, which no count of pairs sees.)

Logits. A softmax of the unembedding wants log p_j, which an MLP of K ReLUs a token interpolates between knots p₀
r^m, from p₀ = min α/(n − 1 + A), the smallest p there is, to 1. On [a, ra] the chord is below the logarithm by at most

    δ = log(u/log r) − 1 + (log r)/u,    u = r − 1,         about (log r)²/8,

so that logits lie in [log p_j − δ, log p_j], and the log-probabilities of the softmax within δ of log p_j.
"""

from math import log

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.constructed.program import SHARP
from iclab.constructed.theorem import DTYPE, Case, Choices, Integers, Reals, Theorem
from iclab.errors import refuse
from iclab.models import TokenTransformer, TokenTransformerConfig
from iclab.predictors.counts import followers

ELHAGE = "Elhage et al. 2021 (transformer-circuits.pub/2021/framework)"
EDELMAN = "Edelman et al. 2024 (arXiv 2402.11004)"


def induction_head(vocab: int, n: int) -> TokenTransformer:
    """Builds the transformer that predicts the share of each token among those that followed earlier occurrences of the
    current one.

    >>> model = induction_head(vocab=4, n=6)
    >>> model(torch.tensor([[0, 2, 3, 1, 0]]))[0, -1].detach().round(decimals=3)  # 0 was followed by 2
    tensor([0., 0., 1., 0.], dtype=torch.float64)
    """
    model = _lookup(vocab, n, SHARP)
    _reads_out(model, torch.eye(vocab, dtype=torch.float64), torch.zeros(vocab, dtype=torch.float64))
    return model


def bigram_posterior(prior: Float[Tensor, " vocab"], n: int) -> TokenTransformer:
    """Builds the transformer that predicts the posterior mean (c_j + α_j)/(N + Σ α) of each next token, α being the
    `prior`."""
    model = _lookup(len(prior), n, -log(_mass("bigram_posterior", prior)))
    _reads_out(model, *_posterior(prior))
    return model


def bigram_logits(prior: Float[Tensor, " vocab"], n: int, knots: int) -> TokenTransformer:
    """Builds the transformer whose logits are the logarithms of the posterior mean, within `log_error`, by an MLP of
    `knots` ReLUs a token."""
    vocab = len(prior)
    problems = [] if knots >= 1 else [f"knots must be at least 1, given {knots}"]
    refuse("bigram_logits", problems + ([] if vocab > 1 else ["a choice among one token has no logits"]))
    model = _lookup(vocab, n, -log(_mass("bigram_logits", prior)), knots)
    at = _knots(prior, n, knots)
    slopes = at.log().diff() / at.diff()
    gains = slopes.diff(prepend=torch.zeros(1, dtype=torch.float64))
    share, bias = _posterior(prior)
    each = torch.eye(vocab, dtype=torch.float64)
    with torch.no_grad():
        block = dict(model.named_parameters())
        block["blocks.1.mlp_in.weight"][:, -2 * vocab : -vocab] = share.repeat_interleave(knots, 0)
        block["blocks.1.mlp_in.bias"].copy_(bias.repeat_interleave(knots) - at[:-1].repeat(vocab))
        block["blocks.1.mlp_out.weight"][-vocab:] = torch.kron(each, gains.unsqueeze(0))
        block["read_out.weight"][:, -vocab:] = each
        block["read_out.bias"].fill_(float(at[0].log()))
    return model


def log_error(prior: Float[Tensor, " vocab"], n: int, knots: int) -> float:
    """Returns δ: how far the logits may be below the logarithms."""
    step = -log(float(_knots(prior, n, knots)[0])) / knots
    u = torch.tensor(step, dtype=torch.float64).expm1()
    return float((u / step).log() - 1 + step / u)


def _mass(what: str, prior: Float[Tensor, " vocab"]) -> float:
    sound = len(prior) > 0 and bool((prior > 0).all()) and bool(prior.isfinite().all())
    refuse(what, [] if sound else [f"prior must be positive and finite for each token, given {prior.tolist()}"])
    return float(prior.double().sum())


def _knots(prior: Float[Tensor, " vocab"], n: int, knots: int) -> Float[Tensor, " knots_1"]:
    least = float(prior.double().min() / (n - 1 + prior.double().sum()))
    return least ** torch.linspace(1, 0, knots + 1, dtype=torch.float64)


def _posterior(prior: Float[Tensor, " vocab"]) -> tuple[Float[Tensor, "vocab vocab"], Float[Tensor, " vocab"]]:
    """p = share·a + bias."""
    bias = prior.double() / prior.double().sum()
    return torch.eye(len(prior), dtype=torch.float64) - bias.unsqueeze(1), bias


@torch.no_grad()
def _lookup(vocab: int, n: int, match: float, knots: int = 0) -> TokenTransformer:
    """Both heads, with the score L of a match; the answer is in the last `vocab` rows, or with an MLP, which is still
    zero, in those before them."""
    refuse("induction", [f"{k} must be at least 1, given {v}" for k, v in {"vocab": vocab, "n": n}.items() if v < 1])
    width = 3 * vocab + n + (vocab if knots else 0)
    places = [slice(at, at + size) for at, size in ((0, vocab), (vocab, vocab), (2 * vocab, n), (2 * vocab + n, vocab))]
    token, before, position, answer = places
    config = TokenTransformerConfig(
        n_head=1,
        d_model=width,
        d_head=max(vocab + 1, n),
        d_mlp=vocab * knots,
        activation="relu",
        scale=1.0,
        norm=False,
        null_slot=True,
    )
    model = TokenTransformer(vocab, n, config).double()
    weights = {name: each.zero_() for name, each in model.named_parameters()}
    weights["read_in.weight"][:, token] = torch.eye(vocab, dtype=torch.float64)
    weights["position"][:, position] = torch.eye(n, dtype=torch.float64)
    previous = torch.full((n, n), -SHARP, dtype=torch.float64)
    previous[torch.arange(n - 1), torch.arange(1, n)] = SHARP
    weights["blocks.0.attn.q.weight"][:n, position] = previous
    weights["blocks.0.attn.k.weight"][:n, position] = torch.eye(n, dtype=torch.float64)
    matches = torch.full((vocab, vocab), -SHARP, dtype=torch.float64).fill_diagonal_(match)
    weights["blocks.1.attn.q.weight"][:vocab, token] = matches
    weights["blocks.1.attn.k.weight"][:vocab, before] = torch.eye(vocab, dtype=torch.float64)
    weights["blocks.1.attn.q.bias"][vocab] = -SHARP  # of token 0, whose predecessor is no token
    weights["blocks.1.attn.k.weight"][vocab, position.start] = 1.0
    for i, to in enumerate((before, answer)):
        weights[f"blocks.{i}.attn.v.weight"][:vocab, token] = torch.eye(vocab, dtype=torch.float64)
        weights[f"blocks.{i}.attn.out.weight"][to, :vocab] = torch.eye(vocab, dtype=torch.float64)
    return model


@torch.no_grad()
def _reads_out(model: TokenTransformer, weight: Tensor, bias: Tensor) -> None:
    model.read_out.weight[:, -model.vocab :] = weight
    model.read_out.bias.copy_(bias)


# ---- theorems ------------------------------------------------------------------------------------------------------


def _tokens(case: Case) -> Int[Tensor, "batch n"]:
    """Sequences of n tokens: drawn evenly, or one token, or a block of all tokens, again and again."""
    rng, shape = case.rng(), (8, case.n)
    if case.variant == "constant":
        return torch.randint(case.vocab, (8, 1), generator=rng).expand(shape)
    if case.variant == "copied":
        return torch.rand(8, case.vocab, generator=rng).argsort(1).repeat(1, case.n)[:, : case.n]
    return torch.randint(case.vocab, shape, generator=rng)


def _prior(case: Case) -> Float[Tensor, " vocab"]:
    """α_j, between 1 and 3 times lam."""
    return case.lam * (1 + 2 * torch.rand(case.vocab, generator=case.rng()).double())


def _previous(case: Case) -> tuple[float, float]:
    """The pattern of layer 0 against ones below the diagonal, and the null slot for token 0."""
    tokens = _tokens(case)
    model = induction_head(case.vocab, case.n).to(case.precision)
    pattern = model.read(tokens, "blocks.0.attn.pattern")["blocks.0.attn.pattern"].double()
    return (pattern - torch.eye(case.n, case.n + 1).double()).abs().max().item(), 0.0


def _induced(case: Case) -> tuple[float, float]:
    tokens = _tokens(case)
    counts = followers(tokens, case.vocab)
    logits = induction_head(case.vocab, case.n).to(case.precision)(tokens)
    exact = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return (logits.double() - exact).abs().max().item(), 4 * (case.n + 1) * case.eps


def _copied(case: Case) -> tuple[float, float]:
    """How far what the second copy gives the right next token is from 1."""
    block = torch.rand(8, case.vocab, generator=case.rng()).argsort(1)
    model = induction_head(case.vocab, 2 * case.vocab).to(case.precision)
    logits = model(block.repeat(1, 2))[:, case.vocab : -1]
    right = logits.gather(-1, block[:, 1:].unsqueeze(-1))
    error = (right.double() - 1).abs().max().item() if case.vocab > 1 else 0.0
    return error, 8 * case.vocab * case.eps


def _smoothed(tokens: Int[Tensor, "batch n"], prior: Float[Tensor, " vocab"]) -> Float[Tensor, "batch n vocab"]:
    """The posterior mean, from counts."""
    counts = followers(tokens, len(prior))
    return (counts + prior) / (counts.sum(-1, keepdim=True) + prior.sum())


def _posterior_mean(case: Case) -> tuple[float, float]:
    tokens, prior = _tokens(case), _prior(case)
    predictions = bigram_posterior(prior, case.n).to(case.precision)(tokens)
    return (predictions.double() - _smoothed(tokens, prior)).abs().max().item(), _rounding(case)


def _rounding(case: Case) -> float:
    """A score of log A in size is rounded once; the softmax has n + 1 terms and the unembedding vocab."""
    return 4 * (case.n + case.vocab + abs(log(float(_prior(case).sum())))) * case.eps


def _logits(case: Case) -> tuple[float, float]:
    tokens, prior, knots = _tokens(case), _prior(case), int(case.scale)
    logits, exact = bigram_logits(prior, case.n, knots)(tokens).log_softmax(-1), _smoothed(tokens, prior).log()
    rounded = 2 * knots * (_rounding(case) + torch.finfo(torch.float64).eps) / float(_knots(prior, case.n, knots)[0])
    return (logits - exact).abs().max().item(), log_error(prior, case.n, knots) + rounded


_CHAINS = {
    "vocab": Integers(1, 6),
    "n": Integers(1, 24),
    "variant": Choices(["even", "constant", "copied"]),
    "dtype": DTYPE,
}
_SMOOTHED = {**_CHAINS, "lam": Reals(0.01, 10.0, log=True)}
_SOFTMAX = "one softmax over n + 1 slots, of scores that are exact"

THEOREMS: list[Theorem] = [
    Theorem(
        "elhage2021_previous_token",
        f"{ELHAGE}; positions one-hot and a null slot, which are this project's",
        "one head attends to the token before alone, and from the first token to nothing, to the last bit",
        _CHAINS,
        _previous,
        "exp(−1000) is 0 in float32 and float64",
    ),
    Theorem(
        "elhage2021_induction",
        f"{ELHAGE}; Olsson et al. 2022 (arXiv 2209.11895)",
        "two layers of one head each answer with the share of each token among those that followed the current one",
        _CHAINS,
        _induced,
        _SOFTMAX,
    ),
    Theorem(
        "elhage2021_copy",
        f"{ELHAGE}; Merullo et al. 2024 (arXiv 2406.09519), the induction head",
        "in the second of two copies of distinct tokens two layers are certain of every next token",
        {"vocab": Integers(1, 24), "dtype": DTYPE},
        _copied,
        _SOFTMAX,
    ),
    Theorem(
        "edelman2024_posterior",
        f"{EDELMAN}; the exact smoothing by a null slot is this project's",
        "two layers answer with the posterior mean (c_j + α_j)/(N + Σ α) of a Markov chain, for every prefix",
        _SMOOTHED,
        _posterior_mean,
        "rounding of the score log Σ α, of a softmax over n + 1 slots and of a sum over the vocabulary",
    ),
    Theorem(
        "edelman2024_logits",
        f"{EDELMAN}; the logarithm by a ReLU MLP is this project's",
        "with K ReLUs a token the softmax of the logits is the posterior mean, its logarithm within (log r)²/8 or so",
        {
            **{k: v for k, v in _SMOOTHED.items() if k != "dtype"},
            "vocab": Integers(2, 6),
            "scale": Reals(4.0, 128.0, log=True),
        },
        _logits,
        "δ, and rounding of p magnified by the slope 1/p₀ of the logarithm",
    ),
]
