"""Docstrings as reStructuredText.

Docstrings of the package are plain text: code in backticks, formulas in Unicode, in indented blocks or with columns,
and examples as doctests. Sphinx reads reStructuredText, where *, | and a final _ have meanings of their own.
"""

import re
from collections.abc import Iterator

CODE = re.compile(r"(`+)(.+?)\1")
MARKUP = re.compile(r"([\\`*|_])")
COLUMNS = re.compile(r"\S {3,}\S")


def restructured(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring as reStructuredText that shows the same text.

    >>> restructured(["Returns |x|_2 of `x`:", "", "    y = x*x"])
    ['Returns \\\\|x\\\\|\\\\_2 of ``x``:', '', '::', '', '    y = x*x', '']
    """
    return [line for block in _blocks(lines) for line in _block(block)]


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Yields paragraphs, and indented lines with the empty lines between them."""
    block: list[str] = []
    for line in lines:
        inside = block and block[0].startswith("    ")
        if inside and line and not line.startswith(" "):
            yield block
            block = [line]
        elif not inside and block and (not line.strip() or line.startswith("    ")):
            yield block
            block = [line] if line.strip() else []
        elif block or line.strip():
            block.append(line)
    if block:
        yield block


def _block(block: list[str]) -> list[str]:
    while not block[-1].strip():
        block = block[:-1]
    if block[0].lstrip().startswith(">>>"):
        return [*block, ""]
    if block[0].startswith("    "):
        return ["::", "", *block, ""]
    if any(COLUMNS.search(line) for line in block):
        return ["::", "", *(f"    {line}" for line in block), ""]
    return [*_inline("\n".join(block)).split("\n"), ""]


def _inline(text: str) -> str:
    """Code as literals; every other character stands for itself."""
    parts, end = [], 0
    for code in re.finditer(CODE, text):
        parts += [_plain(text[end : code.start()]), f"``{code[2]}``"]
        end = code.end()
        parts += ["\\ "] if text[end : end + 1].isalnum() else []
    return "".join([*parts, _plain(text[end:])])


def _plain(text: str) -> str:
    return MARKUP.sub(r"\\\1", text)
