"""Items of Gaussian classes with their labels: a class can be learned in context or in weights.

    x_1 l_1 … x_N l_N  x  →  the label of x's class,     x = (μ_k + ε η) / √(1 + ε²),     μ_k, η ~ N(0, 1/d) per channel

There are K classes; class k, counted from 0, has label k mod L and the frequency ∝ (k + 1)^−α. Items and labels are
vectors of d channels; those of labels and the means μ are the same in all prompts (the `world`), the noise η is fresh.
In a *bursty* prompt the class of the last item, drawn by frequency, occurs `burst` = B times in the context, and so do
N/B − 1 others; in any other prompt it does not occur, and each other class once. Of two classes in a context no label
is the same.

Source: Reddy 2023, arXiv 2312.03002, §2 (N = 8, L = 32, d = 63, ε = 0.1), after Chan et al. 2022, arXiv 2205.05055.
There prompts that are not bursty draw all their classes independently: the class of the last item may be among them.
By default the code draws the classes of a bursty prompt so too, and `replacement` does: the N/B − 1 others are then
independent draws by frequency, so that a class may occur 2B times or more, and two may have one label (the closed form
`ContextClasses` takes them for one class, and is then not Bayes).
"""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclab.errors import unknown_choices
from iclab.limits import SHARE, admit
from iclab.tasks.tokens.prompts import TokenPrompts, TokenTask, marked, too_small, without_replacement


@dataclass(frozen=True)
class GaussianClasses(TokenTask):
    """N = `pairs` items with their labels and one more item, whose label is the target.

    A share `bursty` of the prompts is bursty. `part` selects what is drawn: "trained" prompts; all bursty, of classes
    that are new in each prompt ("in_context"), or with the next label in the place of each ("relabelled"); or none
    bursty ("in_weights"). Place i holds the classes k with 2^i ≤ k + 1 < 2^(i+1), and place 0 new ones.
    """

    classes: int = 512
    labels: int = 32
    pairs: int = 8
    burst: int = 2
    bursty: float = field(default=1.0, metadata=SHARE)
    alpha: float = 0.0
    d: int = 63
    within: float = 0.1
    world: int = 0
    part: Literal["trained", "in_context", "relabelled", "in_weights"] = "trained"
    replacement: bool = field(default=False, metadata={"since": "0.1"})

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def held(self) -> dict[str, int]:
        return super().held() | {"the means of classes": self.classes * self.d, "new means": self.labels * self.d}

    def _problems(self) -> list[str]:
        least = {"labels": 2, "pairs": 1, "burst": 1, "d": 1}
        problems = too_small({k: getattr(self, k) for k in least}, least)
        problems += unknown_choices(self)
        if problems:
            return problems
        if self.classes < self.labels or self.classes % self.labels:
            problems.append(f"classes must be a multiple of labels = {self.labels}, given {self.classes}")
        if self.pairs >= self.labels:
            problems.append(f"pairs must be fewer than labels = {self.labels}, given {self.pairs}")
        if self.pairs % self.burst:
            problems.append(f"burst must divide pairs = {self.pairs}, given {self.burst}")
        if not 0 <= self.bursty <= 1:
            problems.append(f"bursty must lie between 0 and 1, given {self.bursty}")
        if not 0 <= self.alpha < float("inf"):
            problems.append(f"alpha must be 0 or more and finite, given {self.alpha}")
        if not 0 < self.within < float("inf"):
            problems.append(f"within must be positive and finite, given {self.within}")
        return problems

    @property
    def vocab(self) -> int:
        return self.labels

    @property
    def n(self) -> int:
        return 2 * self.pairs + 1

    @property
    def width(self) -> int:
        return self.d

    @property
    def label_vectors(self) -> Float[Tensor, "labels d"]:
        """Returns what stands for each label in a context."""
        return _normal(self.labels, self.d, 2 * self.world)

    @property
    def means(self) -> Float[Tensor, "classes d"]:
        """Returns μ of each class of training."""
        return _normal(self.classes, self.d, 2 * self.world + 1)

    @property
    def frequencies(self) -> Float[Tensor, " classes"]:
        """Returns how often each class is the last one."""
        weights = torch.arange(1, self.classes + 1, dtype=torch.float64) ** -self.alpha
        return weights / weights.sum()

    def parts(self) -> dict[str, TokenTask]:
        """Returns what can be known from the context alone, what in weights alone, and both where they disagree."""
        return {name: replace(self, part=name) for name in ("in_context", "relabelled", "in_weights")}

    def monitored_parts(self) -> dict[str, TokenTask]:
        return self.parts()

    def draw(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        """Draws classes first, then their items and labels; a guesser may choose among the labels shown where one is
        right, and among all elsewhere."""
        bursts = torch.rand(batch, 1, generator=rng, device=rng.device) < self._share
        context, query = self._classes(batch, bursts, rng)
        classes = torch.cat([context, query], dim=1)
        means, labels = self._meant(classes, rng)
        asked = torch.arange(self.n, device=rng.device) == 2 * self.pairs
        shape = (batch, self.n)
        octaves = torch.zeros_like(query) if self.part == "in_context" else (query + 1).double().log2().long()
        return TokenPrompts(
            self._laid_out(means, labels[:, :-1], rng),
            labels[:, -1:].expand(shape),
            asked.expand(shape),
            octaves.expand(shape),
            marked(batch, self.labels, labels[:, :-1]) | ~bursts,
        )

    @property
    def _share(self) -> float:
        """The share of bursty prompts."""
        return {"trained": self.bursty, "in_weights": 0.0}.get(self.part, 1.0)

    def _classes(
        self, batch: int, bursts: Tensor, rng: torch.Generator
    ) -> tuple[Int[Tensor, "batch pairs"], Int[Tensor, "batch 1"]]:
        """Classes of the context and of the last item. The order of log p_k + Gumbel noise is that of drawing one after
        the other without replacement; of each label the first class counts."""
        size = (batch, self.classes)
        waits = torch.empty(size, device=rng.device).exponential_(generator=rng)
        keys = self.frequencies.log().float().to(rng.device) - waits.log()
        query = keys.argmax(1, keepdim=True)
        repeated = self._bursts(keys, query, rng).repeat(1, self.burst)
        others = self._first(keys.scatter(1, query, -torch.inf), self.pairs)
        order = without_replacement(batch, self.pairs, rng)
        return torch.where(bursts, repeated, others).gather(1, order), query

    def _bursts(
        self, keys: Float[Tensor, "batch classes"], query: Int[Tensor, "batch 1"], rng: torch.Generator
    ) -> Int[Tensor, "batch m"]:
        """The classes of a bursty prompt, that of the last item first."""
        m = self.pairs // self.burst
        if not self.replacement:
            return self._first(keys, m)
        chances = self.frequencies.to(rng.device).expand(len(keys), -1)
        drawn = torch.multinomial(chances, m, replacement=True, generator=rng)
        return torch.cat([query, drawn[:, 1:]], dim=1)

    def _first(self, keys: Float[Tensor, "batch classes"], m: int) -> Int[Tensor, "batch m"]:
        """The m classes with the largest keys among the first of each label."""
        best, at = keys.unflatten(1, (-1, self.labels)).max(1)
        labels = best.topk(m, dim=1).indices
        return at.gather(1, labels) * self.labels + labels

    def _meant(
        self, classes: Int[Tensor, "batch items"], rng: torch.Generator
    ) -> tuple[Float[Tensor, "batch items d"], Int[Tensor, "batch items"]]:
        """The mean and the label of each item's class. A new class takes the label of the one in whose place it is:
        labels of a prompt are then as they are in training."""
        if self.part != "in_context":
            return self.means.to(rng.device)[classes], (classes + (self.part == "relabelled")) % self.labels
        labels = classes % self.labels  # which tell the classes of a bursty prompt apart where none is drawn again
        first = (classes.unsqueeze(2) == classes.unsqueeze(1)).byte().argmax(2)  # item of the same class, which do else
        which = first if self.replacement else labels
        new = torch.randn(len(classes), self.labels, self.d, generator=rng, device=rng.device) / self.d**0.5
        return new.gather(1, which.unsqueeze(2).expand(-1, -1, self.d)), labels

    def _laid_out(
        self, means: Float[Tensor, "batch items d"], labels: Int[Tensor, "batch pairs"], rng: torch.Generator
    ) -> Float[Tensor, "batch n d"]:
        """Items, each but the last followed by its label."""
        noise = torch.randn(means.shape, generator=rng, device=rng.device) / self.d**0.5
        items = (means + self.within * noise) / (1 + self.within**2) ** 0.5
        pairs = torch.stack([items[:, :-1], self.label_vectors.to(rng.device)[labels]], dim=2)
        return torch.cat([pairs.flatten(1, 2), items[:, -1:]], dim=1)


@cache
def _normal(rows: int, d: int, seed: int) -> Tensor:
    """Vectors of d channels N(0, 1/d)."""
    return torch.randn(rows, d, generator=torch.Generator().manual_seed(seed)) / d**0.5
