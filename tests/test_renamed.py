"""What must hold of names that have changed: the old one gives the very thing that the new one does, and a warning that
names the new one; no module of the package uses an old one."""

import ast
import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import iclab
import iclab.analysis
from iclab import renamed
from iclab.analysis.algorithms.identify import AlgorithmPanel
from iclab.experiments.config import kinds
from iclab.learning.token_training import TokenTrainingConfig
from iclab.learning.training import AnyLearner, Training, TrainingConfig
from iclab.models import Transformer
from iclab.renamed import kind_name, old_keywords
from iclab.tasks import DynamicalSystem, LaundryList, LinearRegression, ScaledInputs, TokenPrompts

PACKAGE = Path(iclab.__file__).parent
TASK = LinearRegression(3, 4)


def old_names(source):
    """The keywords of each call ``old_names(__name__, old="new")`` in a file: new name by old name."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "old_names":
            yield from ((word.arg, ast.literal_eval(word.value)) for word in node.keywords)


def module_of(source):
    name = ".".join(source.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES = [(module_of(source), old, new) for source in SOURCES for old, new in old_names(source)]


def test_there_are_names_that_have_changed():
    assert ("iclab.errors", "Refusal", "UsageError") in NAMES and len(NAMES) > 20


@pytest.mark.parametrize(("module", "old", "new"), NAMES)
def test_an_old_name_is_the_new_one_with_a_warning_that_says_so(module, old, new):
    home = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=rf"{module}\.{old} is now {new}"):
        assert getattr(home, old) is getattr(home, new)


def test_a_name_that_never_was_is_no_old_one():
    with pytest.raises(AttributeError, match=r"'iclab\.errors' has no attribute 'Refusals'"):
        importlib.import_module("iclab.errors").Refusals  # noqa: B018


def names_used(source):
    tree = ast.walk(ast.parse(source))
    return {alias.name for node in tree if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_no_module_imports_by_an_old_name():
    old = {name for _, name, _ in NAMES}
    assert all(old.isdisjoint(names_used(source.read_text())) for source in SOURCES)
    assert "Refusal" in names_used("from iclab.errors import Refusal")  # it would be seen


@pytest.mark.parametrize(("old", "new"), renamed.MOVED.items())
def test_a_module_that_was_moved_is_found_by_its_old_name(old, new):
    before, now = importlib.import_module(old), importlib.import_module(new)
    name = next(name for name, each in vars(now).items() if getattr(each, "__module__", "") == new)
    with pytest.warns(DeprecationWarning, match=rf"{old} is now {new}"):
        assert getattr(before, name) is getattr(now, name)


def test_old_modules_are_there_by_import_alone_and_no_others():
    from iclab.analysis import movers

    with pytest.warns(DeprecationWarning, match=r"iclab\.analysis\.movers is now iclab\.analysis\.heads\.movers"):
        assert movers.name_mover_head
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("iclab.analysis.mover")
    assert not {f"{module_of(source)}" for source in SOURCES} & renamed.MOVED.keys()


SHARED = [old for old in renamed.MOVED if callable(getattr(iclab.analysis, old.rpartition(".")[2], None))]


@pytest.mark.parametrize("old", [old for old in SHARED if old.startswith("iclab.analysis.")])
def test_a_function_of_the_name_of_an_old_module_can_be_called_whatever_was_imported(old):
    name = old.rpartition(".")[2]
    before = getattr(importlib.import_module(renamed.MOVED[old]), name)
    importlib.import_module(old)
    now = getattr(iclab.analysis, name)
    with pytest.raises(TypeError) as one:
        before()
    with pytest.raises(TypeError) as other:
        now()
    assert str(one.value) == str(other.value)  # the same function asks for what it was not given


def test_there_are_such_functions_and_one_of_them_does_what_it_did():
    assert {"iclab.analysis.references", "iclab.analysis.identify"} <= {*SHARED}
    importlib.import_module("iclab.analysis.references")
    new = importlib.import_module("iclab.theory.references")
    assert iclab.analysis.references(TASK).keys() == new.references(TASK).keys()


# ---- members -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "old", "new"),
    [
        (TASK, "at_query", "query_only"),
        (DynamicalSystem(3, 4), "labels", "label_dim"),
        (DynamicalSystem(3, 4), "moving", "labels_are_next_inputs"),
    ],
)
def test_facts_of_tasks_have_their_old_names(task, old, new):
    with pytest.warns(DeprecationWarning, match=rf"{type(task).__name__}\.{old} is now {new}"):
        assert getattr(task, old) == getattr(task, new)


def test_methods_have_their_old_names():
    xs, model = torch.randn(2, 4, 3), Transformer(3, 4)
    with pytest.warns(DeprecationWarning, match=r"Transformer\.stream is now residual_stream"):
        streams = zip(model.stream(xs, xs[..., 0]), model.residual_stream(xs, xs[..., 0]), strict=True)
    assert all(torch.equal(one, other) for one, other in streams)
    with pytest.warns(DeprecationWarning, match=r"ScaledInputs\.colour is now input_transform"):
        assert torch.equal(ScaledInputs(TASK, 2.0).colour(), ScaledInputs(TASK, 2.0).input_transform())


def test_prompts_of_tokens_are_made_and_read_by_their_old_names():
    drawn = LaundryList(items=4, longest=3).sample(2, torch.Generator().manual_seed(0))
    with pytest.warns(DeprecationWarning) as told:
        again = TokenPrompts(
            drawn.tokens, drawn.targets, asked=drawn.answer_mask, places=drawn.case_ids, options=drawn.options
        )
    said = sorted(str(one.message) for one in told)
    assert said == ["TokenPrompts(asked=…) is now answer_mask=…", "TokenPrompts(places=…) is now case_ids=…"]
    with pytest.warns(DeprecationWarning, match=r"TokenPrompts\.asked is now answer_mask"):
        assert torch.equal(again.asked, drawn.answer_mask)
    with pytest.warns(DeprecationWarning, match=r"TokenPrompts\.places is now case_ids"):
        assert torch.equal(again.places, drawn.case_ids)


def test_a_task_of_a_user_may_state_its_facts_by_their_old_names():
    with pytest.warns(DeprecationWarning, match=r"Asking\.at_query is now query_only"):

        @dataclass(frozen=True)
        class Asking(LinearRegression):
            @property
            def at_query(self):
                return True

    task = Asking(3, 4)
    assert task.query_only
    drawn = task.sample(40, torch.Generator().manual_seed(0))
    assert AlgorithmPanel(task, drawn).part == slice(3, 4)  # so it is measured at the query alone


def test_a_field_that_has_the_name_of_an_old_fact_stays_what_it_is():
    @dataclass(frozen=True)
    class Labelled(LinearRegression):
        labels: int = 3

    assert Labelled(3, 4).labels == 3 and Labelled(3, 4).label_dim is None


def test_a_keyword_given_by_both_names_is_refused():
    @old_keywords(old="new")
    class Box:
        def __init__(self, new):
            self.new = new

    with pytest.warns(DeprecationWarning, match=r"Box\(old=…\) is now new=…"):
        assert Box(old=1).new == 1
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="multiple values"):
        Box(1, old=2)


# ---- files ---------------------------------------------------------------------------------------------------------


def test_kinds_keep_the_names_that_files_have():
    assert kinds(AnyLearner)["Recipe"] is TrainingConfig and kind_name(TokenTrainingConfig) == "TokenRecipe"
    assert kind_name(type("Mine", (TrainingConfig,), {})) == "Mine"  # that of a class is not that of its subclasses


def test_a_checkpoint_says_its_recipe_by_the_name_that_it_had(tmp_path):
    """So a run that was stopped before its class had another name goes on."""
    training = Training(Transformer(3, 4), TASK, TrainingConfig(steps=2), torch.Generator().manual_seed(0))
    training.save(tmp_path / "checkpoint")
    with safe_open(tmp_path / "checkpoint", "pt") as file:
        assert json.loads(file.metadata()["recipe"]).startswith("Recipe(positions='all', steps=2, ")
