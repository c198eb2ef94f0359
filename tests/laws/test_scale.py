"""A ratio has no unit: multiplying what is measured by 1e±10 changes nothing. And 0 times infinity is nothing."""

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from iclab.analysis.algorithms.agreement import linearity, sime, weight_cosine
from iclab.analysis.algorithms.iterations import slope
from iclab.analysis.heads.composition import chance, channels, component_scores, composition_score, compositions
from iclab.analysis.heads.cuts import correlation
from iclab.analysis.heads.low_rank import LowRank
from iclab.analysis.heads.reach import reach, slot_margins
from iclab.analysis.layers.attention_probes import ProbeRecipe, attention_probes
from iclab.analysis.layers.descent import tuned_descent
from iclab.analysis.layers.probing import bare_prompt, probe
from iclab.analysis.layers.similarity import linear_cka
from iclab.analysis.layers.stitching import Relative, least_squares_map
from iclab.analysis.layers.token_probes import pooled_terms
from iclab.analysis.next_token import by_place, divergence, losses, mean_asked
from iclab.analysis.risk import excess, ratio
from iclab.analysis.scale import unit, varies
from iclab.models import TokenTransformer, TokenTransformerConfig
from iclab.tasks import LinearRegression, MultiQueryRecall
from tests.conftest import generator

RNG = generator(3)
H = torch.randn(2, 64, 3, 5, generator=RNG, dtype=torch.float64)  # layers batch n D
V = H[0, :, :, :2] + 0.5 * torch.randn(64, 3, 2, generator=RNG, dtype=torch.float64)
XS, YS = torch.randn(8, 6, 3, generator=RNG, dtype=torch.float64), torch.randn(8, 6, generator=RNG, dtype=torch.float64)
F, G = YS + 0.3, YS * 0.5
PROMPTS = replace(LinearRegression(3, 6).sample(8, RNG, torch.float64), xs=XS, ys=YS)
WIDE, TALL = (
    torch.randn(7, 3, generator=RNG, dtype=torch.float64),
    torch.randn(3, 7, generator=RNG, dtype=torch.float64),
)
VISIBLE = torch.ones(3, 3, dtype=torch.bool)
RECIPE = ProbeRecipe(width=4, steps=4, batch=16, look=2)


def attended(s, t):
    return attention_probes(s * H, t * V, VISIBLE, "linear", RECIPE, generator()).r2.value


def best_step(s):
    """In the unit of the inputs alone."""
    task = LinearRegression(2, 6, 0.5 * s, prior=s)
    return torch.tensor(tuned_descent(task, 1, generator(), prompts=512).lr)


def lowered(s):
    return LowRank(s * WIDE, TALL)


RATIOS = {  # each of one scale; the second scale, where there is one, is of something else
    "R² of a probe, unit of the target": lambda s: probe(H, s * V).value,
    "R² of a probe, unit of the stream": lambda s: probe(s * H, V).value,
    "R² of tokens, unit of the target": lambda s: pooled_terms(H[0], s * V),
    "R² of tokens, unit of the stream": lambda s: pooled_terms(s * H[0], V),
    "R² of attention, unit of the target": lambda s: attended(1.0, s),
    "R² of attention, unit of the stream": lambda s: attended(s, 1.0),
    "SimE": lambda s: sime(s * F, s * G, s * YS).value,
    "cosine": lambda s: weight_cosine(s * XS, XS.roll(1, 0) / s),
    "linearity": lambda s: linearity(lambda xs, ys: s * xs.sum(-1).tanh(), PROMPTS, WIDE),
    "excess": lambda s: excess(s * F, s * G, s * YS).value,
    "ratio of means": lambda s: ratio(s * F, s * F.square()).value,
    "CKA": lambda s: linear_cka(s * H[:, :, 0], H[:, :, 1] / s),
    "CKA, unbiased": lambda s: linear_cka(s * H[:, :, 0], H[:, :, 1] / s, unbiased=True),
    "composition": lambda s: composition_score(lowered(s), LowRank(WIDE, TALL / s)),
    "composition of components": lambda s: component_scores(WIDE, lowered(s).svd()),
    "chance": lambda s: torch.stack(chance(lowered(s).svd().S, lowered(1 / s).svd().S, 7)),
    "shares": lambda s: lowered(s).svd().shares(),
    "gaps": lambda s: lowered(s).svd().gaps(),
    "correlation": lambda s: torch.tensor(correlation(s * YS[0], YS[1] / s)),
    "reach": lambda s: reach(s * WIDE[:, :2]),
    "margins": lambda s: slot_margins(s * WIDE) / s,
    "relative representation": lambda s: Relative(s * WIDE)(XS / s),
    "map of least squares": lambda s: s * least_squares_map(s * H[0, :, 0], V[:, 0], torch.float64, 0.01).weight.data,
    "growth": lambda s: slope(s * YS[0]) / s,
    "best step": best_step,
}


def assert_without_unit(measured):
    """Numbers to within a few roundings (float64 has 2e-16; Adam and whitening are float32) of those at scale 1."""
    plain = measured(1.0)
    assert plain.isfinite().all()
    for s in (1e-10, 1e-3, 1e10):
        torch.testing.assert_close(measured(s), plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("measured", RATIOS.values(), ids=RATIOS.keys())
def test_a_ratio_has_no_unit(measured):
    assert_without_unit(measured)


def test_the_law_of_units_can_fail():
    def floored(s):
        x = s * XS
        return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-9)

    with pytest.raises(AssertionError):
        assert_without_unit(floored)
    with pytest.raises(AssertionError):  # a bound of its own for whether a target varies
        assert_without_unit(lambda s: torch.where((s * V).var(0).sum(-1) > 1e-18, 1.0, 0.0))


def test_what_varies_but_by_rounding_does_not_vary():
    for s in (1e-10, 1.0, 1e10):
        target = s * torch.cat([torch.full((64, 1, 2), 0.1, dtype=torch.float64), V], 1)
        assert varies(target).tolist() == [False, True, True, True]
        assert probe(torch.cat([H[:, :, :1], H], 2), target).value[:, 0].isnan().all()
        flat = torch.full((1, 64, 5), 0.1 * s, dtype=torch.float64)
        assert linear_cka(flat, H[:, :, 0]).isnan().all()


def test_a_unit_vector_is_one_at_any_size_and_zero_stays_zero():
    v = torch.tensor([[3.0, 4.0], [3e-200, 4e-200], [3e200, 4e200], [0.0, 0.0]], dtype=torch.float64)
    wanted = torch.tensor([[0.6, 0.8]] * 3 + [[0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(unit(v), wanted)


def test_queries_that_lack_a_direction_do_not_make_a_function_linear():
    queries = torch.cat([torch.zeros(8, 1), torch.randn(8, 2, generator=generator())], 1).double()
    answers = queries[:, 1].square()
    fitted = queries @ torch.from_numpy(np.linalg.pinv(queries.numpy())) @ answers
    found = linearity(lambda xs, ys: xs[..., 1].square(), PROMPTS, queries)
    wanted = fitted.square().sum() / answers.square().sum()
    torch.testing.assert_close(found, wanted.expand_as(found))


# ---- 0·∞ -----------------------------------------------------------------------------------------------------------


def test_what_is_ruled_out_adds_nothing_to_a_divergence():
    p, q = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.25, 0.25, 0.5]).double()
    pairs = [(p, q), (p, p), (q, p), (q, q)]
    found = [divergence(a.log()[None, None], b.log()[None, None]).item() for a, b in pairs]
    assert found == pytest.approx([float(rel_entr(a.numpy(), b.numpy()).sum()) for a, b in pairs])
    assert found[0] == pytest.approx(0.693147, abs=1e-6) and found[1] == 0 and found[2] == inf


def test_hard_zeros_where_nothing_is_asked_cost_nothing():
    prompts = MultiQueryRecall(16, 16, 2).sample(8, generator())
    logs = torch.full((8, 16, 16), -inf).double()
    logs.scatter_(
        2, torch.where(prompts.answer_mask, prompts.targets, 15).unsqueeze(2), 0.0
    )  # right wherever it is asked
    terms = losses(logs, prompts)
    assert not terms[~prompts.answer_mask].isfinite().all()
    assert mean_asked(terms, prompts).value == 0 and mean_asked(terms, prompts).stderr == 0
    assert all(one.value == 0 for one in by_place(terms, prompts).values())
    unsure = torch.where(prompts.answer_mask, torch.tensor(0.5).double().log(), nan)
    assert mean_asked(-unsure, prompts).value.item() == pytest.approx(0.693147, abs=1e-6)
    wrong = replace(prompts, targets=(prompts.targets + 1) % 16)
    assert mean_asked(losses(logs, wrong), wrong).value == inf


def test_a_prompt_up_to_an_unknown_label_is_bare_of_it():
    ys = YS.clone()
    ys[:, 3:] = nan
    torch.testing.assert_close(bare_prompt(replace(PROMPTS, ys=ys))[:, :, :4], bare_prompt(PROMPTS)[:, :, :4])


def test_heads_that_write_nothing_have_no_share_in_anything():
    model = TokenTransformer(20, 16, TokenTransformerConfig(n_layer=3, d_model=12)).double()
    model.blocks[0].attn.v.weight.data[:6] = 0
    found = channels(compositions(model), 1000)
    silent = [one for one in found if one.writer == (0, 0)]
    assert len(silent) == 72 and all(one.share == one.score == one.gap == 0 for one in silent)
    others = {one.writer: {} for one in found if one.writer != (0, 0)}
    for one in found:
        others.get(one.writer, {})[one.component] = one.share
    assert all(sum(shares.values()) == pytest.approx(1) for shares in others.values() if len(shares) == 6)
