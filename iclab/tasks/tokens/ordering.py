"""Answers that are sequences of the input's own tokens: sorting, and the convex hull of points in the plane.

    opener  x_1 … x_m  separator  y_1 … y_l  end            targets: each y, and the end

The y are some of the x in the right order, so that a model may point at them. Source: Vinyals, Fortunato, Jaitly 2015,
arXiv 1506.03134, §2 and §4 (pointer networks; hulls of points drawn evenly in a square). Points on a grid, which are
tokens, and this layout are this project's.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from iclab.limits import admit
from iclab.tasks.tokens.prompts import SizedTask, TokenPrompts, TokenTask, marked, too_small, without_replacement


@dataclass(frozen=True)
class Ordering(SizedTask):
    """Some of `shortest` to `longest` distinct items, named in an order that the items themselves decide. Place i is
    the i-th token of the answer; the end of it is the place behind the last."""

    shortest: int = 3
    longest: int = 8

    def __post_init__(self) -> None:
        admit(self, self._unfit)

    def _unfit(self) -> list[str]:
        problems = self._problems()
        if not self._least <= self.shortest <= self.longest <= self.items:
            given = f"{self.shortest} and {self.longest}"
            problems.append(f"shortest ≤ longest must lie in {self._least}..{self.items}, given {given}")
        return problems

    @abstractmethod
    def _problems(self) -> list[str]: ...

    @property
    def _least(self) -> int:
        """The fewest items of which the question makes sense."""
        return 1

    @property
    @abstractmethod
    def items(self) -> int:
        """Returns how many items there are: tokens 0 .. items − 1; opener, separator and end come after."""

    @abstractmethod
    def successors(self, items: Int[Tensor, "batch m"], used: Bool[Tensor, "batch m"]) -> Int[Tensor, "batch m_1"]:
        """Returns for each slot the slot that is named next, and in the last column the one that is named first; m
        ends."""

    @property
    def vocab(self) -> int:
        return self.items + 3

    @property
    def n(self) -> int:
        return 2 * self.longest + 3

    @property
    def largest(self) -> int:
        return self.longest

    def up_to(self, size: int) -> "Ordering":
        return replace(self, longest=max(self.shortest, min(size, self.longest)))

    def parts(self) -> dict[str, TokenTask]:
        """Returns each number of items by itself."""
        return {f"{m}_items": replace(self, shortest=m, longest=m) for m in range(self.shortest, self.longest + 1)}

    def draw(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        lengths = torch.randint(self.shortest, self.longest + 1, (batch, 1), generator=rng, device=rng.device)
        items = without_replacement(batch, self.items, rng)[:, : self.longest]
        used = torch.arange(self.longest, device=rng.device) < lengths
        return self.prompts(items, used)

    def prompts(self, items: Int[Tensor, "batch m"], used: Bool[Tensor, "batch m"]) -> TokenPrompts:
        """Returns the questions about given items, of which each row uses the first few."""
        m, length = items.shape[1], used.sum(1, keepdim=True)
        slots = walk(self.successors(items, used))
        answers = torch.cat([items, torch.full_like(items[:, :1], self.vocab - 1)], dim=1).gather(1, slots)
        at = torch.arange(2 * int(length.max()) + 3, device=items.device).expand(len(items), -1)
        place = at - length - 1
        second = answers.gather(1, (place - 1).clamp(0, m))
        tokens = torch.where(at <= length, items.gather(1, (at - 1).clamp(0, m - 1)), second)
        tokens = tokens.masked_fill(at == 0, self.items).masked_fill(place == 0, self.items + 1)
        asked = (place >= 0) & (place <= (slots < m).sum(1, keepdim=True))
        options = marked(len(items), self.vocab, torch.where(used, items, items[:, :1]))
        options[:, -1] = True
        return TokenPrompts(tokens, answers.gather(1, place.clamp(0, m)), asked, place.clamp(min=0), options)


def walk(successors: Int[Tensor, "batch m_1"]) -> Int[Tensor, "batch m_1"]:
    """Returns the slots in the order in which they are named: powers of the map from a slot to the next, by doubling.
    The slot m is the end, which leads to itself."""
    first, maps = successors[:, -1:], successors.clone()
    maps[:, -1] = successors.shape[1] - 1
    order = first
    while order.shape[1] < successors.shape[1]:
        order = torch.cat([order, maps.gather(1, order)], dim=1)
        maps = maps.gather(1, maps)
    return order[:, : successors.shape[1]]


@dataclass(frozen=True)
class Sorting(Ordering):
    """Numbers of 0 .. numbers − 1 in ascending order."""

    numbers: int = 32

    def _problems(self) -> list[str]:
        return too_small({"numbers": self.numbers}, {"numbers": 1})

    @property
    def items(self) -> int:
        return self.numbers

    def successors(self, items: Int[Tensor, "batch m"], used: Bool[Tensor, "batch m"]) -> Int[Tensor, "batch m_1"]:
        order = items.masked_fill(~used, self.numbers).argsort(dim=1)
        m = items.shape[1]
        ends = torch.where(used.gather(1, order), order, m)
        following = torch.cat([ends[:, 1:], torch.full_like(ends[:, :1], m)], dim=1)
        return torch.cat([torch.full_like(ends, m).scatter(1, order, following), ends[:, :1]], dim=1)


@dataclass(frozen=True)
class ConvexHull(Ordering):
    """The corners of the convex hull of points of a grid × grid square, counter-clockwise from the lowest (of these
    the leftmost). Token x + grid · y is the point (x, y). Points on an edge are no corners, and a line has two."""

    grid: int = 8

    def _problems(self) -> list[str]:
        return too_small({"grid": self.grid}, {"grid": 2})

    def held(self) -> dict[str, int]:
        return super().held() | {"the triangles of a prompt": self.longest**3}

    @property
    def _least(self) -> int:
        return 3

    @property
    def items(self) -> int:
        return self.grid**2

    def successors(self, items: Int[Tensor, "batch m"], used: Bool[Tensor, "batch m"]) -> Int[Tensor, "batch m_1"]:
        """Returns whether i leads to j: no point is to the right of the line from i to j, and none on it outside of the
        two: j is the next corner if i is one."""
        x, y = items % self.grid, items // self.grid
        dx, dy = x.unsqueeze(1) - x.unsqueeze(2), y.unsqueeze(1) - y.unsqueeze(2)  # [b, i, j]: from i to j
        cross = dx.unsqueeze(3) * dy.unsqueeze(2) - dy.unsqueeze(3) * dx.unsqueeze(2)  # [b, i, j, k]
        along = dx.unsqueeze(3) * dx.unsqueeze(2) + dy.unsqueeze(3) * dy.unsqueeze(2)
        within = (along >= 0) & (along <= (dx.square() + dy.square()).unsqueeze(3))
        fits = (cross > 0) | ((cross == 0) & within) | ~used[:, None, None]
        m = items.shape[1]
        edge = fits.all(3) & used.unsqueeze(1) & used.unsqueeze(2) & ~torch.eye(m, dtype=torch.bool, device=x.device)
        following = torch.where(edge.any(2), edge.long().argmax(2), m)
        start = items.masked_fill(~used, self.items).argmin(1, keepdim=True)  # the lowest, then the leftmost
        closed = torch.where(following == start, m, following)
        return torch.cat([closed, start], dim=1)
