"""The laundry list and the indirect object as English text, in the tokens of a language model that was trained on text.

    Today, I need to buy a pen, a cup and an orange. First, I will buy the orange, the pen and then the  →   cup
    Last week Mary and John met at the library, and John handed a ring to                               →   Mary

RECONSTRUCTIONS. Merullo et al. 2024 print the 22 objects, the openers and an example of either task, not the strings
between; Wang et al. 2022 have 15 templates, of which these are none. All sentences here are this project's, and what a
model says to them is no replication to the digit: words, and how they are put, are known to matter.

Whatever splits text into tokens is given as a function. The answer must be one token, and so must be all words that can
be listed or named, each with the space before it. A text is put together from the tokens of its pieces; that these are
the tokens of the whole is tried on examples. Openers differ in length, and so do texts: each ends at the target
position, and what follows there is its last token again, which no earlier position of a causal model can see.

Source: Merullo, Eickhoff, Pavlick 2024, arXiv 2406.09519, §5.1 and App. F (objects, openers); Wang et al. 2022,
arXiv 2211.00593, §2 and App. A (names, places and objects at random; the two orders; three unrelated names).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from iclab.limits import admit
from iclab.tasks.tokens.prompts import TokenPrompts, TokenTask, marked, without_replacement

Encode = Callable[[str], list[int]]

OBJECTS = (
    *("pencil", "notebook", "pen", "cup", "plate", "jug", "mug", "puzzle", "textbook", "leash", "necklace"),
    *("bracelet", "bottle", "ball", "envelope", "lighter", "bowl", "apple", "pear", "banana", "orange", "steak"),
)
HEADS = ("Today, I need to buy", "Tonight, I need to buy", "Tomorrow, I need to buy", "I need to buy")
MIDDLES = (". First, I will buy", ". When I go, I will buy", ". I think I will buy")
TAIL = " and then the"
JOINTS = (" a", " an", " the", ",", " and")

NAMES = (
    *("Mary", "John", "James", "Michael", "David", "Robert", "Paul", "Mark", "George", "Richard", "Peter", "Daniel"),
    *("Sarah", "Anna", "Alice", "Emma", "Laura", "Susan", "Karen", "Lisa", "Rachel", "Jack", "Tom", "Kate"),
)
PLACES = ("station", "library", "market", "garden", "museum", "office")
THINGS = ("ring", "book", "ball", "basket", "letter", "ticket")


@dataclass(frozen=True)
class Template:
    """head A and B middle S tail: what stands around the names, with a place in the middle and a thing in the tail."""

    head: str
    middle: str
    tail: str


TEMPLATES = (
    Template("Last week", " met at the {place}, and", " handed a {thing} to"),
    Template("While", " waited outside the {place},", " passed a {thing} to"),
    Template("As soon as", " reached the {place},", " offered a {thing} to"),
    Template("Because", " were late for the {place},", " lent a {thing} to"),
    Template("On Friday,", " drove to the {place}, where", " showed a {thing} to"),
    Template("Before", " left the {place},", " sold a {thing} to"),
    Template("Long ago,", " worked at the {place}.", " once brought a {thing} to"),
    Template("Since", " lived near the {place},", " often carried a {thing} to"),
    Template("Yesterday", " had lunch at the {place}.", " returned a {thing} to"),
    Template("Once", " found the {place},", " threw a {thing} to"),
    Template("In the evening,", " walked past the {place}, and", " promised a {thing} to"),
    Template("It rained when", " got to the {place}, so", " gave a {thing} to"),
    Template("Although", " disliked the {place},", " sent a {thing} to"),
    Template("That day,", " cleaned the {place} together until", " tossed a {thing} to"),
    Template("Everyone saw", " enter the {place}, and then", " gave back a {thing} to"),
)


LEAST_NAMES = 5  # two of a text, and three that have nothing to do with it


# ---- words ---------------------------------------------------------------------------------------------------------


def single_tokens(encode: Encode, words: Sequence[str]) -> tuple[str, ...]:
    """Returns the words that are one token with the space before them, and not that of another (as of all that is
    unknown)."""
    one = {word: tokens[0] for word in words if len(tokens := encode(f" {word}")) == 1}
    times = Counter(one.values())
    return tuple(word for word in words if word in one and times[one[word]] == 1)


def _unfit(encode: Encode, words: Sequence[str], vocab: int) -> list[str]:
    """The problems of words: all that are said twice, that are several tokens, or one beyond the vocabulary. Where
    a tokenizer adds tokens to every text, no word is one token, and this is reported instead."""
    if added := encode(""):
        problem = (
            f"the tokenizer adds special tokens to every text, even an empty one: {added} (BOS is one that begins it)"
        )
        return [f"{problem}; give it as lambda text: tokenizer.encode(text, add_special_tokens=False).ids"]
    twice, single = sorted({word for word in words if words.count(word) > 1}), single_tokens(encode, words)
    split = [word for word in words if len(encode(f" {word}")) != 1]
    unfit = {"named twice": twice, "not one token with the space before": split}
    unfit["the same token as another word"] = [w for w in words if w not in {*single, *split}]
    unfit[f"not in a vocabulary of {vocab} tokens"] = [w for w in single if encode(f" {w}")[0] >= vocab]
    return [f"{what}: {', '.join(which)}" for what, which in unfit.items() if which]


def _unjoined(encode: Encode, pieces: Sequence[str]) -> list[str]:
    """The problems of the tokens of a whole text, if they are not those of its pieces."""
    whole = encode("".join(pieces))
    apart = [token for piece in pieces for token in encode(piece)]
    return [] if whole == apart else [f"the tokens of {''.join(pieces)!r} are not those of its pieces, {pieces}"]


def _table(encode: Encode, texts: Sequence[str]) -> Int[Tensor, "texts longest"]:
    """The tokens of each text, and -1 beyond."""
    encoded = [encode(text) for text in texts]
    longest = max(map(len, encoded))
    return torch.tensor([tokens + [-1] * (longest - len(tokens)) for tokens in encoded])


def _words(encode: Encode, words: Sequence[str]) -> Int[Tensor, " words"]:
    """The token of each word."""
    return torch.tensor([encode(f" {word}")[0] for word in words])


def _packed(
    wide: Int[Tensor, "batch w"],
    answers: Int[Tensor, " batch"],
    places: Int[Tensor, " batch"],
    options: Bool[Tensor, "batch vocab"],
) -> TokenPrompts:
    """Texts without the gaps (-1) between their pieces, with the target at the last token."""
    lengths = (wide >= 0).sum(1, keepdim=True)
    tokens = wide.gather(1, (wide < 0).long().argsort(dim=1, stable=True))[:, : int(lengths.max())]
    at = torch.arange(tokens.shape[1], device=wide.device)
    tokens = torch.where(at < lengths, tokens, tokens.gather(1, lengths - 1))
    answers, places = (each.unsqueeze(1).expand(tokens.shape) for each in (answers, places))
    return TokenPrompts(tokens, answers, at == lengths - 1, places, options)


class Text(TokenTask):
    """Texts in the tokens of a tokenizer, each of which asks once, at its end. Their vocabulary is large, so that
    answers are looked at there alone."""

    def held(self) -> dict[str, int]:
        return {"the vocabulary": self.vocab}


# ---- the laundry list ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LaundryText(Text):
    """A shopping list of `length` of the `words`, then all but one again in random order. Place k is the k-th word of
    the list (from 0) as the missing one; places take turns. Openers are drawn."""

    encode: Encode
    vocab: int
    length: int = 8
    words: tuple[str, ...] = OBJECTS

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def _problems(self) -> list[str]:
        problems = _unfit(self.encode, self.words, self.vocab)
        joints = [joint for joint in JOINTS if len(self.encode(joint)) != 1]
        problems += [f"not one token: {', '.join(map(repr, joints))}"] if joints else []
        if not 2 <= self.length <= len(self.words):
            problems.append(
                f"length must lie between 2 and the number of words, {len(self.words)}, given {self.length}"
            )
        return problems or _unjoined(self.encode, list(self._example()))

    def _example(self) -> Iterator[str]:
        listed, last = self.words[: self.length], self.length - 1
        yield HEADS[0]
        for i, word in enumerate(listed):
            yield from (_article(word), f" {word}", *([","] if i < last - 1 else [" and"] if i < last else []))
        yield MIDDLES[0]
        for i, word in enumerate(listed[1:]):
            yield from (" the", f" {word}", *([","] if i < last - 1 else []))
        yield TAIL

    @property
    def n(self) -> int:
        """Returns the length of the longest text."""
        around = [max(len(self.encode(text)) for text in texts) for texts in (HEADS, MIDDLES, [TAIL])]
        return sum(around) + 6 * self.length - 5

    def balanced_batch(self, batch: int) -> int:
        return -(-batch // self.length) * self.length

    def draw(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        ids = _words(self.encode, self.words).to(rng.device)
        listed = without_replacement(batch, len(self.words), rng)[:, : self.length]
        missing = torch.arange(batch, device=rng.device) % self.length
        keys = torch.rand(batch, self.length, generator=rng, device=rng.device)
        order = keys.scatter(1, missing.unsqueeze(1), 2.0).argsort(1)[:, :-1]  # of the others
        heads, middles = (self._drawn(texts, batch, rng) for texts in (HEADS, MIDDLES))
        parts = [heads, self._first(ids, listed), middles, self._second(ids[listed.gather(1, order)])]
        tail = _table(self.encode, [TAIL]).to(rng.device).expand(batch, -1)
        answers = ids[listed.gather(1, missing.unsqueeze(1))].squeeze(1)
        return _packed(torch.cat([*parts, tail], 1), answers, missing, marked(batch, self.vocab, ids[listed]))

    def _drawn(self, texts: Sequence[str], batch: int, rng: torch.Generator) -> Int[Tensor, "batch longest"]:
        which = torch.randint(len(texts), (batch,), generator=rng, device=rng.device)
        return _table(self.encode, texts).to(rng.device)[which]

    def _joint(self, text: str) -> int:
        return self.encode(text)[0]

    def _first(self, ids: Int[Tensor, " words"], listed: Int[Tensor, "batch n"]) -> Int[Tensor, "batch m"]:
        """a pen, a cup and an orange"""
        articles = torch.tensor([self._joint(_article(word)) for word in self.words], device=ids.device)
        after = torch.full((self.length,), self._joint(","), device=ids.device)
        after[-2], after[-1] = self._joint(" and"), -1
        return torch.stack([articles[listed], ids[listed], after.expand(listed.shape)], 2).flatten(1)

    def _second(self, named: Int[Tensor, "batch n"]) -> Int[Tensor, "batch m"]:
        """the orange, the pen"""
        the, after = torch.full_like(named, self._joint(" the")), torch.full_like(named, self._joint(","))
        after[:, -1] = -1
        return torch.stack([the, named, after], 2).flatten(1)


def _article(word: str) -> str:
    return " an" if word[0] in "aeiou" else " a"


# ---- the indirect object -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class IndirectObjectText(Text):
    """Two are named, one of them gives: who is given? Prompts 2i and 2i + 1 differ in the order of the first two names
    and in nothing else. Place 0 is an indirect object that was named first, as in prompts 2i, place 1 the other."""

    encode: Encode
    vocab: int
    names: tuple[str, ...] = NAMES
    templates: tuple[Template, ...] = TEMPLATES

    def __post_init__(self) -> None:
        admit(self, self._problems)

    def _problems(self) -> list[str]:
        problems = _unfit(self.encode, self.names, self.vocab)
        few = len(self.names) < LEAST_NAMES
        problems += [f"names must be at least {LEAST_NAMES}, given {len(self.names)}"] if few else []
        problems += [] if self.templates else ["no template"]
        if not problems:
            problems = [one for template in self.templates for one in _unjoined(self.encode, self._example(template))]
        return problems

    def _example(self, template: Template) -> list[str]:
        middle, tail = template.middle.format(place=PLACES[0]), template.tail.format(thing=THINGS[0])
        one, other = (f" {name}" for name in self.names[:2])
        return [template.head, one, " and", other, middle, one, tail]

    @property
    def n(self) -> int:
        """Returns the length of the longest text."""
        return sum(table.shape[1] for table in self._tables()) + len(self.encode(" and")) + 3

    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Heads, middles with every place, tails with every thing."""
        middles = [one.middle.format(place=place) for one in self.templates for place in PLACES]
        tails = [one.tail.format(thing=thing) for one in self.templates for thing in THINGS]
        heads = [one.head for one in self.templates]
        return _table(self.encode, heads), _table(self.encode, middles), _table(self.encode, tails)

    def balanced_batch(self, batch: int) -> int:
        return batch + batch % 2

    def draw(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        pairs = -(-batch // 2)
        ids = _words(self.encode, self.names).to(rng.device)
        of, giver = ids[without_replacement(pairs, len(ids), rng)[:, :2]].repeat_interleave(2, 0).T
        swapped = torch.arange(2 * pairs, device=rng.device) % 2
        first, second = torch.where(swapped == 1, giver, of), torch.where(swapped == 1, of, giver)
        head, middle, tail = self._drawn(pairs, rng)
        joint = torch.tensor(self.encode(" and"), device=rng.device).expand(2 * pairs, -1)
        columns = [head, first.unsqueeze(1), joint, second.unsqueeze(1), middle, giver.unsqueeze(1), tail]
        options = marked(2 * pairs, self.vocab, torch.stack([of, giver], 1))
        return _packed(torch.cat(columns, 1), of, swapped, options)[:batch]

    def _drawn(self, pairs: int, rng: torch.Generator) -> list[Tensor]:
        """Head, middle and tail, the same for both prompts of a pair."""
        counts = (len(self.templates), len(PLACES), len(THINGS))
        which, place, thing = (torch.randint(k, (pairs,), generator=rng, device=rng.device) for k in counts)
        rows = (which, which * len(PLACES) + place, which * len(THINGS) + thing)
        tables = zip(self._tables(), rows, strict=True)
        return [table.to(rng.device)[row].repeat_interleave(2, 0) for table, row in tables]

    def unrelated(self, prompts: TokenPrompts, rng: torch.Generator) -> Int[Tensor, "batch n"]:
        """Returns the texts of prompts with three other names, all different, in the places of theirs: no one is named
        twice, and no one is the indirect object."""
        ids = _words(self.encode, self.names).to(prompts.tokens.device)
        keys = torch.rand(len(prompts.tokens), len(ids), generator=rng, device=rng.device)
        others = ids[keys.masked_fill(prompts.options[:, ids], 2.0).argsort(1)[:, :3]]
        return prompts.tokens.masked_scatter(prompts.options.gather(1, prompts.tokens), others)
