"""Experiment: everything that decides the numbers of one run, as frozen dataclasses that a file spells out.

    task    what is asked            iclab.tasks
    model   what answers             iclab.models
    start   from which weights       iclab.constructed
    train   how it learns            iclab.training, iclab.fitting
    eval    how it is measured

Its id is a hash of all settings that can change the numbers; two experiments with one id are the same experiment.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from iclab.analysis import attention, interpolation
from iclab.analysis.attention_probes import ProbeRecipe
from iclab.analysis.identify import LEAST, known_names
from iclab.analysis.probing import LEAST as LEAST_FOR_PROBES
from iclab.constructed import Construction, Start, vonoswald
from iclab.constructed.start import shape
from iclab.errors import refuse
from iclab.experiments import config
from iclab.experiments.claims import TRAINED
from iclab.experiments.config import Reader
from iclab.experiments.identity import identity, machine_problems
from iclab.experiments.mappings import Nested
from iclab.experiments.token_experiment import TokenExperiment, about_tokens
from iclab.fitting import RidgeFit
from iclab.models import LAYOUTS, Architecture, TransformerConfig
from iclab.predictors import Predictor
from iclab.tasks import Derived, LinearFunctions, Task
from iclab.training import Learner, Recipe

USUAL = (TransformerConfig.__name__, Recipe.__name__)
Analysis = Literal[
    "weights", "layers", "iterations", "probes", "attention_probes", "evolution", "preconditioners", "descent"
]
LAYERED = tuple(name for name in get_args(Analysis) if name not in ("weights", "evolution"))  # of a model with layers
ABOUT_WEIGHTS = ("probes", "attention_probes", "preconditioners")  # of linear functions
NAME = re.compile(r"[A-Za-z_][\w-]*")


@dataclass(frozen=True)
class Evaluation:
    """How a trained model is measured: on how many `prompts`, and on which distributions besides its own.

    `shifts` are tasks by name. In a file, a derived task without `base` is derived from the experiment's own task.
    `predictors` are closed forms by name, with their settings: references besides those that every task has. `every` is
    the number of steps between two points of the training curve (chosen by the number of steps unless given), and
    `bootstrap` the number of resamplings behind a band. `analyses` are those that take longer: "weights" (implicit
    weights and linearity), "layers" (which algorithm each layer is near), "iterations" (how many steps of Newton and of
    gradient descent each layer is worth), "probes" (what is written in the layers, token by token), "attention_probes"
    (what is written there at any tokens; `probe` says how these are trained), "evolution" (the nearest algorithm along
    the training curve, and the probes where they are asked for), "preconditioners" (the matrix of the step that each
    layer of plain linear attention takes, against theory), "descent" (the constants of gradient descent in the weights
    of tied linear layers). `constructions` are weights from proofs by name: how far the model's weights are from them,
    and references as predictors.
    """

    prompts: int = 2048
    shifts: tuple[tuple[str, Task], ...] = ()
    every: int | None = None
    bootstrap: int = 200
    analyses: tuple[Analysis, ...] = ()
    predictors: tuple[tuple[str, Predictor], ...] = ()
    probe: ProbeRecipe | None = None
    constructions: tuple[tuple[str, Construction], ...] = ()

    def __post_init__(self) -> None:
        least = {"prompts": 2, "bootstrap": 1, "every": 1}
        given = {k: m if getattr(self, k) is None else getattr(self, k) for k, m in least.items()}
        found = [f"{k} must be at least {least[k]}, given {v}" for k, v in given.items() if v < least[k]]
        names = [name for name, _ in self.shifts]
        unfit = [name for name in names if not NAME.fullmatch(name)]
        found += [f"a shift needs a name of letters, digits, - and _, given {name!r}" for name in unfit]
        found += [f"the name {TRAINED!r} is that of the training distribution"] if TRAINED in names else []
        refuse("Evaluation", found + self._predictor_problems())

    def _predictor_problems(self) -> list[str]:
        named = [("predictor", name) for name, _ in self.predictors]
        named += [("construction", name) for name, _ in self.constructions]
        unfit = [each for each in named if not NAME.fullmatch(each[1])]
        found = [f"a {kind} needs a name of letters, digits, - and _, given {name!r}" for kind, name in unfit]
        both = dict(self.predictors).keys() & dict(self.constructions).keys()
        found += [f"the name {name!r} is that of a predictor and of a construction" for name in sorted(both)]
        kinds = tuple(config.kinds(Predictor).values())
        other = [name for name, f in self.predictors if not isinstance(f, kinds)]
        found += [f"predictor {name!r} is no closed form that a file can spell out" for name in other]
        settings = [(name, *s) for name, f in self.predictors if isinstance(f, kinds) for s in vars(f).items()]
        tensors = [(name, key) for name, key, value in settings if isinstance(value, torch.Tensor)]
        return found + [f"predictor {name!r} has a tensor as {key}, which no file can hold" for name, key in tensors]


@dataclass(frozen=True)
class Experiment:
    """One run: a model trained on a task, then evaluated; a transformer, trained by gradient descent, unless `kind`
    names another.

    `seed` feeds every stream of randomness (weights, training prompts, evaluation prompts). `device` is "auto", "cpu",
    "cuda" or "cuda:1"; `recipe` is the name of the settings that the file started from. `start` names the construction
    whose weights the model has before training (drawn ones without it); train.steps = 0 measures it as it is.
    """

    task: Task
    model: Architecture = field(default_factory=TransformerConfig)
    train: Learner = field(default_factory=Recipe)
    eval: Evaluation = field(default_factory=Evaluation)
    seed: int = 0
    device: str = "auto"
    recipe: str = ""
    start: Start | None = None

    def __post_init__(self) -> None:
        found = machine_problems(self.seed, self.device)
        found += self.model.problems_for(self.task.d) + self.train.problems_for(self.task, self.model)
        found += self._shift_problems() + self._analysis_problems() + self._predictor_problems()
        found += self._construction_problems()
        refuse("Experiment", found)

    def _shift_problems(self) -> list[str]:
        """A shift must fit into the model: as many dimensions, and no more examples than it has positions for."""
        d, n = self.task.d, self.task.n if self.model.bounded else max(s.n for s in self._tasks())
        return [
            f"shift {name!r} has d = {shift.d}, n = {shift.n}; the model is made for d = {d} and at most n = {n}"
            for name, shift in self.eval.shifts
            if shift.d != d or shift.n > n
        ]

    def _analysis_problems(self) -> list[str]:
        """What an analysis would stumble over after the training."""
        needed = dict.fromkeys(("layers", "iterations"), LEAST)
        needed |= dict.fromkeys(("probes", "attention_probes"), LEAST_FOR_PROBES)
        few = {
            name: least for name, least in needed.items() if name in self.eval.analyses and self.eval.prompts < least
        }
        found = [
            f"the analysis {k!r} needs eval.prompts of {v} or more, given {self.eval.prompts}" for k, v in few.items()
        ]
        curved = [
            type(t).__name__
            for t in self._tasks()
            if not isinstance(t.sample(1, torch.Generator()).truth, LinearFunctions)
        ]
        about_weights = [name for name in ABOUT_WEIGHTS if name in self.eval.analyses] if curved else []
        none = f"looks for weights of linear functions; {', '.join(curved)} has none"
        found += [f"the analysis {name!r} {none}" for name in about_weights]
        return found + self._kind_problems() + self._weight_problems()

    def _kind_problems(self) -> list[str]:
        """Analyses that this kind of model, or of learning, has nothing for."""
        flat = [] if isinstance(self.model, TransformerConfig) else [k for k in LAYERED if k in self.eval.analyses]
        found = [f"the analysis {k!r} cannot be made: {type(self.model).__name__} has no layers" for k in flat]
        if isinstance(self.model, TransformerConfig) and LAYOUTS[self.model.layout].shared:
            attends = "attention_probes" in self.eval.analyses
            told = f"the analysis 'attention_probes' needs a prompt that is one sequence; {self.model.layout} has many"
            found += [told] if attends else []
        curveless = isinstance(self.train, RidgeFit) and "evolution" in self.eval.analyses
        return found + (
            ["the analysis 'evolution' cannot be made: RidgeFit has no training curve"] if curveless else []
        )

    def _weight_problems(self) -> list[str]:
        """Steps can be read from the weights, and weights averaged, where the model has the shape of a construction."""
        if not isinstance(self.model, TransformerConfig):
            return []
        wanted = vonoswald.config(self.task.d, self.model.n_layer)
        differences = interpolation.differences(self.model, wanted) + interpolation.obstacles(self.model)
        unfit = {"preconditioners": attention.obstacles(self.model), "descent": list(dict.fromkeys(differences))}
        few = [] if self.task.n >= 2 else [f"needs n of 2 or more, given {self.task.n}"]
        asked = [name for name in unfit if name in self.eval.analyses]
        return [f"the analysis {name!r} {text}" for name in asked for text in few + unfit[name]]

    def _tasks(self) -> list[Task]:
        """The experiment's own task and its shifts."""
        return [self.task, *(shift for _, shift in self.eval.shifts)]

    @property
    def at_query(self) -> bool:
        """Whether all is about the last position: because of the task, or because only its errors counted."""
        return self.task.at_query or self.train.at_query

    def _predictor_problems(self) -> list[str]:
        """A name must be free in the table of results, and what is made for d dimensions must fit the task."""
        named, given = self.eval.predictors, [*self.eval.predictors, *self.eval.constructions]
        taken = {name for task in self._tasks() if given for name in known_names(task, self.task)}
        found = [f"the name {name!r} is that of a reference that is always there" for name, _ in given if name in taken]
        sized = [(name, getattr(f, "d", self.task.d)) for name, f in named]
        return found + [f"predictor {k!r} is for d = {d}, not {self.task.d}" for k, d in sized if d != self.task.d]

    def _construction_problems(self) -> list[str]:
        """Constructions have shapes, which must be the model's."""
        named = [(f"eval.constructions.{name}", each) for name, each in self.eval.constructions]
        named += [("start.construction", self.start.construction)] if self.start else []
        told = [(name, each.problems_for(self.task.d, self.task.n, self.model)) for name, each in named]
        return [f"{name}: {text}" for name, problems in told for text in problems]

    @property
    def id(self) -> str:
        """Twelve digits that stand for everything that can change the numbers."""
        return identity({k: _without_usual_kind(v) for k, v in self.mapping().items()})

    def build(self, rng: torch.Generator | None = None) -> nn.Module:
        """The untrained model, without what it starts from."""
        return self.model.build(self.task.d, self.task.n, rng)

    def mapping(self) -> dict[str, Any]:
        """The settings as a file holds them, every default spelled out."""
        settings = config.to_mapping(self)
        for shift in settings["eval"]["shifts"].values():
            _leave_base_out(shift, settings["task"])
        for name in ("predictors", "constructions"):  # so that experiments from before there were any keep their ids
            if not getattr(self.eval, name):
                del settings["eval"][name]
        return settings

    @classmethod
    def read(cls, path: Path) -> "Experiment":
        """The experiment that a run's `config.toml` describes."""
        return cls.from_mapping(config.load(path), path)

    @classmethod
    def from_mapping(cls, settings: Nested, source: object) -> "Experiment":
        """An experiment from nested settings. Raises one ``ValueError`` with a line for each problem."""
        reader = Reader(lambda key: source, list(config.known_keys(kind(settings), settings)))
        experiment = read(settings, reader)
        config.refuse_lines(reader.problems)
        return experiment


def _without_usual_kind(settings: Any) -> Any:
    """A section without the kind that it has when none is named: so runs have the ids of before there were others."""
    usual = isinstance(settings, dict) and settings.get("kind") in USUAL
    return {k: v for k, v in settings.items() if k != "kind"} if usual else settings


def kind(settings: Nested) -> type[Experiment] | type[TokenExperiment]:
    """Which of the two kinds of experiment settings describe."""
    return TokenExperiment if about_tokens(settings) else Experiment


def load(path: Path) -> Experiment | TokenExperiment:
    """The experiment, of either kind, that a run's `config.toml` describes."""
    return Experiment.from_mapping(config.load(path), path)


def read(settings: Nested, reader: Reader) -> Any:
    """The experiment, or FAILED with its problems in the reader. The task comes first, because it decides about the
    kind of experiment and shifts are derived from it, and then the start, because it has a shape."""
    settings = dict(settings)
    if about_tokens(settings):
        return reader.read(TokenExperiment, settings)
    if "task" in settings:
        settings["task"] = reader.read(Task, settings["task"], "task")
        settings["eval"] = _with_bases(settings.get("eval", {}), settings["task"])
    if settings.get("start", config.NONE) != config.NONE:
        settings["start"] = reader.read(Start | None, settings["start"], "start")
        settings["model"] = _with_shape(settings)
    return reader.read(Experiment, settings)


def _with_shape(settings: Nested) -> Any:
    """The section of the model, with the shape of the construction that it starts from in all that it leaves out."""
    task, start, model = settings.get("task"), settings["start"], settings.get("model", {})
    usual = isinstance(model, Mapping) and model.get("kind", USUAL[0]) == USUAL[0]
    if not (usual and isinstance(task, Task) and isinstance(start, Start)):
        return model
    layers = start.construction.layers(task.n)
    if model.get("n_layer", layers) != layers:
        return model  # no use to build what is refused
    try:
        return config.to_mapping(shape(start.construction, task.d, task.n)) | dict(model)
    except ValueError:  # which is told where the experiment is made
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
