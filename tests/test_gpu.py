"""On a GPU: the numbers of the CPU up to rounding, and training in both precisions. Run with `pytest -m gpu`."""

from dataclasses import replace

import pytest
import torch

from iclab.analysis import answer, identify, references
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.pack import pack_trainings
from iclab.learning.token_training import TokenTrainingConfig
from iclab.learning.training import Training, TrainingConfig
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
