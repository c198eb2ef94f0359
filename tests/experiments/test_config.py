"""Files to dataclasses and back. The fuzz is driven by the dataclasses themselves: a new field joins by existing."""

import datetime
import hashlib
import json
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.constructed import Construction, Start
from iclab.constructed.start import Akyurek2022Descent, Akyurek2022Ridge, Bai2023, Fu2023, VonOswald2022, shape
from iclab.experiments import config
from iclab.experiments.config import has_kinds, is_table, kinds, known_keys, members, named, required, schema
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.experiments.identity import NUMERICS, numerics_of, run_id
from iclab.experiments.mappings import flatten, put
from iclab.learning.random_feature_ridge import FrozenLearner, FrozenRidge
from iclab.learning.training import Learner
from iclab.models import (
    FrozenModelConfig,
    LinearAttentionConfig,
    ModelConfig,
    RandomAttentionConfig,
    RandomNetworkConfig,
    TransformerConfig,
)
from iclab.predictors import (
    DiscreteMMSE,
    Featurised,
    GradientDescent,
    HalfSplit,
    LeastSquares,
    Linear,
    Predictor,
    Ridge,
)
from iclab.retired import RETIRED
from iclab.tasks import (
    Derived,
    FinitePool,
    FunctionClass,
    Inputs,
    KeyAverage,
    LinearClassification,
    LinearRegression,
    Longer,
    NoiseMixture,
    NoisyLabels,
    NormalisedLabels,
    OneOf,
    Profile,
    QueryAndKeys,
    RepresentationMixture,
    RepresentationRegression,
    SkewedInputs,
    Sphere,
    Target,
    Task,
    Uniform,
)
from iclab.tasks.features import Concatenated, Features, Identity, Representation

SPHERE = Sphere()


@dataclass(frozen=True)
class Inner:
    size: int = 1

    def __post_init__(self):
        if self.size < 0:
            raise ValueError(f"size must not be negative, given {self.size}")


@dataclass(frozen=True)
class Outer:
    flag: bool
    count: int = 0
    rate: float = 0.5
    word: str = ""
    choice: Literal["red", "green"] = "red"
    maybe: int | None = 3
    several: tuple[float, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    names: tuple[tuple[str, Inner], ...] = ()
    table: dict[str, int] = None  # pyright: ignore
    inner: Inner = Inner()
    law: Inputs = SPHERE
    either: bool | int | float | str = 1


def refusal(call, *arguments):
    with pytest.raises(ValueError) as caught:
        call(*arguments)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("key", "given", "read"),
    [
        ("count", 7, 7),
        ("rate", 2, 2.0),
        ("word", "none", "none"),
        ("choice", "green", "green"),
        ("maybe", "none", None),
        ("maybe", 4, 4),
        ("several", [1, 2.5], (1.0, 2.5)),
        ("pair", [3, 4], (3, 4.0)),
        ("names", {"a": {"size": 2}, "b": {}}, (("a", Inner(2)), ("b", Inner()))),
        ("table", {"x": 1}, {"x": 1}),
        ("inner", {"size": 5}, Inner(5)),
        ("law", {}, Sphere()),
        ("law", {"kind": "Uniform", "half_width": 2}, Uniform(half_width=2.0)),
        ("either", True, True),
        ("either", 3, 3),
        ("either", 3.5, 3.5),
        ("either", "x", "x"),
    ],
)
def test_each_kind_of_annotation_is_read(key, given, read):
    found = getattr(config.read(Outer, {"flag": True, key: given}, "f.toml"), key)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("flag", 1, "flag: expected true or false, given 1"),
        ("count", True, "count: expected an integer, given true"),
        ("count", "5", 'count: expected an integer, given "5"'),
        ("count", 1.0, "count: expected an integer, given 1.0"),
        ("count", 2**63, "count: expected an integer of at most 64 bits, given 9223372036854775808"),
        ("rate", "1e-3", 'rate: expected a number, given "1e-3"'),
        ("rate", float("nan"), "rate: expected a finite number, given nan"),
        ("rate", float("-inf"), "rate: expected a finite number, given -inf"),
        ("word", 3, "word: expected a text in quotes, given 3"),
        ("choice", "gren", "choice: unknown value 'gren'. Did you mean 'green'? Known: green, red"),
        ("choice", 1, 'choice: expected one of "red", "green", given 1'),
        ("maybe", "some", 'maybe: expected an integer or "none", given "some"'),
        ("several", 1.0, "several: expected a list, each a number, given 1.0"),
        ("several", "a", 'several: expected a list, each a number, given "a"; in a list: ["a"]'),
        ("several", [1.0, "x"], 'several[1]: expected a number, given "x"'),
        ("pair", [1], "pair: expected a list of 2: an integer, a number, given [1]"),
        ("names", [1], "names: expected a table, given [1]"),
        ("names", {"a": {"size": "x"}}, 'names.a.size: expected an integer, given "x"'),
        ("table", {"x": "y"}, 'table.x: expected an integer, given "y"'),
        ("inner", 3, "inner: expected a table, given 3"),
        ("inner", {"size": -1}, "inner: size must not be negative, given -1"),
        ("inner", {"sise": 1}, "unknown key 'inner.sise'. Did you mean 'inner.size'? Known: inner.size"),
        ("law", {"kind": "Uniforn"}, "law.kind: unknown inputs 'Uniforn'. Did you mean 'Uniform'?"),
        ("law", {"kind": 3}, "law.kind: expected a text in quotes, given 3"),
        ("law", {"half_width": 1.0}, "unknown key 'law.half_width'."),
        ("cuont", 3, "unknown key 'cuont'. Did you mean 'count'?"),
        ("size", 3, "unknown key 'size'. Did you mean 'inner.size'?"),
    ],
)
def test_each_mistake_is_told_with_its_key(key, given, message):
    (line,) = refusal(config.read, Outer, {"flag": True, key: given}, "f.toml")
    assert line.startswith(f"f.toml: {message}")


def test_all_mistakes_of_a_file_are_told_at_once():
    lines = refusal(config.read, Outer, {"count": "x", "inner": {"size": -1}, "law": {"kind": "No"}, "wrod": ""}, "f")
    assert sorted(line.split(" ")[1].rstrip(":") for line in lines) == [
        "count",
        "inner",
        "law.kind",
        "missing",
        "unknown",
    ]
    assert "f: missing key 'flag': expected true or false" in lines


def test_a_file_that_is_no_toml_is_named_with_its_line(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("a = 1\nb = = 2\n")
    (line,) = refusal(config.load, path)
    assert line.startswith(f"{path}: not TOML: ")
    assert "line 2" in line


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 100_000, "x = " + "1" * 5000, "x = 1\nx = 2", "\ufeff=1", "x = 1e", "\0"]
)
def test_hostile_toml_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "hostile.toml"
    path.write_text(text)
    assert len(refusal(config.load, path)) == 1


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "linear.toml").write_bytes(b"x = '\xff'")
    assert "not UTF-8" in refusal(config.load, tmp_path / "linear.toml")[0]
    assert "directory" in refusal(config.load, tmp_path)[0].lower()
    missing = refusal(config.load, tmp_path / "liner.toml")[0]
    assert missing == f"{tmp_path}/liner.toml: no such file. Did you mean {tmp_path}/linear.toml?"
    assert refusal(config.load, Path("a\0b"))


# ---- driven by the dataclasses of an experiment --------------------------------------------------------------------


def shipped(base):
    """The kinds below a class that come with the package."""
    return {name: kind for name, kind in kinds(base).items() if kind.__module__.startswith("iclab.")}


def example(hint):
    """A value of an annotation, with the least that its class asks for. At d = n = 3 every kind of task is possible."""
    if get_origin(hint) is tuple:
        return 2 * (example(get_args(hint)[0]),)
    if is_table(hint):
        usual = USUAL.get(hint) or next(iter(kinds(hint).values()))
        final = hint if not has_kinds(hint) else kinds(hint).get(hint.__name__, usual)
        return final(**{name: example(h) for name, (spec, h) in schema(final).items() if required(spec)})
    return {int: 3, float: 0.5, str: "word", bool: True}[hint]


def made(kind):
    given = {name: example(h) for name, (spec, h) in schema(kind).items() if required(spec)}
    return kind(**(given | {"points": 4} if kind is Longer else given))  # more than the n = 3 of the base


PLAIN = LinearRegression(3, 3)
KEYED = QueryAndKeys(3, 3)
CONSTRUCTIONS = {
    "VonOswald2022": VonOswald2022(lr=0.1),
    "Bai2023": Bai2023(lr=0.1, lam=0.5),
    "Fu2023": Fu2023(steps=1, first=0.1),
    "Akyurek2022Descent": Akyurek2022Descent(lr=0.01, largest_x=2.0, largest_y=2.0),
    "Akyurek2022Ridge": Akyurek2022Ridge(lam=10.0, largest_x=1.0, largest_y=2.0),
}


def test_every_construction_is_tried():
    assert shipped(Construction) == {name: type(one) for name, one in CONSTRUCTIONS.items()}


USUAL = {  # of the abstract classes
    Task: LinearRegression,
    FunctionClass: LinearRegression,
    Features: Identity,
    Predictor: LeastSquares,
    Linear: LeastSquares,
}


def specimens():
    """Experiments that hold every kind of task, of inputs and of shift, and every optional table, each with the
    section in which it is special."""
    yield "plain", Experiment(PLAIN, model=TransformerConfig(layout="interleaved")), ""  # takes every read-in
    yield "bare", Experiment(PLAIN, model=TransformerConfig(layout="encoder", read_in="identity")), "model"
    yield "softmax", Experiment(PLAIN, model=TransformerConfig(attention="softmax", layout="interleaved")), "model"
    for name, kind in shipped(Task).items():
        yield f"task {name}", Experiment(made(kind)), "task"
    for name, kind in shipped(Inputs).items():
        yield f"inputs {name}", Experiment(LinearRegression(3, 3, inputs=made(kind))), "task.inputs"
    for name, kind in shipped(ModelConfig).items():
        if issubclass(kind, FrozenModelConfig):
            yield f"model {name}", Experiment(KEYED, made(kind), FrozenRidge()), "model"
        elif kind.trainable and kind is not TransformerConfig:  # which is that of "plain"; test_given has the others
            yield f"model {name}", Experiment(PLAIN, made(kind)), "model"
    for name, kind in shipped(Learner).items():
        frozen = issubclass(kind, FrozenLearner)
        pair = (KEYED, RandomAttentionConfig()) if frozen else (PLAIN, LinearAttentionConfig())
        yield f"train {name}", Experiment(*pair, made(kind)), "train"
    for name, kind in shipped(Target).items():
        targets = QueryAndKeys(4, 3, targets=(("one", made(kind)),))
        yield f"target {name}", Experiment(targets, RandomAttentionConfig(), FrozenRidge()), "task.targets.one"
    for name, kind in shipped(Profile).items():
        targets = QueryAndKeys(3, 3, targets=(("one", KeyAverage(made(kind))),))
        yield f"profile {name}", Experiment(targets, RandomAttentionConfig(), FrozenRidge()), "task.targets.one.key"
    beside = FrozenRidge(beside=(("other", RandomNetworkConfig()),))
    yield "train.beside", Experiment(KEYED, RandomAttentionConfig(), beside), "train.beside.other"
    for name, kind in shipped(Derived).items():
        free = TransformerConfig(positions=False)  # takes prompts of any length
        yield (
            f"shift {name}",
            Experiment(PLAIN, free, eval=Evaluation(shifts=(("one", made(kind)),))),
            "eval.shifts.one",
        )
    for name, kind in shipped(Predictor).items():
        named_one = Evaluation(predictors=(("mine", made(kind)),))
        yield f"predictor {name}", Experiment(PLAIN, eval=named_one), "eval.predictors.mine"
    for name, one in CONSTRUCTIONS.items():
        yield f"start {name}", Experiment(PLAIN, shape(one, 3, 3), start=Start(construction=one)), "start"
        named_one = Evaluation(constructions=(("mine", one),))
        yield f"construction {name}", Experiment(PLAIN, shape(one, 3, 3), eval=named_one), "eval.constructions.mine"
    for name, kind in shipped(Features).items():
        featured = Evaluation(predictors=(("mine", Featurised(LeastSquares(), made(kind))),))
        yield f"features {name}", Experiment(PLAIN, eval=featured), "eval.predictors.mine.features"
    for name, (_, hint) in schema(Experiment).items():
        for inner, (_, inner_hint) in schema(hint).items() if is_table(hint) and not has_kinds(hint) else ():
            table = next((m for m in members(inner_hint) if is_table(m)), None)
            if table:
                yield f"{name}.{inner}", Experiment(PLAIN, **{name: hint(**{inner: made(table)})}), f"{name}.{inner}"


FOUND = list(specimens())
SPECIMENS = {name: experiment for name, experiment, _ in FOUND}
SECTIONS = {name: section for name, _, section in FOUND}


def special(name):
    """The settings of a specimen that no other one has."""
    for key, hint, value in settings_of(Experiment, SPECIMENS[name]):
        if (
            f"{key}.".startswith(SECTIONS[name])
            and ".base." not in key
            and (SECTIONS[name] != "task" or "inputs" not in key)
        ):
            yield key, hint, value


@cache
def first_specimens(whole):
    """For each field of each class the first specimen in which it is special: what is true of it there is true of it
    in all, for one reader reads them all. Unless as a whole, a field that is inherited is that of the class above."""
    found = {}
    for name, experiment in SPECIMENS.items():
        for key, _, _ in special(name):
            found.setdefault(field_of(experiment, key, whole), name)
    return found


def keys_to_try(name, whole):
    """The special keys of a specimen whose fields no specimen before it has."""
    experiment = SPECIMENS[name]
    return [key for key, _, _ in special(name) if first_specimens(whole)[field_of(experiment, key, whole)] == name]


def field_of(value, key, whole=True):
    """The class that a dotted key of an object is a field of, or the first one that declares it, and its name."""
    *above, last = key.split(".")
    for part in above:
        value = dict(value)[part] if isinstance(value, tuple) else getattr(value, part)
    declare = [cls for cls in type(value).__mro__ if last in vars(cls).get("__annotations__", {})]
    return type(value) if whole else declare[-1], last


def settings_of(hint, value, key=""):
    """Every settable entry of an object: dotted key, annotation and value."""
    for name, (_, inner) in schema(type(value)).items():
        dotted, entry = f"{key}.{name}".lstrip("."), getattr(value, name)
        if named(inner) is not None:
            for label, each in dict(entry).items():
                yield from settings_of(named(inner), each, f"{dotted}.{label}")
        elif is_table(type(entry)):
            yield from settings_of(inner, entry, dotted)
        else:
            yield dotted, inner, entry


def tried(whole):
    """The specimens that have keys to try."""
    return list(dict.fromkeys(first_specimens(whole).values()))


TRIED = [(name, False) for name in tried(False)]
TRIED += [pytest.param(name, True, marks=pytest.mark.slow, id=f"{name}, whole") for name in tried(True)]


@pytest.mark.parametrize("whole", [False, True])
def test_every_field_of_every_specimen_is_tried_in_some_specimen(whole):
    found = {field_of(SPECIMENS[name], key, whole) for name in tried(whole) for key in keys_to_try(name, whole)}
    assert found == {field_of(SPECIMENS[name], key, whole) for name in SPECIMENS for key, _, _ in special(name)}
    assert whole or 2 * len(tried(False)) > len(tried(True)) > len(tried(False))


def at(mapping, key):
    return flatten(mapping).get(key)


def tells(line, key):
    """Whether a message names a key, or a section that it lies in."""
    parts = key.split(".")
    return key in line or any(f" {'.'.join(parts[:i])}: " in line for i in range(1, len(parts)))


WRONG = [
    True,
    3,
    -(10**6),
    2.5,
    -7.5,
    "zzz",
    [],
    [1, "a"],
    {"q": 1},
    10**30,
    float("nan"),
    float("inf"),
    datetime.date(2026, 1, 1),
]


@pytest.mark.parametrize("name", SPECIMENS)
def test_an_experiment_survives_the_way_to_a_file_and_back(name, tmp_path):
    experiment = SPECIMENS[name]
    path = tmp_path / "config.toml"
    path.write_text(config.dump(experiment.mapping()))
    again = Experiment.read(path)
    assert again == experiment
    assert again.id == experiment.id
    assert again.mapping() == experiment.mapping()


@pytest.mark.parametrize(("name", "whole"), TRIED)
def test_a_wrong_value_is_refused_under_its_key_and_an_accepted_one_is_taken_as_it_is(name, whole):
    experiment = SPECIMENS[name]
    for turn, key in enumerate(keys_to_try(name, whole)):
        for wrong in WRONG if whole else (WRONG[(turn + away) % len(WRONG)] for away in (0, 4, 8)):
            try:
                read = Experiment.from_mapping(put(experiment.mapping(), key, wrong), "f.toml")
            except ValueError as error:
                lines = str(error).splitlines()
                assert all(line.startswith("f.toml: ") and tells(line, key) for line in lines), (key, lines)
            else:
                kept = at(read.mapping(), key)
                kept = [] if key == "imports" and kept is None else kept  # an empty list is left out
                assert kept == wrong, f"{key} = {wrong!r} became {kept!r}"
                assert not isinstance(wrong, bool) or kept is wrong


@pytest.mark.parametrize(("name", "whole"), TRIED)
def test_every_mistyped_key_is_refused_with_the_right_one(name, whole):
    experiment = SPECIMENS[name]
    for key in keys_to_try(name, whole):
        (line,) = refusal(Experiment.from_mapping, put(experiment.mapping(), f"{key}_", 1), "f.toml")
        assert line.startswith(f"f.toml: unknown key '{key}_'. Did you mean '{key}'?")


@pytest.mark.parametrize("name", shipped(Task))
def test_every_missing_key_is_named(name):
    kind = shipped(Task)[name]
    lines = refusal(Experiment.from_mapping, {"task": {"kind": name}}, "f.toml")
    needed = {f"task.{n}" for n, (spec, _) in schema(kind).items() if required(spec)}
    assert {line.split("'")[1] for line in lines} == needed
    assert all(line.startswith("f.toml: missing key") for line in lines)


BY_NAME = {"shifts", "predictors", "constructions", "targets", "beside"}  # tables whose names are anybody's


def test_the_suggested_keys_are_those_that_can_be_set():
    for experiment in SPECIMENS.values():
        known = set(known_keys(Experiment, experiment.mapping()))
        keys = {key for key, _, _ in settings_of(Experiment, experiment)}
        assert {key for key in keys if not BY_NAME & set(key.split("."))} <= known


TOML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(name=st.sampled_from(sorted(SPECIMENS)), garbage=TOML, data=st.data())
def test_garbage_anywhere_gives_a_list_of_problems_or_an_experiment(name, garbage, data):
    mapping = SPECIMENS[name].mapping()
    tables = ["task", "task.kind", "task.inputs", "task.base", "model", "train", "eval", "eval.shifts", "eval.shifts.x"]
    key = data.draw(st.sampled_from([*flatten(mapping), *tables]))
    try:
        assert isinstance(Experiment.from_mapping(put(mapping, key, garbage), "f"), Experiment)
    except ValueError as error:
        assert all(line.startswith(("f: ", "… and ")) for line in str(error).splitlines())


# ---- identity ------------------------------------------------------------------------------------------------------


def alternatives(hint, value):
    """Other values of an annotation, one of which its class should accept."""
    for member in members(hint):
        if get_origin(member) is Literal:
            yield from (each for each in get_args(member) if each != value)
        elif member is bool:
            yield not value
        elif member is int:
            yield from ([value + 1, 2 * value, value - 1] if isinstance(value, int) else [1, 2, 3, 4])
        elif member is float:
            yield from ([value * 1.5, value + 0.25, -value] if isinstance(value, float) else [0.75])
        elif member is str:
            yield from ["cpu", "fast", "q.y"]
        elif is_table(member) and member is not Start:
            yield config.to_mapping(made(member))
        elif member is NoneType:
            yield None
        elif get_origin(member) is tuple and get_origin(get_args(member)[0]) is Literal:
            yield get_args(get_args(member)[0])[:1]
        elif get_origin(member) is tuple and is_table(get_args(member)[0]):
            yield [config.to_mapping(each, get_args(member)[0]) for each in (*value, value[0])]
        elif get_origin(member) is tuple:
            yield from [(0.25, 0.5), (1.0, 2.0, 3.0), (10, 20)]


NAMES_ONLY = {"device", "recipe"}
SHAPED = ("start.construction", "eval.constructions.mine")  # as the model is, by these keys
BOUND = {"eval.predictors.mine.d", *(f"{table}.{key}" for table in SHAPED for key in ("steps", "norm"))}
FIXED = {"task LinearClassification": "task.noise"}  # no other value is accepted here: classes have none
POSSIBLE_ONLY_IN = {
    "model.negated": "bare",
    "model.null_slot": "softmax",
    "model.zero_blocks": "bare",
    "start": "start VonOswald2022",
}


NAMED = {*tried(False), *POSSIBLE_ONLY_IN.values()}
IDENTIFIED = [(name, False) for name in SPECIMENS if name in NAMED]
IDENTIFIED += [pytest.param(name, True, marks=pytest.mark.slow, id=f"{name}, whole") for name in SPECIMENS]


@pytest.mark.parametrize(("name", "whole"), IDENTIFIED)
def test_the_id_depends_on_every_setting_that_can_change_a_number_and_on_no_other(name, whole):
    experiment, keys = SPECIMENS[name], keys_to_try(name, False)
    for key, hint, value in special(name):
        if not (whole or key in keys or POSSIBLE_ONLY_IN.get(key) == name):
            continue
        if key == "imports":  # of files by their texts: see test_plugins.py
            continue
        if key in BOUND or key == FIXED.get(name) or POSSIBLE_ONLY_IN.get(key, name) != name:
            continue
        others = [("layers",), ("weights",), ("channels",)] if key == "eval.analyses" else alternatives(hint, value)
        tried = (changed(experiment, key, other) for other in others if other != value)
        other = next((each for each in tried if each is not None), None)
        assert other is not None, f"no other value of {key} is accepted"
        assert (other.id == experiment.id) is (key in NAMES_ONLY), key


def changed(experiment, key, value):
    given = config.NONE if value is None else list(value) if isinstance(value, tuple) else value
    try:
        return Experiment.from_mapping(put(experiment.mapping(), key, given), "f")
    except ValueError:
        return None


def test_the_id_is_the_same_in_another_process_and_for_another_spelling():
    one = Experiment(LinearRegression(3, 3, noise=1), seed=2)
    assert one.id == Experiment(LinearRegression(3, 3, noise=1.0), seed=2, device="cpu").id
    assert len(one.id) == 12
    assert (
        Experiment.from_mapping({"seed": 2, "task": {"noise": 1, "n": 3, "d": 3, "kind": "LinearRegression"}}, "f")
        == one
    )


def test_a_kind_that_need_not_be_named_is_no_part_of_the_id_and_any_other_is():
    """Runs that were made when there was one kind of model and of learning, by the first numerics, keep their ids."""
    named = Experiment(PLAIN).mapping()
    assert (named["model"]["kind"], named["train"]["kind"]) == ("TransformerConfig", "Recipe")
    bare = {s: {k: v for k, v in named[s].items() if k != "kind"} for s in ("model", "train")}
    assert Experiment.from_mapping({**named, **bare}, "f").id == Experiment(PLAIN).id
    decisive = {k: v for k, v in ({**named, **bare}).items() if k not in NAMES_ONLY}
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    assert run_id(named, numerics=1) == hashlib.sha256(text.encode()).hexdigest()[:12]
    decisive["numerics"] = NUMERICS
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    assert Experiment(PLAIN).id == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert Experiment(PLAIN, LinearAttentionConfig()).id != Experiment(PLAIN).id


def test_an_id_stands_for_the_version_of_the_numerics_as_well():
    settings = Experiment(PLAIN).mapping()
    ids = [run_id(settings, version) for version in range(1, NUMERICS + 1)]
    assert len(set(ids)) == NUMERICS and ids[-1] == Experiment(PLAIN).id
    assert [numerics_of(id, settings) for id in ids] == list(range(1, NUMERICS + 1))
    assert numerics_of(ids[0], {**settings, "seed": 7}) is None


def test_a_kind_of_model_that_is_not_known_is_told_with_the_known_ones():
    (line,) = refusal(
        Experiment.from_mapping, put(Experiment(PLAIN).mapping(), "model", {"kind": "LinearAttention"}), "f"
    )
    assert "unknown model config 'LinearAttention'" in line and "LinearAttentionConfig" in line


def test_what_is_for_the_other_kind_of_prompts_is_told_so():
    examples = {"task": {"kind": "LinearRegression", "d": 2, "n": 5}, "eval": {"analyses": ["mechanism", "layers"]}}
    (line,) = refusal(Experiment.from_mapping, examples, "f")
    told = "'mechanism' is for sequences of tokens, and task.kind 'LinearRegression' is about prompts of examples"
    assert told in line
    tokens = {"task": {"kind": "MarkovChain"}, "model": {"kind": "TransformerConfig"}, "eval": {"analyses": ["layers"]}}
    (line,) = refusal(Experiment.from_mapping, tokens, "f")
    assert "model.kind = TransformerConfig is for other prompts: MarkovChain is about sequences of tokens" in line
    del tokens["model"]
    (line,) = refusal(Experiment.from_mapping, tokens, "f")
    assert "'layers' is for prompts of examples, and task.kind 'MarkovChain' is about sequences of tokens" in line


# ---- shifts --------------------------------------------------------------------------------------------------------


def shifted(**shifts):
    base = Experiment(PLAIN).mapping()
    return Experiment.from_mapping(put(base, "eval.shifts", shifts), "f.toml")


def test_a_shift_without_base_is_derived_from_the_experiments_own_task():
    experiment = shifted(skewed={"kind": "SkewedInputs"}, noisy={"kind": "NoisyLabels", "std": 1})
    assert dict(experiment.eval.shifts) == {
        "skewed": SkewedInputs(experiment.task),
        "noisy": NoisyLabels(experiment.task, 1.0),
    }
    assert "base" not in experiment.mapping()["eval"]["shifts"]["skewed"]


def test_shifts_nest_and_may_be_tasks_of_their_own():
    inner = {"kind": "NoisyLabels", "std": 1.0}
    short = {"kind": "LinearRegression", "d": 3, "n": 2, "noise": 0.5}
    experiment = shifted(both={"kind": "SkewedInputs", "base": inner}, short=short)
    assert dict(experiment.eval.shifts) == {
        "both": SkewedInputs(NoisyLabels(experiment.task, 1.0)),
        "short": LinearRegression(3, 2, 0.5),
    }
    assert Experiment.from_mapping(experiment.mapping(), "f") == experiment


def test_a_shift_that_the_model_cannot_take_is_refused():
    longer = {"kind": "LinearRegression", "d": 3, "n": 4}
    wider = {"kind": "LinearRegression", "d": 4, "n": 3}
    for shift in (longer, wider):
        (line,) = refusal(lambda shift=shift: shifted(odd=shift))
        assert "shift 'odd' has d = " in line
    (line,) = refusal(lambda: shifted(own={"kind": "SkewedInputs"}))
    assert "the name 'own' is that of the training distribution" in line
    (line,) = refusal(lambda: shifted(**{"a.b": {"kind": "SkewedInputs"}}))
    assert "a shift needs a name of letters" in line


def test_a_mistake_in_the_task_is_not_repeated_for_each_shift():
    mapping = Experiment(LinearRegression(3, 3), eval=Evaluation(shifts=(("a", SkewedInputs(LinearRegression(3, 3))),)))
    (line,) = refusal(Experiment.from_mapping, put(mapping.mapping(), "task.d", 0), "f")
    assert line == "f: task: LinearRegression: d must be at least 1, given 0"


def test_a_base_of_the_wrong_kind_is_told_by_name():
    tree = {"kind": "DecisionTree", "d": 3, "n": 3}
    mapping = {"task": tree, "eval": {"shifts": {"x": {"kind": "NormalisedLabels"}}}}
    (line,) = refusal(Experiment.from_mapping, mapping, "f")
    assert line == "f: eval.shifts.x.base: expected LinearRegression, given DecisionTree"
    assert schema(NormalisedLabels)["base"][1] is LinearRegression


def test_tasks_and_predictors_of_representations_are_spelled_out_in_a_file(tmp_path):
    (tmp_path / "f.toml").write_text(
        """
        [task]
        kind = "RepresentationMixture"
        count = 2
        [task.base]
        kind = "RepresentationRegression"
        d = 3
        n = 4
        noise = 0.1
        [task.base.representation]
        width = 5
        depth = 1
        seed = 7
        [eval.shifts.levels]
        kind = "NoiseMixture"
        base = { kind = "LinearRegression", d = 3, n = 4 }
        stds = [0.1, 0.5, 1]
        [eval.shifts.either]
        kind = "OneOf"
        tasks = [{ kind = "LinearRegression", d = 3, n = 4 }, { kind = "LinearClassification", d = 3, n = 4 }]
        [eval.predictors.validated]
        kind = "HalfSplit"
        candidates = [{ kind = "Ridge", lam = 0.2 }, { kind = "LeastSquares" }]
        [eval.predictors.beside]
        kind = "Featurised"
        predictor = { kind = "Ridge", lam = 0.2 }
        [eval.predictors.beside.features]
        kind = "Concatenated"
        parts = [{ kind = "Identity" }, { kind = "Representation", width = 5, depth = 1, seed = 7 }]
        """
    )
    experiment = Experiment.read(tmp_path / "f.toml")
    phi = Representation(width=5, depth=1, seed=7)
    assert experiment.task == RepresentationMixture(RepresentationRegression(3, 4, 0.1, representation=phi), 2)
    assert dict(experiment.eval.shifts) == {
        "levels": NoiseMixture(LinearRegression(3, 4), (0.1, 0.5, 1.0)),
        "either": OneOf((LinearRegression(3, 4), LinearClassification(3, 4))),
    }
    assert dict(experiment.eval.predictors) == {
        "validated": HalfSplit((Ridge(0.2), LeastSquares())),
        "beside": Featurised(Ridge(0.2), Concatenated((Identity(), phi))),
    }
    assert Experiment.from_mapping(experiment.mapping(), "f") == experiment


# ---- named predictors ----------------------------------------------------------------------------------------------


def naming(**predictors):
    return Experiment.from_mapping(put(Experiment(PLAIN).mapping(), "eval.predictors", predictors), "f.toml")


def test_predictors_are_named_with_their_settings():
    experiment = naming(ols={"kind": "LeastSquares"}, step={"kind": "GradientDescent", "steps": 1, "lr": 0.02})
    assert dict(experiment.eval.predictors) == {"ols": LeastSquares(), "step": GradientDescent(1, 0.02)}
    assert Experiment.from_mapping(experiment.mapping(), "f") == experiment
    assert experiment.id != naming(ols={"kind": "LeastSquares"}).id


def test_an_experiment_that_names_no_predictor_keeps_its_id():
    assert "predictors" not in Experiment(PLAIN).mapping()["eval"]
    assert naming().id == Experiment(PLAIN).id != naming(ols={"kind": "LeastSquares"}).id


def test_what_needs_a_tensor_is_offered_to_no_file():
    offered = shipped(Predictor)
    assert {"Ridge", "LeastSquares", "GradientDescent", "NearestNeighbours", "Zero"} <= offered.keys()
    assert not {"DiscreteMMSE", "Posterior", "Mixture", "Linear", "Bayesian"} & offered.keys()
    assert set(schema(GradientDescent)) == {"steps", "lr", "lam"}
    step = {"kind": "GradientDescent", "steps": 1}
    (line,) = refusal(lambda: naming(mine=step | {"lr": [0.1, 0.2]}))
    assert line == "f.toml: eval.predictors.mine.lr: expected a number, given [0.1, 0.2]"
    (line,) = refusal(lambda: naming(mine=step | {"lr": 0.1, "preconditioner": "none"}))
    assert line.startswith("f.toml: unknown key 'eval.predictors.mine.preconditioner'.")


@pytest.mark.parametrize(
    ("predictor", "problem"),
    [
        (GradientDescent(1, torch.ones(3)), "has a tensor as lr, which no file can hold"),
        (GradientDescent(1, 0.1, preconditioner=torch.eye(3)), "has a tensor as preconditioner"),
        (DiscreteMMSE(torch.ones(2, 3), 0.5), "is no closed form that a file can spell out"),
        (Featurised(DiscreteMMSE(torch.ones(2, 3), 0.5), Identity()), "is no closed form that a file can spell out"),
        (HalfSplit((LeastSquares(), GradientDescent(1, torch.ones(3)))), "has a tensor as lr"),
    ],
)
def test_a_predictor_that_a_file_cannot_hold_is_refused_in_python_too(predictor, problem):
    with pytest.raises(ValueError, match=f"predictor 'mine' {problem}"):
        Evaluation(predictors=(("mine", predictor),))


def test_a_name_that_is_taken_or_unfit_is_refused():
    for name in ("ridge", "bayes", "transformer", "newton", "least_squares"):
        (line,) = refusal(lambda name=name: naming(**{name: {"kind": "Zero"}}))
        assert f"the name {name!r} is that of a reference that is always there" in line
    (line,) = refusal(lambda: naming(**{"a.b": {"kind": "Zero"}}))
    assert "a predictor needs a name of letters" in line


def test_a_mistake_in_a_named_predictor_is_told_with_its_key():
    (line,) = refusal(lambda: naming(mine={"kind": "Rigde", "lam": 1}))
    assert line.startswith("f.toml: eval.predictors.mine.kind: unknown predictor 'Rigde'. Did you mean 'Ridge'?")
    (line,) = refusal(lambda: naming(mine={"kind": "Ridge", "lam": 0}))
    assert line.startswith("f.toml: eval.predictors.mine: Ridge: lam must be positive")
    (line,) = refusal(lambda: naming(mine={"kind": "NearestNeighbours", "weighting": "unifrom"}))
    assert "unknown value 'unifrom'. Did you mean 'uniform'?" in line
    (line,) = refusal(lambda: naming(mine={"kind": "SparsePosterior", "d": 4, "sparsity": 1}))
    assert "predictor 'mine' is for d = 4, not 3" in line


def test_posterior_mean_targets_need_a_known_bayes_predictor():
    tree = {"kind": "DecisionTree", "d": 3, "n": 3}
    (line,) = refusal(Experiment.from_mapping, {"task": tree, "train": {"targets": "posterior_mean"}}, "f")
    assert "no closed form of the Bayes predictor is known for DecisionTree" in line
    pool = FinitePool(LinearRegression(3, 3), 4)
    assert Experiment.from_mapping(put(Experiment(pool).mapping(), "train.targets", "posterior_mean"), "f").task == pool


YOUNGER = {
    ("predictor Newton", "eval.predictors.mine.start"),
    ("plain", "imports"),
    ("plain", "train.compile"),
    ("train Recipe", "train.compile"),
    ("eval.surgery", "eval.surgery.compile"),
    *((name, f"{section}.loss") for name, section in (("plain", "train"), ("train Recipe", "train"))),
    ("eval.surgery", "eval.surgery.loss"),
    *((name, "model.zero_blocks") for name in ("bare", "plain", "softmax")),
}  # than the first runs of their classes


def test_a_setting_that_is_added_later_changes_no_id():
    """The same class with one field more; without the mark its default would be a part of every id."""
    ids = {}
    for name, metadata in {"before": None, "marked": {"since": "9"}, "unmarked": {}}.items():
        more = [] if metadata is None else [("later", bool, field(default=False, metadata=metadata))]
        made = make_dataclass("Later", more, bases=(LinearRegression,), frozen=True, kw_only=True)
        ids[name] = run_id({"task": config.to_mapping(made(d=3, n=5))})
        ids[f"{name}, chosen"] = run_id({"task": config.to_mapping(made(d=3, n=5, later=True))}) if more else ""
        RETIRED.add(made)
    assert ids["before"] == ids["marked"] != ids["unmarked"] and ids["marked, chosen"] != ids["marked"]


def test_every_default_but_none_and_younger_ones_is_spelled_out_in_the_mapping():
    left_out = set()
    for name, experiment in SPECIMENS.items():
        spelled = config.dump(experiment.mapping())
        for key, _, value in special(name):
            last = key.rpartition(".")[2]
            if not (value is None or f"{last} = " in spelled or f".{last}]]" in spelled):
                left_out.add((name, key))
    assert left_out == YOUNGER


def test_a_younger_field_is_written_and_read_where_it_is_not_its_default():
    usual, chosen = (naming(mine={"kind": "Newton", "steps": 3} | more) for more in ({}, {"start": "frobenius"}))
    named = chosen.mapping()["eval"]["predictors"]["mine"]
    assert named == {"kind": "Newton", "steps": 3, "start": "frobenius"}
    assert naming(mine={"kind": "Newton", "steps": 3, "start": "spectral"}).id == usual.id != chosen.id
    assert Experiment.from_mapping(chosen.mapping(), "f") == chosen
