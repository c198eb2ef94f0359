"""What must hold of items of Gaussian classes: a class occurs as often as asked, new ones are new; of the closed forms
one knows what the context tells and one what is known by heart, neither more."""

from dataclasses import replace
from itertools import combinations
from math import factorial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclab.analysis.next_token import chances, continued, hits, losses, mean_asked
from iclab.experiments import config, experiment
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.token_training import TokenTraining, TokenTrainingConfig
from iclab.measures import evolution
from iclab.models import TokenTransformer, TokenTransformerConfig, VectorTransformer, VectorTransformerConfig
from iclab.predictors import ContextClasses, KnownClasses
from iclab.runs.perform import perform
from iclab.tasks import GaussianClasses, LaundryList, MarkovChain
from iclab.theory.references import references
from tests.conftest import generator
from tests.models.test_models import blocks_by_hand
from tests.models.test_tokens import assert_tokens_causal

SMALL = GaussianClasses(classes=24, labels=6, pairs=4, burst=2, d=16, within=1e-4)
SHAPE = VectorTransformerConfig(d_model=8, d_classifier=6)


def read(task, prompts):
    """Classes and labels of the context, the class of the last item and the answer, found by reading the vectors."""
    items, labels = prompts.tokens[:, ::2], prompts.tokens[:, 1::2]
    classes = torch.cdist(items, task.means).argmin(-1)
    named = torch.cdist(labels, task.label_vectors).argmin(-1)
    return [x.tolist() for x in (classes[:, :-1], named, classes[:, -1], prompts.targets[:, -1])]


def assert_bursts(task, prompts):
    """The class of the last item occurs `burst` times or never, as the options say, and labels are those of classes."""
    shift = task.part == "relabelled"
    for context, labels, last, answer, free in zip(*read(task, prompts), prompts.options.all(1).tolist(), strict=True):
        assert context.count(last) == (0 if free else task.burst)
        assert all(context.count(k) == (1 if free else task.burst) for k in context)
        assert labels == [(k + shift) % task.labels for k in context] and answer == (last + shift) % task.labels
        assert len(set(labels)) == len(set(context))


@given(
    seed=st.integers(0, 2**31),
    burst=st.sampled_from((1, 2, 4)),
    bursty=st.floats(0, 1),
    alpha=st.sampled_from((0.0, 1.5)),
)
def test_the_last_class_occurs_as_often_as_asked_and_every_label_is_that_of_its_class(seed, burst, bursty, alpha):
    task = replace(SMALL, burst=burst, bursty=bursty, alpha=alpha)
    for part in (task, replace(task, part="relabelled"), replace(task, part="in_weights")):
        drawn = part.sample(16, generator(seed))
        assert (
            drawn.tokens.shape == (16, 9, 16)
            and drawn.answer_mask.sum(1).tolist() == [1] * 16
            and drawn.answer_mask[:, -1].all()
        )
        assert drawn.options.gather(1, drawn.targets)[drawn.answer_mask].all()
        assert_bursts(part, drawn)


def test_that_bursts_are_as_asked_can_fail():
    drawn = SMALL.sample(50, generator())
    with pytest.raises(AssertionError):
        assert_bursts(replace(SMALL, burst=4), drawn)
    one = drawn.tokens.clone()
    one[:, -1] = SMALL.means[0]  # the last item is exchanged, the answer is not
    with pytest.raises(AssertionError):
        assert_bursts(SMALL, replace(drawn, tokens=one))


def test_so_many_prompts_are_bursty_and_none_or_all_of_a_part():
    drawn = replace(SMALL, bursty=0.3).sample(4000, generator())
    assert abs((~drawn.options.all(1)).double().mean() - 0.3) < 5 * (0.21 / 4000) ** 0.5
    free = {
        name: part.sample(500, generator()).options.all(1).double().mean().item()
        for name, part in SMALL.parts().items()
    }
    assert free == {"in_context": 0, "relabelled": 0, "in_weights": 1}
    drawn = {name: part.sample(50, generator()) for name, part in SMALL.parts().items()}
    chance = {name: mean_asked(chances(prompts), prompts).value.item() for name, prompts in drawn.items()}
    assert chance == pytest.approx({"in_context": 1 / 2, "relabelled": 1 / 2, "in_weights": 1 / 6})


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("bursty", [0.0, 1.0])
def test_classes_are_asked_as_often_as_their_rank_says(alpha, bursty):
    task, n = replace(SMALL, alpha=alpha, bursty=bursty), 20_000
    counts = torch.bincount(torch.tensor(read(task, task.sample(n, generator()))[2]), minlength=24)
    p = np.arange(1, 25) ** -alpha
    np.testing.assert_allclose(task.frequencies.numpy(), p / p.sum())
    error = (task.frequencies * n) ** 0.5
    assert ((counts - task.frequencies * n).abs() < 5 * error).all()
    uniform = (counts - n / 24).abs() < 5 * (n / 24) ** 0.5
    assert uniform.all() == (alpha == 0)  # and the test can tell the two apart


def test_other_classes_are_drawn_by_frequency_among_those_that_are_left():
    task = GaussianClasses(classes=4, labels=4, pairs=2, burst=1, d=8, within=1e-4, alpha=1.0)
    n = 20_000
    context, _, last, _ = read(task, task.sample(n, generator()))
    other = torch.tensor([a if b == q else b for (a, b), q in zip(context, last, strict=True)])
    first = torch.tensor([a == q for (a, _), q in zip(context, last, strict=True)]).double()
    assert abs(first.mean() - 0.5) < 5 * 0.5 / n**0.5
    p = task.frequencies
    for q in range(4):
        rest = other[torch.tensor(last) == q]
        expected = torch.where(torch.arange(4) == q, 0.0, p) / (1 - p[q])
        shares = torch.bincount(rest, minlength=4) / len(rest)
        assert ((shares - expected).abs() < 5 * 0.5 / len(rest) ** 0.5).all()


def repeats_are_as_drawn(task, replaced):
    """Of m independent draws by p all are different with the chance m! e_m(p), e_m being the sum over sets of m classes
    of the products of their p, and each after the first is that of the last item with the chance Σ p²."""
    m, n = task.pairs // task.burst, 6000
    context, labels, last, _ = read(task, task.sample(n, generator(3)))
    p = (np.arange(1, task.classes + 1) ** -task.alpha) / sum(np.arange(1, task.classes + 1) ** -task.alpha)
    all_differ = factorial(m) * sum(np.prod(chosen) for chosen in combinations(p, m)) if replaced else 1.0
    differ = np.mean([len(set(row)) == m for row in context])
    assert abs(differ - all_differ) <= 5 * (all_differ * (1 - all_differ) / n) ** 0.5
    times = np.array([row.count(q) for row, q in zip(context, last, strict=True)]) / task.burst - 1
    assert abs(times.mean() - (m - 1) * sum(p**2) * replaced) <= 5 * times.std() / n**0.5
    assert all(row == [k % task.labels for k in classes] for row, classes in zip(labels, context, strict=True))


@pytest.mark.parametrize(("burst", "alpha"), [(2, 0.0), (2, 1.5), (1, 1.0)])
def test_classes_drawn_with_replacement_repeat_as_often_as_the_exact_probability_says(burst, alpha):
    repeats_are_as_drawn(replace(SMALL, burst=burst, alpha=alpha, replacement=True), True)
    repeats_are_as_drawn(replace(SMALL, burst=burst, alpha=alpha), False)


def test_that_classes_repeat_can_fail():
    for replacement in (False, True):
        with pytest.raises(AssertionError):
            repeats_are_as_drawn(replace(SMALL, alpha=1.5, replacement=replacement), not replacement)


def test_new_classes_of_one_label_are_still_two():
    """Two draws are of one label but not of one class with the chance Σ_label (Σ p)² − Σ p²: two means."""
    task, n = replace(SMALL, alpha=1.0, part="in_context", replacement=True), 6000
    drawn = task.sample(n, generator())
    items = drawn.tokens[:, ::2]
    labels = torch.cdist(drawn.tokens[:, 1::2], task.label_vectors).argmin(-1)
    one_label, near = (labels == labels[:, :1]).all(1), (torch.cdist(items, items) < 0.01).all((1, 2))
    p = task.frequencies
    same = p.square().sum().item()
    for found, chance in ((near, same), (one_label & ~near, p.view(-1, 6).sum(0).square().sum().item() - same)):
        assert abs(found.double().mean() - chance) < 5 * (chance * (1 - chance) / n) ** 0.5
    assert (one_label | ~near).all()


def test_how_classes_are_drawn_is_part_of_the_id_only_where_it_is_chosen():
    usual, other = (
        Experiment(replace(SMALL, replacement=chosen), VectorTransformerConfig()) for chosen in (False, True)
    )
    assert "replacement" not in usual.mapping()["task"] and other.mapping()["task"]["replacement"] is True
    assert usual.id != other.id == experiment.Experiment.from_mapping(other.mapping(), "f").id


def test_without_a_copy_the_label_that_is_asked_is_no_rarer_in_the_context_than_any():
    task = GaussianClasses(classes=6 * 200, labels=6, pairs=2, d=16, within=1e-4, bursty=0.0)
    _, labels, _, answers = read(task, task.sample(8000, generator()))
    seen = np.mean([answer in row for row, answer in zip(labels, answers, strict=True)])
    assert abs(seen - 2 / 6) < 5 * (2 / 9 / 8000) ** 0.5


def test_new_classes_are_those_of_no_other_prompt_nor_of_training():
    part = replace(SMALL, within=0.05).parts()["in_context"]
    drawn = part.sample(300, generator())
    items = drawn.tokens[:, ::2].flatten(0, 1)
    assert torch.cdist(items, part.means).min() > 0.3  # items of one class are 0.05 √2 apart
    near = torch.cdist(items, items) < 0.2
    assert (near.view(300, 5, 300, 5).any(3).any(1).sum(1) == 1).all()  # near items are of one prompt
    assert near.view(300, 5, 300, 5).diagonal(dim1=0, dim2=2)[-1].sum(0).tolist() == [3] * 300  # two copies, and itself


def test_a_world_is_the_same_for_all_generators_and_another_is_another():
    one, same, other = SMALL, replace(SMALL, part="in_weights", burst=4), replace(SMALL, world=1)
    assert torch.equal(one.means, same.means) and torch.equal(one.label_vectors, same.label_vectors)
    for name in ("means", "label_vectors"):
        assert not torch.equal(getattr(one, name), getattr(other, name))
    a, b, c = (SMALL.sample(9, generator(seed)).tokens for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_items_lie_around_their_means_as_promised():
    task = GaussianClasses(classes=32, d=50, within=0.7, pairs=8)
    drawn = task.sample(2000, generator())
    items, classes = drawn.tokens[:, -1], read(replace(task, within=0.7), drawn)[2]
    scaled = (1 + 0.49) ** 0.5 * items - task.means[classes]
    assert abs(scaled.square().sum(1).mean() / 0.49 - 1) < 0.02 and abs(scaled.mean()) < 0.002
    assert abs(items.square().sum(1).mean() - 1) < 0.1


# ---- closed forms --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), within=st.floats(0.2, 2.0))
@settings(max_examples=15)
def test_bayes_from_the_context_is_the_ratio_of_joint_densities(seed, within):
    task = replace(SMALL, within=within, bursty=0.5)
    tokens = task.sample(2, generator(seed)).tokens.double()
    said = ContextClasses(task.label_vectors, within)(tokens).log_softmax(-1).exp()

    def density(items):
        """The joint log-density of items of one class, from their covariance."""
        n = len(items)
        z = torch.stack(items) * (1 + within**2) ** 0.5 if items else torch.zeros(0, task.d).double()
        covariance = (1 + within**2 * torch.eye(n, dtype=torch.float64)) / task.d
        return -0.5 * (task.d * covariance.logdet() + (z * torch.linalg.solve(covariance, z)).sum())

    for b, (row, labels) in enumerate(zip(tokens, read(task, task.sample(2, generator(seed)))[1], strict=True)):
        for i in range(1, task.pairs + 1):
            groups = {name: [row[2 * j] for j in range(i) if labels[j] == name] for name in labels[:i]}
            logs = {k: np.log(len(x)) + density([*x, row[2 * i]]) - density(x) for k, x in groups.items()}
            most = max(logs.values())
            total = sum((value - most).exp() for value in logs.values())
            for k in range(task.labels):
                expected = (logs[k] - most).exp() / total if k in logs else torch.tensor(0.0)
                torch.testing.assert_close(said[b, 2 * i, k], expected.double(), atol=1e-9, rtol=1e-6)


def test_bayes_by_heart_equals_plain_loops():
    task = replace(SMALL, within=0.6, alpha=1.0)
    tokens = task.sample(3, generator()).tokens.double()
    said = references(task)["known"](tokens).log_softmax(-1).exp()
    for b in range(3):
        z = (1 + 0.36) ** 0.5 * tokens[b, -1].numpy()
        p = [
            (1 / (k + 1)) * np.exp(-task.d * np.square(z - task.means[k].double().numpy()).sum() / (2 * 0.36))
            for k in range(24)
        ]
        expected = [sum(p[label::6]) / sum(p) for label in range(6)]
        np.testing.assert_allclose(said[b, -1].numpy(), expected, rtol=1e-6, atol=1e-12)


def test_each_closed_form_knows_its_half_and_nothing_of_the_other():
    task = replace(SMALL, classes=600, within=0.1, d=31)
    right = {}
    for name, part in task.parts().items():
        drawn = part.sample(1000, generator())
        said = continued(references(part), drawn)
        right[name] = {who: mean_asked(hits(logs, drawn), drawn).value.item() for who, logs in said.items()}
    assert right["in_context"]["context"] > 0.99 and right["relabelled"]["context"] > 0.99
    assert right["in_weights"]["known"] > 0.99 and right["relabelled"]["known"] < 0.01
    assert right["in_context"]["known"] == pytest.approx(1 / 6, abs=0.06)  # chance, for who does not read the context
    assert right["in_weights"]["context"] == pytest.approx(1 / 6, abs=0.06)


def test_on_new_classes_no_other_noise_or_neighbour_has_less_loss_than_bayes():
    task = replace(SMALL, within=1.2, pairs=8, labels=12).parts()["in_context"]
    drawn = task.sample(4000, generator())

    def nearest(tokens):
        near = torch.cdist(tokens[:, -1:], tokens[:, :-1:2]).argmin(-1)
        named = torch.cdist(tokens[:, 1::2], task.label_vectors).argmin(-1).gather(1, near)
        return (0.99 * torch.nn.functional.one_hot(named, 12) + 0.01 / 12).log().expand(-1, tokens.shape[1], -1)

    lost = {
        "bayes": ContextClasses(task.label_vectors, 1.2),
        "less noise": ContextClasses(task.label_vectors, 0.96),
        "more noise": ContextClasses(task.label_vectors, 1.5),
        "nearest": nearest,
    }
    lost = {name: losses(logs, drawn)[:, -1] for name, logs in continued(lost, drawn).items()}
    for name in ("less noise", "more noise", "nearest"):
        gap = lost[name] - lost["bayes"]
        assert gap.mean() > 5 * gap.std() / 4000**0.5, name


def over_vectors(answers, d=8, vocab=5):
    """As a function of numbers, which stand for vectors."""
    vectors = torch.randn(vocab, d, generator=generator(7)).double()
    return lambda tokens: answers(vectors[tokens])


@pytest.mark.parametrize(
    "answers",
    [
        ContextClasses(torch.randn(4, 8, generator=generator(1)), 0.5),
        KnownClasses(torch.randn(8, 8, generator=generator(2)), torch.full((8,), 1 / 8), 4, 0.5),
        SHAPE.build(4, 7, generator()).double(),
        replace(SHAPE, positions=False, norm=False, n_layer=1).build(4, 7, generator()).double(),
    ],
    ids=["context", "known", "transformer", "bare transformer"],
)
def test_answers_to_vectors_are_causal(answers):
    assert_tokens_causal(over_vectors(answers))
    with pytest.raises(AssertionError):  # one that peeks at the label that follows
        assert_tokens_causal(over_vectors(lambda tokens: answers(tokens) + 1e-9 * tokens.roll(-1, 1)[..., :1]))


# ---- the model -----------------------------------------------------------------------------------------------------


def test_the_forward_pass_over_vectors_equals_plain_loops():
    model = SHAPE.build(4, 7, generator()).double()
    tokens = torch.randn(1, 5, 6, generator=generator(1)).double()
    rows = torch.stack([torch.cat([x, torch.zeros(2)]) + model.position[i] for i, x in enumerate(tokens[0])])
    expected = []
    for h in blocks_by_hand(model, rows, torch.ones(5, 5).tril().bool()):
        y = model.norm(h)
        for i in (0, 2, 4):
            y = (model.read_out[i].weight @ y + model.read_out[i].bias).clamp(min=0)
        expected.append(model.read_out[6].weight @ y + model.read_out[6].bias)
    torch.testing.assert_close(model(tokens)[0], torch.stack(expected), atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(model(tokens, 1), model(tokens)[:, -1:])


def test_what_is_no_sequence_of_vectors_or_of_another_width_is_refused():
    for tokens in (torch.zeros(3, 7), torch.zeros(3, 7, 6).long(), torch.zeros(3, 7, SHAPE.d_model + 1)):
        with pytest.raises(ValueError, match=r"vectors \[batch n width\] of at most"):
            SHAPE.build(4, 7)(tokens)
    evaluation = Evaluation(shifts=(("numbers", MarkovChain(states=6)), ("wide", replace(SMALL, d=9))))
    told = f"'numbers' has a width of 0, and the model one of {SMALL.d}; shift 'wide' has a width of 9"
    with pytest.raises(ValueError, match=told):
        Experiment(SMALL, VectorTransformerConfig(), eval=evaluation)


def test_a_model_over_vectors_is_saved_read_and_replaced_as_others_are(tmp_path):
    model = SHAPE.build(4, 7, generator())
    tokens = torch.randn(3, 7, 6, generator=generator(1))
    model.save(tmp_path / "weights.safetensors")
    assert torch.equal(VectorTransformer.load(tmp_path / "weights.safetensors")(tokens), model(tokens))
    with pytest.raises(ValueError, match="no token transformer was saved"):
        TokenTransformer.load(tmp_path / "weights.safetensors")
    values = model.read(tokens, model.activations())
    torch.testing.assert_close(values["embed"][..., 6:], model.position[:, 6:].expand(3, -1, -1))
    torch.testing.assert_close(model.replaced(tokens, values), model(tokens))


def test_training_moves_all_weights_but_nothing_that_stands_for_an_item():
    task = replace(SMALL, d=8)
    model = SHAPE.build(task.vocab, task.n, generator())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    training = TokenTraining(model, task, TokenTrainingConfig(steps=3, batch=8, warmup=0.0), generator())
    for _ in range(3):
        training.advance()
    still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert all(name.endswith("k.bias") for name in still)  # which softmax does not feel
    assert not any("read_in" in name for name in before)


# ---- experiments ---------------------------------------------------------------------------------------------------


def test_a_run_on_classes_is_measured_on_every_part_and_followed_on_each(tmp_path):
    task = replace(SMALL, d=8)
    one = Experiment(task, SHAPE, TokenTrainingConfig(steps=4, batch=2), Evaluation(prompts=12, every=2), device="cpu")
    (tmp_path / "config.toml").write_text(config.dump(one.mapping()))
    assert Experiment.read(tmp_path / "config.toml") == one
    points = []
    rows = perform(one, tmp_path, points.append, lambda text: None)
    told = {(row["distribution"], row["predictor"], row["quantity"]) for row in rows}
    for name in ("own", "in_context", "relabelled", "in_weights"):
        assert {(name, who, "accuracy") for who in ("transformer", "context", "known", "chance")} <= told
    curve = {row["quantity"] for row in evolution.rows(points)}
    for name in task.parts():
        assert {f"{what}_accuracy_{name}" for what in ("evolution", "half_way", "rise")} <= curve


def test_a_jump_takes_no_time_and_slower_curves_the_time_they_are_said_to_take():
    steps = range(1, 4001)
    shapes = {"jump": lambda s: s > 900, "line": lambda s: s, "exponential": lambda s: 1 - 2.0 ** (-s / 250)}
    expected = {"jump": 0.0, "line": 0.8, "exponential": 2.32}
    for name, shape in shapes.items():
        points = [{"step": s, "tokens": {"accuracy": {"transformer": float(shape(s))}}} for s in steps]
        (found,) = [row for row in evolution.rows(points) if row["quantity"] == "rise_accuracy"]
        assert found["value"] == pytest.approx(expected[name], abs=0.02) and found["stderr"] < 0.01


@pytest.mark.slow
def test_many_bursty_classes_are_learned_in_context_and_few_by_heart():
    shape = VectorTransformerConfig(d_model=64, d_classifier=64, position_spread=0.3)
    for classes, better, worse in ((512, "in_context", "in_weights"), (16, "in_weights", "in_context")):
        task = GaussianClasses(classes=classes, labels=16, pairs=4, burst=2, d=31)
        training = TokenTraining(
            shape.build(16, task.n, generator()), task, TokenTrainingConfig(steps=3000, lr=1e-3), generator()
        )
        for _ in range(3000):
            training.advance()
        drawn = {name: part.sample(500, generator(1)) for name, part in task.parts().items()}
        right = {
            name: mean_asked(hits(continued({"it": training.model}, x)["it"], x), x).value for name, x in drawn.items()
        }
        assert right[better] > 0.9 and right[worse] < 0.6, right  # chance is 1/2 for who reads labels alone


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GaussianClasses(labels=1, burst=0), "labels must be at least 2, given 1; burst must be at least 1"),
        (lambda: GaussianClasses(classes=40, burst=3), r"classes must be a multiple of labels = 32, given 40; burst"),
        (lambda: GaussianClasses(pairs=32), "pairs must be fewer than labels = 32, given 32"),
        (lambda: GaussianClasses(bursty=1.1, alpha=-1.0, within=0.0), "bursty must lie.*alpha must be.*within must be"),
        (lambda: ContextClasses(torch.zeros(2, 3), 0.0), "ContextClasses: within must be positive"),
        (lambda: KnownClasses(torch.zeros(3, 3), torch.ones(3), 2, -1.0), "3 classes are no multiple.*within must"),
        (lambda: Experiment(SMALL, TokenTransformerConfig()), "of 16 channels need a VectorTransformerConfig"),
        (lambda: Experiment(SMALL, SHAPE), "vectors of 16 channels need a d_model as large, given 8"),
        (lambda: Experiment(LaundryList(), SHAPE), "tokens that are numbers need a TokenTransformerConfig"),
        (lambda: VectorTransformerConfig(tied_embedding=True, d_classifier=0), "d_classifier must be.*no embedding"),
        (lambda: SHAPE.build(4, 7)(torch.zeros(1, 8, 9)), "at most 8 channels, given .*; sequences of n = 8"),
    ],
)  # fmt: skip
def test_what_classes_cannot_be_is_refused_with_everything_that_is_wrong(make, said):
    with pytest.raises(ValueError, match=said):
        make()
