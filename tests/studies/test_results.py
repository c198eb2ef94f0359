"""The results that are kept in paper_figs: pages say what they say, claims are judged by them as recorded, and every
figure is drawn from them."""

import runpy
import sys
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from iclab.commands.results import DIGESTS, Book
from iclab.experiments.verdicts import judge
from iclab.files import read_json
from iclab.plots import contents
from iclab.runs.results import cells, read

ROOT = Path(__file__).parents[2]
KEPT = sorted(
    path
    for path in (ROOT / "paper_figs" / "results").glob("*.json")
    if (ROOT / "tasks" / f"{path.stem}.toml").is_file()
)
DRAWN_AT_ONCE = ("linear_regression", "induction")


@cache
def book():
    return Book.of(ROOT / "paper_figs")


def test_results_are_few_and_small():
    assert len(KEPT) > 15
    assert sum(path.stat().st_size for path in KEPT) < 5e6


def test_pages_say_what_the_results_say():
    pages = {page.relative_to(ROOT).as_posix(): page for page in book().pages()}
    assert pages.keys() >= {"README.md", "paper_figs/README.md", "docs/quickstart.md"}
    for name, page in pages.items():
        assert page.read_text() == book().filled(page), f"{name} differs from the results: `make results` renews it"


@pytest.mark.parametrize("path", KEPT, ids=[path.stem for path in KEPT])
def test_claims_are_judged_by_what_is_kept_as_recorded(path):
    content = read(path)
    claims = {claim.name: claim for claim in book().studies[path.stem].heading.claims}
    recorded = {one["claim"]: one for one in content["verdicts"]}
    if recorded.keys() != claims.keys():
        pytest.skip("the claims are others since, which the page says")
    for verdict in judge(claims.values(), cells(content)):
        one = recorded[verdict.claim.name]
        if one["expected"] == verdict.claim.expected:
            assert (verdict.outcome, verdict.measured) == (one["outcome"], one["measured"]), verdict.claim.name


SCRIPTS = [
    pytest.param(script, id=script.stem, marks=[] if study in DRAWN_AT_ONCE else [pytest.mark.slow])
    for study, script in (
        (runpy.run_path(str(path)).get("STUDY"), path) for path in sorted((ROOT / "paper_figs").glob("*.py"))
    )
    if (ROOT / "paper_figs" / "results" / f"{study}.json").is_file()
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_alone_draws_what_is_kept(script, monkeypatch):
    picture, saved = script.parent / "results" / f"{script.stem}.png", []
    assert picture.is_file()
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: saved.append(path))
    monkeypatch.setattr(sys, "argv", [str(script)])
    runpy.run_path(str(script), run_name="__main__")
    plt.close("all")
    assert saved == [picture]


@pytest.mark.parametrize("script", book().drawn(), ids=lambda script: script.path.stem)
def test_a_picture_shows_what_its_script_draws_of_what_is_kept(script):
    drawn = contents(script.draw, script.load(book().source(script)))
    assert drawn == read_json(book().results / DIGESTS)[script.path.stem], "`make results` draws it anew"
