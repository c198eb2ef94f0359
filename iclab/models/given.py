"""An existing model, measured as it is: from a file or a folder, or made by the user's own code.

    path     a model that iclab saved (`weights.safetensors`, or the folder of a run with it), or a folder of GPT-2 or
             GPT-NeoX
    module   "my_module:make": make() returns a torch.nn.Module, or anything that is called as a model is

Nothing is trained. Where an analysis needs an untrained control, it has the same numbers in another place: the entries
of every weight are permuted at random, which keeps their distribution and destroys what was learned.
"""

import hashlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclab.errors import refuse, unknown
from iclab.models.architecture import ModelConfig, TokenModelConfig
from iclab.models.pointer import PointerTransformer
from iclab.models.pretrained import Sizes, load_pretrained, pretrained_sizes
from iclab.models.stored import open_weights
from iclab.models.tokens import TokenTransformer
from iclab.models.transformer import BlockConfig, Stack, Transformer
from iclab.models.vectors import VectorTransformer

SAVED: dict[str, type[Stack]] = {
    kind.kind: kind for kind in (Transformer, TokenTransformer, VectorTransformer, PointerTransformer)
}


@dataclass(frozen=True, kw_only=True)
class Pretrained(ModelConfig, TokenModelConfig):
    """A model that is measured and not trained; give either `path` or `module`.

    `layers` are names of submodules of the module (as in ``named_modules``): their outputs [batch n width] are what
    analyses of layers read. `digest` stands for the files at `path`; it is filled in, and files that are others than it
    says are refused.
    """

    path: str | None = None
    module: str | None = None
    layers: tuple[str, ...] = ()
    digest: str | None = None
    trainable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one = (self.path is None) != (self.module is None)
        problems = [] if one else ["give one of path and module"]
        problems += ["layers are of a module; a file of iclab tells its own"] if self.layers and self.path else []
        if self.module is not None and not all(self.module.partition(":")):
            problems.append(f"module must be a module and a name in it, such as my_module:make, given {self.module!r}")
        place = Path(self.path or ".").expanduser().resolve()
        problems += [f"path: there is no {place}"] if self.path and not place.exists() else []
        refuse("Pretrained", problems)
        if self.path:
            object.__setattr__(self, "path", str(place))
            digest = _digest(tuple((file, file.stat().st_mtime_ns) for file in _files(place)))
            changed = self.digest not in (None, digest)
            refuse("Pretrained", [f"path: {place} has changed: it is {digest}, not {self.digest}"] if changed else [])
            object.__setattr__(self, "digest", digest)

    @property
    def code(self) -> str:
        return (self.module or "").partition(":")[0]

    @property
    def maker(self) -> str:
        """Returns the name of the function in that module."""
        return (self.module or "").partition(":")[2]

    @property
    def layered(self) -> bool:
        return bool(self.layers) or (self.path is not None and not _of_others(Path(self.path)))

    @property
    def blocks(self) -> BlockConfig | None:
        """Returns the shape of a transformer that iclab saved, or of GPT-2 or GPT-NeoX; none of a user's module."""
        if self.path is None:
            return None
        return self.language_model.shape if self.language_model else _saved(self.path, self.digest).config

    @property
    def language_model(self) -> Sizes | None:
        """Returns the sizes of a model over tokens, of a folder of GPT-2 or GPT-NeoX; none of any other."""
        return pretrained_sizes(self.path) if self.path and _of_others(Path(self.path)) else None

    def problems_for(self, *sizes: Any, **named: Any) -> list[str]:
        """Returns the problems of the code that makes the model, or of the sizes of a language model."""
        if given := self.language_model:
            return _size_problems(given, *sizes)
        if not self.module:
            return []
        name = self.maker
        try:
            there = import_module(self.code)
        except Exception as error:  # whatever foreign code raises
            return [f"Pretrained: {self.code} cannot be imported: {type(error).__name__}: {str(error)[:100]}"]
        if not hasattr(there, name):
            return [
                f"Pretrained: {unknown(f'name in {self.code}', name, [each for each in vars(there) if each[0] != '_'])}"
            ]
        return [] if callable(getattr(there, name)) else [f"Pretrained: {self.module} cannot be called"]

    def start(self, *sizes: Any, rng: torch.Generator | None = None, **named: Any) -> nn.Module:
        """Returns the model as it is. Raises ``ValueError`` where a file holds none, and where `module` makes nothing
        that can be called or that has no such layers."""
        if self.path:
            return _read(Path(self.path)).eval()
        made: Any = getattr(import_module(self.code), self.maker)()
        refuse(f"{self.module}", [] if callable(made) else [f"made a {type(made).__name__}, which cannot be called"])
        return Given(made, self.layers).eval()

    def build(self, *sizes: Any, rng: torch.Generator | None = None, **named: Any) -> nn.Module:
        """Returns the same model with the entries of every weight permuted by `rng`."""
        model = deepcopy(self.start())
        with torch.no_grad():
            for weights in model.parameters():
                order = torch.randperm(weights.numel(), generator=rng)
                weights.copy_(weights.flatten()[order].view_as(weights))
        return model


def _size_problems(given: Sizes, *wanted: int | None) -> list[str]:
    """What stands against a language model for so large a vocabulary and such long sequences of tokens."""
    if len(wanted) != 3 or wanted[2]:
        return ["Pretrained: a language model reads tokens, and the task has other prompts"]
    vocab, n, _ = wanted
    problems = [] if vocab == given.vocab else [f"has a vocabulary of {given.vocab}, and task.vocab is {vocab}"]
    problems += [f"reads at most {given.n} tokens, and prompts have up to {n}"] if n and n > given.n else []
    return [f"Pretrained: the model {text}" for text in problems]


class Given(nn.Module):
    """A model of the user's as it is, called with the same arguments; `layers` name those of its submodules whose
    outputs are its stream."""

    def __init__(self, f: Callable[..., Any], layers: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.f, self.layers = f, layers
        known = dict(f.named_modules()) if isinstance(f, nn.Module) else {}
        refuse("layers", [unknown("submodule", name, [*filter(None, known)]) for name in layers if name not in known])
        self.read = [known[name] for name in layers]

    def forward(self, *prompts: Tensor) -> Tensor:
        return self.f(*prompts)

    def answering_stream(self, *prompts: Tensor) -> Iterator[Float[Tensor, "batch n width"]]:
        """Yields the outputs of the named layers in one call."""
        outputs: dict[int, Tensor] = {}

        def keep(at: int) -> Callable[[nn.Module, Any, Any], None]:
            return lambda module, given, out: outputs.update({at: out[0] if isinstance(out, tuple) else out})

        hooks = [module.register_forward_hook(keep(i)) for i, module in enumerate(self.read)]
        try:
            self.f(*prompts)
        finally:
            for hook in hooks:
                hook.remove()
        silent = [name for i, name in enumerate(self.layers) if i not in outputs]
        shapes = {tuple(out.shape[:2]) for out in outputs.values()} - {tuple(prompts[0].shape[:2])}
        problems = [f"{', '.join(silent)} had no part in the answer"] if silent else []
        refuse("layers", problems + [f"outputs must be [batch n width], given [{b} {n} …]" for b, n in shapes])
        yield from (outputs[i] for i in range(len(self.layers)))


# ---- files ---------------------------------------------------------------------------------------------------------


def _of_others(place: Path) -> bool:
    """Whether this is a folder of GPT-2 or GPT-NeoX."""
    return (place / "config.json").is_file()


def _files(place: Path) -> list[Path]:
    """The files that a model consists of."""
    if _of_others(place):
        return [place / "config.json", *sorted(place.glob("*.safetensors*"))]
    file = place / "weights.safetensors" if place.is_dir() else place
    problem = f"path: {place} has neither config.json nor weights.safetensors"
    refuse("Pretrained", [] if file.is_file() else [problem])
    return [file]


@lru_cache(16)
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    """Twelve digits that stand for what is in files, last changed at these times."""
    total = hashlib.sha256()
    for path, _ in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:12]


@lru_cache(4)
def _saved(path: str, digest: str | None) -> Any:
    """The transformer in a file of these contents, to look at."""
    return _read(Path(path))


def _read(place: Path) -> nn.Module:
    if _of_others(place):
        return load_pretrained(place)
    (path,) = _files(place)
    with open_weights(path) as file:
        kinds = [kind for name, kind in SAVED.items() if name in (file.metadata() or {})]
    refuse(f"{path}", [] if kinds else ["no transformer of iclab was saved in this file; name a module that loads it"])
    return kinds[0].load(path)
