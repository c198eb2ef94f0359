"""The page of errata names every statement that was published wrong, and its counterexamples are such."""

import re
from importlib.resources import files

import pytest

from iclab.commands import theorems
from iclab.constructed import THEOREMS
from tests.commands.test_cli import call
from tests.constructed.test_constructed import halving

WRONG = {each.name: each for each in THEOREMS if each.expected == "fails"}
PAGE = (files("iclab.constructed") / "ERRATA.md").read_text()
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def test_every_statement_that_was_published_wrong_is_on_the_page_and_no_other():
    assert SECTIONS.keys() == WRONG.keys(), "print it anew: iclab errata > iclab/constructed/ERRATA.md"
    assert PAGE.startswith(theorems.HEADING)
    assert re.findall(r"^\|.*`(\S+)` \|$", PAGE, re.MULTILINE) == list(WRONG)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_says_what_is_printed_and_what_holds(name):
    wrong, section = WRONG[name], SECTIONS[name]
    for text in (wrong.paper, wrong.statement, wrong.reason, wrong.corrected.paper, wrong.corrected.statement):
        assert text in section
    assert f"`{wrong.corrected.name}`" in section and "arXiv" in wrong.paper


@pytest.mark.parametrize("name", SECTIONS)
def test_the_counter_example_on_the_page_breaks_what_was_printed_and_not_what_holds(name):
    (code,) = re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL)
    assert len(code.strip().splitlines()) <= 6 and f'named("{name}")' in code
    exec(code, {})
    with pytest.raises(AssertionError):
        exec(code.replace(f'"{name}"', f'"{WRONG[name].corrected.name}"'), {})


def test_the_page_is_what_the_command_prints(capsys, monkeypatch):
    wrong = halving(0.1, corrected=halving())
    monkeypatch.setattr(theorems, "THEOREMS", [halving(), wrong])
    code, out, _ = call(capsys, "errata", "--examples", "20")
    assert code == 0 and out.startswith(theorems.HEADING)
    assert out.count("\n## halving\n") == 1
    assert 'case = Case(seed=0, d=2, size=0.25, variant="a")' in out
    assert "the error is 0.12, and 0.1 would be allowed" in out


def test_a_statement_without_counter_example_gets_no_section(capsys, monkeypatch):
    monkeypatch.setattr(theorems, "THEOREMS", [halving(corrected=halving())])
    code, out, err = call(capsys, "errata", "--examples", "20")
    assert code == 2 and not out
    assert "halving: no counterexample among" in err
