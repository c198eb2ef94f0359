"""What other libraries answer, kept as data, and the scripts that made it.

Weights are not kept but made anew by a formula of their names and shapes (`weight`), so that the files hold numbers of
the originals alone.
"""

import json
from pathlib import Path
from zlib import crc32

import numpy as np

HERE = Path(__file__).parent


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns weights that no two names share and that nothing leaves at zero or one; gains lie around one."""
    count = int(np.prod(shape))
    numbers = 0.4 * np.sin(1.0 + crc32(name.encode()) % 1009 + 1.7 * np.arange(count) ** 1.1).reshape(shape)
    gain = name.rsplit(".", 1)[-1] in ("w", "scale") or name.endswith("norm.weight")
    return numbers + 1.0 if gain else numbers


def write(file: Path, content: dict) -> None:
    """Writes what an original said, every digit of it."""
    file.write_text(json.dumps(content, indent=None) + "\n")


def read(file: str) -> dict:
    """Reads it."""
    return json.loads((HERE / file).read_text())
