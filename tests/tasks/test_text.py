"""Texts say what they are said to, in tokens that are those of the whole text; what cannot be asked is refused."""

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from iclab.analysis.heads.movers import named
from iclab.experiments.config import kinds
from iclab.tasks import TokenTask
from iclab.tasks.text import (
    HEADS,
    MIDDLES,
    NAMES,
    OBJECTS,
    TAIL,
    TEMPLATES,
    IndirectObjectText,
    LaundryText,
    Template,
    single_tokens,
)
from tests.conftest import generator


def test_a_tokenizer_that_adds_tokens_to_every_text_is_told_so():
    words = Words()
    for task in (LaundryText, IndirectObjectText):
        with pytest.raises(
            ValueError, match=r"adds special tokens to every text.*\[7\] \(BOS.*add_special_tokens=False"
        ):
            task(lambda text: [7, *words(text)], 200)


class Words:
    """Splits text into words, each with the space before it, and marks; numbers are given as words are met."""

    def __init__(self, several=()):
        self.known, self.several = {}, several

    def __call__(self, text):
        pieces = [piece for one in re.findall(r" ?\w+|[^\w\s]", text) for piece in self._split(one)]
        return [self.known.setdefault(piece, len(self.known)) for piece in pieces]

    def _split(self, piece):
        return [piece[:3], piece[3:]] if piece.strip() in self.several else [piece]

    def text(self, tokens):
        words = {number: piece for piece, number in self.known.items()}
        return "".join(words[token] for token in tokens)


def told(encode, prompts):
    """Each prompt as text, up to where it asks, with its answer."""
    for row, asked, target in zip(
        prompts.tokens.tolist(), prompts.answer_mask.tolist(), prompts.targets.tolist(), strict=True
    ):
        end = asked.index(True)
        assert sum(asked) == 1 and set(row[end:]) == {row[end]}  # beyond the end nothing is said
        yield encode.text(row[: end + 1]), encode.text([target[end]]).strip()


def with_article(word):
    return f" {'an' if word[0] in 'aeiou' else 'a'} {word}"


def assert_one_is_missing(encode, prompts):
    """The text is a list, and then all of it but the answer; gives the openers that were used."""
    heads, middles = set(), set()
    for (text, answer), place in zip(told(encode, prompts), prompts.case_ids[:, 0].tolist(), strict=True):
        head = next(h for h in HEADS if text.startswith(f"{h} a"))
        middle = next(m for m in MIDDLES if m in text)
        first, second = text.removeprefix(head).split(middle)
        listed, again = re.findall(r" an? (\w+)", first), re.findall(r" the (\w+)", second)
        assert len(listed) == len(set(listed)) and sorted([*again, answer]) == sorted(listed)
        assert listed[place] == answer
        assert first == ",".join(map(with_article, listed[:-1])) + " and" + with_article(listed[-1])
        assert second == ",".join(f" the {word}" for word in again) + TAIL
        heads, middles = heads | {head}, middles | {middle}
    return heads, middles


@pytest.mark.parametrize("length", [2, 3, 8, 20, 22])
def test_the_answer_is_the_only_listed_word_that_is_not_named_again(length):
    encode = Words()
    task = LaundryText(encode, 500, length)
    prompts = task.sample(task.balanced_batch(30), generator(length))
    assert prompts.options.sum(1).tolist() == [length] * len(prompts.tokens)
    assert assert_one_is_missing(encode, prompts) == ({*HEADS}, {*MIDDLES})
    assert prompts.tokens.shape[1] <= task.n


def test_the_law_of_lists_can_fail():
    encode = Words()
    prompts = LaundryText(encode, 500, 4).sample(12, generator())
    for cheat in ({"targets": prompts.targets.roll(1, 0)}, {"case_ids": prompts.case_ids.roll(1, 0)}):
        with pytest.raises(AssertionError):
            assert_one_is_missing(encode, replace(prompts, **cheat))


def test_the_tokens_are_those_of_the_whole_text_and_slots_are_where_the_words_are():
    encode = Words()
    for task in (LaundryText(encode, 500, 5), IndirectObjectText(encode, 500)):
        prompts = task.sample(task.balanced_batch(60), generator(2))
        for row, (text, _) in zip(prompts.tokens.tolist(), told(encode, prompts), strict=True):
            assert encode(text) == row[: len(encode(text))]
        assert torch.equal(named(prompts).index, prompts.case_ids[:, 0])


def test_each_slot_is_asked_equally_often_and_orders_of_the_second_list_differ():
    task = LaundryText(Words(), 500, 4)
    prompts = task.sample(task.balanced_batch(101), generator())
    assert Counter(prompts.case_ids[:, 0].tolist()) == {slot: 26 for slot in range(4)}
    assert len({tuple(row) for row in prompts.tokens.tolist()}) == 104


def test_the_same_generator_gives_the_same_texts_and_another_does_not():
    for task in (LaundryText(Words(), 500, 6), IndirectObjectText(Words(), 500)):
        one, again, other = (task.sample(12, generator(seed)).tokens for seed in (1, 1, 2))
        assert torch.equal(one, again) and one.tolist() != other.tolist()


def test_two_prompts_in_a_row_differ_in_the_order_of_names_alone():
    encode = Words()
    task = IndirectObjectText(encode, 500)
    prompts = task.sample(task.balanced_batch(399), generator())
    texts = list(told(encode, prompts))
    assert len(texts) == 400 and task.n >= prompts.tokens.shape[1]
    for (one, answer), (other, same) in list(pairwise(texts))[::2]:
        names = re.findall("|".join(NAMES), one)
        assert len(names) == 3 and names[2] == names[1] and names[0] == answer == same
        swapped = re.findall("|".join(NAMES), other)
        assert swapped == [names[1], names[0], names[2]]
        assert re.sub("|".join(NAMES), "_", one) == re.sub("|".join(NAMES), "_", other)
    assert prompts.case_ids[:, 0].tolist() == [0, 1] * 200
    frames = {re.sub("|".join(NAMES), "_", text) for text, _ in texts}
    assert all(any(frame.startswith(one.head) for frame in frames) for one in TEMPLATES) and len(TEMPLATES) == 15


def test_unrelated_names_are_three_others_in_the_same_places():
    encode = Words()
    task = IndirectObjectText(encode, 500)
    prompts = task.sample(100, generator())
    other = task.unrelated(prompts, generator(1))
    ids = {encode(f" {name}")[0] for name in NAMES}
    for row, new in zip(prompts.tokens.tolist(), other.tolist(), strict=True):
        changed = [i for i, (a, b) in enumerate(zip(row, new, strict=True)) if a != b]
        assert changed == [i for i, token in enumerate(row) if token in ids] and len(changed) == 3
        found = {new[i] for i in changed}
        assert len(found) == 3 and found <= ids and not found & set(row)


# ---- the door ------------------------------------------------------------------------------------------------------


def test_all_words_that_are_several_tokens_are_named():
    encode = Words(several=("leash", "Karen", "steak"))
    assert {*OBJECTS} - {*single_tokens(encode, OBJECTS)} == {"leash", "steak"}
    with pytest.raises(ValueError, match="not one token with the space before: leash, steak"):
        LaundryText(encode, 500)
    with pytest.raises(ValueError, match="not one token with the space before: Karen"):
        IndirectObjectText(encode, 500)
    assert LaundryText(encode, 500, 20, single_tokens(encode, OBJECTS)).length == 20


def test_a_tokenizer_that_joins_pieces_is_refused():
    joined = Words()

    def encode(text):
        return joined(text.replace(", a", ",a"))

    with pytest.raises(ValueError, match="are not those of its pieces"):
        LaundryText(encode, 500)
    with pytest.raises(ValueError, match="are not those of its pieces"):
        IndirectObjectText(lambda text: joined(text[::-1]), 500)  # reads from the right


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LaundryText(Words(), 500, 23), "length must lie between 2 and the number of words, 22, given 23"),
        (lambda: LaundryText(Words(), 500, 1), "given 1"),
        (lambda: LaundryText(Words(), 500, 2, ("cup", "cup", "pen")), "named twice: cup"),
        (lambda: LaundryText(Words(several=("and",)), 500), "not one token: ' and'"),
        (lambda: IndirectObjectText(Words(), 500, NAMES[:4]), "names must be at least 5, given 4"),
        (lambda: IndirectObjectText(Words(), 500, templates=()), "no template"),
        (lambda: LaundryText(Words(), 5), "not in a vocabulary of 5 tokens: "),
    ],
    ids=["too long", "too short", "twice", "joint", "few names", "no template", "vocabulary"],
)
def test_what_cannot_be_asked_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_texts_hold_a_function_and_are_no_kind_of_task_that_a_file_can_name():
    assert "LaundryList" in kinds(TokenTask) and not {"LaundryText", "IndirectObjectText"} & kinds(TokenTask).keys()


def test_templates_can_be_given():
    encode = Words()
    task = IndirectObjectText(encode, 500, templates=(Template("So", " saw the {place}.", " kept a {thing} for"),))
    text, _ = next(told(encode, task.sample(2, generator())))
    assert text.startswith("So ") and text.endswith(" for")
