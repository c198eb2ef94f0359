"""Texts for a language model as one task that a file can name: they are spelled in the tokens of a `tokenizer.json`.

The prompts are texts with an indirect object; shopping lists of several lengths are its parts. Both are those of
`iclab.tasks.text`, on the words that are one token each; lists that are longer than such words are left out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch

from iclab.errors import UsageError
from iclab.files import read_text
from iclab.limits import admit
from iclab.tasks.text import LEAST_NAMES, NAMES, OBJECTS, Encode, IndirectObjectText, LaundryText, Text, single_tokens
from iclab.tasks.tokens.prompts import TokenPrompts, TokenTask

LEAST_OBJECTS = 10  # of which the longest list that papers tell of by itself is made


@dataclass(frozen=True)
class RecallText(Text):
    """Who is given something, or what is missing from a list of one of the `lengths`, as English text.

    `path` is a file of the package tokenizers, or a folder with a `tokenizer.json`; `vocab` is the model's, which may
    be larger than the tokenizer's. `digest` stands for the file; it is filled in, and a file that is another than it
    says is refused.
    """

    path: str
    vocab: int
    lengths: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20)
    digest: str | None = None

    def __post_init__(self) -> None:
        admit(self, self._problems)
        object.__setattr__(self, "path", str(self._file))
        object.__setattr__(self, "digest", self._tokenizer.digest)

    def _problems(self) -> list[str]:
        found = [] if self.lengths and min(self.lengths) >= 2 else ["lists have two items or more"]
        digest, size = self._tokenizer.digest, self._tokenizer.size
        changed = self.digest not in (None, digest)
        found += [f"path: {self._file} has changed: it is {digest}, not {self.digest}"] if changed else []
        found += [f"the tokenizer has {size} tokens, the model {self.vocab}"] if size > self.vocab else []
        return found + self._too_few()

    def _too_few(self) -> list[str]:
        """What stands against texts of the words that are one token each."""
        kinds = {
            "objects": (OBJECTS, self.objects, LEAST_OBJECTS, "lists"),
            "names": (NAMES, self.names, LEAST_NAMES, "texts with an indirect object"),
        }
        return [
            f"{len(single)} of the {len(words)} {kind} are a token of their own with the space before them, and "
            f"{what} need {least} (a tokenizer of few words splits all others, or takes them for the same)"
            for kind, (words, single, least, what) in kinds.items()
            if len(single) < least
        ]

    # ---- the tokenizer ---------------------------------------------------------------------------------------------

    @property
    def _file(self) -> Path:
        place = Path(self.path).expanduser().resolve()
        return place / "tokenizer.json" if place.is_dir() else place

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        return _read(self._file, read_text(self._file))

    @property
    def encode(self) -> Encode:
        """Returns how the tokenizer splits text."""
        return self._tokenizer.encode

    @cached_property
    def objects(self) -> tuple[str, ...]:
        """Returns the words for things that are one token each."""
        return single_tokens(self.encode, OBJECTS)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Returns the names that are one token each."""
        return single_tokens(self.encode, NAMES)

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Returns the words of each kind that are not."""
        told: dict[str, tuple[Sequence[str], Sequence[str]]] = {
            "objects": (OBJECTS, self.objects),
            "names": (NAMES, self.names),
        }
        return {kind: sorted({*words} - {*single}) for kind, (words, single) in told.items()}

    # ---- prompts ---------------------------------------------------------------------------------------------------

    @cached_property
    def text(self) -> IndirectObjectText:
        """Returns the task of its own prompts."""
        return IndirectObjectText(self.encode, self.vocab, self.names)

    @cached_property
    def lists(self) -> dict[str, LaundryText]:
        """Returns the task of each length, by the name of its distribution."""
        fit = [length for length in self.lengths if length <= len(self.objects)]
        return {f"{length}_items": LaundryText(self.encode, self.vocab, length, self.objects) for length in fit}

    def parts(self) -> Mapping[str, TokenTask]:
        return self.lists

    @property
    def n(self) -> int:
        """Returns the length of the longest text with an indirect object."""
        return self.text.n

    def balanced_batch(self, batch: int) -> int:
        return self.text.balanced_batch(batch)

    def draw(self, batch: int, rng: torch.Generator) -> TokenPrompts:
        return self.text.draw(batch, rng)


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """How a file splits text, its number of tokens, and twelve digits that stand for what it holds."""

    encode: Encode
    size: int
    digest: str


@lru_cache(4)
def _read(file: Path, text: str) -> Tokenizer:
    """The tokenizer in the text of a file. Raises ``ValueError`` where this holds none."""
    try:
        import tokenizers
    except ImportError:
        raise UsageError("text needs the package tokenizers: pip install 'iclab[text]'") from None
    try:
        read = tokenizers.Tokenizer.from_str(text)
        read.encode(" ".join((*OBJECTS, *NAMES)), add_special_tokens=False)  # words that it does not know may be errors
    except Exception as error:  # the library has no kind of its own
        raise UsageError(f"{file}: no tokenizer: {error}") from None
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Tokenizer(lambda text: read.encode(text, add_special_tokens=False).ids, read.get_vocab_size(), digest)
