"""Agreement of two predictors, in what they answer and in the weights they imply.

    SPD_i(f, g)   = E (f_i − g_i)²                                  squared prediction difference
    ILWD_i(f, g)  = E ‖w_i(f) − w_i(g)‖²                            implicit linear weight difference
    w_i(f)        = argmin_w Σ_q (f(D_i, x_q) − w·x_q)²             D_i: the first i examples, x_q fresh queries
    ∇_i(f)        = ∂f_i / ∂x_i                                     the same where f is linear in its query
    SimE(f, g)    = E cos(f − y, g − y)                             similarity of errors, vectors over the positions
    margin(f, g)  = min_{h ≠ g} E (f − h)² − E (f − g)²             positive where g is the nearest to f of all named
    cos_i(f, g)   = E w_i(f)·w_i(g) / ‖w_i(f)‖‖w_i(g)‖              the angle between implied weights

With `m` only the last m positions are evaluated. A model that answers the last ones alone saves the work for the
others: where each prefix is a sequence of its own (`encoder` layout), the last position costs a single sequence.

Source: Akyürek et al. 2022, arXiv 2211.15661, §4.1 (figures divide both by d); von Oswald et al. 2022,
arXiv 2212.07677, §3, for the gradient form and the cosine; Fu et al. 2023, arXiv 2310.17086, §3, for SimE.
"""

from collections.abc import Mapping

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from iclab.analysis.risk import Estimate, estimate, squared
from iclab.analysis.scale import unit
from iclab.errors import refuse
from iclab.models import Transformer
from iclab.predictors import Linear, Predictor
from iclab.predictors.minimum_norm import minimum_norm
from iclab.tasks import Prompts


def spd(f: Float[Tensor, "batch n *labels"], g: Float[Tensor, "batch n *labels"]) -> Estimate:
    """Returns the squared prediction difference at every position, from answers to the same prompts.

    >>> spd(torch.tensor([[1.0, 2.0]]).expand(4, 2), torch.zeros(4, 2)).value
    tensor([1., 4.], dtype=torch.float64)
    """
    return estimate(squared(f, g))


def margins(distances: Mapping[str, Float[Tensor, " batch"]]) -> dict[str, Estimate]:
    """Returns how much nearer each of several predictors is than the nearest other one, from its squared difference
    from the model on each prompt. The other one is chosen by its mean; the error is that of the paired difference."""
    means = {name: terms.double().mean().item() for name, terms in distances.items()}
    rivals = {name: min(means.keys() - {name}, key=lambda other: (means[other], other)) for name in means}
    return {name: estimate(distances[rivals[name]] - distances[name]) for name in means}


def ilwd(f: Float[Tensor, "batch n d"], g: Float[Tensor, "batch n d"]) -> Estimate:
    """Returns the implicit linear weight difference at every position, from weights for the same prompts."""
    return estimate((f.double() - g.double()).square().sum(-1))


def error_cosines(
    f: Float[Tensor, "l batch n"], g: Float[Tensor, "k batch n"], ys: Float[Tensor, "batch n"]
) -> Float[Tensor, "l k batch"]:
    """Returns cos(f − y, g − y) of each f with each g on every prompt; 0 where one of them makes no error."""
    one, other = (unit(answers.double() - ys.double()) for answers in (f, g))
    return torch.einsum("lbn,kbn->lkb", one, other)


def sime(f: Float[Tensor, "batch n"], g: Float[Tensor, "batch n"], ys: Float[Tensor, "batch n"]) -> Estimate:
    """Returns SimE: how alike the errors of two predictors are over the positions of a prompt, −1 to 1; a single
    number.

    >>> ys = torch.zeros(4, 2)
    >>> sime(torch.tensor([[1.0, 0.0]]).expand(4, 2), torch.tensor([[2.0, 0.0]]).expand(4, 2), ys).value
    tensor(1., dtype=torch.float64)
    """
    return estimate(error_cosines(f.unsqueeze(0), g.unsqueeze(0), ys)[0, 0])


def weight_cosine(f: Float[Tensor, "batch m d"], g: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m"]:
    """Returns the cosine of the angle between two weight vectors of each prompt and position; not a number where one is
    zero, as before the first example.

    >>> weight_cosine(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])).round(decimals=4)
    tensor([[0.7071]], dtype=torch.float64)
    """
    f, g = f.double(), g.double()
    there = f.any(-1) & g.any(-1)
    return torch.where(there, (unit(f) * unit(g)).sum(-1), torch.nan)


def implicit_weights(
    predictor: Predictor, prompts: Prompts, queries: Float[Tensor, "q d"], m: int | None = None
) -> Float[Tensor, "batch m d"]:
    """Returns w_i(f): the linear map that fits the predictor's answers to `queries` best, after each number of
    examples.

    A `Linear` predictor's own weights are returned as they are. Needs at least d queries; more average out what is
    not linear in f. Where queries span no more than a subspace the map is that of least norm. Costs m·q calls for each
    prompt.

    Args:
        predictor: Any predictor of examples.
        prompts: The contexts; the query of each position is replaced.
        queries: The inputs x at which the predictor is evaluated.
        m: The number of last positions; all by default.

    >>> from iclab.predictors import Featurised, Ridge
    >>> from iclab.tasks.features import Identity
    >>> from iclab.tasks import LinearRegression
    >>> prompts = LinearRegression(d=2, n=4).sample(3, torch.Generator().manual_seed(0))
    >>> queries = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    >>> opaque = Featurised(Ridge(0.5), Identity())  # a predictor that does not report its weights
    >>> fitted = implicit_weights(opaque, prompts, queries)
    >>> torch.allclose(fitted.float(), Ridge(0.5).weights(prompts.xs, prompts.ys), atol=1e-5)
    True
    """
    if isinstance(predictor, Linear):
        return predictor.weights(prompts.xs, prompts.ys)[:, -(m or len(prompts.ys[0])) :]
    refuse("implicit_weights", _too_few(queries))
    answers = answers_to(predictor, prompts, queries, m).double()
    solution = minimum_norm(queries.double(), rearrange(answers, "batch n q -> q (batch n)"))
    return rearrange(solution, "d (batch n) -> batch n d", batch=len(prompts.xs))


def linearity(
    predictor: Predictor, prompts: Prompts, queries: Float[Tensor, "q d"], m: int | None = None
) -> Float[Tensor, "batch m"]:
    """Returns R² of that linear fit (without intercept) over the queries: 1 where the predictor is linear in its
    query.

    >>> from iclab.predictors import NearestNeighbours, Ridge
    >>> from iclab.tasks import LinearRegression
    >>> prompts = LinearRegression(d=2, n=4).sample(3, torch.Generator().manual_seed(0))
    >>> queries = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    >>> linearity(Ridge(0.5), prompts, queries).min().round(decimals=6)
    tensor(1., dtype=torch.float64)
    >>> bool(linearity(NearestNeighbours(), prompts, queries).min() < 0.9)
    True
    """
    refuse("linearity", _too_few(queries))
    answers = answers_to(predictor, prompts, queries, m).double()
    onto = queries.double() @ minimum_norm(queries.double(), torch.eye(len(queries)).to(answers))
    return torch.where(answers.any(-1), (unit(answers) @ onto.mT).square().sum(-1), 1.0)


def label_r2(
    weights: Float[Tensor, "batch m d"], queries: Float[Tensor, "q d"], labels: Float[Tensor, "batch q"]
) -> Float[Tensor, "batch m"]:
    """Returns R² of linear maps over the queries, scored against the labels of these:

        1 − Σ_q (y_q − w·x_q)² / Σ_q (y_q − ȳ)²

    It says how near the labels are, and not whether a predictor is linear: of exact least squares it rises as i/d with
    the number i of examples. The released code of Akyürek et al. 2022, arXiv 2211.15661, plots it as Fig. 6 (theorem
    `akyurek2022_linearity_released`).

    >>> ws, queries = torch.eye(2).unsqueeze(0), torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    >>> label_r2(ws, queries, queries[:, 0].unsqueeze(0)).tolist()  # labels are the first coordinate
    [[1.0, -0.5]]
    """
    labels = labels.double().unsqueeze(1)
    errors = labels - weights.double() @ queries.double().mT
    return 1 - errors.square().sum(-1) / (labels - labels.mean(-1, keepdim=True)).square().sum(-1)


def query_gradients(predictor: Predictor, prompts: Prompts, m: int | None = None) -> Float[Tensor, "batch m d"]:
    """Returns ∂f_i/∂x_i at every position, or at the last m: all backward passes in one batch.

    Raises ``ValueError`` where the predictor has no derivative in its inputs: a tree, or what runs under ``no_grad``.
    """
    xs = prompts.xs.detach().clone().requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be batched over
        answers = _at_last(predictor, xs, prompts.ys, m)
        positions = answers.shape[1]
        refuse("query_gradients", [] if answers.requires_grad else [_no_derivative(predictor)])
        seeds = repeat(torch.eye(positions).to(answers), "i j -> i batch j", batch=len(xs))
        (jacobian,) = torch.autograd.grad(answers, xs, seeds, is_grads_batched=True, allow_unused=True)
    refuse("query_gradients", [_no_derivative(predictor)] if jacobian is None else [])
    return rearrange(jacobian[:, :, -positions:].diagonal(dim1=0, dim2=2), "batch d m -> batch m d")


def _no_derivative(predictor: Predictor) -> str:
    return f"the answers of {type(predictor).__name__} have no derivative in their inputs to follow"


def _at_last(
    predictor: Predictor, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n"], m: int | None
) -> Float[Tensor, "batch m"]:
    """The answers at the last m positions (all, unless given)."""
    if m is None:
        return predictor(xs, ys)
    return predictor(xs, ys, m) if isinstance(predictor, Transformer) else predictor(xs, ys)[:, -m:]


def _too_few(queries: Float[Tensor, "q d"]) -> list[str]:
    q, d = queries.shape
    return [] if q >= d else [f"{q} queries cannot fix {d} weights; give at least {d}"]


@torch.no_grad()
def answers_to(
    predictor: Predictor, prompts: Prompts, queries: Float[Tensor, "q d"], m: int | None = None, calls: int = 4096
) -> Float[Tensor, "batch m q"]:
    """Returns the answer to each query in the place of x_i, at every position (or the last m); at most `calls` prompts
    at a time."""
    size = max(1, calls // ((m or prompts.xs.shape[1]) * len(queries)))
    pieces = zip(prompts.xs.split(size), prompts.ys.split(size), strict=True)
    return torch.cat([_answers_to(predictor, xs, ys, queries, m) for xs, ys in pieces])


def _answers_to(
    predictor: Predictor,
    xs: Float[Tensor, "batch n d"],
    ys: Float[Tensor, "batch n"],
    queries: Float[Tensor, "q d"],
    m: int | None,
) -> Float[Tensor, "batch m q"]:
    batch, n, d = xs.shape
    count = m or n
    here = torch.eye(n, dtype=torch.bool, device=xs.device)[-count:][None, :, None, :, None]
    replaced = torch.where(here, queries[None, None, :, None, :], xs[:, None, None]).reshape(-1, n, d)
    answers = _at_last(predictor, replaced, repeat(ys, "batch n -> (batch i q) n", i=count, q=len(queries)), m)
    answers = rearrange(answers, "(batch i q) m -> batch i q m", batch=batch, i=count)
    return answers.diagonal(dim1=1, dim2=3).transpose(1, 2)
