"""What must hold of packs: each replica is the run that it would be alone, whoever trains beside it."""

from dataclasses import dataclass, replace
from itertools import product
from math import isclose, log

import pytest
import torch

from iclab.constructed.bounded import Bounded
from iclab.errors import UsageError
from iclab.experiments.experiment import Experiment
from iclab.learning.pack import PackedAdamW, PackTraining, pack_trainings, packing_problems
from iclab.learning.token_training import TokenTraining, TokenTrainingConfig, token_loss
from iclab.learning.training import Curriculum, Diverged, Training, TrainingConfig, loss
from iclab.measures.following import learning_curve, learning_curves
from iclab.models import LinearAttentionConfig, TokenTransformer, TokenTransformerConfig, Transformer, TransformerConfig
from iclab.models.packed import PackedLayerNorm, PackedLinear, PackedTransformer
from iclab.tasks import FinitePool, LinearRegression, RepeatedSequence
from tests.conftest import generator, unchecked

TASK = LinearRegression(3, 6, noise=0.5)
SHAPE = TransformerConfig(n_layer=2, n_head=2, d_model=8)
RECIPE = TrainingConfig(steps=12, batch=8, warmup=0.25)
SPECIMENS = {  # name: what of the shape differs from the default
    "default": {},
    "softmax, interleaved, MLP": {"attention": "softmax", "layout": "interleaved", "d_mlp": 12},
    "encoder, tied, no norm": {"layout": "encoder", "tied": True, "norm": False},
    "relu, paired, no bias": {"attention": "relu", "layout": "paired", "bias": False, "normaliser": "seen"},
    "identity": {"layout": "paired", "read_in": "identity", "norm": False, "positions": False, "d_model": 8},
    "null slot, MLP": {"attention": "softmax", "null_slot": True, "d_mlp": 12, "norm_attention": False},
}
LAYOUTS = ["interleaved", "copied", "overlaid", "lagged", "shifted", "paired", "encoder"]
OTHERS = [
    dict(zip(("layout", "attention", "d_mlp", "tied", "norm"), each, strict=True))
    for each in product(LAYOUTS, ["softmax", "linear", "relu"], [0, 12], [False, True], [False, True])
]


@dataclass(frozen=True)
class Double(LinearRegression):
    """Prompts in float64."""

    def sample(self, batch, rng, dtype=torch.float64):
        return super().sample(batch, rng, dtype)


def training(seed=0, task=TASK, shape=SHAPE, double=False, **settings):
    model = Transformer(task.d, task.n, shape, generator(seed))
    return Training(model.double() if double else model, task, replace(RECIPE, **settings), generator(100 + seed))


def varied(count=4, **settings):
    """Trainings that differ in what may differ."""
    rates, decays, clips = [4e-3, 8e-3, 1e-2, 6e-3], [0.0, 0.1, 0.01, 0.0], [1.0, 0.5, None, 1.0]
    numbers = [{"lr": rates[i % 4], "weight_decay": decays[i % 4], "clip": clips[i % 4]} for i in range(count)]
    more = [{"schedule": ["cosine", "linear"][i % 2], "warmup": 0.1 * (i % 3)} for i in range(count)]
    tasks = [LinearRegression(3, 6, noise=0.25 * (1 + i), prior=1 + 0.1 * i) for i in range(count)]
    return [training(i, tasks[i], **(numbers[i] | more[i] | settings)) for i in range(count)]


TOKENS = RepeatedSequence(vocab=6, shortest=2, longest=4)
TOKEN_SHAPE = TokenTransformerConfig(n_layer=2, n_head=2, d_model=8)
TOKEN_RECIPE = TokenTrainingConfig(steps=12, batch=8, warmup=0.25)
TOKEN_SPECIMENS = {
    "default": {},
    "rotary, parallel": {"rotary": 4, "parallel": True, "d_mlp": 12, "positions": False},
    "linear, tied layers, no bias": {"attention": "linear", "tied": True, "bias": False},
}


def token_training(seed=0, task=TOKENS, shape=TOKEN_SHAPE, double=False, **settings):
    model = TokenTransformer(task.vocab, task.n, shape, generator(seed))
    recipe, rng = replace(TOKEN_RECIPE, **settings), generator(100 + seed)
    return TokenTraining(model.double() if double else model, task, recipe, rng)


def varied_tokens(count=4, **settings):
    """Trainings on tokens that differ in what may differ."""
    tasks = [RepeatedSequence(vocab=6, shortest=2 + i % 2, longest=4) for i in range(count)]
    return [token_training(i, tasks[i], **({"lr": 2e-3 * (1 + i % 4)} | settings)) for i in range(count)]


def weights(one):
    return {k: v.detach().clone() for k, v in one.parameters.items()}


def same(one, other):
    return all(torch.equal(one[k], other[k]) for k in one)


def trained(trainings, steps=6):
    """The losses of each step, and the pack."""
    pack = pack_trainings(trainings)
    return [pack.advance() for _ in range(steps)], pack


def gradients(shape, m=None):
    """Of a pack and of its models alone, in float64."""
    models = [Transformer(3, 6, shape, generator(seed)).double() for seed in range(3)]
    prompts = [TASK.sample(4, generator(10 + seed), torch.float64) for seed in range(3)]
    alone = []
    for model, each in zip(models, prompts, strict=True):
        parameters = dict(model.named_parameters())
        alone.append(torch.autograd.grad(loss(model, parameters, each, each.ys, m), list(parameters.values())))
    pack = PackedTransformer(models)
    xs, ys = torch.cat([each.xs for each in prompts]), torch.cat([each.ys for each in prompts])
    answers = pack(xs, ys) if m is None else pack(xs, ys, m)
    values = (answers - (ys if m is None else ys[:, -m:])).square().reshape(3, -1).mean(1)
    return torch.autograd.grad(values.sum(), list(pack.parameters())), alone


def furthest(shape, m=None):
    """The largest distance of the gradient of a replica from that of the single model, relative to its largest."""
    together, alone = gradients(shape, m)
    size = max(part.abs().max() for each in alone for part in each)
    pairs = [(part[r], q) for r, each in enumerate(alone) for part, q in zip(together, each, strict=True)]
    return max(((p - q).abs().max() / size).item() for p, q in pairs)


# ---- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [None, 1])
@pytest.mark.parametrize("changes", SPECIMENS.values(), ids=SPECIMENS.keys())
def test_the_gradients_of_a_pack_are_those_of_its_models_alone(changes, m):
    assert furthest(replace(SHAPE, **changes), m) < 1e-12


@pytest.mark.parametrize("changes", TOKEN_SPECIMENS.values(), ids=TOKEN_SPECIMENS.keys())
def test_the_gradients_of_a_pack_over_tokens_are_those_of_its_models_alone(changes):
    shape = replace(TOKEN_SHAPE, **changes)
    alone = [token_training(seed, shape=shape, double=True) for seed in range(3)]
    prompts = [TOKENS.sample(4, generator(10 + seed)) for seed in range(3)]
    wanted = []
    for one, each in zip(alone, prompts, strict=True):
        value = token_loss(one.model, one.parameters, each)
        wanted.append([value.detach(), *torch.autograd.grad(value, list(one.parameters.values()))])
    pack = pack_trainings(alone)
    parts = ([getattr(each, name) for each in prompts] for name in pack.parts)
    losses, usual = pack._losses(*(torch.cat(each) for each in parts))
    assert usual == log(TOKENS.vocab)
    found = [losses.detach(), *torch.autograd.grad(losses.sum(), pack.parameters)]
    for part, *singles in zip(found, *wanted, strict=True):
        torch.testing.assert_close(part, torch.stack(singles), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("changes", OTHERS, ids=lambda each: "-".join(map(str, each.values())))
def test_the_gradients_of_a_pack_of_any_shape_are_those_of_its_models_alone(changes):
    with unchecked():
        assert furthest(replace(SHAPE, **changes)) < 1e-12


def test_layers_that_forget_which_replica_they_serve_would_be_noticed(monkeypatch):
    def shared(self, h):
        return h @ self.weight[0].mT + self.bias[0]

    monkeypatch.setattr(PackedLinear, "forward", shared)
    assert furthest(SHAPE) > 1e-3
    monkeypatch.undo()
    monkeypatch.setattr(PackedLayerNorm, "forward", lambda self, h: torch.layer_norm(h, h.shape[-1:]))
    with pytest.raises(RuntimeError, match="not have been used"):
        furthest(SHAPE)


def test_a_model_that_was_packed_answers_as_before_and_is_saved_as_before(tmp_path):
    models = [Transformer(3, 6, SHAPE, generator(seed)) for seed in range(2)]
    prompts, before = TASK.sample(4, generator(9)), [weights_of(model) for model in models]
    answers = [model(prompts.xs, prompts.ys) for model in models]
    PackedTransformer(models)
    for model, kept, answer in zip(models, before, answers, strict=True):
        assert same(weights_of(model), kept)
        torch.testing.assert_close(model(prompts.xs, prompts.ys), answer)
        model.save(tmp_path / "model.safetensors")
        assert same(weights_of(Transformer.load(tmp_path / "model.safetensors")), kept)


def weights_of(model):
    return {k: v.detach().clone() for k, v in model.named_parameters()}


# ---- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("double", "tolerance"),
    [
        pytest.param(False, 1e-6, id="float32", marks=pytest.mark.slow),
        pytest.param(True, 1e-12, id="float64"),
    ],
)
@pytest.mark.parametrize("kind", ["examples", "tokens"])
def test_the_losses_of_a_replica_are_those_of_its_training_alone(kind, double, tolerance):
    with unchecked():
        assert apart(double, steps=100, kind=kind) < tolerance


def apart(double, steps, kind="examples"):
    """The largest relative distance of a loss of a pack from that of the training alone."""
    tasks = [(Double if double else LinearRegression)(3, 6, noise=0.25 * (1 + i)) for i in range(3)]
    settings = [{"lr": 4e-3}, {"lr": 8e-3, "weight_decay": 0.1, "clip": None}, {"schedule": "linear", "warmup": 0.5}]

    def fresh():
        if kind == "tokens":
            return varied_tokens(3, double=double, steps=steps)
        return [training(i, tasks[i], double=double, steps=steps, **settings[i]) for i in range(3)]

    (losses, _), singles = trained(fresh(), steps), fresh()
    alone = [[single.advance() for single in singles] for _ in range(steps)]
    return max(abs(a[r] - b) / b for a, each in zip(losses, alone, strict=True) for r, b in enumerate(each))


def test_an_optimizer_with_one_rate_for_all_would_be_noticed(monkeypatch):
    step = PackedAdamW.step
    monkeypatch.setattr(PackedAdamW, "step", lambda self, g, rates, *more: step(self, g, [rates[0]] * 3, *more))
    with unchecked():
        assert apart(double=False, steps=5) > 1e-4


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0, 1), (3, 2, 1, 0), (0, 1, 2, 3, 4, 5, 6, 7)])
@pytest.mark.parametrize("kind", [varied, varied_tokens], ids=["examples", "tokens"])
def test_the_bits_of_a_replica_depend_neither_on_companions_nor_on_number_nor_on_order(kind, order):
    losses, pack = trained([kind(8)[i] for i in (1, 0, 5)])
    others, other = trained([kind(8)[i] for i in order])
    place = order.index(0)
    assert [each[1] for each in losses] == [each[place] for each in others]
    assert same(weights(pack.trainings[1]), weights(other.trainings[place]))


def test_replicas_that_share_a_bound_on_their_gradient_would_be_noticed(monkeypatch):
    def together(self, gradient, *more):
        step(self, gradient / gradient.norm(), *more)

    step = PackedAdamW.step
    monkeypatch.setattr(PackedAdamW, "step", together)
    one, other = (trained([training(i, clip=None) for i in chosen])[1] for chosen in ((0, 1), (0, 2)))
    assert not same(weights(one.trainings[0]), weights(other.trainings[0]))


def test_a_replica_that_diverges_says_so_with_its_own_step_and_the_others_keep_their_bits():
    def sick():
        broken = training(3)
        with torch.no_grad():
            next(iter(broken.parameters.values())).fill_(float("nan"))
        return [training(0), training(1, lr=3e3, clip=None, warmup=0.0), training(2), broken]

    losses, pack = trained(sick(), 12)
    well, healthy = trained([training(0), training(2)], 12)
    assert [each[0] for each in losses] == [each[0] for each in well]
    assert same(weights(pack.trainings[2]), weights(healthy.trainings[1]))
    alone = {}
    for replica, single in enumerate(sick()):
        try:
            for _ in range(12):
                single.advance()
        except Diverged as error:
            alone[replica] = error.step
    assert {replica: error.step for replica, error in pack.diverged.items()} == alone
    assert alone.keys() == {1, 3} and pack.active == []
    assert {replica: pack.trainings[replica].step for replica in alone} == alone


def test_a_replica_that_is_done_stands_still():
    ahead, behind = training(0), training(1)
    for _ in range(9):
        ahead.advance()
    _, pack = trained([ahead, behind], 3)
    kept, state = weights(ahead), ahead.rng.get_state()
    assert pack.active == [1]
    assert pack.advance().keys() == {1} and pack.trainings[1].step == 4
    assert same(weights(ahead), kept) and torch.equal(ahead.rng.get_state(), state) and ahead.step == 12


def test_each_replica_has_the_curve_of_its_training_alone():
    def seen(one):
        return lambda step: {"weight": next(iter(one.parameters.values())).norm().item()}

    packed, singles = varied(3, steps=6), varied(3, steps=6)
    due = [lambda step, every=1 + i: step % every == 0 for i in range(3)]
    found = {0: [], 1: [], 2: []}
    for replica, point in learning_curves(pack_trainings(packed), due, [seen(one) for one in packed]):
        found[replica].append(point)
    assert [[point["step"] for point in curve] for curve in found.values()] == [[1, 2, 3, 4, 5, 6], [2, 4, 6], [3, 6]]
    for replica, single in enumerate(singles):
        for point, alone in zip(found[replica], learning_curve(single, due[replica], seen(single)), strict=True):
            assert point.keys() == alone.keys()
            assert all(isclose(point[k], alone[k], rel_tol=1e-5) for k in point if k != "seconds")


def test_the_curve_of_a_replica_that_diverges_ends_there_and_the_others_go_on():
    packed = [training(0), training(1, lr=3e3, clip=None, warmup=0.0)]
    curves = list(learning_curves(pack_trainings(packed), [lambda step: True] * 2, [lambda step: {}] * 2))
    steps = [[point["step"] for replica, point in curves if replica == r] for r in range(2)]
    assert steps[0] == list(range(1, 13)) and steps[1] == list(range(1, packed[1].step + 1)) and packed[1].step < 12


# ---- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [varied, varied_tokens], ids=["examples", "tokens"])
def test_checkpoints_of_replicas_go_on_in_another_pack_with_the_same_bits(kind, tmp_path):
    whole, _ = trained(kind(3), 10)
    _, pack = trained(kind(3), 4)
    for replica, one in enumerate(pack.trainings):
        one.save(tmp_path / f"{replica}.safetensors")
    again = kind(3)[::-1]
    for replica, one in enumerate(again):
        one.resume(tmp_path / f"{2 - replica}.safetensors")
    rest, _ = trained(again, 6)
    assert [[each[2 - r] for r in range(3)] for each in rest] == [[each[r] for r in range(3)] for each in whole[4:]]


def test_a_replica_goes_on_alone_and_a_single_training_in_a_pack(tmp_path):
    whole, singles = trained(varied(3), 12)[0], varied(3)
    _, pack = trained(varied(3), 4)
    for one, single in zip(pack.trainings, singles, strict=True):
        one.save(tmp_path / "checkpoint.safetensors")
        single.resume(tmp_path / "checkpoint.safetensors")
    alone = [[single.advance() for single in singles] for _ in range(4)]
    for single, fresh in zip(singles, again := varied(3), strict=True):
        single.save(tmp_path / "checkpoint.safetensors")
        fresh.resume(tmp_path / "checkpoint.safetensors")
    rest, last = trained(again, 4)
    found = alone + [[each[r] for r in range(3)] for each in rest]
    expected = [[each[r] for r in range(3)] for each in whole[4:]]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=0)
    assert last.active == [] and all(one.step == 12 for one in last.trainings)


def test_a_checkpoint_of_a_replica_has_the_names_of_one_of_a_single_training(tmp_path):
    from safetensors import safe_open

    (single, packed), paths = varied(2), [tmp_path / "single.safetensors", tmp_path / "packed.safetensors"]
    single.advance()
    _, pack = trained([training(5), packed], 1)
    single.save(paths[0])
    pack.trainings[1].save(paths[1])
    files = [safe_open(path, "pt") for path in paths]
    shapes = [{k: (f.get_tensor(k).shape, f.get_tensor(k).dtype) for k in f.keys()} for f in files]  # noqa: SIM118
    assert shapes[0] == shapes[1] and files[0].metadata().keys() == files[1].metadata().keys() - {"pack"}


def test_a_pack_that_forgets_the_moments_of_a_resumed_training_would_be_noticed(tmp_path, monkeypatch):
    whole, _ = trained(varied(2), 6)
    _, pack = trained(varied(2), 4)
    again = varied(2)
    for one, fresh in zip(pack.trainings, again, strict=True):
        one.save(tmp_path / "checkpoint.safetensors")
        fresh.resume(tmp_path / "checkpoint.safetensors")
    monkeypatch.setattr(PackTraining, "_adopt", lambda *given: None)
    assert trained(again, 2)[0] != whole[4:]


# ---- what can be packed --------------------------------------------------------------------------------------------


def experiment(task=TASK, model=SHAPE, train=RECIPE, **settings):
    return Experiment(task, model, train, device="cpu", **settings)


def test_runs_over_tokens_that_differ_in_numbers_alone_make_a_pack():
    own = Experiment(TOKENS, TOKEN_SHAPE, TOKEN_RECIPE, device="cpu")
    ways = [{"seed": 1}, {"train": replace(TOKEN_RECIPE, lr=1e-3)}, {"model": replace(TOKEN_SHAPE, init_scale=0.5)}]
    assert packing_problems([own, *(replace(own, **way) for way in ways)]) == []
    (problem,) = packing_problems([own, replace(own, model=replace(TOKEN_SHAPE, tied_embedding=True))])
    assert "tied_embedding" in problem
    longer = replace(own, task=RepeatedSequence(vocab=6, shortest=2, longest=5))
    assert packing_problems([own, longer]) == ["the prompts are of 2 shapes", "the models are of 2 shapes"]
    assert packing_problems([own, experiment()]) != []


def test_runs_that_differ_in_numbers_alone_make_a_pack():
    ways = [
        {"seed": 1},
        {"task": LinearRegression(3, 6, noise=1.0, prior=2.0)},
        {"task": FinitePool(LinearRegression(3, 6, noise=0.5), size=4)},
        {"train": replace(RECIPE, lr=1e-3, weight_decay=0.1, warmup=0.0, schedule="constant", clip=None)},
        {"model": replace(SHAPE, init_scale=0.5)},
    ]
    assert packing_problems([experiment(), *(experiment(**way) for way in ways)]) == []


@pytest.mark.parametrize(
    "way, reason",
    [
        ({"task": LinearRegression(3, 7)}, "the prompts are of 2 shapes"),
        ({"model": replace(SHAPE, n_layer=3)}, "the models are of 2 shapes"),
        ({"train": replace(RECIPE, steps=13)}, "the recipes are of 2 shapes"),
        ({"train": replace(RECIPE, batch=9)}, "the recipes are of 2 shapes"),
        ({"train": replace(RECIPE, optimizer="muon")}, "optimizer = muon"),
        ({"train": replace(RECIPE, targets="posterior_mean")}, "posterior_mean"),
        ({"train": replace(RECIPE, precision="bfloat16")}, "bfloat16"),
        ({"train": replace(RECIPE, curriculum=Curriculum(dims=1, points=2))}, "curriculum"),
        ({"model": LinearAttentionConfig()}, "Recipe of LinearAttention"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_cannot_be_packed_is_told_with_its_reason(way, reason):
    problem, *_ = packing_problems([experiment(), experiment(**way)])
    assert reason in problem


def test_trainings_that_are_no_pack_are_refused():
    one = training(0)
    sharing = Training(Transformer(3, 6, SHAPE), TASK, RECIPE, one.rng)
    other = Training(Bounded(3, 6, SHAPE, generator()), TASK, RECIPE, generator())
    for wrong in ([], [one, one], [one, sharing], [one, training(1, shape=replace(SHAPE, n_layer=1))], [one, other]):
        with pytest.raises(UsageError):
            pack_trainings(wrong)


def test_prompts_of_another_precision_do_not_change_those_of_a_companion():
    pack = pack_trainings([training(0), training(1, Double(3, 6, noise=0.5))])
    with pytest.raises(UsageError, match="precisions"):
        pack.advance()
