"""On a GPU: the numbers of the CPU up to rounding, and training in both precisions. Run with `pytest -m gpu`."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from iclab.analysis import answer, identify, references
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.graphs import CudaGraphs
from iclab.learning.pack import pack_trainings
from iclab.learning.token_training import TokenTraining, TokenTrainingConfig
from iclab.learning.training import Curriculum, Diverged, Training, TrainingConfig
from iclab.models import (
    PointerTransformerConfig,
    TokenTransformerConfig,
    Transformer,
    TransformerConfig,
    VectorTransformerConfig,
)
from iclab.runs.perform import perform
from iclab.tasks import (
    ConvexHull,
    DynamicalSystem,
    FinitePool,
    GaussianClasses,
    IndirectObject,
    LaundryList,
    LinearRegression,
    MarkovChain,
    OrthogonalQuery,
    Prompts,
    RepeatedSequence,
    SparseLinearRegression,
)
from iclab.tasks.features import Representation

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """Steps are captured wherever they can be."""
    monkeypatch.setenv("ICLAB_CUDA_GRAPHS", "on")


BASE = LinearRegression(4, 9, noise=0.5)
TASKS = [
    BASE,
    FinitePool(BASE, size=5),
    SparseLinearRegression(5, 8, noise=0.5),
    OrthogonalQuery(LinearRegression(6, 4)),
    DynamicalSystem(3, 6, noise=0.5, representation=Representation(4, 2)),
]
TOKENS = {  # a task, a model that answers it, and what is looked at in its heads
    "lists": (LaundryList(8, shortest=2, longest=4), TokenTransformerConfig(), ("mechanism",)),
    "pointing": (LaundryList(8, shortest=2, longest=4), PointerTransformerConfig(items=8, keys="positional"), ()),
    "hulls": (ConvexHull(3, 5, grid=4), PointerTransformerConfig(items=16, closes=True), ()),
    "indirect objects": (IndirectObject(), TokenTransformerConfig(), ()),
    "repeated sequences": (RepeatedSequence(), TokenTransformerConfig(), ("channels", "edits")),
    "Markov chains": (MarkovChain(3, 8), TokenTransformerConfig(), ()),
    "Gaussian classes": (GaussianClasses(classes=32, pairs=2), VectorTransformerConfig(), ()),
}


def on_both(task, batch=64):
    drawn = task.sample(batch, torch.Generator("cuda").manual_seed(0), torch.float64)
    return drawn, Prompts(drawn.xs.cpu(), drawn.ys.cpu(), drawn.fs.cpu(), drawn.truth)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: type(t).__name__)
def test_every_reference_answers_as_on_the_cpu(task):
    there, here = on_both(task)
    for name, f in answer(references(task), there).items():
        torch.testing.assert_close(f.cpu(), answer(references(task), here)[name], atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("attention", ["softmax", "linear", "relu"])
@pytest.mark.parametrize("layout", ["interleaved", "lagged", "paired"])
def test_a_transformer_answers_as_on_the_cpu(layout, attention):
    model = Transformer(4, 9, TransformerConfig(layout=layout, attention=attention, d_mlp=8)).double()
    there, here = on_both(BASE)
    expected = model(here.xs, here.ys)
    torch.testing.assert_close(model.cuda()(there.xs, there.ys).cpu(), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_learns_saves_and_resumes(precision, optimizer, tmp_path):
    def fresh():
        model = Transformer(4, 9, TransformerConfig(n_layer=2)).cuda()
        recipe = TrainingConfig(steps=300, precision=precision, optimizer=optimizer)
        return Training(model, BASE, recipe, torch.Generator("cuda").manual_seed(0))

    training = fresh()
    losses = [training.advance() for _ in range(300)]
    assert sum(losses[-50:]) < 0.8 * sum(losses[:50])
    training.save(tmp_path / "checkpoint.safetensors")
    again = fresh()
    again.resume(tmp_path / "checkpoint.safetensors")
    assert again.step == 300
    assert abs(again.advance() - training.advance()) < 1e-2


def test_a_compiled_training_has_the_losses_of_a_plain_one():
    def losses(compiled):
        model = Transformer(4, 9, TransformerConfig(n_layer=2)).cuda()
        recipe, said = TrainingConfig(steps=20, compile=compiled), []
        training = Training(model, BASE, recipe, torch.Generator("cuda").manual_seed(0))
        training.log = said.append
        return torch.tensor([training.advance() for _ in range(20)]), said

    (plain, _), (graph, said) = losses(False), losses(True)
    torch.testing.assert_close(graph, plain, atol=1e-5, rtol=1e-5)
    assert not said


def test_a_run_goes_through_and_algorithms_are_identified(tmp_path):
    shape = TransformerConfig(n_layer=1, d_model=16)
    made = Experiment(BASE, shape, TrainingConfig(steps=20), Evaluation(prompts=64, every=10), device="cuda")
    assert perform(made, tmp_path, lambda point: None, lambda line: None)
    assert perform(replace(made, device="auto"), tmp_path, lambda point: None, lambda line: None)
    there, _ = on_both(BASE, batch=200)
    assert identify(references(BASE)["ridge"], BASE, there, torch.Generator("cuda").manual_seed(0))[0].family == "ridge"


@pytest.mark.parametrize("name", TOKENS)
def test_a_run_over_tokens_goes_through(name, tmp_path):
    task, model, analyses = TOKENS[name]
    measured = Evaluation(prompts=32, analyses=analyses)
    made = Experiment(task, model, TokenTrainingConfig(steps=4), measured, device="cuda")
    rows = perform(made, tmp_path, lambda point: None, lambda line: None)
    assert {row["quantity"] for row in rows} >= {"accuracy", "loss"}


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_a_pack_takes_the_steps_of_its_replicas(attention):
    """To rounding those of each alone, and the same bits whoever else is in the pack."""

    def training(seed):
        rng = torch.Generator("cuda").manual_seed(seed)
        model = Transformer(4, 9, TransformerConfig(n_layer=2, attention=attention, d_mlp=16)).cuda()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator("cuda").manual_seed(seed))
        return Training(model, BASE, TrainingConfig(steps=20, batch=16), rng)

    pack, pair = (pack_trainings([training(seed) for seed in seeds]) for seeds in ((0, 1, 2), (1, 7)))
    alone = training(1)
    for _ in range(20):
        together, beside, single = pack.advance(), pair.advance(), alone.advance()
        assert together[1] == pytest.approx(single, rel=1e-4)
        assert together[1] == beside[0]


# ---- steps in a row of a CUDA graph ----------------------------------------------------------------------------------

STEPS = 50
GRAPHED = {
    "linear": ({}, {}),
    "softmax": ({"attention": "softmax", "d_mlp": 16}, {}),
    "interleaved, unclipped, decayed": ({"layout": "interleaved"}, {"clip": None, "weight_decay": 0.1}),
    "muon": ({}, {"optimizer": "muon", "lr": 1e-2}),
    "curriculum": ({}, {"curriculum": Curriculum(dims=1, points=3, every=15)}),
    "bfloat16": ({}, {"precision": "bfloat16"}),
    "last position": ({}, {"positions": "last"}),
}


def fresh(seed=0, task=BASE, shape=None, **recipe):
    model = Transformer(
        task.d, task.n, TransformerConfig(n_layer=2, **(shape or {})), torch.Generator().manual_seed(seed)
    )
    made = TrainingConfig(**({"steps": STEPS, "batch": 16} | recipe))
    one = Training(model.cuda(), task, made, torch.Generator("cuda").manual_seed(seed))
    one.said = []
    one.log = one.said.append
    return one


def in_rows(one):
    """Replayed, with points of the curve at every seventh step; the number of captures."""
    captures, capture = [], one.replay._capture
    one.replay._capture = lambda graphs: captures.append(1) or capture(graphs)
    while one.step < one.recipe.steps:
        one.advance_until(lambda step: step % 7 == 0)
    return len(captures)


def one_by_one(one):
    one.losses = [one.advance() for _ in range(one.recipe.steps)]


def assert_alike(one, other, rtol=1e-4):
    """The rate of a graph is rounded to float32, and biases whose gradient is rounding alone may go anywhere, so that
    it is the losses that are compared."""
    assert one.step == other.step
    assert torch.equal(one.rng.get_state(), other.rng.get_state())
    torch.testing.assert_close(torch.tensor(one.losses), torch.tensor(other.losses), rtol=rtol, atol=0)


@pytest.mark.parametrize("name", GRAPHED)
def test_replays_of_a_graph_are_steps(name):
    shape, recipe = GRAPHED[name]
    graph, steps = fresh(shape=shape, **recipe), fresh(shape=shape, **recipe)
    captures = in_rows(graph)
    one_by_one(steps)
    assert graph.said == [] and captures == (4 if name == "curriculum" else 1)
    assert_alike(graph, steps, rtol=1e-2 if name == "bfloat16" else 1e-4)


def test_a_graph_of_a_constant_rate_that_float32_holds_moves_the_weights_as_steps_do():
    settings = {"lr": 2**-7, "schedule": "constant", "warmup": 0.0}
    graph, steps = fresh(**settings), fresh(**settings)
    in_rows(graph)
    one_by_one(steps)
    assert_alike(graph, steps)
    for name, p in graph.parameters.items():
        torch.testing.assert_close(p, steps.parameters[name], rtol=1e-3, atol=1e-5)
    assert all(flat.count.item() == STEPS for flat in graph.flats)


def test_replays_of_a_graph_of_a_pack_are_its_steps():
    def pack():
        return pack_trainings([fresh(seed, lr=4e-3 * (1 + seed)) for seed in range(3)])

    graph, steps = pack(), pack()
    while graph.active:
        graph.advance_until([lambda step: step % 7 == 0] * 3)
    for _ in range(STEPS):
        for replica, loss in steps.advance().items():
            steps.trainings[replica].losses.append(loss)
    for one, other in zip(graph.trainings, steps.trainings, strict=True):
        assert one.said == []
        assert_alike(one, other)


def test_a_divergence_in_a_graph_names_its_step():
    settings = {"lr": 1e4, "warmup": 0.0, "clip": None, "steps": 200}
    graph, steps, ends = fresh(**settings), fresh(**settings), []
    for one, take in ((graph, in_rows), (steps, one_by_one)):
        with pytest.raises(Diverged) as caught:
            take(one)
        ends.append(caught.value.step)
    assert ends[0] == ends[1] == graph.step > 0


def test_a_checkpoint_of_a_graph_goes_on_with_it(tmp_path):
    whole, begun, again = fresh(), fresh(), fresh(5)
    in_rows(whole)
    while begun.step < 21:
        begun.advance_until(lambda step: step == 21)
    begun.save(tmp_path / "checkpoint.safetensors")
    again.advance_until(lambda step: step == 3)  # captured before, it finds what is resumed where it was
    again.resume(tmp_path / "checkpoint.safetensors")
    in_rows(again)
    again.losses = begun.losses + again.losses[3:]
    assert_alike(again, whole)


def test_a_graph_goes_on_reading_what_a_cache_has_forgotten():
    graph, steps = (fresh(task=FinitePool(BASE, size=5)) for _ in range(2))
    graph.advance_until(lambda step: False)
    for size in range(6, 16):  # pools that push the first out of the cache, and take the memory that it had
        FinitePool(BASE, size=size).sample(4, torch.Generator("cuda"))
    while graph.step < STEPS:
        graph.advance_until(lambda step: False)
    one_by_one(steps)
    assert_alike(graph, steps)


@pytest.mark.parametrize("name", ["lists", "pointing", "repeated sequences", "Gaussian classes"])
def test_steps_over_tokens_are_the_same_whether_captured_or_not(name):
    task, shape, _ = TOKENS[name]

    def made():
        model = shape.build(task.vocab, task.n, torch.Generator().manual_seed(0)).cuda()
        one = TokenTraining(model, task, TokenTrainingConfig(steps=30), torch.Generator("cuda").manual_seed(0))
        one.said = []
        one.log = one.said.append
        return one

    graph, steps = made(), made()
    in_rows(graph)
    one_by_one(steps)
    assert_alike(graph, steps, rtol=1e-3)
    assert graph.said == []


def test_where_a_capture_fails_steps_are_taken_one_by_one(monkeypatch):
    """A wait that is not seen before the capture: the generator must be usable after it."""
    monkeypatch.setattr(CudaGraphs, "unwaiting", lambda self: nullcontext())
    graph, steps = fresh(), fresh()
    learn = graph.replay.learn
    graph.replay.learn = lambda drawn, ledger: (float(drawn[0].sum()), learn(drawn, ledger))[1]
    in_rows(graph)
    one_by_one(steps)
    assert len(graph.said) == 1 and graph.said[0].startswith("trains without a CUDA graph")
    assert_alike(graph, steps)
