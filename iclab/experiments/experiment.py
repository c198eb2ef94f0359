"""Experiment: everything that decides the numbers of one run, as frozen dataclasses that a file spells out.

    task    what is asked            iclab.tasks
    model   what answers             iclab.models
    start   from which weights       iclab.constructed
    train   how it learns            iclab.training, iclab.fitting, iclab.regression
    eval    how it is measured

Its id is a hash of all settings that can change the numbers; two experiments with one id are the same experiment.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

import iclab.descent  # noqa: F401  so that files can name its learner
from iclab.analysis import attention, interpolation
from iclab.analysis.attention_probes import ProbeRecipe
from iclab.analysis.concepts import concept_problems
from iclab.analysis.identify import LEAST, known_names
from iclab.analysis.pasting import LAYOUTS as PASTED
from iclab.analysis.probing import LEAST as LEAST_FOR_PROBES
from iclab.analysis.similarity import LEAST as LEAST_FOR_CKA
from iclab.constructed import Construction, Start, vonoswald
from iclab.constructed.start import shape
from iclab.errors import refuse
from iclab.experiments import config, plugins
from iclab.experiments.claims import TRAINED
from iclab.experiments.config import Reader
from iclab.experiments.identity import SEEDS, USUAL, Import, identity, machine_problems
from iclab.experiments.mappings import Nested, merge
from iclab.experiments.token_experiment import TokenAnalysis, TokenExperiment, about_tokens
from iclab.features import Features
from iclab.fitting import RidgeFit
from iclab.models import LAYOUTS, Architecture, TokenArchitecture, TransformerConfig
from iclab.posterior import bayes_where_known
from iclab.predictors import Predictor
from iclab.regression import FrozenLearner
from iclab.tasks import Derived, LinearFunctions, RepresentationRegression, Task
from iclab.training import Learner, Recipe

Analysis = Literal[
    "weights",
    "layers",
    "iterations",
    "probes",
    "attention_probes",
    "token_probes",
    "evolution",
    "preconditioners",
    "descent",
    "pasting",
    "stitching",
]
LAYERED = tuple(name for name in get_args(Analysis) if name not in ("weights", "evolution"))  # of a model with layers
ABOUT_NUMBERS = ("weights", "layers", "iterations", "pasting")  # of answers that are no vectors
ABOUT_WEIGHTS = ("probes", "attention_probes", "preconditioners")  # of linear functions
NAME = re.compile(r"[A-Za-z_][\w-]*")


@dataclass(frozen=True)
class Partner:
    """A second model of the same shape, trained by the same recipe from another seed; on the same task, or another."""

    seed: int
    task: Task | None = None

    def experiment(self, own: "Experiment") -> "Experiment":
        """The run that trains it. Raises ``ValueError``."""
        found = Evaluation(prompts=own.eval.prompts, every=own.eval.every)
        return replace(own, seed=self.seed, task=self.task or own.task, eval=found)


@dataclass(frozen=True)
class Evaluation:
    """How a trained model is measured: on how many `prompts`, and on which distributions besides its own.

    `shifts` are tasks by name. In a file, a derived task without `base` is derived from the experiment's own task.
    `predictors` are closed forms by name, with their settings: references besides those that every task has. `every` is
    the number of steps between two points of the training curve (chosen by the number of steps unless given), and
    `bootstrap` the number of resamplings behind a band. `analyses` are those that take longer: "weights" (implicit
    weights and linearity), "layers" (which algorithm each layer is near), "iterations" (how many steps of Newton and of
    gradient descent each layer is worth), "probes" (what is written in the layers, token by token), "attention_probes"
    (what is written there at any tokens; `probe` says how these are trained), "token_probes" (where a representation
    that functions are linear in is written, at tokens of x and of y, and the answers made of it), "evolution" (the
    nearest algorithm along the training curve, and the probes where they are asked for), "preconditioners" (the matrix
    of the step that each layer of plain linear attention takes, against theory), "descent" (the constants of gradient
    descent in the weights of tied linear layers), "pasting" (read-ins that learn linear regression under upper blocks
    which were trained on a representation; `surgery` says how), "stitching" (lower blocks under the upper ones of
    `partners`, which are models by name). `constructions` are weights from proofs by name: how far the model's weights
    are from them, and references as predictors.
    """

    prompts: int = 2048
    shifts: tuple[tuple[str, Task], ...] = ()
    every: int | None = None
    bootstrap: int = 200
    analyses: tuple[Analysis, ...] = ()
    predictors: tuple[tuple[str, Predictor], ...] = field(default=(), metadata={"younger": True})
    probe: ProbeRecipe | None = None
    constructions: tuple[tuple[str, Construction], ...] = field(default=(), metadata={"younger": True})
    surgery: Recipe | None = None
    partners: tuple[tuple[str, Partner], ...] = field(default=(), metadata={"younger": True})

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
        each = [(name, f) for name, whole in self.predictors for f in _predictors_in(whole)]
        other = dict.fromkeys(name for name, f in each if not isinstance(f, kinds))
        found += [f"predictor {name!r} is no closed form that a file can spell out" for name in other]
        settings = [(name, *s) for name, f in each if isinstance(f, kinds) for s in vars(f).items()]
        tensors = [(name, key) for name, key, value in settings if isinstance(value, torch.Tensor)]
        return found + [f"predictor {name!r} has a tensor as {key}, which no file can hold" for name, key in tensors]


def _predictors_in(predictor: Predictor) -> Iterator[Predictor]:
    """A predictor and those that it is made of."""
    yield predictor
    for value in vars(predictor).values() if is_dataclass(predictor) else ():
        for inner in value if isinstance(value, tuple) else (value,):
            # Features can be called too, and are none.
            yield from _predictors_in(inner) if isinstance(inner, Predictor) and not isinstance(inner, Features) else ()


@dataclass(frozen=True)
class Experiment:
    """One run: a model trained on a task, then evaluated; a transformer, trained by gradient descent, unless `kind`
    names another.

    `seed` feeds every stream of randomness (weights, training prompts, evaluation prompts). `device` is "auto", "cpu",
    "cuda" or "cuda:1"; `recipe` is the name of the settings that the file started from. `start` names the construction
    whose weights the model has before training (drawn ones without it); train.steps = 0 measures it as it is. `imports`
    are the files and modules of the user's that its kinds come from (`iclab.experiments.plugins`).
    """

    task: Task
    model: Architecture = field(default_factory=TransformerConfig)
    train: Learner = field(default_factory=Recipe)
    eval: Evaluation = field(default_factory=Evaluation)
    seed: int = 0
    device: str = "auto"
    recipe: str = ""
    start: Start | None = None
    imports: tuple[Import, ...] = field(default=(), metadata={"younger": True})

    def __post_init__(self) -> None:
        found = machine_problems(self.seed, self.device)
        found += self.model.problems_for(self.task.d, self.task.labels) + self.train.problems_for(self.task, self.model)
        found += self._shift_problems() + self._analysis_problems() + self._predictor_problems()
        found += self._construction_problems()
        refuse("Experiment", found)

    @property
    def warnings(self) -> list[str]:
        """What may be measured but is not what it seems to be: nothing, for shifts that do not fit are refused."""
        return []

    def _shift_problems(self) -> list[str]:
        """A shift must fit into the model: as many dimensions, and no more examples than it has positions for."""
        d, n = self.task.d, self.task.n if self.model.bounded else max(s.n for s in self._tasks())
        unfit = [
            f"shift {name!r} has d = {shift.d}, n = {shift.n}; the model is made for d = {d} and at most n = {n}"
            for name, shift in self.eval.shifts
            if shift.d != d or shift.n > n
        ]
        return unfit + self._label_problems()

    def _label_problems(self) -> list[str]:
        """All labels must be of one kind, and of that which a layout, an analysis or a construction is about."""
        partners = [(name, partner.task or self.task) for name, partner in self.eval.partners]
        others = [*self.eval.shifts, *partners]
        found = [f"the labels of {k!r} are not of the task's kind" for k, t in others if t.labels != self.task.labels]
        if self.task.labels is None:
            return found
        still = [type(t).__name__ for t in (*self._tasks(), *dict(partners).values()) if not t.moving]
        if still and isinstance(self.model, TransformerConfig) and self.model.layout == "states":
            found.append(f"model.layout = states is for labels that are the next input; {still[0]} has others")
        asked = [f"the analysis {k!r}" for k in ABOUT_NUMBERS if k in self.eval.analyses]
        asked += ["a construction"] if self.start or self.eval.constructions else []
        told = f"is about labels that are numbers; those of {type(self.task).__name__} are vectors"
        return found + [f"{each} {told}" for each in asked]

    def _analysis_problems(self) -> list[str]:
        """What an analysis would stumble over after the training."""
        needed = dict.fromkeys(("layers", "iterations"), LEAST)
        needed |= dict.fromkeys(("probes", "attention_probes", "token_probes"), LEAST_FOR_PROBES)
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
        found += self._token_problems() if "token_probes" in self.eval.analyses else []
        found += self._pasting_problems() + self._stitching_problems()
        return found + self._kind_problems() + self._weight_problems()

    def _token_problems(self) -> list[str]:
        """What stands against probes of a representation at tokens of x and of y."""
        found = [problem for task in self._tasks() for problem in concept_problems(task)]
        return [f"the analysis 'token_probes' cannot be made: {each}" for each in dict.fromkeys(found)]

    def _pasting_problems(self) -> list[str]:
        """Pasting is about blocks above others that work on tokens of x and of y, in which a representation is made."""
        if "pasting" not in self.eval.analyses or not isinstance(self.model, TransformerConfig):
            return []
        found = [] if self.model.n_layer > 1 else [f"needs model.n_layer of 2 or more, given {self.model.n_layer}"]
        if self.model.layout not in PASTED:
            found.append(
                f"needs tokens that hold x or y ({' or '.join(PASTED)}), and the layout is {self.model.layout}"
            )
        if not isinstance(self.task, RepresentationRegression):
            found.append(f"needs task.kind RepresentationRegression, given {type(self.task).__name__}")
        if self.eval.prompts < LEAST_FOR_PROBES:
            found.append(f"needs eval.prompts of {LEAST_FOR_PROBES} or more, given {self.eval.prompts}")
        return [f"the analysis 'pasting' {text}" for text in found]

    def _stitching_problems(self) -> list[str]:
        """Partners must be other models whose blocks fit, and it must be known how good they can be."""
        asked, found = "stitching" in self.eval.analyses, []
        if asked != bool(self.eval.partners):
            found.append("and eval.partners are given together, or neither is")
        if asked and isinstance(self.model, TransformerConfig) and self.model.n_layer < 2:
            found.append(f"needs model.n_layer of 2 or more, given {self.model.n_layer}")
        if asked and bayes_where_known(self.task) is None:
            found.append(f"needs a Bayes predictor, and for {type(self.task).__name__} none is known")
        if asked and self.eval.prompts < 2 * LEAST_FOR_CKA:
            found.append(f"needs eval.prompts of {2 * LEAST_FOR_CKA} or more, given {self.eval.prompts}")
        found += [f"has a partner {text}" for text in self._partner_problems()]
        return [f"the analysis 'stitching' {text}" for text in found]

    def _partner_problems(self) -> Iterator[str]:
        for name, partner in self.eval.partners:
            task = partner.task or self.task
            if not NAME.fullmatch(name):
                yield f"that needs a name of letters, digits, - and _, given {name!r}"
            if (task.d, task.n) != (self.task.d, self.task.n):
                yield f"{name!r} of d = {task.d}, n = {task.n}, and the model has d = {self.task.d}, n = {self.task.n}"
            elif (partner.seed, task) == (self.seed, self.task):
                yield f"{name!r} that is the model itself: give it another seed or task"
            elif not 0 <= partner.seed < SEEDS:
                yield f"{name!r} whose seed must lie in 0..{SEEDS - 1}, given {partner.seed}"

    def _kind_problems(self) -> list[str]:
        """Analyses that this kind of model, or of learning, has nothing for."""
        flat = [] if isinstance(self.model, TransformerConfig) else [k for k in LAYERED if k in self.eval.analyses]
        found = [f"the analysis {k!r} cannot be made: {type(self.model).__name__} has no layers" for k in flat]
        if isinstance(self.model, TransformerConfig) and LAYOUTS[self.model.layout].shared:
            attends = "attention_probes" in self.eval.analyses
            told = f"the analysis 'attention_probes' needs a prompt that is one sequence; {self.model.layout} has many"
            found += [told] if attends else []
        curveless = isinstance(self.train, RidgeFit) and "evolution" in self.eval.analyses
        return (
            found
            + self._frozen_problems()
            + (["the analysis 'evolution' cannot be made: RidgeFit has no training curve"] if curveless else [])
        )

    def _frozen_problems(self) -> list[str]:
        """What would be left out without a word, where weights are frozen."""
        asked = ("shifts", "predictors", "constructions", "analyses", "probe")
        unfit = [key for key in asked if getattr(self.eval, key)] if isinstance(self.train, FrozenLearner) else []
        return [f"eval.{key} has nothing to say of {type(self.train).__name__}" for key in unfit]

    def _weight_problems(self) -> list[str]:
        """Steps can be read from the weights, and weights averaged, where the model has the shape of a construction."""
        asked = [name for name in ("preconditioners", "descent") if name in self.eval.analyses]
        if not asked or not isinstance(self.model, TransformerConfig):
            return []
        wanted = vonoswald.config(self.task.d, self.model.n_layer)
        differences = interpolation.differences(self.model, wanted) + interpolation.obstacles(self.model)
        unfit = {"preconditioners": attention.obstacles(self.model), "descent": list(dict.fromkeys(differences))}
        few = [] if self.task.n >= 2 else [f"needs n of 2 or more, given {self.task.n}"]
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

    @cached_property
    def id(self) -> str:
        """Twelve digits that stand for everything that can change the numbers."""
        return identity(self._settings)

    def build(self, rng: torch.Generator | None = None) -> nn.Module:
        """The untrained model, without what it starts from."""
        return self.model.build(**self.sizes, rng=rng)

    @property
    def sizes(self) -> dict[str, Any]:
        """What a model of this task is built for."""
        labels = {"labels": self.task.labels} if isinstance(self.model, TransformerConfig) else {}
        return {"d": self.task.d, "n": self.task.n, **labels}

    def mapping(self) -> dict[str, Any]:
        """The settings as a file holds them, every default spelled out."""
        return merge(self._settings, {})

    @cached_property
    def _settings(self) -> dict[str, Any]:
        settings = config.to_mapping(self)
        for shift in settings["eval"]["shifts"].values():
            _leave_base_out(shift, settings["task"])
        return settings

    @classmethod
    def read(cls, path: Path) -> "Experiment":
        """The experiment that a run's `config.toml` describes."""
        settings = config.load(path)
        plugins.bring_back(settings, path.parent)
        return cls.from_mapping(settings, path)

    @classmethod
    def from_mapping(cls, settings: Nested, source: object) -> "Experiment":
        """An experiment from nested settings. Raises one ``ValueError`` with a line for each problem."""
        reader = Reader(lambda key: source, lambda: config.known_keys(kind(settings), settings))
        experiment = read(settings, reader)
        config.refuse_lines(reader.problems)
        return experiment


def kind(settings: Nested) -> type[Experiment] | type[TokenExperiment]:
    """Which of the two kinds of experiment settings describe."""
    return TokenExperiment if about_tokens(settings) else Experiment


def load(path: Path) -> Experiment | TokenExperiment:
    """The experiment, of either kind, that a run's `config.toml` describes."""
    return Experiment.read(path)


def read(settings: Nested, reader: Reader) -> Any:
    """The experiment, or FAILED with its problems in the reader. The task comes first, because it decides about the
    kind of experiment and shifts are derived from it, and then the start, because it has a shape."""
    settings = dict(settings)
    tokens = about_tokens(settings)
    _note_what_is_of_the_other_kind(settings, tokens, reader)
    if tokens:
        return reader.read(TokenExperiment, settings)
    if "task" in settings:
        settings["task"] = reader.read(Task, settings["task"], "task")
        settings["eval"] = _with_bases(settings.get("eval", {}), settings["task"])
    if settings.get("start", config.NONE) != config.NONE:
        settings["start"] = reader.read(Start | None, settings["start"], "start")
        settings["model"] = _with_shape(settings)
    return reader.read(Experiment, settings)


def _note_what_is_of_the_other_kind(settings: Nested, tokens: bool, reader: Reader) -> None:
    """Notes models and analyses that exist, but for the other kind of prompts."""
    task, model, evaluation = (
        section if isinstance(section, Mapping) else {} for section in map(settings.get, ("task", "model", "eval"))
    )
    base, analysis = (Architecture, Analysis) if tokens else (TokenArchitecture, TokenAnalysis)
    asked = evaluation.get("analyses", [])
    found = {"model.kind": [model["kind"]] if "kind" in model and model["kind"] in [*config.kinds(base)] else []}
    found["eval.analyses"] = [k for k in asked if k in get_args(analysis)] if isinstance(asked, list | tuple) else []
    theirs, ours = ("prompts of examples", "tokens") if tokens else ("sequences of tokens", "examples")
    for key, names in found.items():
        for name in names if "kind" in task else []:
            reader.fail(key, f"{key}: {name!r} is for {theirs}, and task.kind {task['kind']!r} is about {ours}")


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
