"""The grammar of sweeps, and the studies that are made with it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclab.errors import UsageError
from iclab.experiments import grid, study
from iclab.experiments.mappings import flatten, merge, put
from iclab.experiments.study import Study

STUDY = """title = "A study"
question = "Is it read?"
paper = "none"

[task]
kind = "LinearRegression"
d = 3
n = 4
"""


def written(folder, text="", name="study_file.toml"):
    path = folder / name
    path.write_text(STUDY + text)
    return path


def refusal(call, *arguments):
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    return str(caught.value).splitlines()


def values(read, key):
    return [flatten(cell.experiment.mapping()).get(key) for cell in read.cells]


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("1", [1]),
        ("1,2,4", [1, 2, 4]),
        ("1e-3", [1e-3]),
        (".5,5.", [0.5, 5.0]),
        ("0:4", [0, 1, 2, 3]),
        ("2:10:3", [2, 5, 8]),
        ("3:0:-1", [3, 2, 1]),
        ("-2:1", [-2, -1, 0]),
        ("log:1e-4..1e-2:3", [1e-4, 1e-3, 1e-2]),
        ("log:1..16:5", [1, 2, 4, 8, 16]),
        ("lin:0..1:5", [0, 0.25, 0.5, 0.75, 1.0]),
        ("lin:1..9:3", [1, 5, 9]),
        ("lin:1..-1:3", [1, 0, -1]),
        ("true,false", [True, False]),
        ("none", ["none"]),
        ("adamw,muon", ["adamw", "muon"]),
        ("garg2022,fast", ["garg2022", "fast"]),
        ('"a,b",c', ["a,b", "c"]),
        ("'x'", ["x"]),
        ("[1.0, 0.5],[1, 1]", [[1.0, 0.5], [1, 1]]),
        (
            '{kind="Uniform", half_width=2.0},{kind="Sphere"}',
            [{"kind": "Uniform", "half_width": 2.0}, {"kind": "Sphere"}],
        ),
        ('"cuda:1"', ["cuda:1"]),
        ("cuda:1", ["cuda:1"]),
        ("cpu,cuda:0,cuda:1", ["cpu", "cuda:0", "cuda:1"]),
    ],
)
def test_the_grammar_lists_values(text, listed):
    found = grid.parse(text)
    assert found == listed
    assert list(map(type, found)) == list(map(type, listed)) or text.startswith(("lin", ".5"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a value is empty"),
        ("1,,2", "a value is empty"),
        ("1,", "a value is empty"),
        ("4:4", "is empty"),
        ("4:0", "is empty"),
        ("0:4:0", "has step 0"),
        ("0:", "malformed"),
        (":4", "malformed"),
        ("0:1:2:3", "malformed"),
        ("0.5:3", "malformed"),
        ("0:1000000000000", "more than 100000"),
        ("0:99999999999999999999999", "more than 100000"),
        ("log:0..1:3", "needs ends above 0"),
        ("log:-1..1:3", "needs ends above 0"),
        ("log:1e-4..1e-2", "malformed"),
        ("log:1e-4..1e-2:", "malformed"),
        ("log:a..b:3", "'a' is not a finite number"),
        ("lin:0..inf:3", "'inf' is not a finite number"),
        ("lin:0..1:1", "needs at least 2 values, given 1"),
        ("lin:0..1:-2", "needs at least 2 values, given -2"),
        ("lin:0..1:9999999", "more than 100000"),
        ("log:1..:3", "malformed"),
        ("a b", "is not a value"),
        ('"a', "is not a value"),
        ("[1", "is not a value"),
        ("1;2", "is not a value"),
        ("a:b", "is not a value"),
        ("cuda:1:2", "is not a value"),
        ("cuda:", "is not a value"),
        ("1,log:1..2:3", "is not a value"),
        ("0:" + "9" * 5000, "digits"),
        ("lin:0..1" + "0" * 400 + ":3", "too large"),
    ],
)
def test_malformed_values_are_refused(text, problem):
    (line,) = refusal(grid.setting, f"seed={text}")
    assert problem in line
    assert line.startswith("seed: ")


@pytest.mark.parametrize("text", ["", "seed", "=1", "a b=1", "a..b=1", ".a=1", "--jobs=3"])
def test_what_is_no_setting_is_refused(text):
    (line,) = refusal(grid.setting, text)
    assert "expected key=value" in line


@given(st.text(max_size=20))
def test_any_text_lists_values_or_is_refused(text):
    try:
        assert grid.setting(f"x={text}")[1]
    except ValueError as error:
        assert str(error).startswith("x: ")


@given(low=st.integers(-50, 50), count=st.integers(1, 20), step=st.integers(-5, 5).filter(bool))
def test_integer_ranges_are_pythons(low, count, step):
    stop = low + count * step
    assert grid.parse(f"{low}:{stop}:{step}") == list(range(low, stop, step))


def test_the_last_key_of_a_cross_varies_fastest():
    assert list(grid.cross({"a": [1, 2], "b": [3, 4]})) == [
        {"a": 1, "b": 3},
        {"a": 1, "b": 4},
        {"a": 2, "b": 3},
        {"a": 2, "b": 4},
    ]
    assert list(grid.cross({})) == [{}]
    assert "1000000 cells" in refusal(grid.cross, {"a": list(range(1000)), "b": list(range(1000))})[0]


def test_mappings_are_laid_over_each_other_without_being_changed():
    under, over = {"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 5}, "c": {"z": 1}}
    assert merge(under, over) == {"a": {"x": 1, "y": 5}, "b": 3, "c": {"z": 1}}
    assert put(under, "a.x", 9) == {"a": {"x": 9, "y": 2}, "b": 3}
    assert put(under, "b.q", 9) == {"a": {"x": 1, "y": 2}, "b": {"q": 9}}
    assert under == {"a": {"x": 1, "y": 2}, "b": 3}
    assert flatten(merge(under, over)) == {"a.x": 1, "a.y": 5, "b": 3, "c.z": 1}


# ---- studies -------------------------------------------------------------------------------------------------------


def test_the_lists_of_a_file_are_crossed(tmp_path):
    read = Study.read(written(tmp_path, '[sweep]\n"task.noise" = [0.5, 1]\nmodel.n_layer = [1, 2]\nseed = "0:2"\n'))
    assert len(read.cells) == 8
    assert values(read, "task.noise") == [0.5] * 4 + [1.0] * 4
    assert values(read, "model.n_layer") == [1, 1, 2, 2] * 2
    assert values(read, "seed") == [0, 1] * 4
    assert read.heading.title == "A study"


def test_the_command_line_replaces_lists_and_adds_to_them(tmp_path):
    path = written(tmp_path, "[sweep]\nseed = [0, 1, 2]\n")
    read = Study.read(path, ["seed=7", "train.lr=log:1e-4..1e-2:3", "task.inputs.kind=Sphere"])
    assert values(read, "seed") == [7, 7, 7]
    assert values(read, "train.lr") == [1e-4, 1e-3, 1e-2]
    assert values(read, "task.inputs.kind") == ["Sphere"] * 3


def test_whole_tables_can_be_swept(tmp_path):
    path = written(tmp_path, '[task.inputs]\nkind = "Uniform"\nhalf_width = 2.0\n')
    read = Study.read(path, ['task.inputs={kind="Sphere"},{kind="Uniform"}', "task.inputs.rotation_seed=1"])
    assert values(read, "task.inputs.kind") == ["Sphere", "Uniform"]
    assert values(read, "task.inputs.half_width") == [None, 1.0]
    assert values(read, "task.inputs.rotation_seed") == [1, 1]


def test_cells_that_are_the_same_experiment_are_one(tmp_path):
    assert len(Study.read(written(tmp_path), ["seed=0,1,0", "device=cpu,auto"]).cells) == 2


def test_none_turns_a_setting_off(tmp_path):
    assert values(Study.read(written(tmp_path), ["train.clip=none,1.0"]), "train.clip") == ["none", 1.0]


@pytest.mark.parametrize(
    ("text", "overrides", "problem"),
    [
        ("[sweep]\nseed = []\n", [], "sweep.seed: the list is empty"),
        ("[sweep]\nseed = 3\n", [], "sweep.seed: expected a list of values or a range, given 3"),
        ('[sweep]\nseed = "4:0"\n', [], "sweep.seed: range: '4:0' is empty"),
        ('[sweep]\n"model.n_layer" = [1]\nmodel.n_layer = [2]\n', [], "sweep.model.n_layer is given twice"),
        (
            '[sweep]\n"seed, task.d" = [[1, 2], [3]]\n',
            [],
            "sweep.seed, task.d: expected 2 values, one for each key, given [3]",
        ),
        ('[sweep]\n"seed, task.d" = [[1, 2]]\nseed = [1]\n', [], "sweep.seed is given twice"),
        ('[sweep]\n"seed, task.dd" = [[1, 2]]\n', [], "unknown key 'task.dd'. Did you mean 'task.d'?"),
        ("[sweep]\nmodel.n_layers = [1]\n", [], "unknown key 'model.n_layers'. Did you mean 'model.n_layer'?"),
        ('[sweep]\nseed = ["a"]\n', [], 'seed: expected an integer, given "a"'),
        ("[sweeps]\nseed = [1]\n", [], "unknown key 'sweeps'. Did you mean 'sweep'?"),
        ("[model]\nn_layer = -1\n", [], "model: TransformerConfig: n_layer must be at least 0, given -1"),
        ("", ["seed=1", "seed=2"], "command line: seed is given twice"),
        ("", ["train.lrr=1"], "command line: unknown key 'train.lrr'. Did you mean 'train.lr'? Known: train.batch"),
        ("", ["lr=1"], "command line: unknown key 'lr'. Did you mean 'train.lr'?"),
        ("", ["title=x"], "command line: unknown key 'title'."),
        ("", ["task.d.x=1"], "command line: task.d: expected an integer, given {'x': 1}"),
        ("", ["task.d=0"], "command line: task: LinearRegression: d must be at least 1, given 0"),
        ("", ["model=1"], "command line: model: expected a table, given 1"),
        ("", ["recipe=garg2021"], "command line: recipe: unknown recipe 'garg2021'. Did you mean 'garg2022'?"),
        ("", ["recipe=3"], "command line: recipe: expected a text in quotes, given 3"),
        ("", ["scale=papr"], "command line: unknown scale 'papr'. Did you mean 'paper'? Known: paper"),
        ("", ["scale=paper,paper"], "command line: unknown scale 'paper,paper'."),
        ("[scale]\nx = 1\n", [], "scale: expected tables"),
    ],
)
def test_each_mistake_of_a_study_is_told(tmp_path, text, overrides, problem):
    path = written(tmp_path, text if text.startswith("[scale]") else text + "[scale.paper]\ntask.d = 4\n")
    (line,) = refusal(Study.read, path, overrides)
    assert problem in line
    assert line.startswith(("command line: ", f"{path}: ", f"{path} + command line: "))


def test_all_mistakes_of_a_study_are_told_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(
        'titel = "x"\n[task]\nkind = "LinearRegresion"\n[[claims]]\nname = "c"\n[sweep]\nseed = ["a", "b"]\n'
    )
    lines = refusal(Study.read, path, ["train.lrr=1", "oops"])
    assert len(lines) == len(set(lines)) == 11, lines
    told = "\n".join(lines)
    for part in ["'titel'. Did you mean 'title'", "'question'", "'paper'", "'LinearRegresion'", "'claims[0].quantity'"]:
        assert part in told
    assert 'seed: expected an integer, given "a"' in told
    assert 'seed: expected an integer, given "b"' in told


def test_an_empty_file_is_called_empty(tmp_path):
    path = tmp_path / "empty.toml"
    path.write_text("")
    (line,) = refusal(Study.read, path)
    assert line.startswith(f"{path}: the file is empty")


def test_a_hundred_bad_cells_are_not_a_hundred_lines(tmp_path):
    assert len(refusal(Study.read, written(tmp_path), ["task.d=-100:0"])) == 41


TIED = """[sweep]
"task.d, task.n" = [[2, 5], [4, 9]]
seed = [0, 1]
[scale.big]
sweep = { "task.d, task.n" = [[8, 17]] }
[scale.fixed]
task.d = 7
"""


def test_keys_that_vary_as_one_are_not_crossed_with_each_other(tmp_path):
    read = Study.read(written(tmp_path, TIED))
    found = list(zip(*(values(read, key) for key in ("task.d", "task.n", "seed")), strict=True))
    assert found == [(2, 5, 0), (2, 5, 1), (4, 9, 0), (4, 9, 1)]
    assert read.cells[0].values == {"task.d": 2, "task.n": 5, "seed": 0}


def test_one_of_several_keys_that_vary_as_one_can_be_fixed(tmp_path):
    path = written(tmp_path, TIED)
    assert values(Study.read(path, ["task.d=6", "seed=3"]), "task.d") == [6, 6]
    assert values(Study.read(path, ["task.d=6", "seed=3"]), "task.n") == [5, 9]
    assert values(Study.read(path, ["scale=big", "seed=3"]), "task.n") == [17]
    fixed = Study.read(path, ["scale=fixed", "seed=3"])
    assert (values(fixed, "task.d"), values(fixed, "task.n")) == ([7], [4])


def test_a_scale_is_laid_over_the_file(tmp_path):
    path = written(
        tmp_path,
        """[sweep]
seed = [0, 1]
model.n_layer = [1, 2]
[scale.paper]
recipe = "garg2022"
task.d = 20
model.n_layer = 12
sweep.seed = [5]
train.steps = 7
""",
    )
    small, big = Study.read(path), Study.read(path, ["scale=paper"])
    assert len(small.cells) == 4
    assert [values(big, key) for key in ("seed", "model.n_layer", "task.d", "train.steps")] == [[5], [12], [20], [7]]
    assert values(big, "model.layout") == ["interleaved"]
    assert values(Study.read(path, ["scale=paper", "task.d=6"]), "task.d") == [6]


def test_a_recipe_lies_under_the_file_and_can_be_swept(tmp_path):
    path = written(tmp_path, "[model]\nn_layer = 2\n")
    path.write_text(f'recipe = "garg2022"\n{path.read_text()}')
    read = Study.read(path)
    assert values(read, "model.n_layer") == [2]
    assert values(read, "model.layout") == ["interleaved"]
    both = Study.read(path, ["recipe=garg2022,fast"])
    assert values(both, "recipe") == ["garg2022", "fast"]
    assert values(both, "model.layout") == ["interleaved", "lagged"]
    assert values(both, "model.n_layer") == [2, 2]


@pytest.mark.parametrize("name", study.recipes())
def test_every_recipe_makes_an_experiment(name, tmp_path):
    (cell,) = Study.read(written(tmp_path), [f"recipe={name}"]).cells
    assert cell.experiment.recipe == name


def test_the_study_as_used_is_the_study(tmp_path):
    path = written(tmp_path, "[sweep]\nseed = [0, 1]\n")
    read = Study.read(path, ["seed=3", 'task.inputs.kind="Sphere"'])
    copy = tmp_path / "study.toml"
    copy.write_text(read.as_used())
    again = Study.read(copy)
    assert [cell.experiment for cell in again.cells] == [cell.experiment for cell in read.cells]
    assert again.as_used() == read.as_used()
    assert again.text == path.read_text()
    other = Study.read(copy, ["seed=4:6"])
    assert values(other, "seed") == [4, 5]
    assert values(other, "task.inputs.kind") == ["Sphere"] * 2
    assert other.overrides == ('task.inputs.kind="Sphere"', "seed=4:6")


@pytest.mark.slow  # test_catalogue reads each of them, one by one
def test_every_task_file_of_the_repository_is_read():
    for path in sorted((Path(__file__).parents[2] / "tasks").glob("*.toml")):
        assert Study.read(path).heading.claims
