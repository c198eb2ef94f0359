"""Files of anyone's are read whole, or refused in a line that names them."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from iclab.errors import UsageError
from iclab.files import LARGEST_TEXT, read_bytes, read_json, read_text
from iclab.models.stored import open_weights

READERS = [read_bytes, read_text, read_json, lambda path: open_weights(path).__enter__()]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (os.mkfifo, "not a regular file"),
        (os.mkdir, "cannot be read: Is a directory"),
        (lambda path: os.symlink("/dev/zero", path), "not a regular file"),
        (lambda path: os.symlink("nowhere", path), "no such file"),
        (lambda path: os.symlink(path, path), "cannot be read: Too many levels of symbolic links"),
        (lambda path: shutil.copyfile("/dev/null", path.with_name("thin")), "no such file. Did you mean .*thin?"),
    ],
)
def test_only_regular_files_are_opened(read, make, told, tmp_path):
    make(tmp_path / "thing")
    with pytest.raises(UsageError, match=f"^{tmp_path}/thing: {told}"):
        read(tmp_path / "thing")


@pytest.mark.parametrize("read", READERS)
def test_paths_that_the_system_does_not_know_are_refused(read):
    with pytest.raises(UsageError, match="cannot be read"):
        read("a\0b")
    with pytest.raises(UsageError, match="cannot be read: File name too long"):
        read("a" * 300)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"a": "mod\xe8le"}', "not UTF-8 text: invalid continuation byte at byte 10"),
        (b"\xef\xbb\xbf{}", "not JSON: Unexpected UTF-8 BOM"),
        (b"{", "not JSON: "),
        (b"", "not JSON: "),
        (b"[" * 200_000, "not JSON that can be read: nested too deeply"),
        (b"9" * 5000, "not JSON: Exceeds the limit"),
    ],
)
def test_text_that_is_no_json_is_refused_in_a_line(content, told, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UsageError, match=f"^{tmp_path}/x.json: {told}") as caught:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_longer_than_any_text_is_not_read(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        file.truncate(LARGEST_TEXT + 1)  # a hole: it takes no room on the disk
    with pytest.raises(UsageError, match=f"longer than {LARGEST_TEXT} bytes"):
        read_text(tmp_path / "x")


def test_what_is_read_is_what_the_file_holds(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"σ": [1, 2.5, None]}))
    assert read_json(tmp_path / "x.json") == {"σ": [1, 2.5, None]}
    save_file({"a": torch.arange(3)}, tmp_path / "w")
    (tmp_path / "link").symlink_to("w")
    with open_weights(tmp_path / "link") as file:
        assert file.get_tensor("a").tolist() == [0, 1, 2]


def test_files_that_hold_no_weights_are_refused_and_other_errors_are_not_hidden(tmp_path):
    save_file({"a": torch.arange(3)}, tmp_path / "w")
    whole = (tmp_path / "w").read_bytes()
    for length in (0, 7, 20, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(UsageError, match="no file of weights"), open_weights(tmp_path / "cut"):
            pass
    with pytest.raises(UsageError, match="no file of weights"), open_weights(tmp_path / "w") as file:
        file.get_tensor("b")
    with pytest.raises(ZeroDivisionError), open_weights(tmp_path / "w"):
        raise ZeroDivisionError
