"""Folders of weights with one thing wrong or odd: what loads answers as transformers does, the rest is refused."""

import shutil

import pytest
import torch

pytest.importorskip("transformers")

from iclab.models.pretrained import load_pretrained
from tests.faults.weights import KINDS, MUTATIONS, SOUND, TOKENS, mutate, original, outcome

OFTEN = {
    "a byte of the header": 4,
    "settings flipped": 4,
    "a size of another value": 6,
    "a setting of another value": 4,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A sound folder of each kind, and its logits."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        made[kind] = folder, original(kind, folder)
    return made


@pytest.fixture
def copied(folders, tmp_path):
    """A copy of a sound folder to be changed, and the logits of the sound one."""

    def copy(kind):
        folder, logits = folders[kind]
        return shutil.copytree(folder, tmp_path / "model"), logits

    return copy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_folder_loads_as_in_the_library_or_is_refused_in_a_line(name, kind, copied, tmp_path):
    for seed in range(OFTEN.get(name, 1)):
        folder, logits = copied(kind)
        mutate(folder, name, seed)
        found = outcome(folder, load_pretrained, logits)
        assert found == "loaded" or name not in SOUND, (name, seed)
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_folder_loads(kind, copied):
    folder, logits = copied(kind)
    assert outcome(folder, load_pretrained, logits) == "loaded"


@torch.no_grad()
def reads_out_with_the_embedding(folder):
    one = load_pretrained(folder)
    one.read_out.weight.copy_(one.read_in.weight)
    return one


def refuses_in_two_lines(folder):
    try:
        return load_pretrained(folder)
    except ValueError as error:
        raise type(error)(f"{error}\nand more") from None


def falls_over(folder):
    raise KeyError("weight_map")


@pytest.mark.parametrize(
    ("cheat", "name", "error"),
    [
        (reads_out_with_the_embedding, "another read out", AssertionError),
        (refuses_in_two_lines, "a weight dropped", AssertionError),
        (falls_over, "an index of another kind", KeyError),
    ],
)
def test_the_law_can_be_broken(cheat, name, error, copied):
    folder, logits = copied("gpt2")
    mutate(folder, name, 0)
    with pytest.raises(error):
        outcome(folder, cheat, logits)


def test_the_logits_that_are_compared_are_not_all_alike(folders):
    for _, logits in folders.values():
        assert logits.shape == (*TOKENS.shape, 20) and logits.std() > 0.3
