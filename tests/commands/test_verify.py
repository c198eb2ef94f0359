"""`iclab verify` and `iclab falsify`."""

import json
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import pytest

from iclab.commands import theorems
from iclab.constructed import named
from tests.commands.test_cli import call
from tests.constructed.test_constructed import halving


@pytest.fixture
def only(monkeypatch):
    """Replaces the list of theorems."""

    def replaced(*chosen):
        monkeypatch.setattr(theorems, "THEOREMS", list(chosen))
        monkeypatch.setattr(theorems, "named", {each.name: each for each in chosen}.__getitem__)

    return replaced


def test_the_table_tells_what_was_tried_and_what_came_of_it(capsys, tmp_path):
    names = ["akyurek2022_theorem1", "akyurek2022_theorem1_printed"]
    code, out, err = call(capsys, "verify", *names, "--cases", "3", "--json", str(tmp_path / "found.json"))
    assert code == 0, err
    assert out.count("PASS") == 2 and "FAIL" not in out
    assert "2211.15661" in out and "lam=" in out and "w'·x_2" in out
    assert "akyurek2022_theorem1_printed passes by failing: akyurek2022_theorem1 holds" in out
    holding, failing = json.loads((tmp_path / "found.json").read_text())
    assert holding["cases"] == 3 and holding["error"] <= holding["bound"] and holding["margin"] >= 1
    assert failing["error"] > failing["bound"] and failing["corrected"] == holding["theorem"]
    assert set(failing["case"]) == {"seed", "d", "lr", "lam", "size", "noise", "condition", "variant", "dtype"}


def test_a_beginning_means_all_theorems_that_begin_with_it_and_a_name_itself_alone(capsys, tmp_path):
    file = tmp_path / "found.json"
    for words, meant in (
        (["elhage2021_"], ["elhage2021_previous_token", "elhage2021_induction", "elhage2021_copy"]),
        (["ahn2023_lemma1", "ahn2023_lemma1"], ["ahn2023_lemma1"]),
    ):
        code, _, err = call(capsys, "verify", *words, "--cases", "1", "--json", str(file))
        assert code in (0, 4), err
        assert [row["theorem"] for row in json.loads(file.read_text())] == meant


def test_without_names_all_theorems_are_tried(capsys, only):
    only(halving(), halving(0.5))
    code, out, _ = call(capsys, "verify")
    assert code == 0 and out.count("PASS") == 2


def test_a_theorem_that_does_not_hold_ends_with_status_4(capsys, only):
    only(halving(), halving(0.1))
    code, out, _ = call(capsys, "verify")
    assert code == 4
    assert out.count("PASS") == out.count("FAIL") == 1
    only(halving(0.1, error=lambda case: float("nan")))
    assert call(capsys, "verify")[0] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify", "akyurek_theorem1"], "unknown theorem 'akyurek_theorem1'. Did you mean 'akyurek2022_theorem1"),
        (["verify", "--cases", "0"], "--cases must be at least 1, given 0"),
        (["falsify", "akyurek2022_theorm2"], "Did you mean 'akyurek2022_theorem2'?"),
        (["falsify", "akyurek2022_theorem2", "--examples", "0"], "--examples must be at least 1"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(capsys, words, message):
    code, out, err = call(capsys, *words)
    assert code == 2
    assert message in err and len(err.strip().splitlines()) == 1
    assert not out


def test_the_counter_example_is_printed_as_python_that_shows_it(capsys):
    code, out, _ = call(capsys, "falsify", "akyurek2022_lemma4_order_printed", "--examples", "5")
    assert code == 0
    assert "as expected: akyurek2022_lemma4_order holds" in out
    program = out[out.index("from iclab") :]
    with redirect_stdout(StringIO()) as printed:
        exec(program, {})  # where nothing is imported that it does not import
    error, bound = map(float, printed.getvalue().split())
    assert error > bound
    with pytest.raises(AssertionError):
        exec(program.replace("_printed", ""), {})


def test_the_simplest_counter_example_is_given(only):
    found, tried = theorems.counter_example(halving(0.1), 100)
    assert found is not None and tried >= 1
    assert found.seed == 0 and found.variant == "a" and found.d == 2  # 0.25/2 > 0.1 already


def test_the_search_varies_sizes_conditioning_noise_and_precision():
    theorem, seen = named("fu2023_convergence"), []
    never = replace(theorem, measure=lambda case: (seen.append(case) or 0.0, 1.0))
    assert theorems.counter_example(never, 60)[0] is None
    for key in ("seed", "d", "n", "layers", "size", "condition", "noise"):
        values = {getattr(case, key) for case in seen}
        assert len(values) >= 4, key
        space = theorem.ranges.get(key)
        assert space is None or all(space.low <= value <= space.high for value in values)
    assert {case.dtype for case in seen} == {"float64", "float32"}


def test_numbers_of_a_counter_example_are_short(only):
    far = halving(0.3, error=lambda case: case.size)
    found, _ = theorems.counter_example(far, 100)
    assert found.size == float(f"{found.size:.3g}") and 0.3 < found.size < 0.31


def test_where_none_is_found_that_is_said(capsys, only):
    only(halving())
    code, out, _ = call(capsys, "falsify", "halving", "--examples", "30")
    assert code == 0
    assert "no counterexample among" in out


def test_a_search_that_ends_otherwise_than_expected_has_status_4(capsys, only):
    only(halving(0.1))
    code, out, _ = call(capsys, "falsify", "halving")
    assert code == 4 and "the statement does not hold" in out
    only(replace(halving(), corrected=halving()))
    assert call(capsys, "falsify", "halving", "--examples", "30")[0] == 4


def test_an_error_of_a_theorem_comes_without_the_words_of_the_search():
    def breaks(case):
        raise ZeroDivisionError("by its own fault")

    broken = replace(halving(), measure=breaks)
    with pytest.raises(ZeroDivisionError, match="by its own fault") as caught:
        theorems.counter_example(broken, 20)
    assert not getattr(caught.value, "__notes__", ())
    assert not any("hypothesis" in str(entry.path) for entry in caught.traceback)


def test_a_theorem_that_is_not_the_same_twice_is_told_of_in_a_line(capsys, only):
    looks = iter(range(10**9))
    only(replace(halving(), measure=lambda case: (float(next(looks) == 1), 0.5)))
    code, out, err = call(capsys, "falsify", "halving")
    assert code == 2 and not out
    assert err.splitlines()[-1] == "iclab: halving: its error or bound is not the same twice for one case"
    assert "ypothesis" not in err


def test_a_search_says_how_far_it_is(capsys, only):
    only(halving(0.1))
    _, out, err = call(capsys, "falsify", "halving")
    assert err.splitlines()[0] == "halving: searches  0 of 200" and "searches" not in out
    assert any(line.startswith("halving: simplifies a counterexample") for line in err.splitlines())
