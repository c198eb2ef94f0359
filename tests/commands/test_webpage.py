"""The page on sweeps: what it shows is what the store holds, and nothing that it shows is taken for markup."""

import json
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from html.parser import HTMLParser
from itertools import pairwise
from shutil import copytree

import pytest

from iclab import cli
from iclab.commands import bounds, webpage, zoomable
from iclab.experiments.claims import Claim
from iclab.experiments.identity import run_id
from iclab.runs.store import Run, Status, runs
from tests.browser import CHROMIUM, browser
from tests.runs.test_results import SEEDS, swept
from tests.runs.test_sweep import STUDY

HOSTILE = "<script>document.title = 'taken'; fetch('http://example.com/')</script><img src=x onerror=fetch('//x.com')>"
SCRIPT = """\"\"\"Risks by position.\"\"\"
import matplotlib.pyplot as plt
from iclab import plots
STUDY = "study"
def draw(table):
    figure, axes = plt.subplots()
    plots.curves(table, axes, ["transformer", "ridge"])
    return figure
"""


class Reader(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.inside):
            self.text.append(data)

    def all(self, tag, **wanted):
        return [attrs for each, attrs in self.tags if each == tag and wanted.items() <= attrs.items()]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A sweep with verdicts and learning curves, of which one run has failed."""
    sweep = swept(tmp_path_factory.mktemp("judged") / "study", STUDY.replace("[[claims]]", SEEDS + "\n[[claims]]", 1))
    for number, run in enumerate(runs(sweep)):
        points = [{"step": s, "steps": 90, "loss": (number + 2) / s, "excess": 0.5 - s / 100} for s in (30, 60, 90)]
        (run.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(point)}\n" for point in points))
    cli.main(["sweep", str(sweep / "study.toml"), "--report"])
    failed = runs(sweep)[0]
    failed.log.write_text("".join(f"line {i}\n" for i in range(100)) + "RuntimeError: it broke\n")
    failed.record(failed.recorded(), state="failed", error="it broke")
    return sweep


@pytest.fixture(scope="module")
def page(judged):
    """The file of its page."""
    return made(judged, judged.parent / "page.html")


def made(folder, out, *words):
    assert cli.main(["report", str(folder), "--out", str(out), *words]) == 0
    return out


def test_a_page_holds_what_the_store_holds(judged, page):
    read = Reader(page.read_text())
    text = " ".join(read.text)
    assert "It learns at the little noise" in text and "0.011 [" in text and "fails" in text
    assert "6 runs: 5 done, 1 failed" in text and "RuntimeError: it broke" in text
    assert "line 99" in text and "line 10 " not in text  # the end of the log
    assert {"model.n_layer", "train.steps"} <= set(text.split())  # what all share
    names = {attrs["id"] for _, attrs in read.tags if "id" in attrs}
    links = [attrs["href"].removeprefix("#") for attrs in read.all("a")]
    assert len([link for link in links if "run" in link]) == 6 + 3 + 6 + 1 and set(links) <= names
    for run in runs(judged):
        assert run.id in text


def test_links_lead_to_the_rows_of_the_runs(page):
    text = page.read_text()
    links = re.findall(r'<a href="#(sweep0-run\d+)">([0-9a-f]{12})</a>', text)
    assert len(links) == 6 + 3 + 6
    for anchor, id in links:
        assert f'<tr id="{anchor}"><th scope="row">{id}</th>' in text


def test_a_page_is_accessible(page):
    read = Reader(page.read_text())
    heads = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert heads[0] == 1 and all(after <= before + 1 for before, after in pairwise(heads))
    assert all(attrs.get("alt") for attrs in read.all("img"))
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") for attrs in read.all("svg"))
    assert all(attrs.get("scope") for attrs in read.all("th"))
    assert len(read.all("caption")) == len(read.all("table")) > 2
    assert read.all("html", lang="en") and "".join(read.text).count("Learning curves of all runs") == 2


def test_pictures_are_svg_and_the_same_without_the_library(judged, page, tmp_path, monkeypatch, capsys):
    with_it = Reader(page.read_text())
    sources = [attrs["src"] for attrs in with_it.all("img")]
    assert len(sources) == 2 + 2  # loss and excess; and as no script draws this study, a run of each noise
    for source in sources:
        ElementTree.fromstring(b64decode(source.removeprefix("data:image/svg+xml;base64,")))
    assert len(with_it.all("script")) == 2 + 2
    monkeypatch.setattr(zoomable, "library", lambda: None)
    without = Reader(made(judged, tmp_path / "page.html").read_text())
    told = capsys.readouterr().out
    assert re.match(r"wrote .*page\.html, 0\.\d MB", told) and "to zoom them: pip install 'iclab[report]'" in told
    assert [attrs["src"] for attrs in without.all("img")] == sources and not without.all("script")


def test_the_figures_of_a_study_are_drawn_by_its_scripts(judged, tmp_path):
    home = tmp_path / "figures"
    home.mkdir()
    (home / "risks.py").write_text(SCRIPT)
    (home / "broken.py").write_text(SCRIPT.replace("Risks", "Nothing").replace("transformer", "<b>nobody"))
    read = Reader(made(judged, tmp_path / "page.html", "--figures", str(home)).read_text())
    assert "Risks by position." in read.text
    assert any("broken.py draws nothing" in text and "<b>nobody" in text for text in read.text)
    assert not read.all("b")


def test_a_sweep_writes_its_page_at_the_end(judged):
    assert "6 runs: 6 done" in (judged / "report.html").read_text()
    assert len(runs(judged)) == 6  # the page is no run


def test_a_folder_of_sweeps_is_one_page(judged, tmp_path, monkeypatch):
    monkeypatch.setattr(webpage, "svg", lambda draw: b"<svg/>")
    copytree(judged, tmp_path / "runs" / "study")
    swept(tmp_path / "runs" / "other", STUDY)
    read = Reader(made(tmp_path / "runs", tmp_path / "page.html").read_text())
    assert [attrs["href"] for attrs in read.all("a")][:2] == ["#sweep0", "#sweep1"]
    assert len(read.all("section")) == 2
    names = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(names) == len(set(names))


def test_what_has_no_runs_is_refused_in_a_line(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"iclab: report: no runs in {tmp_path}")


# ---- hostile names and logs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(judged, tmp_path_factory):
    """The page on a sweep in which whatever can be written by somebody else is markup."""
    folder = tmp_path_factory.mktemp("hostile")
    spoil(copytree(judged, folder / "study"))
    return made(folder / "study", folder / "page.html")


def spoil(judged):
    """Writes markup wherever somebody else can write."""
    text = (judged / "study.toml").read_text()
    for key in ("title", "question", "paper"):
        text = re.sub(rf"^{key} = .*$", f"{key} = {json.dumps(f'{key} {HOSTILE}')}", text, flags=re.MULTILINE)
    (judged / "study.toml").write_text(text)
    verdicts = json.loads((judged / "verdicts.json").read_text())
    for one in verdicts:
        one |= {"claim": HOSTILE, "note": HOSTILE, "measured": HOSTILE, "outcome": 'x" onclick="alert(1)'}
    (judged / "verdicts.json").write_text(json.dumps(verdicts))
    failed = runs(judged)[0]
    failed.log.write_text(f"{HOSTILE}\n\x00\x1b[31m</pre></textarea>{HOSTILE}")
    settings = {"task": {"kind": f"</script>{HOSTILE}", "noise": 0.5}}
    other = Run(judged / run_id(settings))
    other.create(settings)
    kept = other.keep_rows([{"predictor": HOSTILE, "quantity": HOSTILE, "distribution": "own", "value": 1.0}])
    other.record(Status(), state="done", seconds=1.0, **kept)
    points = [{"step": i, f"</script>{HOSTILE}$$x$$": i} for i in (1, 2, 3)]
    (other.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(point)}\n" for point in points))
    (judged / HOSTILE.replace("/", "_")).mkdir()
    (judged / HOSTILE.replace("/", "_") / "status.json").write_text(json.dumps({"state": "failed", "error": HOSTILE}))


def test_hostile_texts_are_shown_and_never_taken_for_markup(hostile):
    page = hostile.read_text()
    read = Reader(page)
    assert len(read.all("script")) == 2 + 3 and all(not attrs.get("src") for attrs in read.all("script"))
    assert all(attrs["src"].startswith("data:") for attrs in read.all("img"))
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    assert f"title {HOSTILE}" in read.text and sum(HOSTILE in text for text in read.text) > 8
    assert "\x00" not in page and "\x1b" not in page


def test_the_test_of_hostile_texts_can_fail(hostile, tmp_path, monkeypatch):
    """A page whose template escapes nothing is found out."""
    whole = webpage.jinja2.Environment
    monkeypatch.setattr(webpage.jinja2, "Environment", lambda **given: whole(**{**given, "autoescape": False}))
    monkeypatch.setattr(webpage, "svg", lambda draw: b"<svg/>")
    made(hostile.parent / "study", tmp_path / "page.html")
    with pytest.raises(AssertionError):
        test_hostile_texts_are_shown_and_never_taken_for_markup(tmp_path / "page.html")


# ---- the picture of an interval ------------------------------------------------------------------------------------


def record(claim, **given):
    return {"expected": claim.expected, "kind": claim.kind, "measured": "so much", **given}


def test_an_interval_is_drawn_where_it_is():
    claim = Claim("c", "q", "p", at_most=1.0)
    drawn = bounds.picture(record(claim, value=0.5, low=0.0, high=0.75), claim)
    assert drawn.allowed[0] == 0 and drawn.edges == (drawn.allowed[1],)
    unit = drawn.allowed[1] - drawn.interval[0]  # from 0 to the bound
    assert (drawn.value - drawn.interval[0]) / unit == pytest.approx(0.5, abs=0.01)
    assert (drawn.interval[1] - drawn.interval[0]) / unit == pytest.approx(0.75, abs=0.01)
    assert 0 < drawn.interval[0] < drawn.allowed[1] < bounds.WIDTH
    assert drawn.words == "measured so much, expected ≤ 1"


@pytest.mark.parametrize(
    ("bound", "given", "inside"),
    [
        ({"at_most": 1.0}, {"value": 2.0, "low": 1.5, "high": 2.5}, False),
        ({"at_least": 1.0}, {"value": 2.0, "low": 1.5, "high": 2.5}, True),
        ({"within": (1.0, 0.5)}, {"value": 1.1, "low": 0.9, "high": 1.3}, True),
        ({"within": (1.0, 0.5)}, {"value": 0.1, "low": 0.0, "high": 0.2}, False),
        ({"at_most": 1.0, "kind": "every"}, {"value": 0.5, "low": 0.1, "high": 0.9, "worst": 3.0}, False),
        ({"at_most": 1.0, "kind": "share", "share": 0.5}, {"value": 0.75, "low": 0.6, "high": 0.9, "worst": 9.0}, True),
        ({"at_most": 0.0}, {"value": 0.0, "low": None, "high": None}, True),
    ],
)
def test_what_lies_inside_of_a_bound_is_drawn_inside(bound, given, inside):
    claim = Claim("c", "q", "p", **bound)
    drawn = bounds.picture(record(claim, **given), claim)
    places = [drawn.value, *(drawn.interval or ())]
    assert all(0 <= place <= bounds.WIDTH for place in [*places, *drawn.allowed, *drawn.edges])
    assert all(drawn.allowed[0] <= place <= drawn.allowed[1] for place in places) == inside


def test_what_cannot_be_drawn_is_not():
    claim = Claim("c", "q", "p", at_most=1.0)
    assert bounds.picture(record(claim, value=None), claim) is None
    assert bounds.picture(record(claim, value=float("nan")), claim) is None
    assert bounds.picture(record(claim, value=1.0), None) is None
    assert bounds.picture(record(claim, value=1.0) | {"expected": "≤ 2"}, claim) is None  # the file has changed
    content = {"claims": [{"name": "c", "quantity": "q", "predictor": "p", "at_most": 1.0}, {"name": "d"}, 3, None]}
    assert bounds.claims(content, "f") == {"c": claim} and bounds.claims({"claims": 3}, "f") == {}


# ---- learning curves -----------------------------------------------------------------------------------------------


def test_curves_hold_every_number_and_their_last_point():
    points = [{"step": i, "steps": 999, "lr": 1, "seconds": 2, "loss": 1 / i} for i in range(1, 1000)]
    points[4]["tokens"] = {"accuracy": {"model": 0.5}}
    unfit = [{"step": 1, "loss": float("nan")}, {"loss": 1}, {"step": 2, "loss": True}]
    curves = zoomable.learning_curves({"a": points, "b": unfit}, {"a": "x", "b": "y"})
    assert list(curves) == ["loss", "accuracy of model"]
    (line,) = curves["loss"]
    assert line.run == "a" and len(line.steps) <= zoomable.POINTS + 1
    assert (line.steps[0], line.steps[-1], line.values[-1]) == (1, 999, pytest.approx(1 / 999, rel=1e-5))


def test_runs_of_one_setting_look_alike_and_others_do_not():
    labels = zoomable.labels({str(i): {"seed": i % 2, "task.noise": i // 2} for i in range(24)})
    assert labels["4"] == labels["5"] == "task.noise=2"
    curves = zoomable.learning_curves({id: [{"step": 1, "loss": 1.0}] for id in labels}, labels)["loss"]
    looks = {line.run: (line.color, line.dash) for line in curves}
    assert looks["4"] == looks["5"] and len(set(looks.values())) == 12


# ---- in a browser --------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
DRAWN = "document.documentElement.dataset.drawn !== undefined"
SEEN = "[...document.querySelectorAll('{}')].filter(each => each.offsetHeight > 50).length"
# Of each plot the curves that its glyphs hold, and how many pixels of its canvases are painted.
PLOTS = """[...Bokeh.index.roots].filter(view => view.model.renderers).map(view => ({
  curves: view.model.renderers.map(one => one.data_source.data).filter(data => data.xs)
    .flatMap(data => data.ys.map(y => [...y])),
  painted: [...view.canvas_view.shadow_el.querySelectorAll("canvas")]
    .map(one => one.getContext("2d").getImageData(0, 0, one.width, one.height).data)
    .reduce((sum, data) => sum + data.filter((v, i) => i % 4 == 3 && v).length, 0),
}))"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@needs_browser
def test_the_plots_hold_the_curves(judged, page, chromium):
    chromium.open(page)
    chromium.wait(DRAWN)
    loss, excess = chromium.ask(PLOTS)
    number = {id: i for i, id in enumerate(sorted(run.id for run in runs(judged)))}
    assert sorted(loss["curves"]) == sorted(
        [float(f"{(i + 2) / step:.6g}") for step in (30, 60, 90)] for i in number.values()
    )
    assert excess["curves"] == [[0.2, -0.1, -0.4]] * 6
    assert loss["painted"] > 1000 and excess["painted"] > 1000
    assert chromium.ask(SEEN.format(".plot")) == 2 and chromium.ask(SEEN.format(".still")) == 0
    assert not chromium.errors and not chromium.requests


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(page, chromium, width, scheme):
    chromium.open(page, width, prefers_color_scheme=scheme)
    chromium.wait(DRAWN)
    assert chromium.ask("document.scrollingElement.scrollWidth") <= width == chromium.ask("innerWidth")
    assert not chromium.errors and not chromium.requests


@needs_browser
def test_without_scripts_the_curves_are_pictures(page, chromium):
    chromium.open(page, scripts=False)
    chromium.call("Emulation.setScriptExecutionDisabled", value=False)  # to be able to ask
    assert chromium.ask(SEEN.format(".still img")) == 2 and chromium.ask(SEEN.format(".plot")) == 0
    assert chromium.ask("[...document.images].every(each => each.naturalWidth > 100)")


@needs_browser
def test_in_print_the_curves_are_pictures(page, chromium):
    chromium.open(page)
    chromium.wait(DRAWN)
    chromium.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert chromium.ask(SEEN.format(".still img")) == 2 and chromium.ask(SEEN.format(".plot")) == 0
    finally:
        chromium.call("Emulation.setEmulatedMedia", media="")


# Where the middle point of the only curve of the last plot is; what the tooltips say, which are in shadows.
MIDDLE = """(() => { const view = [...Bokeh.index.roots].filter(view => view.model.renderers).at(-1);
  const data = view.model.renderers[0].data_source.data, box = view.canvas_view.el.getBoundingClientRect();
  const [x, y] = [data.xs[0], data.ys[0]].map(each => [...each][1]);
  return [box.x + view.frame.x_scale.compute(x), box.y + view.frame.y_scale.compute(y)];
})()"""
TOOLTIPS = """(() => {
  const deep = node => [...node.querySelectorAll("*")]
    .flatMap(each => [each, ...(each.shadowRoot ? deep(each.shadowRoot) : [])]);
  return deep(document).filter(each => each.classList.contains("bk-tooltip-row-value")).map(each => each.textContent);
})()"""


@needs_browser
def test_a_browser_runs_nothing_of_hostile_texts(hostile, chromium):
    chromium.open(hostile, height=9000)
    chromium.wait(DRAWN)
    chromium.point(*chromium.ask(MIDDLE))
    chromium.wait(f"{TOOLTIPS}.length == 4")
    _, settings, step, value = chromium.ask(TOOLTIPS)
    assert HOSTILE in settings and step.strip() == value.strip() == "2"
    assert chromium.ask("document.title") == f"title {HOSTILE}"
    assert not chromium.requests and not chromium.errors


@needs_browser
def test_a_browser_would_find_what_the_tests_look_for(chromium, tmp_path):
    bad = f"<p style='width: 900px'>wide</p>{HOSTILE}<script>console.error('oh')</script>"
    (tmp_path / "page.html").write_text(bad)
    chromium.open(tmp_path / "page.html", 400)
    assert chromium.ask("document.scrollingElement.scrollWidth") > 400 and chromium.ask("document.title") == "taken"
    chromium.wait("new Promise(done => setTimeout(() => done(true), 200))")
    assert "oh" in chromium.errors and "http://example.com/" in chromium.requests
