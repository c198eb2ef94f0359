"""Stitching: the lower blocks of one transformer, the upper blocks of another, and a bridge between their streams.

    h = the stream of `lower` after its first `cut` blocks, at every token
    ŷ = what `upper` makes of bridge(h), taken for its own stream after its first `into` blocks

What the two parts agree on, a bridge that does little shows: none at all, or one affine map of all tokens,

    (A, b) = argmin Σ ‖A h + b − k‖²        k the stream of `upper` after `into` blocks, on the same prompts

in closed form (`affine_bridge`) or trained. A bridge that knows only one of the two models at a time goes by way of
relative representations: a token is told by its similarities to the same anchors, as each model writes them,

    r(h)_a = ⟨h, h_a⟩ / ‖h‖ ‖h_a‖        the anchors a being all tokens of some prompts

which are the same for two streams that differ by a rotation and a scale. `upper` reads them through an affine map that
is fitted (or trained) on its own relative representation, and never sees a stream of `lower`.

Laws: a model stitched to itself is itself; a fitted bridge undoes every invertible affine change of basis, and a
relative one every rotation and scale.

Sources: Lenc & Vedaldi 2015 (arXiv 1411.5908); Bansal et al. 2021 (arXiv 2106.07682); relative representations:
Moschella et al. 2022 (arXiv 2209.15430, §3), whose decoders are trained on them from the start, where here the blocks
that read them were trained on the stream itself.
"""

from collections.abc import Collection, Iterator
from copy import deepcopy
from itertools import chain, islice

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclab.analysis.scale import unit
from iclab.errors import refuse, unknown
from iclab.models import Transformer
from iclab.tasks import Prompts

PARTS = ("lower", "bridge", "upper")


class Stitched(nn.Module):
    """The lower blocks of one transformer under the upper blocks of another. It is a `Predictor`.

    `into` is `cut` unless given, and the bridge is the identity. Both models are copied, so that the originals stay as
    they are; what is named in `learns` requires a gradient and is trained by `iclab.learning.training` like any other
    model, the rest is frozen. Raises ``ValueError`` where the parts do not fit.
    """

    def __init__(
        self,
        lower: Transformer,
        upper: Transformer,
        cut: int,
        into: int | None = None,
        bridge: nn.Module | None = None,
        learns: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.cut, self.into = cut, cut if into is None else into
        refuse("Stitched", _misfits(lower, upper, self.cut, self.into, bridge, learns))
        self.lower, self.upper = deepcopy(lower), deepcopy(upper)
        self.bridge: nn.Module = nn.Identity() if bridge is None else deepcopy(bridge)
        self.requires_grad_(False)
        used = {"lower": below(self.lower, self.cut), "bridge": self.bridge.parameters()}
        used["upper"] = above(self.upper, self.into)
        for parameter in chain.from_iterable(used[part] for part in learns):
            parameter.requires_grad_(True)

    def forward(
        self, xs: Float[Tensor, "batch n d"], ys: Float[Tensor, "batch n *labels"], m: int | None = None
    ) -> Float[Tensor, "batch m *labels"]:
        """Returns predictions at every position, or at the last m alone."""
        h = next(islice(self.lower.residual_stream(xs, ys, m), self.cut, None))
        return self.upper.finish(self.bridge(h), self.into, xs.shape[1], m).to(xs.dtype)


def below(model: Transformer, cut: int) -> Iterator[nn.Parameter]:
    """Yields the parameters that write the stream after the first `cut` blocks."""
    read_in = [] if model.config.read_in == "identity" else model.read_in.parameters()
    positions = [model.position] if model.config.positions else []
    return chain(read_in, positions, model.blocks[:cut].parameters())


def above(model: Transformer, cut: int) -> Iterator[nn.Parameter]:
    """Yields the parameters that read the stream after the first `cut` blocks."""
    idle = 0 if model.config.tied and cut < model.config.n_layer else cut
    read_out = [] if model.config.read_in == "identity" else chain(model.norm.parameters(), model.read_out.parameters())
    return chain(model.blocks[idle:].parameters(), read_out)


def _misfits(
    lower: Transformer, upper: Transformer, cut: int, into: int, bridge: nn.Module | None, learns: Collection[str]
) -> list[str]:
    """The problems of stitching these together."""
    ends = {"cut": (cut, lower.config.n_layer), "into": (into, upper.config.n_layer)}
    problems = [
        f"{name} must lie in 0..{most}, given {given}" for name, (given, most) in ends.items() if not 0 <= given <= most
    ]
    widths = lower.config.d_model, upper.config.d_model
    if bridge is None and widths[0] != widths[1]:
        problems.append(f"streams of {widths[0]} and {widths[1]} channels need a bridge")
    masks = [model.layout.mask(max(lower.n, 2), torch.device("cpu")) for model in (lower, upper)]
    if not torch.equal(*masks):
        problems.append(f"the tokens of layout {lower.config.layout} are not those of {upper.config.layout}")
    return problems + [unknown("part", part, PARTS) for part in learns if part not in PARTS]


@torch.no_grad()
def tokens_after(model: Transformer, cut: int, prompts: Prompts) -> Float[Tensor, "tokens D"]:
    """Returns the stream after the first `cut` blocks, all tokens of all prompts in a row, float64."""
    return next(islice(model.residual_stream(prompts.xs, prompts.ys), cut, None)).flatten(0, 1).double()


def affine_bridge(
    lower: Transformer, upper: Transformer, prompts: Prompts, cut: int, into: int | None = None
) -> nn.Linear:
    """Returns the affine map of least squares from the one stream to the other, on all tokens of the same prompts."""
    target = tokens_after(upper, cut if into is None else into, prompts)
    return least_squares_map(tokens_after(lower, cut, prompts), target, _dtype(upper))


class Relative(nn.Module):
    """Relative representations: the cosines of each token with K anchors."""

    anchors: Float[Tensor, "K D"]

    def __init__(self, anchors: Float[Tensor, "K D"]) -> None:
        super().__init__()
        self.register_buffer("anchors", unit(anchors))

    @classmethod
    def of(cls, model: Transformer, cut: int, anchors: Prompts) -> "Relative":
        """Returns the anchors as `model` writes them after its first `cut` blocks: all tokens of some prompts."""
        return cls(tokens_after(model, cut, anchors).to(_dtype(model)))

    def forward(self, h: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K"]:
        return unit(h) @ self.anchors.mT


def relative_bridge(
    lower: Transformer,
    upper: Transformer,
    anchors: Prompts,
    prompts: Prompts,
    cut: int,
    into: int | None = None,
    penalty: float = 1e-2,
) -> nn.Sequential:
    """Returns a bridge that was never shown both streams: the relative representation of `lower`, read by the affine
    map of ridge regression from that of `upper` to the stream of `upper`, on all tokens of `prompts`.

    What it cannot carry are the lengths of tokens. Without a `penalty` (relative to the mean eigenvalue; ours) it reads
    the smallest differences between cosines, of which two models have the least in common. To train the second map
    instead, stitch `upper` to itself with a bridge that learns."""
    into = cut if into is None else into
    own, target = Relative.of(upper, into, anchors), tokens_after(upper, into, prompts)
    reader = least_squares_map(own.double()(target), target, _dtype(upper), penalty)
    return nn.Sequential(Relative.of(lower, cut, anchors), reader)


def least_squares_map(
    source: Float[Tensor, "tokens D"], target: Float[Tensor, "tokens E"], dtype: torch.dtype, penalty: float = 0.0
) -> nn.Linear:
    """Returns the affine map argmin Σ ‖A h + b − k‖² + lam ‖A‖², of least norm, where lam is `penalty` times the mean
    eigenvalue of the Gram matrix; directions in which the source varies by less than a hundred roundings of `dtype`,
    relative to the largest, are taken as never seen. Raises ``ValueError`` where a stream is not finite."""
    streams = {"source": source, "target": target}
    problems = [f"the {name} holds values that are not finite" for name, h in streams.items() if not h.isfinite().all()]
    refuse("least_squares_map", problems)
    centre, offset = source.mean(0), target.mean(0)
    u, sizes, vh = torch.linalg.svd(source - centre, full_matrices=False)
    seen = sizes > 100 * torch.finfo(dtype).eps * sizes[0]
    lam = penalty * sizes.square().sum() / source.shape[1]
    gains = torch.where(seen, sizes / (sizes.square() + lam), 0.0)
    slope = vh.mT @ (gains.unsqueeze(1) * (u.mT @ (target - offset)))
    # On no device at first, for the usual constructor would draw from the global generator.
    made = nn.Linear(source.shape[1], target.shape[1], device="meta")
    made.weight = nn.Parameter(slope.mT.to(dtype).contiguous())
    made.bias = nn.Parameter((offset - centre @ slope).to(dtype))
    return made


def _dtype(model: Transformer) -> torch.dtype:
    return next(model.parameters()).dtype
