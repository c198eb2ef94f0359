"""QueryAndKeys: prompts of one query and its keys, with one label for all of them."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.tasks.examples.inputs import Inputs, Sphere
from iclab.tasks.examples.prompts import Functions, Prompts
from iclab.tasks.examples.targets import KeyAverage, Power, Target, labels
from iclab.tasks.task import FunctionClass


@dataclass(frozen=True)
class KeyedFunctions(Functions):
    """f(x) = f*(x; x_1, ..., x_N): a function of the query, which the keys of its prompt make of a target."""

    keys: Float[Tensor, "batch n_keys d"]
    chosen: Int[Tensor, " batch"]
    targets: tuple[Target, ...]

    def __call__(self, xs: Float[Tensor, "batch m d"]) -> Float[Tensor, "batch m"]:
        keys = self.keys.unsqueeze(1).expand(-1, xs.shape[1], -1, -1)
        tokens = torch.cat([xs.unsqueeze(2), keys], dim=2)
        values = labels(self.targets, tokens.flatten(0, 1)).unflatten(0, xs.shape[:2])
        return values.gather(-1, self.chosen.view(-1, 1, 1).expand(-1, xs.shape[1], 1)).squeeze(-1)


@dataclass(frozen=True)
class QueryAndKeys(FunctionClass):
    """The last input of a prompt is a query and the n − 1 before it are its keys. The label of the query is f* of both
    and keys have none (0), so that nothing can be learned in context: f* is the same in every prompt, and must be
    learned from many. Each prompt is about one of `targets`, drawn at random; who learns them all from the same inputs
    uses their `tokens`.

    Source: Fu, Guo, Bai, Mei 2023, arXiv 2307.11353 (one query, N keys, one label).
    """

    targets: tuple[tuple[str, Target], ...] = (("key_1", KeyAverage(Power(1))),)
    inputs: Inputs = field(default_factory=Sphere, kw_only=True)

    def _problems(self) -> list[str]:
        problems = super()._problems() + (
            [] if self.n >= 2 else [f"n counts a query and keys: 2 or more, given {self.n}"]
        )
        problems += [] if self.targets else ["targets must not be empty"]
        return problems + [f"{name}: {text}" for name, f in self.targets for text in f.problems_for(self.d)]

    def factors(self) -> dict[str, float]:
        """Returns the largest label of a target, or 1."""
        return {"targets": max((target.size(self.inputs.reach(self.d)) for _, target in self.targets), default=1.0)}

    @property
    def query_only(self) -> bool:
        return True

    @property
    def n_keys(self) -> int:
        """Returns N."""
        return self.n - 1

    def draw_functions(self, batch: int, rng: torch.Generator, dtype: torch.dtype) -> KeyedFunctions:
        keys = self.inputs.sample(batch, self.n_keys, self.d, rng, dtype)
        chosen = torch.randint(len(self.targets), (batch,), generator=rng, device=rng.device)
        return KeyedFunctions(keys, chosen, tuple(target for _, target in self.targets))

    def sample(self, batch: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Prompts:
        truth = self.draw_functions(batch, rng, dtype)
        query = self.inputs.sample(batch, 1, self.d, rng, dtype)
        noise = self.noise * torch.randn(batch, 1, generator=rng, device=rng.device, dtype=dtype)
        fs, ys = (torch.nn.functional.pad(last, (self.n_keys, 0)) for last in (truth(query), truth(query) + noise))
        return Prompts(xs=torch.cat([truth.keys, query], dim=1), ys=ys, fs=fs, truth=truth)

    def tokens(
        self, batch: int, rng: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> tuple[Float[Tensor, "batch n d"], Float[Tensor, "batch targets"], Float[Tensor, "batch targets"]]:
        """Draws inputs, the query first, with the labels of all targets as they are learned from and without their
        noise."""
        xs = self.inputs.sample(batch, self.n, self.d, rng, dtype)
        fs = labels([target for _, target in self.targets], xs)
        return xs, fs + self.noise * torch.randn(fs.shape, generator=rng, device=rng.device, dtype=dtype), fs
