"""A pointer with keys of the place alone, of full rank, is a softmax with one output for each place of the input."""

import torch

from iclab.models import PointerTransformerConfig
from iclab.tasks import Sorting
from tests.conftest import generator

TASK = Sorting(numbers=9, shortest=2, longest=4)
SHAPE = PointerTransformerConfig(n_head=2, d_model=8, items=9, rank=8, keys="positional", closes=True)


def test_its_logits_are_a_linear_map_of_the_stream_with_a_row_for_each_place():
    """softmax over the places of the list of a_place·h, with a_place = W_qᵀ k_place: any matrix."""
    model, tokens = SHAPE.build(TASK.vocab, TASK.n, generator()).double(), TASK.sample(5, generator(1)).tokens
    wanted = torch.randn(TASK.n, 8, generator=generator(2), dtype=torch.float64)
    with torch.no_grad():  # the keys that make a given matrix of outputs
        model.query.bias.zero_()
        model.slot_keys.copy_(torch.linalg.solve(model.query.weight.T, wanted.T).T * 8**0.5)
    *_, last = model.residual_stream(tokens)
    n = tokens.shape[1]
    places = model.slots(tokens).unsqueeze(1) & torch.ones(n, n, dtype=torch.bool).tril()
    shares = (model.norm(last) @ wanted.T)[..., :n].masked_fill(~places, -torch.inf).softmax(-1)
    said = model(tokens).softmax(-1)
    for row, (line, share) in enumerate(zip(tokens, shares, strict=True)):
        for at in range(TASK.n // 2, n):  # from the separator of the longest list on
            for place in range(1, n):
                if places[row, at, place]:
                    torch.testing.assert_close(said[row, at, line[place]], share[at, place])


def test_a_place_that_was_never_trained_has_an_output_as_it_was_drawn():
    """Training on shorter lists gives no gradient to the keys of places beyond them."""
    short = Sorting(numbers=9, shortest=2, longest=3)
    model, prompts = SHAPE.build(TASK.vocab, TASK.n, generator()), short.sample(64, generator(1))
    logits = model(prompts.tokens)[prompts.answer_mask]
    torch.nn.functional.cross_entropy(logits, prompts.targets[prompts.answer_mask]).backward()
    assert (model.slot_keys.grad[:4] != 0).any(-1).all() and not model.slot_keys.grad[4:].any()
