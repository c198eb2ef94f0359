"""An existing model, measured as it is: from a file or a folder, or made by the user's own code.

    path            a model in a format that is known (`iclab.models.formats`)
    module          "my_module:make": make() returns a torch.nn.Module, or anything that is called as a model is
    module, path    the same module, with its weights from a file of safetensors or torch.save

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
from iclab.files import regular
from iclab.models.architecture import Layered, ModelConfig, TokenModelConfig
from iclab.models.formats import format_of
from iclab.models.stored import compare_each, fill, weights_in
from iclab.models.tokens import TokenTransformer
from iclab.models.transformer import BlockConfig, Stack
from iclab.models.vectors import VectorTransformer


@dataclass(frozen=True, kw_only=True)
class Pretrained(ModelConfig, TokenModelConfig):
    """A model that is measured and not trained; give `path` or `module`, or both, and the file at `path` holds the
    weights of what the module makes.

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
        problems = [] if self.path or self.module else ["give path or module, or both"]
        problems += ["layers are of a module; a file tells its own"] if self.layers and not self.module else []
        if self.module is not None and not all(self.module.partition(":")):
            problems.append(f"module must be a module and a name in it, such as my_module:make, given {self.module!r}")
        place = Path(self.path or ".").expanduser().resolve()
        problems += [f"path: there is no {place}"] if self.path and not place.exists() else []
        refuse("Pretrained", problems)
        if self.path:
            object.__setattr__(self, "path", str(place))
            files = [regular(place)] if self.module else format_of(place).files(place)
            digest = _digest(tuple((file, file.stat().st_mtime_ns) for file in files))
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
        return bool(self.layers) or isinstance(self.outline, Layered)

    @property
    def blocks(self) -> BlockConfig | None:
        """Returns the shape of a model at a path that is one of our transformers; none of any other."""
        return self.outline.config if isinstance(self.outline, Stack) else None

    @property
    def outline(self) -> nn.Module | None:
        """Returns the model at a path, to be looked at, perhaps without numbers; none of a user's module."""
        return None if self.path is None or self.module else _outline(self.path, self.digest)

    def problems_for(self, *sizes: Any, **named: Any) -> list[str]:
        """Returns the problems of the code that makes the model, or of the sizes of a language model."""
        if isinstance(self.outline, TokenTransformer):
            return _size_problems(self.outline, *sizes)
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
        if self.path and not self.module:
            place = Path(self.path)
            return format_of(place).open(place).eval()
        made: Any = getattr(import_module(self.code), self.maker)()
        refuse(f"{self.module}", [] if callable(made) else [f"made a {type(made).__name__}, which cannot be called"])
        if self.path:
            _load(f"{self.module}", made, Path(self.path))
        return Given(made, self.layers).eval()

    def loaded(self) -> nn.Module:
        """Returns the model as it is, without an experiment: all that stands against it is refused first. Raises
        ``ValueError``."""
        refuse("load_model", [] if self.path and not self.module else self.problems_for())
        return self.start()

    def build(self, *sizes: Any, rng: torch.Generator | None = None, **named: Any) -> nn.Module:
        """Returns the same model with the entries of every weight permuted by `rng`."""
        model = deepcopy(self.start())
        with torch.no_grad():
            for weights in model.parameters():
                order = torch.randperm(weights.numel(), generator=rng)
                weights.copy_(weights.flatten()[order].view_as(weights))
        return model


def _load(what: str, model: Any, file: Path) -> None:
    """Fills a module with the weights in a file. Raises ``ValueError`` that lists what differs."""
    kind = type(model).__name__
    refuse(what, [] if isinstance(model, nn.Module) else [f"made a {kind}, which has no weights to read"])
    with weights_in(file) as given:
        compare_each(file, model, given)
        fill(model, given)


def _size_problems(given: TokenTransformer, *wanted: int | None) -> list[str]:
    """What stands against a model over tokens for so large a vocabulary and such long sequences."""
    if len(wanted) != 3 or bool(wanted[2]) != isinstance(given, VectorTransformer):
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


@lru_cache(16)
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    """Twelve digits that stand for what is in files, last changed at these times."""
    total = hashlib.sha256()
    for path, _ in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:12]


@lru_cache(4)
def _outline(path: str, digest: str | None) -> nn.Module:
    """The model in files of these contents, to look at."""
    return format_of(Path(path)).outline(Path(path))
