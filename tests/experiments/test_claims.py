"""Claims in task files: what is read, and what is refused, all of it at once."""

import pytest

from iclab.experiments.claims import Claim, premise_problems
from iclab.experiments.study import Study

STUDY = """title = "A study"
question = "What is claimed?"
paper = "none"
[task]
kind = "LinearRegression"
d = 3
n = 4
[[claims]]
name = "It learns"
quantity = "excess"
predictor = "transformer"
"""


def read(tmp_path, text, *settings):
    path = tmp_path / "claims.toml"
    path.write_text(STUDY + text)
    return Study.read(path, settings).heading.claims


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ('{ "model.n_layer" = 4, seed = 1 }', {"model.n_layer": 4, "seed": 1}),
        (
            '{ model.n_layer = 4, task.kind = "LinearRegression" }',
            {"model.n_layer": 4, "task.kind": "LinearRegression"},
        ),
        ('{ position = 3, distribution = "own", layer = 2 }', {"position": 3, "distribution": "own", "layer": 2}),
        ('{ position = "mean", "train.clip" = "none" }', {"position": "mean", "train.clip": "none"}),
        ("{ model.norm = true, task.noise = 0.5 }", {"model.norm": True, "task.noise": 0.5}),
    ],
)
def test_where_is_read_with_quoted_or_nested_keys(tmp_path, where, expected):
    (found,) = read(tmp_path, f"where = {where}\nwithin = [1, 0.5]\n")
    assert dict(found.where) == expected
    assert found.expected == "1 ± 0.5"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "claim 'It learns': give exactly one of at_most, at_least, within; given none"),
        ("at_most = 1\nat_least = 0\n", "claim 'It learns': give exactly one of"),
        ('at_most = "1"\n', 'claims[0].at_most: expected a number or "none", given "1"'),
        ("within = [1.0]\n", "claims[0].within: expected a list of 2"),
        ("within = [1.0, -0.1]\n", "needs a tolerance of 0 or more, given -0.1"),
        ("at_most = 1\nat_mots = 1\n", "unknown key 'claims[0].at_mots'. Did you mean 'claims[0].at_most'?"),
        ("at_most = 1\nwhere = 3\n", "claims[0].where: expected a table, given 3"),
        ("at_most = 1\nwhere = { model.n_layer = [1] }\n", "claims[0].where.model.n_layer: expected true or false or"),
        (
            "at_most = 1\nwhere = { model.n_layers = 1 }\n",
            "unknown key 'model.n_layers'. Did you mean 'model.n_layer'?",
        ),
        ("at_most = 1\nwhere = { positon = 1 }\n", "unknown key 'positon'. Did you mean 'position'?"),
        ('at_most = 1\nkind = "evry"\n', "claims[0].kind: unknown value 'evry'. Did you mean 'every'?"),
        ('at_most = 1\nwritten = "befor"\n', 'claims[0].written: expected one of "before", "after"'),
        ('at_most = 1\nkind = "share"\n', 'kind = "share" needs the least share of runs, e.g. share = 0.9'),
        ("at_most = 1\nshare = 0.9\n", 'share belongs to kind = "share", given kind = "typical"'),
        ('at_most = 1\nkind = "share"\nshare = 1.0\n', "share must lie between 0 and 1, given 1.0"),
        ('at_most = 1\norigin = " "\n', "origin must not be empty"),
        ('at_most = 1\npremise = "It lerns"\n', "unknown premise 'It lerns'. Did you mean 'It learns'?"),
        ('at_most = 1\npremise = "It learns"\n', "claims that are each other's premise: It learns"),
    ],
)
def test_mistakes_in_claims_are_told(tmp_path, text, problem):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, text)
    assert problem in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_setting_whose_default_is_none_can_be_asked_for(tmp_path):
    (found,) = read(tmp_path, 'at_most = 1\nwhere = { model.scale = "none" }\n')
    assert found.concerns({"model.n_layer": 1})
    assert not found.concerns({"model.scale": 2.0})


def test_what_a_claim_is_about_is_read(tmp_path):
    more = 'kind = "share"\nshare = 0.5\nwritten = "after"\norigin = "Fig. 1"\n'
    (found,) = read(tmp_path, f"at_most = 1\n{more}")
    assert (found.kind, found.share, found.written, found.origin) == ("share", 0.5, "after", "Fig. 1")
    (found,) = read(tmp_path, "at_most = 1\n")
    assert (found.kind, found.written, found.premise, found.origin) == ("typical", None, None, None)


def test_all_problems_of_several_claims_are_told_at_once(tmp_path):
    other = '[[claims]]\nname = "{}"\nquantity = "excess"\npredictor = "transformer"\nat_most = 1\n{}'
    text = "at_most = 1\n" + other.format("Other", 'premise = "Oter"\n') + other.format("Other", "")
    with pytest.raises(ValueError) as caught:
        read(tmp_path, text)
    told = str(caught.value).splitlines()
    assert len(told) == 2 and "two claims have the name 'Other'" in told[0] and "Did you mean 'Other'?" in told[1]


def chain(**premises):
    return [Claim(name, "excess", "transformer", at_most=1.0, premise=premise) for name, premise in premises.items()]


def test_circles_of_premises_are_told_once_and_what_leads_into_one_is_none():
    assert list(premise_problems(chain(a=None, b="a", c="b"))) == []
    assert list(premise_problems(chain(a="b", b="a", c="b"))) == ["claims that are each other's premise: a, b"]
