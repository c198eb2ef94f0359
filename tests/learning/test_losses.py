"""What must hold of the loss of classes: the gradient of logistic regression, alone, in packs and compiled; and a model
that is measured by the labels that it predicts."""

from dataclasses import replace

import pytest
import torch

from iclab.errors import UsageError
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.losses import mean_labels, of_classes, terms
from iclab.learning.pack import pack_trainings, packing_problems
from iclab.learning.training import Training, TrainingConfig, loss
from iclab.measures import measure
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import Zero
from iclab.tasks import LinearClassification, LinearRegression, NoisyLabels, OneOf, Task
from tests.conftest import generator

CLASSES, NUMBERS = LinearClassification(3, 6), LinearRegression(3, 6)
BOTH = OneOf((NUMBERS, CLASSES))
SHAPE = TransformerConfig(n_layer=2, n_head=2, d_model=8)
RECIPE = TrainingConfig(steps=12, batch=8, loss="by_labels")


def prompts_of(task, batch=16):
    return task.sample(batch, generator(), torch.float64)


def closed_form(answers, ys):
    """∂/∂ŷ log(1 + exp(−y ŷ)) = −y σ(−y ŷ)."""
    return -ys * torch.sigmoid(-ys * answers)


def gradient(kind, answers, ys):
    answers = answers.clone().requires_grad_()
    return torch.autograd.grad(terms(kind, answers, ys).sum(), answers)[0]


def training(seed=0, task: Task = BOTH, double=False, **settings):
    model = Transformer(task.d, task.n, SHAPE, generator(seed))
    return Training(model.double() if double else model, task, replace(RECIPE, **settings), generator(100 + seed))


# ---- the loss ------------------------------------------------------------------------------------------------------


def test_cross_entropy_and_its_gradient_are_the_closed_forms_and_those_of_the_squared_error_are_not():
    ys, answers = prompts_of(CLASSES).ys, 30 * torch.randn(16, 6, generator=generator(1), dtype=torch.float64)
    expected = torch.where(ys > 0, torch.sigmoid(answers), torch.sigmoid(-answers)).log().neg()
    torch.testing.assert_close(terms("cross_entropy", answers, ys), expected)
    torch.testing.assert_close(gradient("cross_entropy", answers, ys), closed_form(answers, ys))
    assert not torch.allclose(gradient("squared", answers, ys), closed_form(answers, ys))  # a deliberate cheat


def test_a_logit_far_on_the_wrong_side_has_a_finite_loss():
    answers, ys = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1.0, -1.0]])
    assert terms("cross_entropy", answers, ys).tolist() == [[1e4, 0.0]]


def test_by_labels_each_prompt_has_the_loss_of_its_kind():
    prompts = prompts_of(BOTH)
    classes, answers = of_classes(prompts.ys), torch.randn(16, 6, generator=generator(1), dtype=torch.float64)
    assert 0 < classes.sum() < len(classes)
    found = terms("by_labels", answers, prompts.ys)
    assert torch.equal(found[classes], terms("cross_entropy", answers[classes], prompts.ys[classes]))
    assert torch.equal(found[~classes], terms("squared", answers[~classes], prompts.ys[~classes]))


def test_the_kind_of_a_prompt_is_read_from_all_labels_where_the_last_alone_counts():
    prompts = prompts_of(NUMBERS)
    prompts.ys[:, -1] = 1.0
    answers = torch.zeros(16, 1, dtype=torch.float64)
    assert torch.equal(terms("by_labels", answers, prompts.ys), torch.ones(16, 1, dtype=torch.float64))


# ---- training ------------------------------------------------------------------------------------------------------


def test_training_on_classes_by_labels_is_training_by_cross_entropy_and_not_by_squares():
    runs = [training(task=CLASSES, loss=kind) for kind in ("by_labels", "cross_entropy", "squared")]
    losses = [[run.advance() for _ in range(12)] for run in runs]
    assert losses[0] == losses[1] != losses[2]


def test_training_on_numbers_by_labels_is_training_by_squares():
    by_labels, squared = (training(task=NUMBERS, loss=kind) for kind in ("by_labels", "squared"))
    assert [by_labels.advance() for _ in range(12)] == [squared.advance() for _ in range(12)]


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("kind", ["by_labels", "cross_entropy"])
def test_the_losses_and_gradients_of_a_pack_are_those_of_its_models_alone(kind, positions):
    task = BOTH if kind == "by_labels" else CLASSES
    alone = [training(seed, task, double=True, loss=kind, positions=positions) for seed in range(3)]
    prompts, wanted = [task.sample(8, generator(10 + seed), torch.float64) for seed in range(3)], []
    for one, each in zip(alone, prompts, strict=True):
        value = loss(one.model, one.parameters, each, each.ys, one.asked, kind)
        wanted.append([value.detach(), *torch.autograd.grad(value, list(one.parameters.values()))])
    pack = pack_trainings(alone)
    losses, _ = pack._losses(*(torch.cat([getattr(each, name) for each in prompts]) for name in pack.parts))
    found = [losses.detach(), *torch.autograd.grad(losses.sum(), pack.parameters)]
    for part, *singles in zip(found, *wanted, strict=True):
        torch.testing.assert_close(part, torch.stack(singles), rtol=1e-12, atol=1e-12)


def test_a_pack_takes_models_of_both_kinds_of_labels_and_one_loss():
    tasks = [BOTH, NUMBERS, CLASSES]
    pack = pack_trainings([training(i, task) for i, task in enumerate(tasks)])
    alone = [training(i, task) for i, task in enumerate(tasks)]
    together = [pack.advance() for _ in range(3)]
    single = [{i: one.advance() for i, one in enumerate(alone)} for _ in range(3)]
    assert together[-1] == pytest.approx(single[-1], rel=1e-5)
    kinds = [Experiment(CLASSES, SHAPE, replace(RECIPE, loss=kind)) for kind in ("squared", "cross_entropy")]
    assert packing_problems(kinds) == ["the losses are of 2 shapes"]


def test_a_checkpoint_of_another_loss_is_refused(tmp_path):
    one = training(task=CLASSES)
    one.advance()
    one.save(tmp_path / "checkpoint.safetensors")
    training(task=CLASSES).resume(tmp_path / "checkpoint.safetensors")
    with pytest.raises(UsageError, match="another recipe"):
        training(task=CLASSES, loss="squared").resume(tmp_path / "checkpoint.safetensors")


@pytest.mark.slow
def test_a_compiled_training_has_the_same_loss():
    compiled, plain = training(compile=True), training()
    found, expected = ([one.advance() for _ in range(12)] for one in (compiled, plain))
    assert found == pytest.approx(expected, rel=1e-5) and compiled.graph is not None


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [NUMBERS, BOTH, NoisyLabels(CLASSES, 0.5)], ids=lambda task: type(task).__name__)
def test_cross_entropy_is_refused_in_one_line_where_labels_are_not_1_or_minus_1(task):
    recipe = replace(RECIPE, loss="cross_entropy")
    for made in (lambda: Experiment(task, SHAPE, recipe), lambda: training(task=task, loss="cross_entropy")):
        with pytest.raises(UsageError, match=r"cross_entropy needs labels −1 and 1, and \w+ has the label") as refusal:
            made()
        assert "\n" not in str(refusal.value)


def test_a_loss_of_classes_is_refused_with_targets_that_are_no_labels():
    with pytest.raises(UsageError, match=r"train\.targets = sampled"):
        TrainingConfig(loss="cross_entropy", targets="posterior_mean")


def test_the_loss_is_a_part_of_the_id_where_it_is_no_square():
    usual, chosen = (Experiment(CLASSES, SHAPE, replace(RECIPE, loss=kind)) for kind in ("squared", "by_labels"))
    assert usual.id != chosen.id and "loss" not in usual.mapping()["train"]
    assert Experiment.from_mapping(chosen.mapping(), "f") == chosen


# ---- what is measured ----------------------------------------------------------------------------------------------


class Logits(torch.nn.Module):
    """Answers the right class, with a logit of three; and numbers with zero."""

    def forward(self, xs, ys):
        return torch.where((ys.abs() == 1).all(1, keepdim=True), 3 * ys, torch.zeros_like(ys))


def test_mean_labels_are_those_of_the_logits_and_numbers_stay_as_they_are():
    prompts = prompts_of(BOTH)
    classes, found = of_classes(prompts.ys), mean_labels(Logits(), "by_labels")(prompts.xs, prompts.ys)
    chances = torch.sigmoid(3 * prompts.ys[classes])  # P(y = 1)
    torch.testing.assert_close(found[classes], 2 * chances - 1)
    assert torch.equal(found[~classes], torch.zeros_like(found[~classes]))
    assert mean_labels(zero := Zero(), "squared") is zero


@pytest.mark.parametrize(("kind", "expected"), [("by_labels", (1 - 0.9051482536) ** 2), ("squared", 4.0)])
def test_the_risk_of_classes_is_that_of_the_mean_label_and_errors_are_those_of_the_sign(kind, expected):
    """Three is tanh(3/2) as a logit, and three as a number."""
    shifts = (("classes", CLASSES), ("numbers", NUMBERS))
    made = Experiment(BOTH, SHAPE, replace(RECIPE, loss=kind), Evaluation(prompts=64, bootstrap=2, shifts=shifts))
    rows = {
        (row["distribution"], row["quantity"], row["position"]): row["value"]
        for row in measure(made, Logits())
        if row["predictor"] == "transformer"
    }
    assert rows["classes", "risk", None] == pytest.approx(expected)
    assert rows["classes", "errors", None] == 0
    assert rows["numbers", "normalised_risk", None] == pytest.approx(1)
