"""The R² that was released does not tell a linear predictor from another; the one that is meant does."""

import pytest
import torch

from iclab.analysis import implicit_weights, label_r2, linearity
from iclab.constructed import named
from iclab.predictors import Featurised, LeastSquares, NearestNeighbours
from iclab.tasks import LinearRegression
from iclab.tasks.features import Identity
from tests.conftest import generator

TASK = LinearRegression(8, 11)
PROMPTS = TASK.sample(256, generator(), torch.float64)
QUERIES = torch.randn(512, 8, generator=generator(1), dtype=torch.float64)
LABELS = PROMPTS.truth(QUERIES.expand(256, -1, -1))


def test_against_labels_exact_least_squares_rises_as_the_share_of_dimensions_that_were_seen():
    scores = label_r2(LeastSquares().weights(PROMPTS.xs, PROMPTS.ys), QUERIES, LABELS).mean(0)
    share = (torch.arange(11) / 8).clamp(max=1.0).double()
    spread = 4 * (share * (1 - share) * 2 / 10 / 256).sqrt() + 0.005  # |Pw|²/|w|² is Beta(n/2, (d − n)/2)
    assert ((scores - share).abs() <= spread).all()
    answers = Featurised(LeastSquares(), Identity())  # does not report its weights
    assert linearity(answers, PROMPTS[:8], QUERIES[:32]).min() == pytest.approx(1.0)


def test_a_score_against_labels_does_not_tell_neighbours_from_least_squares():
    """With few examples it is low for both; R² of the fit to the answers is high for what is linear alone."""
    low = [label_r2(implicit_weights(f, PROMPTS[:8], QUERIES[:32]), QUERIES[:32], LABELS[:8, :32])[:, 1].mean() for f in
           (LeastSquares(), NearestNeighbours())]  # fmt: skip
    assert max(low) < 0.5
    assert linearity(NearestNeighbours(), PROMPTS[:8], QUERIES[:32])[:, 3].mean() < 0.9


def test_what_is_released_fails_where_what_is_meant_holds():
    released = named("akyurek2022_linearity_released")
    assert released.corrected is named("akyurek2022_linearity") and released.expected == "fails"
    assert released.tried(released.drawn(20)).passes()
