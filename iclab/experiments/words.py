"""How sensitive features of frozen weights are to one token: rows of

word_sensitivity      S of a key (the last token), a lower bound found by search
query_sensitivity     S of the query
..._times_root        the same times √n, n tokens: a constant for a network of all tokens at once

of the model, "transformer", and of those beside it; means over inputs, with their errors. See
`iclab.analysis.word_sensitivity`.
"""

from collections.abc import Callable, Iterator

import torch

from iclab.analysis import Estimate, estimate, word_sensitivity
from iclab.experiments.claims import TRAINED
from iclab.experiments.experiment import Experiment
from iclab.experiments.rows import Row
from iclab.experiments.rows import rows as rows_of
from iclab.experiments.streams import stream
from iclab.models import FrozenArchitecture
from iclab.regression import FrozenLearner
from iclab.tasks import QueryAndKeys


def rows(experiment: Experiment, device: torch.device, log: Callable[[str], None]) -> Iterator[Row]:
    """All rows of an experiment in which nothing is learned."""
    task, model, learner = experiment.task, experiment.model, experiment.train
    assert (
        isinstance(learner, FrozenLearner) and isinstance(task, QueryAndKeys) and isinstance(model, FrozenArchitecture)
    )
    xs, _, _ = task.tokens(experiment.eval.prompts, stream(experiment, "test", device))
    for name, architecture in {"transformer": model, **dict(learner.beside)}.items():
        drawn = stream(experiment, "init", distribution="" if name == "transformer" else name)
        features = architecture.build(task.d, task.n, drawn).to(device)
        for quantity, word in (("word_sensitivity", task.n - 1), ("query_sensitivity", 0)):
            found = estimate(word_sensitivity(features, xs, stream(experiment, "fit", device, name), word))
            times = Estimate(found.value * task.n**0.5, found.stderr * task.n**0.5)
            told = [*rows_of(name, quantity, found), *rows_of(name, f"{quantity}_times_root", times)]
            yield from ({"distribution": TRAINED, **one} for one in told)
        log(f"{name}: {features.size} features of {task.n} words")
