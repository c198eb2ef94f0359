"""Model configurations: a `ModelConfig` builds an untrained model for prompts of d dimensions and n examples, a
`TokenModelConfig` one for sequences of n tokens.

What is larger than `LARGEST` is a slip of the pen, and refused before anything is allocated. Each bound is far above
what is trained (GPT-3: 96 layers of 96 heads, d_model 12288) or built from a proof (2048 random heads). A model that is
drawn has at most `MOST_WEIGHTS` weights; one of a file may have more, as the file has them already.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from iclab.errors import out_of_bounds, refuse
from iclab.files import atomic_write
from iclab.models.stored import compare_each, open_weights, stored
from iclab.renamed import old_names

LARGEST = {
    "n_layer": 2**10,
    **dict.fromkeys(("n_head", "d", "labels", "d_model", "d_head", "rank"), 2**16),
    **dict.fromkeys(("d_mlp", "d_classifier"), 2**18),
    **dict.fromkeys(("vocab", "items", "n", "n_keys", "heads", "targets"), 2**20),
    **{"neurons": 2**24, "orders": 2**10},
}
MOST_WEIGHTS = 2**31  # 8 GiB in float32


@dataclass(frozen=True, kw_only=True)
class AnyModelConfig(ABC):
    """The shape of a model, whatever its prompts are made of. What it builds has weights that depend on `rng` alone.

    Law (files): ``load(path, **sizes)`` after ``save(model, path)`` answers as the model does, for a model that was
    built for these sizes.
    """

    trainable: ClassVar[bool] = True  # its model is measured as it is where not

    @property
    def code(self) -> str:
        """Returns the module of the user's that its model comes from; nothing where it is built here."""
        return ""

    @property
    def bounded(self) -> bool:
        """Returns whether the model takes no prompts that are longer than those it was made for, such as one that
        learns something of each position; none is read well that is longer than those it was trained on."""
        return False

    @property
    def layered(self) -> bool:
        """Returns whether the model is `Layered`: it has layers that can be read out."""
        return False

    @property
    def blocks(self) -> Any:
        """Returns the shape of the model where it is one of our transformers, which analyses can take apart; none of
        any other."""
        return None

    @abstractmethod
    def build(self, *sizes: Any, **named: Any) -> nn.Module:
        """Builds the untrained model."""

    def start(self, *sizes: Any, rng: torch.Generator | None = None, **named: Any) -> Any:
        """Returns the model that an experiment begins with: untrained, unless it is one that is there already."""
        return self.build(*sizes, rng=rng, **named)

    def save(self, model: Any, path: Path) -> None:
        """Writes the weights of a model that this built to one safetensors file, whole or not at all."""
        weights = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
        atomic_write(path, to_bytes(weights))

    def load(self, path: Path, **sizes: Any) -> nn.Module:
        """Builds the model for such sizes (as `build` takes them) with the weights that `save` wrote to a file, on the
        CPU. Raises ``ValueError`` where names, shapes or types are others, or a weight is not finite; a buffer may
        hold infinities, as masks do."""
        model = self.build(**sizes)
        learned = dict(model.named_parameters())
        with open_weights(path) as file:
            given = stored(path, file)
            compare_each(path, model, given)
            model.load_state_dict(
                {
                    k: given[k].read(v.dtype) if k in learned else file.get_tensor(k)
                    for k, v in model.state_dict().items()
                }
            )
        return model


@runtime_checkable
class Layered(Protocol):
    """A model with layers that can be read out."""

    def answering_stream(self, xs: Tensor, ys: Tensor) -> Iterator[Float[Tensor, "batch n D"]]:
        """Yields what is known after the input projection, and after each layer, where the answer for x_i is made."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelConfig(AnyModelConfig):
    """The shape of a model of examples; what it builds is a `Predictor`."""

    def problems_for(self, d: int, labels: int | None = None) -> list[str]:
        """Returns the problems of a model of this shape for inputs of d dimensions and such labels
        (`Task.label_dim`)."""
        name = type(self).__name__
        return [] if labels is None else [f"{name} answers numbers, and labels are vectors of {labels} coordinates"]

    @abstractmethod
    def build(self, d: int, n: int, rng: torch.Generator | None = None) -> nn.Module:
        """Builds the untrained model over prompts of at most n examples in d dimensions."""


@dataclass(frozen=True, kw_only=True)
class TokenModelConfig(AnyModelConfig):
    """The shape of a model over tokens. What it builds answers with logits at every position."""

    def problems_for(self, vocab: int, n: int, width: int = 0) -> list[str]:
        """Returns the problems of a model of this shape for sequences of at most n tokens out of `vocab`, or of
        vectors of `width` channels."""
        return [f"tokens that are vectors of {width} channels need a VectorTransformerConfig"] if width else []

    @abstractmethod
    def build(self, vocab: int, n: int, rng: torch.Generator | None = None) -> nn.Module:
        """Builds the untrained model over sequences of at most n tokens out of `vocab`."""


def refuse_sizes(what: str, given: Mapping[str, int]) -> None:
    """Refuses the sizes of a model that are below 1 or above `LARGEST`."""
    refuse(what, out_of_bounds(given, LARGEST))


def refuse_weights(what: str, count: int) -> None:
    """Refuses a model of more weights than any is drawn with."""
    refuse(what, [] if count <= MOST_WEIGHTS else [f"at most {MOST_WEIGHTS} weights are drawn, {count} are needed"])


__getattr__ = old_names(
    __name__,
    AnyArchitecture="AnyModelConfig",
    Architecture="ModelConfig",
    TokenArchitecture="TokenModelConfig",
)
