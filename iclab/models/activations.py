"""Activation caching and patching by name during one call; nothing is registered on the model, so nothing leaks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from iclab.renamed import old_names

Replacement = Tensor | Callable[[Tensor], Tensor]


@dataclass
class HookContext:
    """The activations that one call caches (in `values`) and patches, by name.

    A replacement is a tensor, or a function of the activation. What is read is what the model went on with.
    """

    read: frozenset[str] = frozenset()
    replace: Mapping[str, Replacement] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self.replace:
            new = self.replace[name]
            value = new(value) if callable(new) else new.to(value).expand_as(value)
        if name in self.read:
            self.values[name] = value
        return value

    def touch(self, name: str) -> bool:
        """Returns whether the call reads or replaces this activation, so that it must be formed."""
        return name in self.read or name in self.replace

    def names(self) -> set[str]:
        """Returns all names of activations that the call uses."""
        return {*self.read, *self.replace}


@dataclass(frozen=True)
class ScopedHooks:
    """The hooks as a part of the model sees them, which does not know its own name: layers may be tied."""

    hooks: HookContext
    place: str

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return self.hooks(f"{self.place}.{name}", value)

    def touch(self, name: str) -> bool:
        """Returns whether the call reads or replaces this activation."""
        return self.hooks.touch(f"{self.place}.{name}")


__getattr__ = old_names(__name__, Taps="HookContext", Inside="ScopedHooks")
