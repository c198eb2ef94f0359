"""Tables of verdicts: what is counted, and what is said to have changed."""

import json

import pytest

from iclab.commands.verdicts import compare, distance, origins, tally, tally_lines


def record(claim="It learns", outcome="holds", value=0.04, half=0.01, **more):
    ends = {"value": value, "low": value - half, "high": value + half, "measured": f"{value}"}
    return {
        "claim": claim,
        "expected": "≤ 0.05",
        "kind": "typical",
        "written": "before",
        "outcome": outcome,
        **ends,
        **more,
    }


def kept(folder, study="study", *records):
    """A folder of results with one study."""
    folder.mkdir(exist_ok=True)
    (folder / f"{study}.json").write_text(json.dumps({"verdicts": records}))
    return folder


@pytest.mark.parametrize(
    ("was", "now", "change"),
    [
        ({}, {}, None),
        ({}, {"value": 0.055}, None),  # the intervals overlap
        ({}, {"value": 0.07}, "value moved beyond both intervals"),
        ({}, {"outcome": "void"}, "verdict holds → void"),
        ({}, {"expected": "≤ 0.1", "kind": "every"}, "expected ≤ 0.05 → ≤ 0.1; kind typical → every"),
        ({"low": None}, {"value": 9.0}, None),  # nothing is known of how sure it was
    ],
)
def test_a_change_is_told_in_words(tmp_path, was, now, change):
    before, after = kept(tmp_path / "before", "study", record(**was)), kept(tmp_path / "now", "study", record(**now))
    assert [row[2] for row in compare(after, before)] == ([change] if change else [])


def test_claims_that_came_and_went_are_told_and_studies_that_were_not_run_passed_over(tmp_path):
    before = kept(kept(tmp_path / "before", "other", record()), "study", record("Old"))
    now = kept(tmp_path / "now", "study", record("New"))
    assert [row[:3] for row in compare(now, before)] == [["study", "New", "added"], ["study", "Old", "removed"]]


def test_a_folder_without_verdicts_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no verdicts in .*nowhere; no verdicts in .*empty"):
        compare(tmp_path / "nowhere", tmp_path / "empty")


def test_what_was_written_after_a_look_is_counted_apart():
    judged = [record(), record(outcome="fails"), record(written="after"), record(written=None, kind="share")]
    assert tally(judged) == (
        ["verdict", "written before", "after", "not said", "typical", "share", "all"],
        [["holds", 1, 1, 1, 2, 1, 3], ["fails", 1, None, None, 1, None, 1]],
    )
    assert list(tally_lines(judged)) == [
        "written before the result was seen: 1 holds, 1 fails",
        "written after it was seen: 1 holds",
        "verdicts: 1 holds",
    ]
    assert origins([*judged, record(origin="theory")]) == "Bounds with an origin: 1 of 5."


@pytest.mark.parametrize(("value", "told"), [(None, ""), (1.234, "+1.2"), (-0.5, "-0.5"), (-1234.0, "-99 or more")])
def test_a_distance_is_printed_with_its_sign(value, told):
    assert distance({"distance": value}) == told
