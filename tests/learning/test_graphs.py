"""What must hold of steps in a row: those of `advance`, whatever replays them, and nothing in them looks at a number.

No CUDA device is needed here. `Tape` stands for one: it keeps the operations of a step, below autograd, and repeats
them on the same tensors, so that, as in a CUDA graph, no line of Python runs again. What it cannot show is what CUDA
itself does with streams, memory and the states of generators: that is in `tests/test_gpu.py`.
"""

import gc
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning import graphs, pack
from iclab.learning import training as learning
from iclab.learning.graphs import MOST, Ledger, Outer, Replay, ahead, graphs_of
from iclab.learning.pack import pack_trainings
from iclab.learning.token_training import TokenTraining, TokenTrainingConfig, masked_losses
from iclab.learning.training import Curriculum, Diverged, Training, TrainingConfig
from iclab.measures.following import learning_curve, learning_curves
from iclab.models import (
    PointerTransformerConfig,
    TokenTransformerConfig,
    Transformer,
    TransformerConfig,
    VectorTransformerConfig,
)
from iclab.runs.perform import perform
from iclab.runs.store import WEIGHTS
from iclab.tasks import (
    FinitePool,
    GaussianClasses,
    IndirectObject,
    LaundryList,
    LinearRegression,
    MarkovChain,
    RepeatedSequence,
)
from tests.conftest import generator

TASK = LinearRegression(3, 6, noise=0.5)
SHAPE = TransformerConfig(n_layer=1, n_head=2, d_model=8)
RECIPES = {
    "warm-up and cosine": TrainingConfig(steps=50, batch=8, warmup=0.25),
    "linear, decayed, unclipped": TrainingConfig(steps=50, batch=8, schedule="linear", weight_decay=0.1, clip=None),
    "muon": TrainingConfig(steps=50, batch=8, optimizer="muon", lr=1.3e-2, weight_decay=0.1, warmup=0.1),
    "curriculum": TrainingConfig(steps=50, batch=8, curriculum=Curriculum(dims=1, points=2, every=9)),
    "last position": TrainingConfig(steps=50, batch=8, positions="last"),
    "bfloat16": TrainingConfig(steps=50, batch=8, precision="bfloat16"),
}
TOKENS = RepeatedSequence(vocab=6, shortest=2, longest=4)
LISTS = LaundryList(8, shortest=2, longest=4)
CLOSE = {"rtol": 1e-7, "atol": 1e-9}
WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.masked_select", "aten.lift_fresh")


class Unwaiting(TorchDispatchMode):
    """Refuses what a GPU would make the host wait for: numbers that are looked at, or that come from Python."""

    def __torch_dispatch__(self, function, types, given=(), named=None):
        masks = str(function) == "aten.index.Tensor" and any(
            each is not None and each.dtype == torch.bool for each in given[1]
        )
        if masks or str(function).startswith(WAITS):
            raise RuntimeError(f"{function} waits")
        return function(*given, **(named or {}))


class Recorded(TorchDispatchMode):
    def __init__(self, operations):
        super().__init__()
        self.operations = operations

    def __torch_dispatch__(self, function, types, given=(), named=None):
        made = function(*given, **(named or {}))
        self.operations.append((function, given, named or {}, made))
        return made


class Tape:
    """Repeats the operations of a captured call on the same tensors."""

    def __init__(self):
        self.captures = 0

    def aside(self):
        return nullcontext()

    def unwaiting(self):
        return Unwaiting()

    def capture(self, call, generators):
        self.captures, self.generators = self.captures + 1, generators
        operations = []
        with Unwaiting(), Recorded(operations):
            call()
        return partial(self.again, operations)

    @torch.no_grad()
    def again(self, operations):
        for function, given, named, made in operations:
            inputs = {place(each) for each in tree_leaves((given, named)) if isinstance(each, Tensor)}
            for old, new in zip(tree_leaves(made), tree_leaves(function(*given, **named)), strict=True):
                if isinstance(old, Tensor) and place(old) not in inputs:
                    old.copy_(new)


def place(tensor):
    return tensor.untyped_storage()._cdata


def training(seed=0, task=TASK, recipe=RECIPES["warm-up and cosine"], shape=SHAPE, **settings):
    model = Transformer(task.d, task.n, shape, generator(seed))
    return Training(model, task, replace(recipe, **settings), generator(100 + seed))


def token_training(seed=0, task=TOKENS, shape=None, **settings):
    shape = shape or TokenTransformerConfig(n_layer=1, n_head=2, d_model=8)
    recipe = TokenTrainingConfig(**({"steps": 50, "batch": 8, "warmup": 0.25} | settings))
    # In float64, for the gradient of some biases is nothing but rounding, which AdamW enlarges to a whole step.
    model = shape.build(task.vocab, task.n, generator(seed)).double()
    return TokenTraining(model, task, recipe, generator(100 + seed))


def on_tape(one, tape=None):
    """The same training, or pack, as one that takes its steps in rows."""
    said = []
    for each in getattr(one, "trainings", (one,)):
        each.log = said.append
    one.tape, one.said = tape or Tape(), said
    one.replay = one.replayed(one.tape)
    return one


def called(one):
    """The same, with steps that are called instead of replayed."""
    one.replay = one.replayed()
    return one


def in_rows(one, every=7):
    while one.step < one.recipe.steps:
        one.advance_until(lambda step: step % every == 0)
    return one


def step_by_step(one, steps=50):
    one.losses = [one.advance() for _ in range(steps)]
    return one


def assert_alike(one, other, **tolerance):
    """To the bit, or within a tolerance."""
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    assert one.step == other.step and one.wild == other.wild
    assert torch.equal(one.rng.get_state(), other.rng.get_state())
    torch.testing.assert_close(torch.tensor(one.losses), torch.tensor(other.losses), **tolerance)
    for name, p in one.parameters.items():
        torch.testing.assert_close(p, other.parameters[name], **tolerance)
    for (name, mine), (_, its) in zip(one._moments(), other._moments(), strict=True):
        torch.testing.assert_close(mine, its, msg=name, **tolerance)


# ---- the law of replay ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("way", [on_tape, called])
def test_steps_in_a_row_have_the_bits_of_steps_taken_one_by_one(way, recipe):
    whole = in_rows(way(training(recipe=recipe)))
    assert_alike(whole, step_by_step(training(recipe=recipe)))
    assert way is called or (whole.said == [] and whole.tape.captures and len(whole.losses) == 50)


def test_a_tape_that_repeats_the_same_prompts_would_be_noticed():
    """By the training itself, which then takes its steps one by one."""

    class Stuck(Tape):
        def capture(self, call, generators):
            states, again = [each.get_state() for each in generators], super().capture(call, generators)

            def stuck():
                for each, state in zip(generators, states, strict=True):
                    each.set_state(state)
                again()

            return stuck

    whole = in_rows(on_tape(training(), Stuck()))
    assert whole.said == ["trains without a CUDA graph: replays of the captured step differ from the step"]
    assert_alike(whole, step_by_step(training()))


def test_a_row_that_has_one_rate_for_all_its_steps_would_be_noticed(monkeypatch):
    begin = Ledger.open
    monkeypatch.setattr(Ledger, "open", lambda self, numbers, *more: begin(self, numbers[:1] * len(numbers), *more))
    with pytest.raises(AssertionError):
        assert_alike(in_rows(on_tape(training())), step_by_step(training()))


def test_a_step_in_which_python_chooses_a_number_would_be_noticed(monkeypatch):
    """A graph would keep that of the step which was captured."""
    update = Training._update
    monkeypatch.setattr(
        Training, "_update", lambda self, g, rate, *skip: update(self, g, self.recipe.rate(self.step), *skip)
    )
    assert_alike(in_rows(called(training())), step_by_step(training()))
    with pytest.raises(AssertionError):
        assert_alike(in_rows(on_tape(training())), step_by_step(training()))


@pytest.mark.parametrize("way", [on_tape, called])
def test_tokens_in_a_row_have_the_losses_of_steps_taken_one_by_one(way):
    whole = in_rows(way(token_training()))
    assert_alike(whole, step_by_step(token_training()), **CLOSE)
    assert way is called or whole.said == []


def test_losses_over_masked_positions_are_those_of_the_positions_alone():
    rng = generator()
    logits, targets = torch.randn(6, 5, 4, generator=rng), torch.randint(4, (6, 5), generator=rng)
    asked = torch.rand(6, 5, generator=rng) < 0.5
    asked[:, 0] = True
    logits[~asked] = float("nan")
    logits.requires_grad_()
    found = masked_losses(logits, targets, asked, 2)
    wanted = [
        torch.nn.functional.cross_entropy(logits[r][asked[r]], targets[r][asked[r]]) for r in (slice(3), slice(3, 6))
    ]
    torch.testing.assert_close(found, torch.stack(wanted))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.isfinite().all() and (gradient[~asked] == 0).all()


# ---- packs ---------------------------------------------------------------------------------------------------------


def varied(count=3, **settings):
    """Trainings that differ in what may differ."""
    numbers = [{"lr": 4e-3}, {"lr": 8e-3, "weight_decay": 0.1, "clip": None}, {"schedule": "linear", "warmup": 0.5}]
    return [training(i, replace(TASK, noise=0.25 * (1 + i)), **(numbers[i % 3] | settings)) for i in range(count)]


def pack_in_rows(trainings, way=on_tape, every=7):
    whole = way(pack_trainings(trainings))
    while whole.active:
        whole.advance_until([lambda step, r=r: step % (every + r) == 0 for r in range(len(trainings))])
    return whole


def pack_by_steps(trainings):
    whole = pack_trainings(trainings)
    while whole.active:
        whole.advance_until([lambda step: False] * len(trainings))
    return whole


@pytest.mark.parametrize("way", [on_tape, called])
def test_a_pack_in_rows_has_the_bits_of_its_steps(way):
    whole, steps = pack_in_rows(varied(), way), pack_by_steps(varied())
    for one, other in zip(whole.trainings, steps.trainings, strict=True):
        assert_alike(one, other)
    assert way is called or (whole.said == [] and whole.tape.captures)


@pytest.mark.parametrize("way", [on_tape, called])
def test_a_pack_over_tokens_in_rows_has_the_losses_of_its_steps(way):
    def fresh():
        return [token_training(seed, lr=2e-3 * (1 + seed)) for seed in range(3)]

    whole, steps = pack_in_rows(fresh(), way), pack_by_steps(fresh())
    for one, other in zip(whole.trainings, steps.trainings, strict=True):
        assert_alike(one, other, **CLOSE)


def test_a_pack_whose_rates_are_those_of_one_replica_would_be_noticed(monkeypatch):
    numbers = pack.PackedAdamW.numbers
    monkeypatch.setattr(pack.PackedAdamW, "numbers", lambda self, rates, counts: numbers(self, rates[:1] * 3, counts))
    whole = pack_in_rows(varied())
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        assert_alike(whole.trainings[1], pack_by_steps(varied()).trainings[1])


def test_a_replica_that_is_done_stands_still_in_a_row():
    def fresh():
        one, other = varied(2)
        step_by_step(one, 38)
        one.losses = []
        return [one, other]

    tape = Tape()
    whole, steps = pack_in_rows(fresh(), partial(on_tape, tape=tape)), pack_by_steps(fresh())
    for one, other in zip(whole.trainings, steps.trainings, strict=True):
        assert_alike(one, other)
    assert tape.captures == 2  # with both, and with the one that was left


# ---- divergence ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("lr", [1e4, 1e30])
@pytest.mark.parametrize("way", [on_tape, called])
def test_a_divergence_in_a_row_names_its_own_step_and_leaves_the_weights_before_it(way, lr, optimizer):
    settings = {"steps": 200, "lr": lr, "warmup": 0.0, "clip": None, "optimizer": optimizer}
    whole, steps, losses = way(training(**settings)), training(**settings), []
    with pytest.raises(Diverged) as found:
        in_rows(whole)
    with pytest.raises(Diverged) as wanted:
        while True:
            losses.append(steps.advance())
    assert (found.value.step, str(found.value)) == (wanted.value.step, str(wanted.value))
    assert whole.step == steps.step and whole.losses == losses
    assert all(torch.equal(p, steps.parameters[name]) for name, p in whole.parameters.items())
    pairs = zip(whole._moments(), steps._moments(), strict=True)
    assert all(torch.equal(mine, its) for (_, mine), (_, its) in pairs)


def test_weights_that_go_on_moving_after_a_divergence_would_be_noticed(monkeypatch):
    update = Training._update
    monkeypatch.setattr(Training, "_update", lambda self, g, rate, skip=None: update(self, g, rate))
    with pytest.raises(AssertionError):
        test_a_divergence_in_a_row_names_its_own_step_and_leaves_the_weights_before_it(called, 1e4, "adamw")


@pytest.mark.parametrize(
    ("row", "end"),
    [
        (range(4, 14), None),
        (range(4, 15), 14),
        (range(18, 29), 28),
        (range(10, 50), 20),
        ([0], 0),
        ([3, 5, 7], None),
    ],
)
def test_wild_losses_are_counted_as_in_steps_one_by_one_and_across_rows(row, end):
    """Ten in a row are put up with, none at the start."""

    def fresh():
        one = training()
        one._targets = lambda prompts: prompts.ys + 1e4 * (one.step in row)
        loss = one._loss
        one._loss = lambda *drawn: (loss(*drawn)[0], 1.0)
        return one

    def ending(one, take):
        try:
            take(one)
            return None
        except Diverged as error:
            return error.step

    whole, steps = called(fresh()), fresh()
    ends = ending(whole, in_rows), ending(steps, step_by_step)
    assert ends[0] == ends[1] == end
    assert whole.step == steps.step and whole.wild == steps.wild


def test_a_ledger_without_patience_would_be_noticed(monkeypatch):
    monkeypatch.setattr(graphs, "PATIENCE", 0)
    with pytest.raises(AssertionError):
        test_wild_losses_are_counted_as_in_steps_one_by_one_and_across_rows(range(4, 14), None)


@pytest.mark.parametrize("way", [on_tape, called])
def test_a_replica_that_diverges_in_a_row_names_its_step_and_the_others_keep_their_bits(way):
    def sick():
        broken = training(3)
        with torch.no_grad():
            next(iter(broken.parameters.values())).fill_(float("nan"))
        return [training(0), training(1, lr=3e3, clip=None, warmup=0.0), training(2), broken]

    whole, steps = pack_in_rows(sick(), way), pack_by_steps(sick())
    ends = [{r: (error.step, str(error)) for r, error in each.diverged.items()} for each in (whole, steps)]
    assert ends[0] == ends[1] and ends[0].keys() == {1, 3} and ends[0][1][0] > 0 == ends[0][3][0]
    for r in (0, 2):
        assert_alike(whole.trainings[r], steps.trainings[r])
    for r in (1, 3):
        one, other = whole.trainings[r], steps.trainings[r]
        assert one.step == other.step and one.losses == other.losses
        pairs = zip(one.parameters.values(), other.parameters.values(), strict=True)
        assert all(torch.allclose(p, q, rtol=0, atol=0, equal_nan=True) for p, q in pairs)


# ---- waiting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_a_step_in_a_row_looks_at_no_number(recipe):
    whole = called(training(recipe=recipe))
    whole.replay.open([[[0.01]]], [0], [0], [0])
    with Unwaiting():
        whole.replay.step()
    assert whole.replay.close()[0].step == 1


@pytest.mark.parametrize("layout", ["interleaved", "lagged", "paired", "encoder"])
@pytest.mark.parametrize("attention", ["softmax", "linear", "relu"])
def test_no_layout_and_no_attention_looks_at_a_number(layout, attention):
    shape = replace(SHAPE, layout=layout, attention=attention, d_mlp=12)
    whole = called(pack_trainings([training(seed, shape=shape) for seed in range(2)]))
    whole.replay.open([whole._numbers(0)], [0, 0], [0, 0], [0, 0])
    with Unwaiting():
        whole.replay.step()


def test_a_step_that_looks_at_its_loss_would_be_noticed():
    with Unwaiting(), pytest.raises(RuntimeError, match="waits"):
        training().advance()


# ---- capture -------------------------------------------------------------------------------------------------------


def test_a_step_is_captured_once_and_again_where_a_curriculum_changes_the_shapes():
    tapes = {name: Tape() for name in ("warm-up and cosine", "curriculum")}
    for name, tape in tapes.items():
        in_rows(on_tape(training(recipe=RECIPES[name]), tape))
    assert [tape.captures for tape in tapes.values()] == [1, 3]  # stages begin at steps 0, 9 and 18


def test_a_step_that_would_be_replayed_with_other_shapes_would_be_noticed(monkeypatch):
    monkeypatch.setattr(Training, "_stage_name", lambda self, step: "")
    recipe = RECIPES["curriculum"]
    with pytest.raises(AssertionError):
        assert_alike(in_rows(on_tape(training(recipe=recipe))), step_by_step(training(recipe=recipe)))


@dataclass(frozen=True)
class Looking(LinearRegression):
    """Prompts whose drawing looks at a number."""

    def sample(self, batch, rng, dtype=torch.float32):
        drawn = super().sample(batch, rng, dtype)
        assert float(drawn.xs.abs().max()) > 0
        return drawn


def test_prompts_whose_drawing_waits_are_drawn_outside_and_the_rest_is_captured():
    task = Looking(3, 6, noise=0.5)
    whole = in_rows(on_tape(training(task=task)))
    assert whole.said == [] and whole.tape.captures == 1 and whole.tape.generators == ()
    assert_alike(whole, step_by_step(training()))
    packed = pack_in_rows([training(seed, task) for seed in range(2)])
    assert packed.said == [] and packed.tape.captures == 1 and packed.tape.generators == ()
    for one, other in zip(
        packed.trainings, pack_by_steps([training(seed) for seed in range(2)]).trainings, strict=True
    ):
        assert_alike(one, other)


def test_prompts_of_changing_shapes_are_learned_whether_captured_or_not():
    def fresh():
        return token_training(task=LISTS, steps=30)

    whole = in_rows(on_tape(fresh()))
    assert whole.said == [] and whole.tape.captures == 1 and whole.tape.generators == ()
    assert_alike(whole, step_by_step(fresh(), 30), **CLOSE)


class Refusing(Tape):
    def capture(self, call, generators):
        super().capture(call, generators)
        raise ValueError("no such thing\nand more of it")


def test_where_nothing_can_be_captured_the_log_says_why_and_the_numbers_are_the_same():
    whole = in_rows(on_tape(training(), Refusing()))
    assert whole.said == ["trains without a CUDA graph: no such thing"] and whole.replay is None
    assert_alike(whole, step_by_step(training()))


def test_steps_that_wait_are_taken_one_by_one_and_the_log_says_so(monkeypatch):
    graded = Training._graded
    monkeypatch.setattr(Training, "_graded", lambda self, drawn: (float(drawn[0].sum()), graded(self, drawn))[1])
    whole = in_rows(on_tape(training()))
    assert whole.said == ["trains without a CUDA graph: aten._local_scalar_dense.default waits"]
    assert_alike(whole, step_by_step(training()))


def test_what_a_capture_changes_is_put_back_and_a_capture_that_leaves_traces_would_be_noticed(monkeypatch):
    monkeypatch.setattr(Replay, "_keep", lambda self: lambda: None)
    with pytest.raises(AssertionError):
        assert_alike(in_rows(on_tape(training())), step_by_step(training()))


def test_a_graph_holds_what_it_reads_though_a_cache_forgets_it():
    pool, seen = {"ws": torch.randn(4, 3)}, torch.zeros(4, 3)

    def learn(drawn, ledger):
        seen.copy_(drawn[0] * pool["ws"])
        ledger.record(seen.sum().view(1), 1.0)

    replay = Replay(lambda: [torch.ones(4, 3)], learn, lambda: [seen], [generator()], print, (1, 1), Tape())
    replay.open([[[0.0]]] * 2, [0], [0], [0])
    assert replay.ready()
    replay.step()
    held = {place(each) for each in replay.outer.read.values()}
    assert place(pool["ws"]) in held and place(seen) in held
    wanted = pool["ws"].clone()
    pool["ws"] = torch.zeros(4, 3)
    gc.collect()
    replay.step()
    assert torch.equal(seen, wanted)


def test_tensors_that_a_call_makes_itself_are_not_held():
    one = torch.ones(3)
    with (outer := Outer()):
        two = one + 1
        two.mul_(2).view(3, 1).sum()
    assert list(outer.read) == [place(one)]


def test_other_weights_are_refused_in_a_row_as_in_a_step():
    whole = on_tape(training())
    whole.advance_until(lambda step: True)
    whole.model.double()
    with pytest.raises(ValueError, match="given other weights"):
        whole.advance_until(lambda step: True)


def test_the_graph_of_a_training_that_ended_is_dropped():
    whole = on_tape(training())
    whole.advance_until(lambda step: True)
    assert whole.replay.replay
    assert in_rows(whole).replay is None and pack_in_rows(varied(2)).replay is None


def test_on_a_cpu_and_where_they_are_not_switched_on_there_are_no_graphs(monkeypatch):
    assert graphs_of(torch.device("cuda")) is None
    monkeypatch.setenv("ICLAB_CUDA_GRAPHS", "on")
    assert graphs_of(torch.device("cpu")) is None and graphs_of(torch.device("cuda")) is not None
    assert training().replay is None and pack_trainings(varied(2)).replay is None


# ---- rows, points and checkpoints ----------------------------------------------------------------------------------


def test_a_row_ends_at_the_next_point_at_the_last_step_or_after_the_most():
    assert ahead(0, 100, lambda step: step == 3) == 3
    assert ahead(3, 100, lambda step: step == 3) == MOST
    assert ahead(95, 100, lambda step: False) == 5
    assert ahead(0, 100, lambda step: True) == 1


def test_a_curve_in_rows_is_the_curve_of_single_steps():
    def points(one):
        curve = learning_curve(
            one, lambda step: step % 9 == 0, lambda step: {"weight": next(one.model.parameters()).sum()}
        )
        return [{k: v for k, v in point.items() if k != "seconds"} for point in curve]

    assert points(on_tape(training())) == points(training())


def test_the_curves_of_a_pack_in_rows_are_those_of_its_steps():
    def points(whole):
        due = [lambda step, every=4 + r: step % every == 0 for r in range(3)]
        curves = learning_curves(whole, due, [lambda step: {}] * 3)
        return sorted((r, point["step"], point["loss"], point["lr"]) for r, point in curves)

    assert points(on_tape(pack_trainings(varied()))) == points(pack_trainings(varied()))


@pytest.mark.parametrize("name", ["warm-up and cosine", "muon"])
def test_a_checkpoint_of_rows_goes_on_in_steps_and_the_other_way_round(name, tmp_path):
    path, whole = tmp_path / "checkpoint.safetensors", step_by_step(training(recipe=RECIPES[name]))
    for first, second in ((on_tape, step_by_step), (step_by_step, on_tape)):
        begun, again = training(recipe=RECIPES[name]), training(5, recipe=RECIPES[name])
        if first is on_tape:
            on_tape(begun)
            while begun.step < 21:
                begun.advance_until(lambda step: step == 21)
        else:
            step_by_step(begun, 21)
        begun.save(path)
        if second is on_tape:  # a graph that was captured before finds the weights where they were
            on_tape(again).advance_until(lambda step: step == 3)
        again.resume(path)
        if second is on_tape:
            in_rows(again)
        else:
            again.losses += [again.advance() for _ in range(29)]
        assert_alike(again, whole)


def test_a_run_whose_steps_are_replayed_has_the_rows_of_a_run(tmp_path, monkeypatch):
    made = Experiment(
        TASK, SHAPE, TrainingConfig(steps=24, batch=4), Evaluation(prompts=64, every=5), seed=3, device="cpu"
    )
    found, tapes = [], []
    for name in ("alone", "replayed"):
        points, said = [], []
        (tmp_path / name).mkdir()
        rows = perform(made, tmp_path / name, points.append, said.append)
        curve = [{k: v for k, v in point.items() if k != "seconds"} for point in points]
        weights = load_file(tmp_path / name / WEIGHTS)
        found.append((rows, curve, {k: v.tolist() for k, v in weights.items()}, said))
        monkeypatch.setattr(learning, "graphs_of", lambda device: tapes.append(Tape()) or tapes[-1])
    assert found[0] == found[1] and [tape.captures for tape in tapes] == [1]


def test_a_training_whose_step_is_captured_goes_on_in_a_pack_and_alone_again():
    one, other = on_tape(training()), training()
    one.advance_until(lambda step: step == 5)
    step_by_step(other, 5)
    for each, way in ((one, on_tape), (other, lambda whole: whole)):
        whole = way(pack_trainings([each, training(1)]))
        while each.step < 12:
            whole.advance_until([lambda step: step == 12] * 2)
    in_rows(one)
    other.losses += [other.advance() for _ in range(38)]
    assert_alike(one, other)


def test_pools_that_a_cache_keeps_are_drawn_from_in_a_graph():
    task = FinitePool(TASK, size=4)
    whole = in_rows(on_tape(training(task=task)))
    assert whole.said == []
    assert_alike(whole, step_by_step(training(task=task)))


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        (LISTS, PointerTransformerConfig(items=8, keys="positional")),
        (IndirectObject(), TokenTransformerConfig(n_layer=1)),
        (MarkovChain(3, 8), TokenTransformerConfig(n_layer=1)),
        (GaussianClasses(classes=32, pairs=2), VectorTransformerConfig(n_layer=1)),
    ],
    ids=lambda each: type(each).__name__,
)
def test_tokens_of_every_kind_have_the_losses_of_steps_taken_one_by_one(task, shape):
    def fresh():
        recipe, model = TokenTrainingConfig(steps=12, batch=8), shape.build(task.vocab, task.n, generator())
        return TokenTraining(model, task, recipe, generator(1))

    whole, steps = in_rows(on_tape(fresh()), every=5), step_by_step(fresh(), 12)
    torch.testing.assert_close(torch.tensor(whole.losses), torch.tensor(steps.losses), rtol=1e-5, atol=0)
    assert torch.equal(whole.rng.get_state(), steps.rng.get_state())
    # On a CPU `one_hot` looks at its numbers, and such a training takes its steps one by one.
    assert bool(whole.said) == isinstance(shape, PointerTransformerConfig)
