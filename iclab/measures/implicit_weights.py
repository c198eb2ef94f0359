"""Implicit weights: the linear map of the query that a model applies, beside those of linear predictors."""

from collections.abc import Iterator
from typing import ClassVar

import torch

from iclab.analysis import estimate, implicit_weights, label_r2, linearity, weight_cosine
from iclab.experiments.analysis import Analysis, Row
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, finite, rows
from iclab.predictors import Linear

FEW = 128  # prompts: each costs 4 d calls for every position
QUERIES = 4  # for each dimension


class ImplicitWeights(Analysis):
    """Fits the answers to many queries after one prompt (Akyürek et al. 2022, arXiv 2211.15661, §4.2). What is about
    the query has one position, all else as many as there are examples."""

    name = "weights"
    scalar = True
    quantities: ClassVar = {
        "ilwd": "E‖w_model − w‖² between implicit weights and those of a linear predictor; 0 or more",
        "weight_cosine": "the mean cosine of the angle between them, between −1 and 1",
        "linearity": "R² of the model's answers as a linear map of the query, at most 1",
        "label_r2": "R² of that map scored against the labels, of the model and of linear predictors, at most 1: it "
        "does not tell whether a predictor is linear",
    }

    def rows(self, of: Measurement) -> Iterator[Row]:
        few, wanted, m = of.prompts[:FEW], QUERIES * of.task.d, len(range(of.task.n)[of.parts[None]])
        queries = of.task.sample(wanted // of.task.n + 1, of.rng("fit")).xs.flatten(0, 1)[:wanted]
        learned = implicit_weights(of.model, few, queries, m).double()
        labels = few.truth(queries.expand(len(few.xs), -1, -1))
        for name, reference in of.references.items():
            if isinstance(reference, Linear):
                ws = reference.weights(few.xs, few.ys)[:, -m:].double()
                yield from _last_rows(of, name, "ilwd", (learned - ws).square().sum(-1))
                yield from _last_rows(of, name, "weight_cosine", weight_cosine(learned, ws))
                yield from _last_rows(of, name, "label_r2", label_r2(ws, queries, labels))
        yield from _last_rows(of, MODEL, "label_r2", label_r2(learned, queries, labels))
        yield from _last_rows(of, MODEL, "linearity", linearity(of.model, few, queries, m))


def _last_rows(of: Measurement, name: str, quantity: str, terms: torch.Tensor) -> Iterator[Row]:
    """Rows of the last positions and of their mean, where there is something to measure."""
    first = of.task.n - terms.shape[1]
    at_last = ({**one, "position": first + one["position"]} for one in rows(name, quantity, estimate(terms)))
    yield from finite(at_last)
    yield from finite(rows(name, quantity, estimate(terms.nanmean(-1))))
