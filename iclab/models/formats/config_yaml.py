"""Runs of the code of Garg et al. and of what derives from it: config.yaml beside state.pt, or model_STEP.pt.

A file config.yaml tells the sizes of the model (`model`) and what it was trained on (`training`). Tables in it may be
tagged as of the class Munch, which is a table with another access, and are read as tables; no other tag is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from iclab.errors import UsageError, out_of_bounds, refuse, wrong_kinds
from iclab.files import read_text
from iclab.models.architecture import LARGEST
from iclab.models.formats.format import Format

SIZES = {"n_dims": "d", "n_positions": "n", "n_embd": "d_model", "n_layer": "n_layer", "n_head": "n_head"}
CONFIG, STATE = "config.yaml", "state.pt"


class TrainingRun(Format):
    """A run of such code, with a model of one family."""

    family: ClassVar[str]

    def recognises(self, place: Path) -> bool:
        return family(place) == self.family

    def files(self, place: Path) -> list[Path]:
        return [weights_of(place).parent / CONFIG, weights_of(place)]

    def task(self, place: Path) -> Mapping[str, Any]:
        return training_task(place)


def weights_of(place: Path) -> Path:
    """Returns the file of weights: the path itself, or state.pt in a folder."""
    return place / STATE if place.is_dir() else place


def family(place: Path) -> str | None:
    """Returns which kind of model the run at a path has; none where there is no run."""
    file = weights_of(place)
    config = file.parent / CONFIG
    if file.suffix != ".pt" or not (file.is_file() and config.is_file()):
        return None
    return str(_table(settings(config), "model").get("family"))


def settings(file: Path) -> Mapping[str, Any]:
    """Reads config.yaml. Raises ``ValueError``, also where the package PyYAML is not installed."""
    try:
        import yaml
    except ImportError:
        raise UsageError(f"{file}: needs the package PyYAML: pip install 'iclab[models]'") from None

    class Loader(yaml.SafeLoader):
        """Reads tables, lists, texts and numbers."""

    def table(loader: yaml.SafeLoader, suffix: str, node: yaml.MappingNode) -> dict[Any, Any]:
        return loader.construct_mapping(node, deep=True)

    Loader.add_multi_constructor("!munch", table)
    try:
        content = yaml.load(read_text(file), Loader)
    except (yaml.YAMLError, AttributeError, RecursionError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{file}: not YAML that can be read: {first}") from None
    refuse(f"{file}", [] if isinstance(content, Mapping) else ["not a table of settings"])
    return content


def sizes(place: Path) -> dict[str, Any]:
    """Returns the settings of the model, with sizes of the right kind and within bounds. Raises ``ValueError``."""
    file = weights_of(place).parent / CONFIG
    model = dict(_table(settings(file), "model"))
    problems = [f"model has no {name}" for name in SIZES if name not in model] + wrong_kinds(
        model, dict.fromkeys(SIZES, int)
    )
    refuse(f"{file}", problems)
    bounds = {name: LARGEST[own] for name, own in SIZES.items()}
    refuse(f"{file}", out_of_bounds({name: model[name] for name in SIZES}, bounds))
    return model


def training_task(place: Path) -> dict[str, Any]:
    """Returns d, the longest prompt of the curriculum, noise and prior, as far as the file tells them of linear
    regression; of several tasks, those of the first."""
    config = settings(weights_of(place).parent / CONFIG)
    training, model = _table(config, "training"), sizes(place)
    points = _table(_table(training, "curriculum"), "points").get("end", model["n_positions"])
    found: dict[str, Any] = {"d": model["n_dims"], "n": points, "noise": 0.0}
    listed = training.get("tasks")
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], Mapping) else {}
    options = _table(first, "kwargs") or _table(training, "task_kwargs")
    if isinstance(options.get("noise_std"), int | float):
        found["noise"] = float(options["noise_std"])
    if options.get("normalize_w") is True:
        found["prior"] = model["n_dims"] ** -0.5
    return found


def _table(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = of.get(name)
    return value if isinstance(value, Mapping) else {}
