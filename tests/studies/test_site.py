"""README and the documentation site: examples run, links lead somewhere, every page is listed, and the site builds."""

import doctest
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from iclab import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?!https?:)([^)#\s]+)[^)]*\)")
DISTANCE = re.compile(r"[\d.e-]+ % of")  # rounding, which differs between machines


def test_the_model_of_the_readme_is_identified_as_printed():
    ((code, printed),) = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert DISTANCE.sub("x % of", done.stdout) == DISTANCE.sub("x % of", printed)
    assert "ridge (λ ≈ 0.5)" in printed
    other = code.replace("0.5 * torch.eye", "2.0 * torch.eye")
    done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=True)
    assert "output: ridge (λ ≈ 2)" in done.stdout


def test_the_task_file_of_the_readme_is_accepted(tmp_path, monkeypatch, capsys):
    (text,) = re.findall(r"```toml\n# depth.toml\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("depth.toml").write_text(text)
    assert cli.main(["sweep", "depth.toml", "--dry-run"]) == 0
    assert "9 runs" in capsys.readouterr().out


def broken(page, text):
    """The links of a page that lead to no file; pages that are made when the site is built have no file before."""
    links = [link for link in LINK.findall(text) if not link.startswith("generated/")]
    return [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    assert broken(page, page.read_text()) == []


def test_a_broken_link_is_noticed():
    text = "[a](docs/index.md) [b](docs/nowhere.md#x) ![c](no.png) [d](https://x.org) [e](generated/x.md)"
    assert broken(ROOT / "README.md", text) == ["docs/nowhere.md"]


def test_every_page_is_in_the_contents():
    listed = re.findall(r"^([a-z_]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in PAGES[1:] if page.stem != "index")


def test_every_paper_of_a_study_is_in_the_references():
    references = (ROOT / "CITATION.cff").read_text()
    for path in (ROOT / "tasks").glob("*.toml"):
        number = re.search(r"arXiv (\d{4}\.\d{5})", path.read_text())
        assert number is None or f"https://arxiv.org/abs/{number[1]}" in references, path.stem
    assert references.count("https://arxiv.org/abs/") > 20


def docstrings():
    """The module that makes reStructuredText of docstrings."""
    spec = spec_from_file_location("docstrings", ROOT / "docs" / "docstrings.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_keep_their_text_and_their_formulas():
    module = docstrings()
    assert doctest.testmod(module).failed == 0
    text = "Fits `w`.\n\n    a_i = |x|*\n\n    b\nThen text.\n\n>>> f()\n1\n\nname   what it\nother   is"
    assert module.restructured(text.splitlines()) == [
        *("Fits ``w``.", "", "::", "", "    a_i = |x|*", "", "    b", "", "Then text.", ""),
        *(">>> f()", "1", "", "::", "", "    name   what it", "    other   is", ""),
    ]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sphinx") is None, reason="the extra iclab[docs] is not installed")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = " ".join(path.read_text() for path in (tmp_path / "generated" / "papers").glob("*.html"))
    assert all(f"{path.stem}.toml" in pages for path in (ROOT / "tasks").glob("*.toml"))
    assert "weights" in (tmp_path / "generated" / "api" / "iclab.predictors.html").read_text()
