"""Files: written whole or not at all, and read only where they can be.

What is written is written under a temporary name, synced, then renamed into place. What is read may come from anyone:
only regular files are opened (a pipe would be waited for without end), no text is longer than `LARGEST_TEXT`, and
whatever is wrong with a file is a `UsageError` of one line that names it. JSON that is written is strict.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

from iclab.errors import UsageError, refuse
from iclab.renamed import old_names

LARGEST_TEXT = 2**26  # bytes; tokenizers of public models reach 35 MB, configs and task files some kB


def atomic_write(path: Path, content: bytes) -> None:
    """Replaces `path` by `content` in one step; a crash at any moment leaves the old file or the new one. Raises
    ``OSError`` that names `path`."""
    try:
        _write_whole(path, content)
    except FileNotFoundError:  # a sweep on another machine, which does not see this process, may have tidied up
        _write_whole(path, content)


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Adds the name of the intended file to an ``OSError``: a failed write names none, and that of a temporary file is
    no help."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def regular(path: Path | str) -> Path:
    """Returns the path of a regular file, or of a link to one. Raises `UsageError` for anything else: what is missing,
    a folder, a pipe, a device."""
    path = Path(path)
    with readable(path):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    refuse(f"{path}", [] if stat.S_ISREG(mode) else ["not a regular file"])
    return path


def read_bytes(path: Path | str, most: int = LARGEST_TEXT) -> bytes:
    """Reads a file of at most so many bytes. Raises `UsageError`."""
    path = regular(path)
    with readable(path), open(path, "rb") as file:
        content = file.read(most + 1)
    refuse(f"{path}", [f"longer than {most} bytes"] if len(content) > most else [])
    return content


def read_text(path: Path | str) -> str:
    """Reads a file of UTF-8 text. Raises `UsageError`."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None


def read_json(path: Path | str) -> Any:
    """Reads a file of JSON, of whatever kind its value is. Raises `UsageError`."""
    return parse_json(read_text(path), path)


def parse_json(text: str, source: object) -> Any:
    """Reads JSON. Raises `UsageError` that names where it came from."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UsageError(f"{source}: not JSON that can be read: nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{source}: not JSON: {error}") from None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns a system error about a file into a refusal."""
    try:
        yield
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file.{_nearest(path)}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None


def _nearest(path: Path) -> str:
    try:
        beside = os.listdir(path.parent)
    except OSError:
        return ""
    nearest = get_close_matches(path.name, beside, n=1, cutoff=0.5)
    return f" Did you mean {path.parent / nearest[0]}?" if nearest else ""


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON (RFC 8259), whole: what is not finite, for which it has no word, is null."""
    atomic_write(path, json.dumps(_strict(value), indent=1, allow_nan=False).encode())


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


__getattr__ = old_names(__name__, write_whole="atomic_write")
