"""What comes into a model: numbers that are not known stay out of earlier answers, and kinds and axes are checked."""

from itertools import product
from math import inf, nan

import numpy as np
import pytest
import torch
from torch.func import functional_call, stack_module_state
from torch.nn.attention import SDPBackend, sdpa_kernel

from iclab.analysis.layers.stitching import Stitched, affine_bridge
from iclab.constructed import fu, vonoswald
from iclab.models import (
    LinearAttention,
    PointerTransformer,
    PointerTransformerConfig,
    RandomAttention,
    RandomNetwork,
    RandomSelfAttention,
    TokenTransformer,
    VectorTransformer,
    VectorTransformerConfig,
)
from tests.conftest import generator
from tests.models.test_models import LAID_OUT, SHAPES, model, task_of

UNKNOWN = (nan, inf, -inf)


def assert_blind_to_what_is_unknown(predictor, layout="", n=6):
    """With all that comes after x_i unknown, y_i and later labels as well, the answers at i and before are the same, in
    a batch with all other prompts; and those that know of something unknown are not finite."""
    prompts, states = task_of(layout, n=n).sample(1, generator(1), torch.float64), layout.startswith("states")
    known = predictor(prompts.xs, prompts.ys)
    xs, ys = (torch.stack([part[0]] * (2 * n * len(UNKNOWN))) for part in (prompts.xs, prompts.ys))
    cases = list(product(UNKNOWN, range(n), (True, False)))
    for k, (what, i, everything) in enumerate(cases):  # all that is later, or one label (a state) alone
        xs[k, i + 1 :] = what if everything else xs[k, i + 1 :]
        (xs if states and not everything else ys)[k, i : None if everything else i + 1] = what
    for said, (_, i, everything) in zip(predictor(xs, ys), cases, strict=True):
        sound = i if states and not everything else i + 1
        torch.testing.assert_close(said[:sound], known[0, :sound], atol=1e-13, rtol=1e-13)  # rounding
        assert not said[sound:].isfinite().any()


@pytest.mark.parametrize(("layout", "shape"), LAID_OUT)
def test_what_is_unknown_reaches_no_earlier_answer_of_a_transformer(layout, shape):
    assert_blind_to_what_is_unknown(model(layout, shape), layout)


def test_what_is_unknown_reaches_no_earlier_answer_of_other_models():
    linear = LinearAttention(3, 6)
    linear.theta.data.normal_(generator=generator())
    lower, upper = (model("interleaved", SHAPES["softmax with MLP"], seed=k) for k in (0, 1))
    bridge = affine_bridge(lower, upper, task_of("").sample(16, generator(), torch.float64), 1)
    hand_set = [vonoswald.gradient_descent(3, 6, 2, 0.1), fu.newton(3, 6, 1, 0.01)]
    for one in [linear, Stitched(lower, upper, 1, bridge=bridge), *hand_set]:
        assert_blind_to_what_is_unknown(one)


def test_vectors_that_are_unknown_reach_no_earlier_logits():
    one = VectorTransformer(5, 8, VectorTransformerConfig(d_model=8, positions=True), generator())
    tokens = torch.randn(2, 8, 4, generator=generator(1))
    for what in UNKNOWN:
        later = tokens.clone()
        later[:, 5:] = what
        torch.testing.assert_close(one(later)[:, :5], one(tokens)[:, :5])
        assert one(later)[:, 5:].isnan().all() and one(later, 2).isnan().all()
        assert not any(h[:, :5].isnan().any() for h in one.residual_stream(later))


def test_blindness_can_fail(monkeypatch):
    """Without the door what is unknown goes through a weight of zero, 0·NaN; and so it does where it is set to zero."""
    for name in ("paired", "lagged", "encoder"):
        with monkeypatch.context() as patch:
            unguarded = "iclab.models.transformer.known"
            patch.setattr(unguarded, lambda h, mask, shared: (h, torch.zeros_like(h[..., :1], dtype=torch.bool)))
            with pytest.raises(AssertionError):
                assert_blind_to_what_is_unknown(model(name, SHAPES["linear"]), name)
    honest = model("lagged", {})
    with pytest.raises(AssertionError):
        assert_blind_to_what_is_unknown(lambda xs, ys: honest(xs.nan_to_num(0, 0, 0), ys.nan_to_num(0, 0, 0)))


def test_streams_before_what_is_unknown_are_those_of_known_prompts():
    one, prompts = model("paired", {}), task_of("").sample(2, generator(), torch.float64)
    ys = prompts.ys.clone()
    ys[:, 3] = nan
    for h, known in zip(one.residual_stream(prompts.xs, ys), one.residual_stream(prompts.xs, prompts.ys), strict=True):
        lost = h.isnan().all(-1)
        torch.testing.assert_close(h[~lost], known[~lost])
        assert lost[0].nonzero().flatten().tolist() == [3, 4, 9, 10]  # examples 3 and 4, and the queries after them


# ---- kinds and axes ------------------------------------------------------------------------------------------------


def models_of_examples():
    linear = LinearAttention(3, 6)
    linear.theta.data.normal_(generator=generator())
    return [model("interleaved", {}), model("paired", SHAPES["softmax with MLP"]), linear]


@pytest.mark.parametrize("one", models_of_examples(), ids=lambda one: type(one).__name__)
def test_whole_numbers_and_arrays_are_answered_as_the_same_numbers_are(one):
    xs, ys = (torch.randint(-3, 4, shape, generator=generator(k)) for k, shape in enumerate([(2, 6, 3), (2, 6)]))
    wanted = one(xs.double(), ys.double())
    assert wanted[:, 1:].frac().abs().min() > 0  # or whole answers would hide that they were cut
    torch.testing.assert_close(one(xs, ys), wanted.float())
    torch.testing.assert_close(one(xs.double().numpy(), ys.double().numpy()), wanted)
    torch.testing.assert_close(one(xs.numpy(), ys.numpy()), wanted.float())
    torch.testing.assert_close(one(xs.int(), ys.double()), wanted.float())


@pytest.mark.parametrize("one", models_of_examples(), ids=lambda one: type(one).__name__)
def test_prompts_of_other_axes_or_of_no_numbers_are_refused_in_a_line(one):
    prompts = task_of("").sample(2, generator(), torch.float64)
    with pytest.raises(ValueError, match=r"given xs of shape \(6, 3\) and .* a single prompt is a batch of one"):
        one(prompts.xs[0], prompts.ys[0])
    with pytest.raises(ValueError, match=r"xs must be a tensor or an array of real numbers, given ndarray of <U1"):
        one(np.array([["a"]]), prompts.ys)
    with pytest.raises(ValueError, match=r"ys must be a tensor or an array of real numbers, given Tensor of torch"):
        one(prompts.xs, prompts.ys.to(torch.complex128))


@pytest.mark.parametrize("kind", [RandomAttention, RandomSelfAttention, RandomNetwork])
def test_frozen_features_of_whole_numbers_are_those_of_the_same_numbers(kind):
    one = kind(3, 4, 5, rng=generator())
    one.values.data.normal_(generator=generator(1))
    xs = torch.randint(-3, 4, (6, 5, 3), generator=generator(2))
    torch.testing.assert_close(one(xs), one(xs.float()))
    torch.testing.assert_close(one.features(xs.numpy()), one.features(xs.float()))
    torch.testing.assert_close(one.kernel(xs), one.kernel(xs.float()))
    with pytest.raises(ValueError, match=r"xs must have the axes \[batch tokens d\], given the shape \(5, 3\)"):
        one(xs[0].float())


def test_tokens_may_be_arrays_and_whole_numbers_of_any_size():
    tokens = torch.randint(0, 8, (2, 6), generator=generator())
    pointer = PointerTransformer(8, 6, PointerTransformerConfig(items=5), generator())
    for one in (TokenTransformer(8, 6, rng=generator()), pointer):
        for other in (tokens.numpy(), tokens.int(), tokens.to(torch.uint8)):
            assert torch.equal(one(other), one(tokens))
        with pytest.raises(ValueError, match=r"tokens must have the axes \[batch n\], given the shape \(6,\)"):
            one(tokens[0])
        with pytest.raises(ValueError, match="tokens are numbers from 0 to 7, given 0 to 8"):
            one(torch.tensor([[0, 8]]))
    vectors = VectorTransformer(5, 6, VectorTransformerConfig(d_model=8), generator())
    wide = torch.randn(2, 6, 4, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(vectors(wide.numpy()), vectors(wide.float()))


# ---- replicas ------------------------------------------------------------------------------------------------------


def test_replicas_over_tokens_answer_prompts_of_their_own():
    replicas = [TokenTransformer(8, 6, rng=generator(k)) for k in range(3)]
    parameters, _ = stack_module_state(replicas)
    tokens = torch.randint(0, 8, (3, 2, 6), generator=generator())
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be mapped over, and say so
        said = torch.vmap(lambda p, x: functional_call(replicas[0], p, (x,)))(parameters, tokens)
    torch.testing.assert_close(said, torch.stack([one(x) for one, x in zip(replicas, tokens, strict=True)]))


@pytest.mark.parametrize("layout", ["lagged", "interleaved", "paired", "encoder"])
def test_replicas_over_examples_answer_prompts_of_their_own(layout):
    replicas = [model(layout, {}, seed=k) for k in range(3)]
    parameters, _ = stack_module_state(replicas)
    xs, ys = torch.randn(3, 2, 6, 3, generator=generator()), torch.randn(3, 2, 6, generator=generator(1))
    ys[0, 0, 3] = nan
    said = torch.vmap(lambda p, x, y: functional_call(replicas[0], p, (x, y)))(parameters, xs, ys)
    alone = torch.stack([one(x, y) for one, x, y in zip(replicas, xs, ys, strict=True)])
    torch.testing.assert_close(said, alone, equal_nan=True)
