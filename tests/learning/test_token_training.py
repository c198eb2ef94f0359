"""What must hold of training over tokens and of its runs: as for examples, and by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclab.analysis.algorithms.evolution import half_way
from iclab.analysis.next_token import by_place, continued, head_scores, hits, losses, mean_asked, mean_of_places
from iclab.constructed.induction import induction_head
from iclab.experiments import config, experiment
from iclab.experiments.experiment import Evaluation, Experiment
from iclab.learning.token_training import SizeCurriculum, TokenTraining, TokenTrainingConfig, token_loss
from iclab.models import PointerTransformer, PointerTransformerConfig, TokenTransformerConfig
from iclab.predictors import Bigram
from iclab.runs.perform import perform
from iclab.tasks import IndirectObject, LaundryList, MarkovChain, MultiQueryRecall, RepeatedSequence
from iclab.theory.references import SURE
from tests.conftest import generator
from tests.models.test_tokens import assert_tokens_causal

LISTS = LaundryList(items=6, longest=4)
SHAPE = TokenTransformerConfig(n_head=2, d_model=8)
RECIPES = {
    "default": TokenTrainingConfig(steps=12, batch=4),
    "muon": TokenTrainingConfig(steps=12, batch=4, optimizer="muon"),
    "curriculum": TokenTrainingConfig(steps=12, batch=4, curriculum=SizeCurriculum(size=2, every=5)),
    "bfloat16": TokenTrainingConfig(steps=12, batch=4, precision="bfloat16"),
}


def fresh(recipe, seed=0):
    model = SHAPE.build(LISTS.vocab, LISTS.n, generator(seed))
    return TokenTraining(model, LISTS, recipe, generator(100 + seed))


def weights(training):
    return {k: v.detach().clone() for k, v in training.parameters.items()}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
@pytest.mark.parametrize("cut", [0, 7])
def test_a_resumed_training_over_tokens_ends_with_the_same_bits(recipe, cut, tmp_path):
    whole, killed = fresh(recipe), fresh(recipe)
    said = [whole.advance() for _ in range(12)]
    for _ in range(cut):
        killed.advance()
    killed.save(tmp_path / "checkpoint.safetensors")
    resumed = fresh(recipe, seed=5)
    resumed.resume(tmp_path / "checkpoint.safetensors")
    assert [resumed.advance() for _ in range(12 - cut)] == said[cut:]
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_the_loss_is_the_mean_surprise_at_asked_positions_alone():
    model, prompts = SHAPE.build(LISTS.vocab, LISTS.n, generator()), LISTS.sample(5, generator())
    logs = model(prompts.tokens).log_softmax(-1)
    asked = prompts.answer_mask.nonzero().tolist()
    expected = -sum(logs[b, t, prompts.targets[b, t]] for b, t in asked) / len(asked)
    parameters = dict(model.named_parameters())
    torch.testing.assert_close(token_loss(model, parameters, prompts), expected)
    elsewhere = replace(prompts, targets=torch.where(prompts.answer_mask, prompts.targets, 0))
    assert token_loss(model, parameters, elsewhere) == token_loss(model, parameters, prompts)
    other = {name: value + 1 for name, value in parameters.items()}
    assert token_loss(model, other, prompts) != token_loss(model, parameters, prompts)


def test_lists_grow_with_the_steps_and_a_task_without_sizes_cannot():
    growing = SizeCurriculum(size=2, step=1, every=5)
    assert [growing.stage(LISTS, step).longest for step in (0, 4, 5, 9, 10, 99)] == [2, 2, 3, 3, 4, 4]
    recipe = TokenTrainingConfig(curriculum=growing)
    with pytest.raises(ValueError, match="MarkovChain has none"):
        TokenTraining(SHAPE.build(3, 64), MarkovChain(), recipe, generator())
    with pytest.raises(ValueError, match="size must be at least 1, given 0; every must be at least 1, given 0"):
        SizeCurriculum(size=0, every=0)


@pytest.mark.slow
def test_a_model_learns_to_recall():
    task = MultiQueryRecall(vocab=16, n=16, pairs=2)
    model = TokenTransformerConfig(n_head=1, d_model=32, position_spread=1.0).build(16, 16, generator())
    training = TokenTraining(model, task, TokenTrainingConfig(steps=1500, batch=32, lr=3e-3), generator())
    for _ in range(1500):
        training.advance()
    prompts = task.sample(200, generator(1))
    assert mean_asked(hits(continued({"it": model}, prompts)["it"], prompts), prompts).value > 0.9


# ---- pointing ------------------------------------------------------------------------------------------------------

POINTERS = {
    "content": PointerTransformerConfig(n_head=2, d_model=8, items=6, rank=3),
    "positional": PointerTransformerConfig(n_head=2, d_model=8, items=6, rank=3, keys="positional"),
}


@pytest.fixture(params=POINTERS.values(), ids=POINTERS.keys())
def pointer(request):
    return request.param.build(LISTS.vocab, LISTS.n, generator(3)).double()


def test_a_pointer_is_causal(pointer):
    assert_tokens_causal(pointer, LISTS.vocab, LISTS.n)


def test_pointing_equals_plain_loops(pointer):
    tokens = torch.tensor([[7, 2, 4, 2, 11, 4, 2, 13, 13, 13], [6, 1, 10, 13, 0, 1, 2, 3, 4, 5]])
    found = pointer.read(tokens, ["pointer.q", "prediction"])
    h = pointer.norm(list(pointer.residual_stream(tokens))[-1])
    lengths = (3, 1)  # slots are the items that follow position 0
    for b, length in enumerate(lengths):
        for i in range(tokens.shape[1]):
            slots = range(1, min(i, length) + 1)
            keys = [pointer.key(h[b, j]) if pointer.config.keys == "content" else pointer.slot_keys[j] for j in slots]
            scores = torch.stack([found["pointer.q"][b, i] @ key / 3**0.5 for key in keys]) if keys else None
            mass = torch.zeros(LISTS.vocab, dtype=torch.float64)
            for j, weight in zip(slots, scores.softmax(0) if scores is not None else (), strict=True):
                mass[tokens[b, j]] += weight
            if keys:
                torch.testing.assert_close(found["prediction"][b, i].softmax(-1), mass, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(pointer(tokens, 2), pointer(tokens)[:, -2:])


def test_a_pointer_of_one_dimension_points_at_the_first_and_last_key_and_no_other():
    task = LaundryList(items=6, longest=6).of_length(6)
    config = PointerTransformerConfig(n_head=2, d_model=8, items=6, rank=1, keys="positional")
    model = config.build(task.vocab, task.n, generator())
    prompts = task.sample(60, generator())
    reached = set()
    for q in (-9.0, -0.1, 0.1, 9.0):
        said = model.replaced(prompts.tokens, {"pointer.q": lambda old, q=q: torch.full_like(old, q)})[:, -1]
        reached |= set((prompts.tokens[:, 1:7] == said.argmax(1, keepdim=True)).nonzero()[:, 1].tolist())
    keys = model.slot_keys[1:7, 0]
    assert reached == {int(keys.argmin()), int(keys.argmax())}
    hull = PointerTransformerConfig(n_head=2, d_model=8, items=6, rank=5, keys="positional").build(task.vocab, task.n)
    best = {int((hull.slot_keys[1:7] @ q).argmax()) for q in torch.randn(2000, 5, generator=generator())}
    assert len(best) > 2  # more dimensions reach more


def test_a_pointer_is_saved_and_comes_back(pointer, tmp_path):
    pointer.save(tmp_path / "weights")
    again = PointerTransformer.load(tmp_path / "weights")
    tokens = LISTS.sample(3, generator()).tokens
    assert torch.equal(again(tokens), pointer(tokens))
    with pytest.raises(ValueError, match="rank must be at least 1, given 0"):
        PointerTransformerConfig(rank=0)
    assert PointerTransformerConfig(items=9).problems_for(8, 4) == [
        "items = 9 tokens that can be pointed at, and the task has 8 tokens"
    ]


def test_positions_are_drawn_with_the_spread_that_is_asked_for():
    configs = (TokenTransformerConfig(position_spread=spread) for spread in (0.02, 1.0))
    narrow, wide = (config.build(5, 2000, generator()).position.std() for config in configs)
    assert abs(narrow / 0.02 - 1) < 0.05 and abs(wide - 1) < 0.05
    with pytest.raises(ValueError, match="position_spread must be a standard deviation"):
        TokenTransformerConfig(position_spread=-1.0)


# ---- what is measured ----------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31))
def test_accuracy_and_loss_by_place_equal_plain_loops(seed):
    task = MultiQueryRecall(vocab=12, n=16, pairs=3)
    prompts = task.sample(20, generator(seed))
    logs = torch.randn(20, 16, 12, generator=generator(seed)).double().log_softmax(-1)
    by_hand = {hits: lambda row, target: float(row.argmax() == target), losses: lambda row, target: float(-row[target])}
    for measured, one in by_hand.items():
        terms, seen = measured(logs, prompts), {}
        for b, t in prompts.answer_mask.nonzero().tolist():
            seen.setdefault(int(prompts.case_ids[b, t]), []).append(one(logs[b, t], prompts.targets[b, t]))
        found = by_place(terms, prompts)
        assert found.keys() == seen.keys()
        for place, values in seen.items():
            assert abs(float(found[place].value) - sum(values) / len(values)) < 1e-9
        everything = [value for values in seen.values() for value in values]
        assert abs(float(mean_asked(terms, prompts).value) - sum(everything) / len(everything)) < 1e-9


def test_where_places_are_balanced_their_differences_are_no_error():
    task = LaundryList(items=6, longest=4).of_length(4)
    prompts = task.sample(400, generator())
    always = (prompts.case_ids < 2).double()  # right in two slots of four, never in the others: 1/2, without any doubt
    found, naive = mean_of_places(always, prompts), mean_asked(always, prompts)
    assert (found.value, found.stderr) == (0.5, 0) and naive.value == 0.5 and naive.stderr > 0.02
    said = torch.stack(
        [mean_of_places(torch.rand(400, 10, generator=generator(i)).double(), prompts).value for i in range(200)]
    )
    one = mean_of_places(torch.rand(400, 10, generator=generator(0)).double(), prompts)
    assert abs(one.stderr / said.std() - 1) < 0.2


def test_among_its_options_a_guess_is_never_outside_of_them():
    prompts = LISTS.sample(200, generator())
    logs = torch.zeros(200, prompts.tokens.shape[1], LISTS.vocab).double()
    logs[..., LISTS.vocab - 1] = 9.0  # sure of the end
    assert mean_asked(hits(logs, prompts), prompts).value == 0
    assert mean_asked(hits(logs, prompts, among_options=True), prompts).value > 0.1


def test_the_scores_of_constructed_induction_heads_are_one():
    task = RepeatedSequence(vocab=8, shortest=8, longest=8)
    prompts = task.sample(16, generator())
    found = head_scores(induction_head(8, 16), prompts)
    torch.testing.assert_close(found.previous_token[0, 0], torch.tensor(1.0).double())
    torch.testing.assert_close(found.prefix_matching[1, 0], torch.tensor(1.0).double())
    assert found.prefix_matching[0, 0] < 0.2 and found.previous_token[1, 0] < 0.2


def test_a_curve_is_half_way_between_the_points_where_it_crosses_the_middle():
    found = half_way([1, 2, 4, 8], [0.0, 0.1, 0.9, 1.0])
    assert (found.step, found.stderr) == (8**0.5, 1.0)
    assert half_way([1, 2, 4, 8], [1.0, 0.9, 0.2, 0.0]).step == 8**0.5
    assert half_way([1, 2, 4, 8], [0.0, 0.9, 0.1, 1.0]).step == 32**0.5  # the last crossing counts


# ---- experiments ---------------------------------------------------------------------------------------------------

TASKS = {
    "laundry list": LaundryList(items=6, longest=3, holds_out="sets"),
    "indirect object": IndirectObject(names=5),
    "repeated sequence": RepeatedSequence(vocab=8, shortest=3, longest=4),
    "recall": MultiQueryRecall(vocab=12, n=16, pairs=3),
    "Markov chain": MarkovChain(states=3, n=8),
}


def small(task, **more):
    recipe, evaluation = TokenTrainingConfig(steps=4, batch=2), Evaluation(prompts=12)
    return Experiment(task, SHAPE, recipe, evaluation, device="cpu", **more)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_a_run_over_tokens_is_spelled_out_performed_and_measured(task, tmp_path):
    one = small(task)
    (tmp_path / "config.toml").write_text(config.dump(one.mapping()))
    again = Experiment.read(tmp_path / "config.toml")
    assert again == one and again.id == one.id and again.id != small(task, seed=1).id
    points = []
    rows = perform(one, tmp_path, points.append, lambda text: None, points=lambda: points)
    assert {"own", *task.parts()} == {row["distribution"] for row in rows}
    told = {(row["predictor"], row["quantity"]) for row in rows}
    assert told >= {("transformer", "accuracy"), ("chance", "accuracy"), ("transformer", "evolution_loss")}
    assert all(("transformer", f"half_way_{quantity}") in told for quantity in ("loss", "accuracy"))
    assert ("bigram" in {name for name, _ in told}) == isinstance(task, MarkovChain | RepeatedSequence)
    assert all(0 <= row["value"] <= 1 for row in rows if row["quantity"].startswith("accuracy"))


def test_a_run_that_was_cut_off_ends_as_an_uninterrupted_one(tmp_path):
    one = replace(small(LISTS), eval=Evaluation(prompts=12, every=2))
    whole = perform(one, tmp_path, lambda point: None, lambda text: None)
    cut, notes = tmp_path / "cut", []
    cut.mkdir()

    def stop(point):
        if point["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(one, cut, stop, lambda text: None)
    assert perform(one, cut, lambda point: None, notes.append) == whole
    assert "continues at step 2 of 4" in notes


def test_a_shift_and_a_model_must_fit_and_a_mistyped_kind_is_told_the_nearest():
    wrong = Evaluation(shifts=(("2_items", LaundryList(items=7, longest=2)),))
    with pytest.raises(
        ValueError, match="a vocab of 15, and the model one of 14; the name '2_items' is that of a part"
    ):
        replace(small(LISTS), eval=wrong)
    longer = Evaluation(shifts=(("5_items", LaundryList(items=6, longest=5)),))
    assert replace(small(LISTS), eval=longer).sizes["n"] == 12
    for settings, said in (
        ({"task": {"kind": "LaundryLst"}}, "Did you mean 'LaundryList'"),
        ({"task": {"kind": "LinearRegresion"}}, "Did you mean 'LinearRegression'"),
        ({"task": {"kind": "MarkovChain", "stats": 3}}, "unknown key 'task.stats'. Did you mean 'task.states'"),
        ({"task": {"kind": "MarkovChain"}, "train": {"targets": "sampled"}}, "unknown key 'train.targets'"),
        ({"task": {"kind": "MarkovChain"}, "seed": -1, "device": "tpu"}, "seed must lie in .*device must be auto"),
    ):
        with pytest.raises(ValueError, match=said):
            experiment.Experiment.from_mapping(settings, "f")


def test_the_reference_of_a_repeated_sequence_is_sure_and_right():
    prompts = RepeatedSequence().sample(64, generator())
    logs = continued({"bigram": Bigram(32, SURE)}, prompts)["bigram"]
    assert mean_asked(hits(logs, prompts), prompts).value == 1
