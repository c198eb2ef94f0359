"""Probes: what is written in the layers of a model, each beside its controls. `predictor` is the target (`moment`,
`least_squares`, `ridge`, `w`, `prediction`: that of the model itself), and R² is that of held-out prompts.

Controls have the name of the R² and one of these endings: _untrained (an untrained model of the same weights as at the
start) and _bare (the bare prompt). The third control, a model that was trained with one fixed w, is a run of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis import (
    AttentionProbes,
    Estimate,
    ProbeRecipe,
    algorithm_state,
    answer,
    attention_probes,
    bare_prompt,
    bootstrap_weights,
    estimate,
    features,
    probe_terms,
    visible,
)
from iclab.analysis.layers.probing import LEAST
from iclab.experiments.analysis import Analysis, Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import by_layer, finite, row, rows
from iclab.models import Transformer
from iclab.models.layouts import LAYOUTS
from iclab.predictors import Predictor
from iclab.tasks import Prompts
from iclab.theory.references import bayes_penalty

HEADS = ("linear", "mlp")
ATTENDED = ("moment", "least_squares")  # the targets of Akyürek et al.


class Probes(Analysis):
    """Reads an algorithm's state out of single tokens by exact ridge regression (Akyürek et al. 2022, arXiv 2211.15661,
    §5), by layer and position. Without a position a row is the mean over positions."""

    name = "probes"
    layered = True
    linear = True
    least = LEAST
    quantities: ClassVar = {
        "probe_r2": "R² at the answering tokens, at most 1",
        "probe_r2_untrained": "the same of an untrained model, at most 1",
        "probe_r2_bare": "the same of the bare prompt, at most 1",
        "probe_r2_tokens": "R² at every token of the sequence, where it has others than answering ones: `position` is "
        "the token, and the target what is known after the examples that it can know; at most 1",
        "probe_r2_tokens_untrained": "the same of an untrained model, at most 1",
        "probe_r2_tokens_bare": "the same of the bare prompt, at most 1",
    }

    def rows(self, of: Measurement) -> Iterator[Row]:
        yield from Probing.of(of).exact()


class AttentionProbesOfLayers(Analysis):
    """Reads it out by trained probes that attend to all tokens up to the answer, one that is linear and one with a
    hidden layer (mlp)."""

    name = "attention_probes"
    layered = True
    blocks = True
    linear = True
    least = LEAST
    quantities: ClassVar = {
        "attention_probe_gain": "R² of mlp less that of linear, each at its best layer; between −1 and 1 where probes "
        "learn",
        "attention_probe_{linear,mlp}_mse{,_untrained,_bare}": "the mean squared error of a coordinate; 0 or more",
        "attention_probe_{linear,mlp}_best": "the mean R² at the layer where it is largest, at most 1",
        "attention_probe_{linear,mlp}_depth": "that layer as a share of all, between 0 and 1",
        "attention_probe_{linear,mlp}_lead": "how much deeper it is for least squares than for the moment, between "
        "−1 and 1",
        "attention_probe_{linear,mlp}_rise": "how much larger R² is there than in the read-in",
        "attention_probe_{linear,mlp}_over{_untrained,_bare}": "the best R² less the best of a control",
        "attention_probe_{linear,mlp}_looks_*": "the attention of that layer after so many examples, between 0 and 1: "
        "`position` is the token",
        "attention_probe_{linear,mlp}{,_untrained,_bare}": "R² by layer and number of examples (1, 2, 4, …, all), and "
        "the mean over these; at most 1",
    }

    def problems(self, experiment: Any) -> Iterator[str]:
        layout = getattr(experiment.model.blocks, "layout", None)
        if layout in LAYOUTS and LAYOUTS[layout].shared:
            yield f"needs a prompt that is one sequence; {layout} has many"

    def rows(self, of: Measurement) -> Iterator[Row]:
        yield from Probing.of(of).attending(of.experiment.eval.probe, of.rng("fit"), of.draws)


def states(model: Predictor, prompts: Prompts, lam: float) -> dict[str, Tensor]:
    """Returns the targets: what algorithms hold, and what the model answers."""
    own = answer({"prediction": model}, prompts)["prediction"]
    return {**algorithm_state(prompts, lam), "prediction": own.unsqueeze(-1)}


def r2_by_layer(model: Any, prompts: Prompts, lam: float) -> dict[str, list[float]]:
    """Returns for each target R² of every layer at the answering tokens, averaged over positions: for a training
    curve."""
    hidden = features(model, prompts)
    r2 = {k: probe_terms(hidden, v).nanmean(-1).mean(0).tolist() for k, v in states(model, prompts, lam).items()}
    return {target: values for target, values in r2.items() if all(map(isfinite, values))}


@dataclass(frozen=True, eq=False)
class Probing:
    """A model, the same before training, the prompts of one distribution, and the penalty of ridge there."""

    model: Any
    untrained: Any
    prompts: Prompts
    lam: float

    @classmethod
    def of(cls, of: Measurement) -> "Probing":
        """Returns the probes of one distribution."""
        return cls(of.model, of.untrained(), of.prompts, bayes_penalty(of.task))

    @cached_property
    def states(self) -> dict[str, Tensor]:
        """Returns the targets, [batch n m] each."""
        return states(self.model, self.prompts, self.lam)

    @cached_property
    def sources(self) -> dict[str, Tensor]:
        """Returns the features of the model and of its controls, at all tokens."""
        return {
            "": features(self.model, self.prompts, "all"),
            "_untrained": features(self.untrained, self.prompts, "all"),
            "_bare": bare_prompt(self.prompts),
        }

    def exact(self) -> Iterator[Row]:
        """Yields rows of ridge probes of single tokens."""
        sources = {name: h if name == "_bare" else self._answering(h) for name, h in self.sources.items()}
        for target, state in self.states.items():
            for control, source in sources.items():
                yield from _layer_rows(target, f"probe_r2{control}", probe_terms(source, state))
        if not isinstance(self.model, Transformer):
            return  # only our own sequences define what is known at other tokens
        seen = self.model.layout.seen(self.prompts.xs.shape[1], self.prompts.xs.device)
        if len(seen) == self.prompts.xs.shape[1]:
            return  # every token answers, or each prefix is a sequence of its own
        sources = self.sources | {"_bare": sources["_bare"][:, :, seen]}
        for target in [name for name in self.states if name != "prediction"]:
            for control, source in sources.items():
                terms = probe_terms(source, self.states[target][:, seen])
                yield from _layer_rows(target, f"probe_r2_tokens{control}", terms)

    def _answering(self, hidden: Float[Tensor, "layers sequences t D"]) -> Float[Tensor, "layers batch n D"]:
        """The features at the answering tokens alone."""
        return (
            torch.stack([self.model.layout.answers(h) for h in hidden])
            if isinstance(self.model, Transformer)
            else hidden
        )

    def attending(self, recipe: ProbeRecipe | None, rng: torch.Generator, draws: int) -> Iterator[Row]:
        """Yields rows of probes that attend; `draws` is the number of resamples of the bootstrap."""
        n, device = self.prompts.xs.shape[1], self.prompts.xs.device
        lengths = lengths_of(n)
        shown, single = visible(self.model, n)[lengths], torch.eye(n, dtype=torch.bool, device=device)[lengths]
        weights = bootstrap_weights(len(self.prompts.xs) - len(self.prompts.xs) // 2, draws, rng)
        deep: dict[str, dict[str, Tensor]] = {head: {} for head in HEADS}
        sources = {name: (h, single if name == "_bare" else shown) for name, h in self.sources.items()}
        for target in ATTENDED:
            state = self.states[target][:, lengths]
            fitted = {
                (head, control): attention_probes(source, state, sees, head, recipe, rng)
                for head in HEADS
                for control, (source, sees) in sources.items()
            }
            for (head, control), probes in fitted.items():
                yield from _attention_rows(target, f"attention_probe_{head}", control, probes, lengths)
            for head in HEADS:
                controls = {control: fitted[head, control] for control in sources}
                yield from best_rows(target, f"attention_probe_{head}", controls, lengths, weights)
                deep[head][target] = depths(fitted[head, ""], weights)
            linear, mlp = (_best(fitted[head, ""]) for head in HEADS)
            yield from rows(target, "attention_probe_gain", estimate(mlp - linear))
        for head, depth in deep.items():
            yield _depth_row("least_squares", f"attention_probe_{head}_lead", depth["least_squares"] - depth["moment"])


def lengths_of(n: int) -> list[int]:
    """Returns the numbers of examples after which probes look: the powers of two, and as many as there are."""
    return sorted({*(2**k for k in range(n.bit_length()) if 2**k < n), n - 1} - {0}) or [0]


def _layer_rows(target: str, quantity: str, terms: Tensor) -> Iterator[Row]:
    """R² by layer and position, and its mean over positions; nothing where the target does not vary."""
    yield from _at_layers(target, quantity, estimate(terms), range(terms.shape[-1]))
    yield from finite(by_layer(target, quantity, estimate(terms.nanmean(-1))))


def _attention_rows(
    target: str, quantity: str, control: str, probes: AttentionProbes, lengths: list[int]
) -> Iterator[Row]:
    yield from _at_layers(target, quantity + control, probes.r2, lengths)
    yield from finite(by_layer(target, quantity + control, probes.mean_r2))
    yield from _at_layers(target, f"{quantity}_mse{control}", probes.mse, lengths)


def _best(probes: AttentionProbes) -> Tensor:
    """What each prompt adds to the mean R² of the best layer."""
    return probes.terms.nanmean(-1)[:, probes.mean_r2.value.argmax()]


def best_rows(
    target: str, name: str, probes: Mapping[str, AttentionProbes], lengths: list[int], weights: Tensor
) -> Iterator[Row]:
    """Yields the rows of the best layer."""
    own = probes[""]
    by_layer, best, layer = own.terms.nanmean(-1), _best(own), int(own.mean_r2.value.argmax())
    if not isfinite(best.mean()):
        return
    yield from rows(target, f"{name}_best", estimate(best))
    yield from rows(target, f"{name}_rise", estimate(best - by_layer[:, 0]))
    for control in filter(None, probes):
        yield from rows(target, f"{name}_over{control}", estimate(best - _best(probes[control])))
    yield _depth_row(target, f"{name}_depth", depths(own, weights))
    for length, attention in zip(lengths, own.attention[layer].tolist(), strict=True):
        looks = (row(target, f"{name}_looks_{length}", token, weight) for token, weight in enumerate(attention))
        yield from ({**one, "layer": layer} for one in looks)


def depths(probes: AttentionProbes, weights: Float[Tensor, "draws prompts"]) -> Float[Tensor, " resamples"]:
    """Returns the best layer as a share of all: of the prompts as they are, then of each bootstrap resample."""
    by_layer = probes.terms.nanmean(-1)
    means = torch.cat([by_layer.mean(0, keepdim=True), weights @ by_layer])
    return means.argmax(-1).double() / max(1, means.shape[1] - 1)


def _depth_row(target: str, quantity: str, depths: Float[Tensor, " resamples"]) -> Row:
    """A depth, or a difference of depths of the same resamples, with its bootstrap error."""
    return row(target, quantity, None, depths[0].item(), depths[1:].std().item())


def _at_layers(target: str, quantity: str, r2: Estimate, positions: Sequence[int]) -> Iterator[Row]:
    """R² by layer and position; nothing where the target does not vary."""
    columns = zip(positions, r2.value.unbind(-1), r2.stderr.unbind(-1), strict=True)
    for position, value, stderr in columns:
        yield from finite(by_layer(target, quantity, Estimate(value, stderr), position))
