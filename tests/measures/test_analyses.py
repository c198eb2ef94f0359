"""Analyses say what they need and what they yield, and claims are held against it before anything is trained."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn

from iclab.cli import main
from iclab.experiments import analysis
from iclab.experiments.analysis import Analysis, expanded
from iclab.experiments.claims import Claim
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.experiments.measurable import claim_problems, names, quantities
from iclab.learning.training import TrainingConfig
from iclab.measures import measure
from iclab.models import LinearAttentionConfig, ModelConfig, TokenTransformerConfig, TransformerConfig
from iclab.retired import RETIRED
from iclab.tasks import LinearRegression, MarkovChain, SkewedInputs
from tests.conftest import analysed, generator

TASK = LinearRegression(3, 7, noise=0.5)
SMALL = Experiment(
    TASK,
    TransformerConfig(n_layer=2, n_head=1, d_model=8),
    TrainingConfig(steps=2, batch=4),
    Evaluation(prompts=40, bootstrap=5, shifts=(("skewed", SkewedInputs(TASK)),)),
    device="cpu",
)
CLAIM = Claim("it is near", "excess", "transformer", at_most=0.5)


@pytest.mark.parametrize("one", analysis.known().values(), ids=lambda one: one.name)
def test_an_analysis_says_what_it_yields(one):
    """Each quantity has a sentence of its own, and no pattern hides one that comes after it."""
    assert one.__doc__ and all(len(text) > 10 for text in one.quantities.values())
    for pattern in one.quantities:
        plain = [name for name in expanded(pattern) if "*" not in name]
        assert all(one.meaning(name) == one.quantities[pattern] for name in plain), pattern


def test_patterns_are_written_out():
    assert expanded("r2{,_bare}_{x,y}") == ["r2_x", "r2_y", "r2_bare_x", "r2_bare_y"]
    assert expanded("r2") == ["r2"]


def undeclared(rows, experiment):
    """The quantities among rows that no analysis of an experiment has said to yield."""
    known = experiment.analyses
    return {row["quantity"] for row in rows if not any(one.meaning(row["quantity"]) for one in known)}


def test_what_was_not_declared_can_be_told():
    rows = measure(SMALL, SMALL.initial())
    assert rows and not undeclared(rows, SMALL)
    assert undeclared([*rows, {**rows[0], "quantity": "exces"}], SMALL) == {"exces"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"quantity": "exces"}, "unknown quantity 'exces'. Did you mean 'excess'?"),
        ({"quantity": "probe_r2"}, "unknown quantity 'probe_r2'.* It needs eval.analyses 'probes'"),
        ({"predictor": "transformr"}, "unknown predictor 'transformr'. Did you mean 'transformer'?"),
        ({"where": (("distribution", "skwed"),)}, "unknown distribution 'skwed'. Did you mean 'skewed'?"),
        ({"where": (("layer", 3),)}, "layer must be an integer from 0 to 2, given 3"),
    ],
)
def test_a_claim_that_nothing_can_decide_is_told_with_the_nearest_name(changes, told):
    assert not list(claim_problems(CLAIM, [SMALL])) and not list(claim_problems(CLAIM, []))
    (found,) = claim_problems(replace(CLAIM, **changes), [SMALL])
    with pytest.raises(ValueError, match=told):
        raise ValueError(found)
    assert found.startswith("claim 'it is near': ")


def test_what_any_of_several_experiments_yields_may_be_claimed():
    probed = replace(SMALL, eval=replace(SMALL.eval, analyses=("probes",)))
    claim = replace(CLAIM, quantity="probe_r2", predictor="moment", where=(("layer", 1),))
    assert list(claim_problems(claim, [SMALL])) and not list(claim_problems(claim, [SMALL, probed]))


STUDY = """title = "t"
question = "q"
paper = "p"
[task]
kind = "LinearRegression"
d = 3
n = 7
[[claims]]
name = "c"
quantity = "exces"
predictor = "transformer"
at_most = 1.0
"""


def test_the_command_line_refuses_a_slip_in_a_claim_and_lists_what_there_is(tmp_path, capsys):
    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    assert main(["sweep", str(file), "--dry-run"]) == 2
    assert "unknown quantity 'exces'. Did you mean 'excess'?" in capsys.readouterr().err
    file.write_text(STUDY.replace('"exces"', '"excess"'))
    assert main(["quantities", str(file), "excess"]) == 0
    told = capsys.readouterr().out
    assert "evolution_excess" in told and "0 is optimal" in told and "probe_r2" not in told
    assert main(["quantities", "composition"]) == 0
    assert "composition_{Q,K,V}" in capsys.readouterr().out
    assert main(["quantities", str(file), "nosuchthing"]) == 2


def test_all_that_studies_yield_is_listed_once():
    everything, few = list(quantities(None)), list(quantities([SMALL, SMALL]))
    assert len(set(everything)) == len(everything) > len(few) == len(set(few))
    assert {name for name, *_ in few} >= {"risk", "excess", "fit_distance"} and "accuracy" not in dict.fromkeys(
        name for name, *_ in few
    )
    assert "probe_r2_bare" in names(analysis.known()["probes"])


# ---- analyses of one's own -----------------------------------------------------------------------------------------


@pytest.fixture
def derive():
    """Derives an analysis that is forgotten after the test."""
    made = []

    def derive(name, **facts):
        made.append(type("Own", (Spread,), {"name": name, "__module__": __name__, **facts}))
        return made[-1]

    yield derive
    RETIRED.update(made)


class Spread(Analysis):
    """Tells how widely answers are spread."""

    name = "spread_of_answers"
    quantities: ClassVar = {"spread": "the standard deviation of answers, in units of the label; 0 or more"}

    def rows(self, of):
        value = of.answers["transformer"].std().item()
        yield {
            "predictor": "transformer",
            "quantity": "spread",
            "layer": None,
            "position": None,
            "value": value,
            "stderr": None,
        }


RETIRED.add(Spread)  # of this file alone


def test_an_analysis_of_ones_own_is_asked_for_by_name_and_measured_on_every_distribution(derive):
    with pytest.raises(ValueError, match=r"unknown analysis 'own_spread'"):
        replace(SMALL, eval=replace(SMALL.eval, analyses=("own_spread",)))
    derive("own_spread")
    asked = replace(SMALL, eval=replace(SMALL.eval, analyses=("own_spread",)))
    rows = analysed(asked, asked.initial(), "own_spread")
    assert [row["distribution"] for row in rows] == ["own", "skewed"] and all(row["value"] > 0 for row in rows)
    assert not list(claim_problems(replace(CLAIM, quantity="spread"), [asked]))


def test_two_of_one_name_are_refused_with_both_places(derive):
    derive("layers")
    with pytest.raises(ValueError, match=r"two have the name 'layers': .*layers\.py:\d+ and .*test_analyses"):
        analysis.known()


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"least": 41}, "needs eval.prompts of 41 or more, given 40"),
        ({"tasks": SkewedInputs}, "needs task.kind SkewedInputs, given LinearRegression"),
        ({"problems": lambda self, experiment: ["needs luck"]}, "the analysis 'own_spread' needs luck"),
    ],
)
def test_the_facts_of_an_analysis_are_compared_before_training(derive, facts, told):
    derive("own_spread", **facts)
    with pytest.raises(ValueError, match=told):
        replace(SMALL, eval=replace(SMALL.eval, analyses=("own_spread",)))


def test_what_is_for_other_models_or_prompts_is_told_together():
    told = "'layers' cannot be made: LinearAttentionConfig has no layers"
    with pytest.raises(ValueError, match=told):
        replace(SMALL, model=LinearAttentionConfig(), eval=replace(SMALL.eval, analyses=("layers", "evolution")))
    with pytest.raises(ValueError, match=r"'probes' is for prompts of examples, and task\.kind 'MarkovChain' is about"):
        Experiment(MarkovChain(), eval=Evaluation(analyses=("probes",)))
    with pytest.raises(ValueError, match=r"model\.kind = TokenTransformerConfig is for other prompts"):
        Experiment(TASK, TokenTransformerConfig())
    with pytest.raises(ValueError, match=r"eval\.bootstrap has nothing to say of sequences of tokens"):
        Experiment(MarkovChain(), eval=Evaluation(bootstrap=3))


# ---- layers of any model -------------------------------------------------------------------------------------------


class Stack(nn.Module):
    """Running means, and layers of maps of them."""

    def __init__(self, d, width, depth, rng):
        super().__init__()
        sizes = [d + 1, *[width] * depth]
        self.maps = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.out = nn.Linear(width, 1)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.3, generator=rng)

    def answering_stream(self, xs, ys):
        """Yields what each layer knows."""
        seen = torch.cat([torch.zeros_like(ys[:, :1]), ys[:, :-1].cumsum(1)], dim=1).unsqueeze(-1)
        h = torch.cat([xs, seen / torch.arange(1, xs.shape[1] + 1).view(1, -1, 1)], dim=-1)
        for layer in self.maps:
            h = layer(h).tanh()
            yield h

    def forward(self, xs, ys, m=None):
        """Answers from the last layer."""
        *_, last = self.answering_stream(xs, ys)
        return self.out(last).squeeze(-1)[:, -(m or xs.shape[1]) :]


@dataclass(frozen=True, kw_only=True)
class StackConfig(ModelConfig):
    """The shape of one."""

    width: int = 6
    depth: int = 2

    @property
    def layered(self):
        return True

    def build(self, d, n, rng=None):
        return Stack(d, self.width, self.depth, rng)


def test_layers_of_a_model_of_ones_own_are_measured_as_those_of_a_transformer():
    asked = ("layers", "iterations", "probes")
    one = Experiment(TASK, StackConfig(), TrainingConfig(steps=0), Evaluation(prompts=60, bootstrap=5, analyses=asked))
    rows = analysed(one, one.model.build(3, 7, generator()), *asked)
    told = {row["quantity"] for row in rows}
    assert {"fit_distance", "sime", "probe_r2", "probe_r2_untrained", "probe_r2_bare"} <= told
    assert {row["layer"] for row in rows if row["quantity"] == "probe_r2"} == {0, 1}
    with pytest.raises(
        ValueError, match="'attention_probes' needs the blocks of a TransformerConfig, given StackConfig"
    ):
        replace(one, eval=replace(one.eval, analyses=("attention_probes",)))
