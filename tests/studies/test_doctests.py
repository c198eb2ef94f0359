"""The docstrings: their examples give what they print, those that users call most have one, and verbs come first."""

import ast
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import iclab

MODULES = [each.name for each in pkgutil.walk_packages(iclab.__path__, "iclab.") if not each.name.endswith("__main__")]
CALLED_MOST = {
    "iclab.analysis.algorithms.agreement.implicit_weights",
    "iclab.analysis.algorithms.agreement.linearity",
    "iclab.analysis.algorithms.agreement.spd",
    "iclab.analysis.algorithms.identify.families",
    "iclab.analysis.algorithms.identify.identify",
    "iclab.analysis.heads.low_rank.LowRank",
    "iclab.analysis.layers.probing.probe",
    "iclab.analysis.heads.reach.reach",
    "iclab.analysis.risk.answer",
    "iclab.analysis.risk.estimate",
    "iclab.analysis.risk.excess",
    "iclab.analysis.risk.risk",
    "iclab.analysis.layers.similarity.linear_cka",
    "iclab.analysis.layers.symmetries.weight_distance",
    "iclab.constructed.induction.induction_head",
    "iclab.constructed.named",
    "iclab.constructed.theorem.Theorem",
    "iclab.constructed.vonoswald.gradient_descent",
    "iclab.experiments.config.read",
    "iclab.experiments.experiment.Experiment",
    "iclab.experiments.grid.parse",
    "iclab.experiments.study.recipe",
    "iclab.learning.training.train",
    "iclab.models.tokens.TokenTransformer",
    "iclab.models.transformer.Transformer",
    "iclab.predictors.discrete.DiscreteMMSE",
    "iclab.predictors.gradient.GradientDescent",
    "iclab.predictors.least_squares.LeastSquares",
    "iclab.predictors.neighbours.NearestNeighbours",
    "iclab.predictors.ridge.Ridge",
    "iclab.runs.results.load",
    "iclab.runs.opened.open_run",
    "iclab.runs.trainings.load_model",
    "iclab.runs.wide.pick",
    "iclab.tasks.examples.derived.FinitePool",
    "iclab.tasks.examples.linear.LinearRegression",
    "iclab.tasks.tokens.markov.MarkovChain",
    "iclab.tasks.examples.prompts.Prompts",
    "iclab.tasks.task.Task.sample",
    "iclab.theory.posterior.bayes",
    "iclab.theory.posterior.posterior_variance",
}


def examples(module):
    """The docstrings of a module that hold examples."""
    docstrings = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    return [each for each in docstrings if each.examples]


def failures(test):
    """The report of what an example prints otherwise than it should; empty where all is right."""
    report = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    return "".join(report)


EXAMPLES = [test for module in MODULES for test in examples(module)]


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_an_example_prints_what_it_says(test):
    assert failures(test) == ""


def test_what_users_call_most_has_an_example():
    assert len(CALLED_MOST) >= 30 and {test.name for test in EXAMPLES} >= CALLED_MOST


def test_a_wrong_example_is_noticed():
    parser = doctest.DocTestParser()
    right = parser.get_doctest(">>> 1 + 1\n2\n", {}, "right", None, None)
    wrong = parser.get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert failures(right) == "" and "Expected:\n    3\nGot:\n    2" in failures(wrong)


def public_functions(tree):
    """The functions and methods of a module that have no underscore in front, nor their classes."""
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield from [node] if isinstance(node, ast.FunctionDef) else public_functions(node)


def begins_with_a_verb(text):
    """Whether the first word has the form of "Returns", which is all that can be seen without a dictionary."""
    return re.match(r"[A-Z][a-z]+s\b", text) is not None


def test_the_docstring_of_a_public_function_begins_with_a_verb():
    root = Path(iclab.__file__).parent
    texts = {
        f"{path.relative_to(root)}: {node.name}": text
        for path in sorted(root.rglob("*.py"))
        for node in public_functions(ast.parse(path.read_text()))
        if (text := ast.get_docstring(node))
    }
    assert len(texts) > 1000 and [name for name, text in texts.items() if not begins_with_a_verb(text)] == []


def test_another_beginning_is_noticed():
    assert begins_with_a_verb("Returns the risk.")
    assert not any(map(begins_with_a_verb, ("The risk.", "What is lost.", "Return the risk.")))
