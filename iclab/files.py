"""Files that are whole or not there: written under a temporary name, synced, then renamed into place. JSON in them
is strict."""

import json
import os
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Replaces `path` by `content` in one step; a crash at any moment leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON (RFC 8259), whole: what is not finite, for which it has no word, is null."""
    write_whole(path, json.dumps(_strict(value), indent=1, allow_nan=False).encode())


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
