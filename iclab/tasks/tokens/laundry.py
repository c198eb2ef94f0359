"""The laundry list: the target is the item of a list that has not been repeated.

    opener  i_1 … i_N  separator  j_1 … j_{N−1}  end  →  the item i_k that is missing among the j

The items i are distinct and the j a uniform permutation of the others. Chance, for who knows the list, is 1/N. Slot k
of the list, counted from 0, stands at position k + 1, whatever the opener.

Source: Merullo, Eickhoff, Pavlick 2024, arXiv 2406.09519, §5.1 and App. F (22 objects, lists of 3 to 20, four openers
of the first sentence and three of the second). That is text for a language model; the tokens here, and what is held
out, are this project's.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from math import comb
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from iclab.errors import unknown_choices
from iclab.limits import admit
from iclab.tasks.tokens.prompts import SizedTask, TokenPrompts, TokenTask, marked, too_small, without_replacement

SALT = 2406_09519  # of the hash that parts sets of items: a part is a function of the example alone
NEW_SETS = 5  # one set of items in so many is held out
Shape = tuple[int, ...]


@dataclass(frozen=True)
class LaundryList(SizedTask):
    """Lists of `shortest` to `longest` of `items` items, each length as likely as any other.

    `holds_out` names what training never shows, and `part` whether the prompts are of what training shows ("seen") or
    of the rest ("new"): one set of items in five, chosen by a hash; a fifth of the items as answers; the slot N/2
    (counted from 0) as the missing one; the last opener or separator.
    """

    items: int = 22
    shortest: int = 2
    longest: int = 10
    openers: int = 4
    separators: int = 3
    holds_out: Literal["nothing", "sets", "answers", "slots", "openers"] = "nothing"
    part: Literal["seen", "new"] = "seen"
    balanced: bool = False

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def _problems(self) -> list[str]:
        given = {k: getattr(self, k) for k in ("items", "shortest", "openers", "separators")}
        spare = 2 if self.holds_out == "openers" else 1
        problems = too_small(given, {"items": 2, "shortest": 2, "openers": spare, "separators": spare})
        if not self.shortest <= self.longest <= self.items:
            problems.append(
                f"longest must lie between shortest and items, {self.shortest}..{self.items}, given {self.longest}"
            )
        if self.holds_out == "sets" and self.longest == self.items:
            problems.append(f"lists of all {self.items} items are one set: none can be held out")
        if self.holds_out == "answers" and self.items < NEW_SETS:
            problems.append(f"a fifth of the items needs {NEW_SETS} or more, given {self.items}")
        if self.part == "new" and self.holds_out == "nothing":
            problems.append("nothing is held out, and so nothing is new")
        if self.balanced and self.shortest < self.longest:
            problems.append(f"balanced lists have one length, given {self.shortest}..{self.longest}")
        if self.holds_out == "sets" and not problems:
            whole = [k for k in range(self.shortest, self.longest + 1) if not parted(self.items, k)]
            problems += [f"all sets of {k} of {self.items} items are of one part; take more items" for k in whole]
        return problems + unknown_choices(self)

    @property
    def vocab(self) -> int:
        """Returns the number of tokens: items first, then openers, separators and the end."""
        return self.items + self.openers + self.separators + 1

    @property
    def n(self) -> int:
        return 2 * self.longest + 2

    @property
    def largest(self) -> int:
        return self.longest

    def up_to(self, size: int) -> "LaundryList":
        longest = max(self.shortest, min(size, self.longest))
        return replace(self, longest=longest)

    def parts(self) -> dict[str, TokenTask]:
        """Returns each length by itself, balanced, and all lengths of what was held out."""
        each = range(self.shortest, self.longest + 1)
        lengths: dict[str, TokenTask] = {f"{length}_items": self.of_length(length) for length in each}
        return lengths | ({} if self.holds_out == "nothing" else {"new": replace(self, part="new")})

    def of_length(self, length: int) -> "LaundryList":
        """Returns the lists of one length in which each slot that can be missing is missing equally often."""
        return replace(self, shortest=length, longest=length, balanced=True)

    def balanced_batch(self, batch: int) -> int:
        slots = int(self._slots(torch.tensor(self.longest))) if self.balanced else 1
        return -(-batch // slots) * slots

    def draw(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        lengths = self._uniform(self.shortest, self.longest + 1, (batch,), rng)
        slots = self._slots(lengths)
        turns = torch.arange(batch, device=rng.device) if self.balanced else self._uniform(0, 2**31, (batch,), rng)
        missing = self._slot(turns % slots, lengths)
        listed = self._lists(lengths, missing, rng)
        order = self._order(lengths, missing, rng)
        return self._prompts(lengths, missing, listed, listed.gather(1, order), self._marks(batch, rng))

    def _uniform(self, low: int, high: int, shape: Shape, rng: torch.Generator) -> Int[Tensor, "..."]:
        return torch.randint(low, high, shape, generator=rng, device=rng.device)

    def _slots(self, lengths: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """How many slots can be the missing one."""
        if self.holds_out != "slots":
            return lengths
        return lengths - 1 if self.part == "seen" else torch.ones_like(lengths)

    def _slot(self, rank: Int[Tensor, " batch"], lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """The missing slot, counted among those that can be."""
        if self.holds_out != "slots":
            return rank
        middle = lengths // 2
        return middle if self.part == "new" else rank + (rank >= middle)

    def _lists(
        self, lengths: Int[Tensor, " batch"], missing: Int[Tensor, " batch"], rng: torch.Generator
    ) -> Int[Tensor, "batch longest"]:
        """Items in random order, drawn again where they belong to the other part."""
        listed = without_replacement(len(lengths), self.items, rng)[:, : self.longest]
        if self.holds_out not in ("sets", "answers"):
            return listed
        while (wrong := self.is_new(listed, lengths, missing) != (self.part == "new")).any():
            again = without_replacement(int(wrong.sum()), self.items, rng)[:, : self.longest]
            listed = listed.masked_scatter(wrong.unsqueeze(1), again)
        return listed

    def is_new(
        self, listed: Int[Tensor, "batch longest"], lengths: Int[Tensor, " batch"], missing: Int[Tensor, " batch"]
    ) -> Bool[Tensor, " batch"]:
        """Returns whether the items of a list are held out."""
        if self.holds_out == "answers":
            return listed.gather(1, missing.unsqueeze(1)).squeeze(1) < self.items // NEW_SETS
        return new_sets(listed, torch.arange(listed.shape[1], device=listed.device) < lengths.unsqueeze(1), self.items)

    def _order(
        self, lengths: Int[Tensor, " batch"], missing: Int[Tensor, " batch"], rng: torch.Generator
    ) -> Int[Tensor, "batch longest"]:
        """The slots that the second list goes through; the missing one and those beyond the length come last."""
        keys = torch.rand(len(lengths), self.longest, generator=rng, device=rng.device)
        slots = torch.arange(self.longest, device=rng.device)
        out = (slots == missing.unsqueeze(1)) | (slots >= lengths.unsqueeze(1))
        return keys.masked_fill(out, 2.0).argsort(dim=1)

    def _marks(self, batch: int, rng: torch.Generator) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Opener and separator: the last of either is kept for what is new."""
        counts = (self.openers, self.separators)
        held = self.holds_out == "openers"
        drawn = [self._uniform(0, count - (held and self.part == "seen"), (batch,), rng) for count in counts]
        if held and self.part == "new":
            which = self._uniform(0, 2, (batch,), rng).bool()
            drawn = [drawn[0].where(which, self.openers - 1), drawn[1].where(~which, self.separators - 1)]
        return self.items + drawn[0], self.items + self.openers + drawn[1]

    def _prompts(
        self,
        lengths: Int[Tensor, " batch"],
        missing: Int[Tensor, " batch"],
        listed: Int[Tensor, "batch longest"],
        named: Int[Tensor, "batch longest"],
        marks: tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]],
    ) -> TokenPrompts:
        """Lays the tokens out; what follows the end is more of it, and no target position."""
        width = 2 * int(lengths.max()) + 2
        at, length = torch.arange(width, device=lengths.device), lengths.unsqueeze(1)
        opener, separator = (mark.unsqueeze(1) for mark in marks)
        first = listed.gather(1, (at - 1).clamp(0, self.longest - 1).expand(len(lengths), -1))
        second = named.gather(1, (at - length - 2).clamp(0, self.longest - 1))
        tokens = torch.where(at == 0, opener, first)
        tokens = torch.where(at == length + 1, separator, torch.where(at > length + 1, second, tokens))
        tokens = torch.where(at > 2 * length, self.vocab - 1, tokens)
        answer = listed.gather(1, missing.unsqueeze(1))
        used = torch.arange(self.longest, device=lengths.device) < length
        options = marked(len(lengths), self.vocab, torch.where(used, listed, listed[:, :1]))
        shape = tokens.shape
        return TokenPrompts(
            tokens, answer.expand(shape), at == 2 * length + 1, missing.unsqueeze(1).expand(shape), options
        )


def new_sets(listed: Int[Tensor, "batch n"], used: Bool[Tensor, "batch #n"], items: int) -> Bool[Tensor, " batch"]:
    """Returns which sets of items, in whatever order they are listed, belong to the fifth that a hash picks out."""
    codes = torch.randint(2**62, (items,), generator=torch.Generator().manual_seed(SALT)).to(listed.device)
    mixed = (codes[listed] * used).sum(1) * 6364136223846793005 + 1442695040888963407  # integers wrap around
    return (mixed >> 33) % NEW_SETS == 0


@cache
def parted(items: int, size: int) -> bool:
    """Returns whether both parts have sets of this size. Of very many they always do."""
    if comb(items, size) > 1000:
        return True
    sets = torch.tensor(list(combinations(range(items), size)))
    new = new_sets(sets, torch.ones_like(sets, dtype=torch.bool), items)
    return bool(new.any()) and not bool(new.all())


@dataclass(frozen=True)
class IndirectObject(TokenTask):
    """Indirect-object identification in tokens: the target is the name that is not the subject S.

        opener  A  and  B  went  S  gave  →  the other one,        S = A or B

    Place 0 is an indirect object that was named first, place 1 one that was named second; of each two prompts in a row
    one is of either order. Chance, for who knows the names, is 1/2. With `holds_out` one pair of names in five, chosen
    by a hash and in either order, is kept for the `part` that is new. Source: Wang et al. 2022, arXiv 2211.00593 (text,
    with templates); in Merullo et al. 2024 the case N = 2 of the laundry list.
    """

    names: int = 20
    openers: int = 4
    locations: int = 4
    holds_out: Literal["nothing", "pairs"] = "nothing"
    part: Literal["seen", "new"] = "seen"

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def _problems(self) -> list[str]:
        spare = NEW_SETS if self.holds_out == "pairs" else 2
        least = {"names": spare, "openers": 1, "locations": 1}
        problems = too_small({k: getattr(self, k) for k in least}, least)
        if self.part == "new" and self.holds_out == "nothing":
            problems.append("nothing is held out, and so nothing is new")
        return problems + unknown_choices(self)

    def parts(self) -> dict[str, TokenTask]:
        """Returns the pairs that were held out."""
        return {} if self.holds_out == "nothing" else {"new": replace(self, part="new")}

    @property
    def vocab(self) -> int:
        """Returns the number of tokens: names first, then openers, locations, "and" and "gave"."""
        return self.names + self.openers + self.locations + 2

    @property
    def n(self) -> int:
        return 7

    def balanced_batch(self, batch: int) -> int:
        return batch + batch % 2

    def draw(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        pair = self._pairs(batch, rng)
        given = torch.arange(batch, device=rng.device).unsqueeze(1) % 2
        opener = self.names + torch.randint(self.openers, (batch, 1), generator=rng, device=rng.device)
        where = torch.randint(self.locations, (batch, 1), generator=rng, device=rng.device)
        words = torch.full((batch, 2), self.vocab - 2, device=rng.device) + torch.arange(2, device=rng.device)
        went = self.names + self.openers + where
        columns = [opener, pair[:, :1], words[:, :1], pair[:, 1:], went, pair.gather(1, 1 - given), words[:, 1:]]
        tokens = torch.cat(columns, dim=1)
        asked = (torch.arange(self.n, device=rng.device) == self.n - 1).expand(tokens.shape)
        answer = pair.gather(1, given).expand(tokens.shape)
        return TokenPrompts(tokens, answer, asked, given.expand(tokens.shape), marked(batch, self.vocab, pair))

    def _pairs(self, batch: int, rng: torch.Generator) -> Int[Tensor, "batch 2"]:
        """Two names in random order, drawn again where they belong to the other part."""
        pair = without_replacement(batch, self.names, rng)[:, :2]
        while self.holds_out == "pairs" and (wrong := self.is_new(pair) != (self.part == "new")).any():
            again = without_replacement(int(wrong.sum()), self.names, rng)[:, :2]
            pair = pair.masked_scatter(wrong.unsqueeze(1), again)
        return pair

    def is_new(self, pair: Int[Tensor, "batch 2"]) -> Bool[Tensor, " batch"]:
        """Returns whether a pair of names belongs to what is held out."""
        return new_sets(pair, torch.ones_like(pair, dtype=torch.bool), self.names)
