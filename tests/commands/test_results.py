"""Pages made of results: what they show is what is kept, and a sentence that is not true is refused."""

import shutil

import pytest

from iclab import cli
from iclab.commands.results import DIGESTS, Book
from iclab.experiments.study import Study
from iclab.files import read_json
from iclab.runs.store import Run
from tests.runs.test_results import sweep  # noqa: F401  (a fixture)

SCRIPT = """\"\"\"Risks by position.

    python figures/risks.py [FOLDER]

Left: none.
\"\"\"
import matplotlib.pyplot as plt
import iclab
from iclab import plots
STUDY = "study"
def draw(table):
    figure, axes = plt.subplots()
    plots.curves(table, axes, ["transformer", "ridge"])
    return figure
if __name__ == "__main__":
    plots.command(__doc__, draw, iclab.load, STUDY)
"""
PAGE = """# A page

<!-- results: study -->
Old words.
<!-- end -->

It learns at the little noise. <!-- holds: study: It learns at the little
noise -->

<!-- results: study runs -->
<!-- end -->
<!-- results: study layers task.noise=0.5 seed=1 -->
<!-- end -->
<!-- results: all tally -->
<!-- end -->
"""


@pytest.fixture
def folder(sweep):  # noqa: F811
    """Figures, task files and a page, beside the runs of a study."""
    figures = sweep.parent / "figures"
    figures.mkdir()
    (figures / "risks.py").write_text(SCRIPT)
    (figures / "README.md").write_text(PAGE)
    (sweep.parent / "tasks").mkdir()
    shutil.copy(sweep / "study.toml", sweep.parent / "tasks" / "study.toml")
    return figures


def make(folder, runs=True):
    words = ["results", str(folder), *(["--runs", str(folder.parent / "study")] if runs else [])]
    return cli.main(words)


def page(folder):
    return (folder / "README.md").read_text()


def test_a_page_is_made_of_results_and_once_more_without_the_runs(folder, capsys):
    assert make(folder) == 0
    assert "kept" in capsys.readouterr().out
    first = page(folder)
    assert "| It learns at the little noise | ≤ 0.05 | typical | 0.011 [" in first and "| fails |" in first
    assert "6 runs, 0.2 minutes of one core." in first and "Old words" not in first
    assert "![A study for tests](results/risks.png)\n\nRisks by position. Left: none." in first
    assert "after layer" in first and "0.30 ± 0.10" in first
    assert (folder / "results" / "risks.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert read_json(folder / "results" / DIGESTS).keys() == {"risks"}
    shutil.rmtree(folder.parent / "study")
    assert make(folder, runs=False) == 0
    assert page(folder) == first == Book.of(folder).filled(folder / "README.md")


def test_a_changed_number_in_a_page_or_in_results_is_seen(folder):
    make(folder)
    made = page(folder)
    (folder / "README.md").write_text(made.replace("0.011 [", "0.010 ["))
    assert Book.of(folder).filled(folder / "README.md") == made != page(folder)
    results = folder / "results" / "study.json"
    results.write_text(results.read_text().replace("0.011 [", "0.012 ["))
    assert Book.of(folder).filled(folder / "README.md") != made


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("fails: study: It learns at the little noise", "the page says fails, the results holds"),
        ("holds: study: It learns at any noise", "unknown claim 'It learns at any noise'. Did you mean"),
        ("holds: studies: It learns", "unknown study 'studies'. Did you mean 'study'"),
    ],
)
def test_a_sentence_that_is_not_true_is_refused(folder, capsys, sentence, reason):
    (folder / "README.md").write_text(f"{PAGE}\n<!-- {sentence} -->\n")
    assert make(folder) == cli.BAD_USAGE
    assert reason in capsys.readouterr().err
    assert page(folder) == f"{PAGE}\n<!-- {sentence} -->\n"


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ("results: studdy", "unknown study 'studdy'"),
        ("results: study clams", "unknown part 'clams'"),
        ("results: study layers noise=3", "unknown setting 'noise'"),
    ],
)
def test_a_part_that_is_not_known_is_refused(folder, capsys, mark, reason):
    (folder / "README.md").write_text(f"<!-- {mark} -->\n<!-- end -->\n")
    assert make(folder) == cli.BAD_USAGE
    assert reason in capsys.readouterr().err


def test_pages_next_to_the_folder_and_in_docs_are_made_too(folder):
    docs = folder.parent / "docs"
    (docs / "deep").mkdir(parents=True)
    for path in (docs / "deep" / "page.md", folder.parent / "page.md"):
        path.write_text("<!-- results: study figures -->\n<!-- end -->\n")
    (docs / "claims.md").write_text("It learns. <!-- fails: study: It learns at the little noise -->\n")
    (docs / "other.md").write_text("Nothing of results.\n")
    book = Book.of(folder)
    assert {path.name for path in book.pages()} == {"README.md", "page.md", "claims.md"} and len(book.pages()) == 4
    assert make(folder) == cli.BAD_USAGE  # of a page without parts the sentences are checked as well
    (docs / "claims.md").unlink()
    assert make(folder) == 0
    assert "](../../figures/results/risks.png)" in (docs / "deep" / "page.md").read_text()
    assert "](figures/results/risks.png)" in (folder.parent / "page.md").read_text()


def test_what_was_not_run_is_said_to_be(folder):
    assert make(folder, runs=False) == cli.BAD_USAGE  # its sentence says that a claim holds
    (folder / "README.md").write_text(PAGE.replace("holds:", "not run:"))
    assert make(folder, runs=False) == 0
    assert "Not run with the present settings." in page(folder)
    assert "| It learns | ≤ 0.05 | typical |  |  |  |  | not run |" in page(folder)


def test_a_claim_or_a_cell_that_changed_since_counts_as_not_run(folder):
    make(folder)
    task = folder.parent / "tasks" / "study.toml"
    task.write_text(
        task.read_text().replace("at_most = 0.05\n[[", "at_most = 0.06\n[[").replace("[0, 1, 2]", "[0, 1, 3]")
    )
    (folder / "README.md").write_text(PAGE)
    assert make(folder, runs=False) == 0
    assert "| It learns | ≤ 0.06 | typical |  |  |  |  | not run |" in page(folder)
    assert "2 of 6 not run." in page(folder)


def test_runs_of_no_study_are_passed_over_and_none_are_refused(folder, capsys):
    other = folder.parent / "runs" / "other"
    cell = Study.read(folder.parent / "tasks" / "study.toml").cells[0]
    Run(other / cell.experiment.id).create(cell.settings)
    (folder / "README.md").write_text("Nothing.\n")
    assert cli.main(["results", str(folder), "--runs", str(other.parent)]) == 0
    assert not list((folder / "results").glob("*.json"))
    assert cli.main(["results", str(folder), "--runs", str(folder)]) == cli.BAD_USAGE
    assert "holds no runs" in capsys.readouterr().err
    assert cli.main(["results", str(folder.parent / "tasks")]) == cli.BAD_USAGE
    assert "has no scripts" in capsys.readouterr().err
