"""Experiment: everything that decides the numbers of one run, as frozen dataclasses that a file spells out.

    task    the distribution of prompts   iclab.tasks
    model   the architecture              iclab.models
    start   the initial weights           iclab.constructed
    train   the training                  iclab.learning
    eval    the measurements              iclab.measures

Its id is a hash of all settings that can change the numbers; two experiments with one id are the same experiment.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

import iclab.learning.attention_training  # noqa: F401  so that files can name its learner
from iclab.analysis.algorithms.identify import known_names
from iclab.analysis.heads.s_inhibition import Dissection
from iclab.analysis.layers.attention_probes import ProbeRecipe
from iclab.constructed import Construction, Start
from iclab.constructed.start import shape
from iclab.errors import refuse, unknown
from iclab.experiments import analysis, config, plugins
from iclab.experiments.analysis import Analysis
from iclab.experiments.claims import TRAINED
from iclab.experiments.config import Reader
from iclab.experiments.identity import Import, machine_problems, run_id
from iclab.experiments.mappings import Nested, merge
from iclab.experiments.prompting import KINDS, NAME, Prompting, prompting, prompting_of
from iclab.experiments.streams import generator
from iclab.learning.training import AnyLearner, TrainingConfig
from iclab.models import AnyModelConfig, Transformer, TransformerConfig
from iclab.predictors import Predictor
from iclab.renamed import kind_name
from iclab.tasks import AnyTask, Derived, LinearFunctions, Task
from iclab.tasks.features import Features

BY_KIND: Any = None  # the default of what the kind of prompts decides


@dataclass(frozen=True)
class Partner:
    """A second model of the same shape, trained by the same recipe from another seed; on the same task, or another."""

    seed: int
    task: Task | None = None

    def experiment(self, own: "Experiment") -> "Experiment":
        """Returns the run that trains it. Raises ``ValueError``."""
        evaluation = Evaluation(prompts=own.eval.prompts, every=own.eval.every)
        return replace(own, seed=self.seed, task=self.task or own.task, eval=evaluation)


@dataclass(frozen=True)
class Evaluation:
    """Settings of the measurement of a trained model: the number of `prompts`, and the distributions in addition to its
    own and its parts.

    What is left out has the usual value of its kind of prompts: 2048 prompts of examples, of tokens 1024 (more where a
    task is balanced and its places need it). `shifts` are tasks by name. In a file, a derived task without `base` is
    derived from the experiment's own task. `predictors` are closed forms by name, with their settings: references
    besides those that every task has. `every` is the number of steps between two points of the training curve (chosen
    by the number of steps unless given), and `bootstrap` the number of resamplings behind a band. `analyses` are those
    that take longer, by name (`iclab.measures`); `probe` says how probes that attend are trained, `surgery` how parts
    that are trained beside the model are, and `dissection` how much of the S-inhibition heads is taken apart.
    `partners` are models by name for stitching. `constructions` are weights from proofs by name: how far the model's
    weights are from them, and references as predictors.
    """

    prompts: int = BY_KIND
    shifts: tuple[tuple[str, AnyTask], ...] = ()
    every: int | None = None
    bootstrap: int | None = None
    analyses: tuple[str, ...] = ()
    predictors: tuple[tuple[str, Predictor], ...] = field(default=(), metadata={"since": "0.1"})
    probe: ProbeRecipe | None = None
    constructions: tuple[tuple[str, Construction], ...] = field(default=(), metadata={"since": "0.1"})
    surgery: TrainingConfig | None = None
    partners: tuple[tuple[str, Partner], ...] = field(default=(), metadata={"since": "0.1"})
    dissection: Dissection | None = None

    def __post_init__(self) -> None:
        least = {"prompts": 2, "bootstrap": 1, "every": 1}
        given = {k: m if getattr(self, k) is None else getattr(self, k) for k, m in least.items()}
        problems = [f"{k} must be at least {least[k]}, given {v}" for k, v in given.items() if v < least[k]]
        taken = TRAINED in dict(self.shifts)
        problems += [f"the name {TRAINED!r} is that of the training distribution"] if taken else []
        refuse("Evaluation", problems + self._predictor_problems())

    def _predictor_problems(self) -> list[str]:
        named = [("predictor", name) for name, _ in self.predictors]
        named += [("construction", name) for name, _ in self.constructions]
        unfit = [each for each in named if not NAME.fullmatch(each[1])]
        problems = [f"a {kind} needs a name of letters, digits, - and _, given {name!r}" for kind, name in unfit]
        both = dict(self.predictors).keys() & dict(self.constructions).keys()
        problems += [f"the name {name!r} is that of a predictor and of a construction" for name in sorted(both)]
        kinds = tuple(config.kinds(Predictor).values())
        each = [(name, f) for name, whole in self.predictors for f in _predictors_in(whole)]
        other = dict.fromkeys(name for name, f in each if not isinstance(f, kinds))
        problems += [f"predictor {name!r} is no closed form that a file can spell out" for name in other]
        settings = [(name, *s) for name, f in each if isinstance(f, kinds) for s in vars(f).items()]
        tensors = [(name, key) for name, key, value in settings if isinstance(value, torch.Tensor)]
        return problems + [f"predictor {name!r} has a tensor as {key}, which no file can hold" for name, key in tensors]


def _predictors_in(predictor: Predictor) -> Iterator[Predictor]:
    """A predictor and those that it is made of."""
    yield predictor
    for value in vars(predictor).values() if is_dataclass(predictor) else ():
        for inner in value if isinstance(value, tuple) else (value,):
            # Features can be called too, and are none.
            yield from _predictors_in(inner) if isinstance(inner, Predictor) and not isinstance(inner, Features) else ()


@dataclass(frozen=True)
class Experiment:
    """A run: a model trained on a task, then evaluated. Where model and train name no kind, prompts of examples are
    learned by a transformer, by gradient descent, and so are sequences of tokens by one over tokens.

    `seed` feeds every stream of randomness (weights, training prompts, evaluation prompts). `device` is "auto", "cpu",
    "cuda" or "cuda:1"; `recipe` is the name of the settings that the file started from. `start` names the construction
    whose weights the model has before training (drawn ones without it); train.steps = 0 measures it as it is. `imports`
    are the files and modules of the user's that its kinds come from (`iclab.experiments.plugins`).

    >>> from iclab.tasks import LinearRegression
    >>> experiment = Experiment(LinearRegression(d=3, n=8, noise=0.5))
    >>> type(experiment.model).__name__, experiment.eval.prompts
    ('TransformerConfig', 2048)
    >>> experiment.id == Experiment(experiment.task, device="cpu").id  # the device is not part of the id
    True
    """

    task: AnyTask
    model: AnyModelConfig = BY_KIND
    train: AnyLearner = BY_KIND
    eval: Evaluation = field(default_factory=Evaluation)
    seed: int = 0
    device: str = "auto"
    recipe: str = ""
    start: Start | None = None
    imports: tuple[Import, ...] = field(default=(), metadata={"since": "0.1"})

    def __post_init__(self) -> None:
        refuse("Experiment", self._misplaced())
        self._fill()
        problems = machine_problems(self.seed, self.device)
        problems += [*self.prompting.problems(self), *self.train.problems_for(self.task, self.model)]
        problems += (
            self._given_problems()
            + self._analysis_problems()
            + self._predictor_problems()
            + self._construction_problems()
        )
        refuse("Experiment", problems)

    # ---- the kind of prompts ---------------------------------------------------------------------------------------

    @cached_property
    def prompting(self) -> Prompting:
        """Returns the kind of prompts."""
        return prompting(self.task)

    def _misplaced(self) -> list[str]:
        """Models, shifts and settings that are for the other kind of prompts."""
        kind, reason = self.prompting, f"{type(self.task).__name__} is about {self.prompting.words}"
        made = {"model": (self.model, kind.models), "train": (self.train, kind.learners)}
        wrong = {key: one for key, (one, base) in made.items() if one is not None and not isinstance(one, base)}
        problems = [f"{key}.kind = {kind_name(type(one))} is for other prompts: {reason}" for key, one in wrong.items()]
        shifts = [name for name, shift in self.eval.shifts if not isinstance(shift, kind.tasks)]
        problems += [f"shift {name!r} has other prompts: {reason}" for name in shifts]
        unasked = [key for key in kind.unasked if getattr(self.eval, key)]
        return problems + [f"eval.{key} has nothing to say of {kind.words}" for key in unasked]

    def _fill(self) -> None:
        """Fills in the defaults of this kind of prompts."""
        for section, kind in self.prompting.usual.items():
            if getattr(self, section) is None:
                settings = _usual_training(self.model) if section == "train" else {}
                object.__setattr__(self, section, config.kinds(SECTIONS[section])[kind](**settings))
        open_ = {k: v for k, v in self.prompting.evaluation.items() if getattr(self.eval, k) is None}
        object.__setattr__(self, "eval", replace(self.eval, **open_) if open_ else self.eval)

    def _given_problems(self) -> list[str]:
        """The problems of a model that is there already: it is not trained, and its code must be kept."""
        name, problems = type(self.model).__name__, []
        if not self.model.trainable and getattr(self.train, "steps", None) != 0:
            problems.append(f"{name} is measured as it is: leave [train] out, or give train.steps = 0")
        brought = [each.name.removesuffix(".py") if each.digest else each.name for each in self.imports]
        if self.model.code and self.model.code not in brought:
            problems.append(f"{name}: name {self.model.code!r} (or its file) under imports as well, to keep its text")
        return problems

    @property
    def warnings(self) -> list[str]:
        """Returns what may be measured but is not what it seems to be."""
        return list(self.prompting.warnings(self))

    @cached_property
    def distributions(self) -> dict[str, AnyTask]:
        """Returns what the model is measured on: its own task, the parts of this, and the shifts."""
        return {TRAINED: self.task, **self.task.parts(), **dict(self.eval.shifts)}

    # ---- analyses --------------------------------------------------------------------------------------------------

    @cached_property
    def analyses(self) -> tuple[Analysis, ...]:
        """Returns the analyses of this experiment: the default ones that apply, and those that the file names."""
        known, names = analysis.known().values(), self.eval.analyses
        return tuple(one for one in known if self._is_about(one) and (one.always or one.name in names))

    def _is_about(self, one: Analysis) -> bool:
        """Whether an analysis is about such weights, and any of the tasks."""
        tasks = self.distributions.values()
        return one.frozen == self.train.frozen and any(isinstance(task, one.tasks) for task in tasks)

    def _analysis_problems(self) -> list[str]:
        """What an analysis would stumble over after the training."""
        if self.train.frozen:
            sections = ("shifts", "predictors", "constructions", "analyses", "probe")
            unfit = [key for key in sections if getattr(self.eval, key)]
            return [f"eval.{key} has nothing to say of {kind_name(type(self.train))}" for key in unfit]
        known = analysis.known()
        can = {name: one for name, one in known.items() if not one.always and issubclass(one.tasks, self._root)}
        problems = []
        for name in dict.fromkeys(self.eval.analyses):
            if name in can:
                problems += [f"the analysis {name!r} {text}" for text in self._against(can[name])]
            elif name in known and not known[name].always:
                problems.append(f"eval.analyses: {name!r} is for {_words(known[name])}, and {self._about}")
            else:
                problems.append(f"eval.analyses: {unknown('analysis', name, can)}")
        alone = self.eval.partners and "stitching" not in self.eval.analyses
        return problems + (
            ["the analysis 'stitching' and eval.partners are given together, or neither is"] if alone else []
        )

    @property
    def _root(self) -> type[AnyTask]:
        return self.prompting.tasks

    @property
    def _about(self) -> str:
        return f"task.kind {type(self.task).__name__!r} is about {self.prompting.words}"

    def _against(self, one: Analysis) -> Iterator[str]:
        """The problems of an analysis, by the facts of its class and by its own judgement."""
        task, model = type(self.task).__name__, type(self.model).__name__
        if not isinstance(self.task, one.tasks):
            yield f"needs task.kind {one.tasks.__name__}, given {task}"
        if one.layered and not self.model.layered:
            yield f"cannot be made: {model} has no layers"
        elif one.blocks and not isinstance(self.model.blocks, TransformerConfig):
            yield f"needs the blocks of a TransformerConfig, given {model}"
        elif one.partnered and not self.model.trainable:
            yield f"trains partners of the model's shape, and {model} is not trained"
        if one.scalar and isinstance(self.task, Task) and self.task.label_dim is not None:
            yield f"is about labels that are numbers; those of {task} are vectors"
        if self.eval.prompts < one.least:
            yield f"needs eval.prompts of {one.least} or more, given {self.eval.prompts}"
        if one.linear and (curved := self._curved()):
            yield f"looks for weights of linear functions; {', '.join(curved)} has none"
        yield from one.problems(self)

    def _curved(self) -> list[str]:
        """The tasks whose functions are not linear."""
        tasks = [task for task in self.distributions.values() if isinstance(task, Task)]
        truths = [(type(task).__name__, task.sample(1, torch.Generator()).truth) for task in tasks]
        return [name for name, truth in truths if not isinstance(truth, LinearFunctions)]

    @property
    def notes(self) -> list[str]:
        """Returns the lines at the head of the log of a run."""
        lines = [f"warning: {line}" for line in self.warnings]
        return lines + [line for one in self.analyses for line in one.notes(self)]

    # ---- references ------------------------------------------------------------------------------------------------

    @property
    def query_only(self) -> bool:
        """Returns whether all is about the last position: because of the task, or because only its errors counted."""
        return self.train.query_only or (isinstance(self.task, Task) and self.task.query_only)

    def _predictor_problems(self) -> list[str]:
        """A name must be free in the table of results, and what is made for d dimensions must fit the task."""
        named, given = self.eval.predictors, [*self.eval.predictors, *self.eval.constructions]
        tasks = [task for task in self.distributions.values() if isinstance(task, Task)]
        if not given or not isinstance(self.task, Task):
            return []
        taken = {name for task in tasks for name in known_names(task, self.task)}
        problems = [
            f"the name {name!r} is that of a reference that is always there" for name, _ in given if name in taken
        ]
        sized = [(name, getattr(f, "d", self.task.d)) for name, f in named]
        return problems + [f"predictor {k!r} is for d = {d}, not {self.task.d}" for k, d in sized if d != self.task.d]

    def _construction_problems(self) -> list[str]:
        """Constructions have shapes, which must be the model's."""
        if not isinstance(self.task, Task):
            return []
        model: Any = self.model
        named = [(f"eval.constructions.{name}", each) for name, each in self.eval.constructions]
        named += [("start.construction", self.start.construction)] if self.start else []
        refused = [(name, each.problems_for(self.task.d, self.task.n, model)) for name, each in named]
        return [f"{name}: {text}" for name, problems in refused for text in problems]

    # ---- the model -------------------------------------------------------------------------------------------------

    def build(self, rng: torch.Generator | None = None) -> nn.Module:
        """Builds the untrained model, without what it starts from."""
        return self.model.build(**self.sizes, rng=rng)

    def initial(self, device: torch.device | str = "cpu") -> Any:
        """Returns the model before its training; its weights are drawn on the CPU, so that they are the same on every
        device, and those of a construction are laid over them where the experiment starts from one."""
        model = self.model.start(**self.sizes, rng=generator(self.seed, "init"))
        if self.start and isinstance(model, Transformer):
            self.start.put_into(model)
        return model.to(device)

    def trained(self, weights: Path, device: torch.device | str = "cpu") -> Any:
        """Returns the model with the weights that its architecture has saved to a file. Raises ``ValueError`` where
        they are not those of such a model."""
        return self.model.load(weights, **self.sizes).to(device)

    @property
    def sizes(self) -> dict[str, Any]:
        """Returns what a model of this task is built for."""
        return self.prompting.sizes(self)

    # ---- settings --------------------------------------------------------------------------------------------------

    @cached_property
    def id(self) -> str:
        """Returns twelve digits that stand for everything that can change the numbers."""
        return run_id(self._settings)

    def mapping(self) -> dict[str, Any]:
        """Returns the settings as a file holds them, every default spelled out."""
        return merge(self._settings, {})

    @cached_property
    def _settings(self) -> dict[str, Any]:
        settings = config.to_mapping(self)
        for shift in settings["eval"]["shifts"].values():
            _leave_base_out(shift, settings["task"])
        return settings

    @classmethod
    def read(cls, path: Path) -> "Experiment":
        """Reads the experiment that a run's `config.toml` describes."""
        settings = config.load(path)
        plugins.bring_back(settings, path.parent)
        return cls.from_mapping(settings, path)

    @classmethod
    def from_mapping(cls, settings: Nested, source: object) -> "Experiment":
        """Makes an experiment from nested settings. Raises one ``ValueError`` with a line for each problem."""
        reader = Reader(lambda key: source, lambda: known_keys(settings))
        experiment = read(settings, reader)
        config.refuse_lines(reader.problems)
        return experiment


SECTIONS: Mapping[str, type] = {"model": AnyModelConfig, "train": AnyLearner}


def _words(one: Analysis) -> str:
    """The kind of prompts that an analysis is about."""
    return next((kind.words for kind in KINDS if issubclass(one.tasks, kind.tasks)), "any prompts")


def known_keys(settings: Nested) -> Iterator[str]:
    """Yields all dotted keys that can be set, for the kinds of class that settings name."""
    return config.known_keys(Experiment, _with_usual_kinds(settings))


def read(settings: Nested, reader: Reader) -> Any:
    """Reads the experiment, or FAILED with its problems in the reader. The task comes first, because shifts are derived
    from it, and then the start, because it has a shape."""
    settings = dict(_with_usual_kinds(settings))
    if "task" in settings:
        settings["task"] = reader.read(AnyTask, settings["task"], "task")
        settings["eval"] = _with_bases(settings.get("eval", {}), settings["task"])
    if settings.get("start", config.NONE) != config.NONE:
        settings["start"] = reader.read(Start | None, settings["start"], "start")
        settings["model"] = _with_shape(settings)
    return reader.read(Experiment, settings)


def _with_usual_kinds(settings: Nested) -> Nested:
    """The settings with the kinds that are meant where a section names none."""
    result, usual = dict(settings), prompting_of(settings).usual
    for section, kind in usual.items():
        given = settings.get(section, {})
        if isinstance(given, Mapping) and "kind" not in given:
            result[section] = {"kind": kind, **given}
    named = result.get("model", {})
    shape = config.kinds(AnyModelConfig).get(str(named.get("kind"))) if isinstance(named, Mapping) else type(named)
    if isinstance(result.get("train"), Mapping):
        result["train"] = {**_usual_training(shape), **result["train"]}
    return result


def _usual_training(model: Any) -> Nested:
    """The settings of training that are meant where none are given: of a model that is there already, no steps."""
    return {} if getattr(model, "trainable", True) else {"steps": 0}


def _with_shape(settings: Nested) -> Any:
    """The section of the model, with the shape of the construction that it starts from in all that it leaves out."""
    task, start, model = settings.get("task"), settings["start"], settings.get("model", {})
    usual = isinstance(model, Mapping) and model.get("kind") == TransformerConfig.__name__
    if not (usual and isinstance(task, Task) and isinstance(start, Start)):
        return model
    layers = start.construction.layers(task.n)
    if model.get("n_layer", layers) != layers:
        return model  # no use to build what is refused
    try:
        return config.to_mapping(shape(start.construction, task.d, task.n)) | dict(model)
    except ValueError:  # which is reported where the experiment is made
        return model


def _with_bases(evaluation: Any, task: Any) -> Any:
    shifts = evaluation.get("shifts") if isinstance(evaluation, Mapping) else None
    if not isinstance(shifts, Mapping):
        return evaluation
    return {**evaluation, "shifts": {name: _with_base(shift, task) for name, shift in shifts.items()}}


def _with_base(shift: Any, task: Any) -> Any:
    derived = isinstance(shift, Mapping) and shift.get("kind") in list(config.kinds(Derived))
    return {**shift, "base": _with_base(shift.get("base", task), task)} if derived else shift


def _leave_base_out(shift: dict[str, Any], task: Nested) -> None:
    if shift.get("base") == task:
        del shift["base"]
    elif "base" in shift:
        _leave_base_out(shift["base"], task)
