"""The project's English: phrases that docs/contributing.md rules out are not in README, docs, help and prose."""

import re
from pathlib import Path

import pytest

from iclab import cli

ROOT = Path(__file__).parents[2]
RULE = ROOT / "docs" / "contributing.md"
TABLE = re.compile(r"\| write \| not \|\n\|---\|---\|\n((?:\|.*\|\n)+)")
NOT_PROSE = re.compile(r"<!-- results:.*?<!-- end -->|<!--.*?-->|```.*?```|`[^`\n]*`", re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "paper_figs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}
TEXTS |= {f"iclab {name} --help": command.__doc__ for name, command in cli.COMMANDS.items()}
TEXTS |= {"iclab --help": cli.DESCRIPTION}


def ruled_out():
    """The phrases in the second column of the table."""
    rows = TABLE.search(RULE.read_text())[1].splitlines()
    return [phrase.strip() for row in rows for phrase in row.strip("| ").split(" | ")[1].split(",")]


def phrases_in(text):
    """The phrases that are in the prose of a text, whatever its line breaks and capitals."""
    prose = " ".join(NOT_PROSE.sub(" ", TABLE.sub("", text)).lower().split())
    return [phrase for phrase in ruled_out() if re.search(rf"\b{re.escape(phrase)}\b", prose)]


@pytest.mark.parametrize("place", TEXTS)
def test_the_prose_has_none_of_the_phrases_that_are_ruled_out(place):
    assert phrases_in(TEXTS[place]) == []


def test_there_are_pages_help_and_phrases():
    assert len(ruled_out()) > 20 and len(PAGES) > 20 and len(TEXTS) > len(PAGES) + 15


def test_a_phrase_is_noticed_in_prose_alone():
    assert phrases_in("It is inside of\nthe bound.") == ["inside of the bound"]
    assert phrases_in("Hand in the arrays, which wait.") == ["hand in"]
    assert phrases_in("`asks whether` <!-- holds: study: It asks whether --> caregiver\n```\nby heart\n```\n") == []
    assert phrases_in("<!-- results: study -->\nby heart\n<!-- end -->\nby heart") == ["by heart"]
