"""How sensitive features of frozen weights are to one token (`iclab.analysis.word_sensitivity`)."""

from collections.abc import Iterator
from typing import Any, ClassVar

from iclab.analysis import Estimate, estimate, word_sensitivity
from iclab.experiments.analysis import Analysis, Row
from iclab.experiments.streams import experiment_generator
from iclab.learning.random_feature_ridge import Unlearned
from iclab.measures.measurement import Measurement
from iclab.measures.rows import MODEL, rows
from iclab.tasks import QueryAndKeys


class WordSensitivity(Analysis):
    """Measures how far the features of the model, and of those beside it, move when one word is replaced; means over
    inputs, with their errors (Bombari and Mondelli 2024, arXiv 2402.02969)."""

    name = "word_sensitivity"
    always = True
    frozen = True
    once = True
    tasks = QueryAndKeys
    quantities: ClassVar = {
        "word_sensitivity": "S of a key (the last token), a lower bound found by search; 0 or more",
        "query_sensitivity": "S of the query; 0 or more",
        "{word,query}_sensitivity_times_root": "the same times √n, n tokens: a constant for a network of all "
        "tokens at once",
    }

    def applies(self, of: Measurement) -> bool:
        return super().applies(of) and isinstance(of.experiment.train, Unlearned)

    def rows(self, of: Measurement) -> Iterator[Row]:
        experiment, task, device = of.experiment, of.task, of.workspace.device
        learner: Any = experiment.train
        for name, architecture in {MODEL: experiment.model, **dict(learner.beside)}.items():
            drawn = experiment_generator(experiment, "init", distribution="" if name == MODEL else name)
            features = architecture.build(task.d, task.n, drawn).to(device)
            for quantity, word in (("word_sensitivity", task.n - 1), ("query_sensitivity", 0)):
                sensitivity = estimate(
                    word_sensitivity(
                        features, of.prompts.xs, experiment_generator(experiment, "fit", device, name), word
                    )
                )
                times = Estimate(sensitivity.value * task.n**0.5, sensitivity.stderr * task.n**0.5)
                yield from (*rows(name, quantity, sensitivity), *rows(name, f"{quantity}_times_root", times))
            of.workspace.log(f"{name}: {features.size} features of {task.n} words")
