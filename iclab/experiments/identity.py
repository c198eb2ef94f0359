"""The identity of experiments of any kind: their device, their seed, and the hash that names them."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iclab.renamed import old_names

STUDY, KEPT = "study.toml", "imports"  # of a sweep: its task file; the folder with copies of the user's own files
SEEDS = 2**32  # a generator on a CPU keeps no more of its seed
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")  # not mps: predictors need float64
NOT_IN_ID = ("device", "recipe")  # where a run is made and what its settings are called change no number
# The version of the numerics, a part of every id: a run of the same settings by another one has other numbers.
#   1   up to iclab 0.1
#   2   parameters as one vector (norm and update in another order of sums), one map for queries, keys and values, and
#       Muon in the precision of the weights (bfloat16 before)
NUMERICS = 2
USUAL = (
    "TransformerConfig",
    "Recipe",
    "TokenRecipe",
)  # the kinds of model and of learner that are meant where none is named


def remedy(folder: Path) -> str:
    """Returns what mends a damaged run in a folder, if its sweep has one."""
    return f"`iclab sweep {folder.parent / STUDY}` makes it again"


@dataclass(frozen=True)
class Import:
    """Code of the user's that an experiment needs: a file by name and the digest of its text, or a module by name."""

    name: str
    digest: str | None = None


def machine_problems(seed: int, device: str) -> list[str]:
    """Returns the problems of a seed and a device."""
    problems = [] if 0 <= seed < SEEDS else [f"seed must lie in 0..{SEEDS - 1}, given {seed}"]
    named = DEVICE.fullmatch(device)
    return problems if named else [*problems, f"device must be auto, cpu, cuda or cuda:NUMBER, given {device!r}"]


def run_id(settings: Mapping[str, Any], numerics: int = NUMERICS) -> str:
    """Returns twelve digits that stand for everything that can change the numbers, by a version of the numerics. The
    settings may come from an experiment or from the `config.toml` of a run, of either kind. Raises ``ValueError`` for
    what no experiment has written."""
    decisive = {k: _without_usual_kind(v) for k, v in settings.items() if k not in (*NOT_IN_ID, "imports")}
    decisive |= {"imports": _codes(settings["imports"])} if settings.get("imports") else {}
    decisive |= {"numerics": numerics} if numerics > 1 else {}  # the first had no name yet
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def numerics_of(id: str, settings: Mapping[str, Any]) -> int | None:
    """Returns the version of the numerics by which these settings have this id; None where no version has it."""
    return next((version for version in range(NUMERICS, 0, -1) if run_id(settings, version) == id), None)


def _without_usual_kind(settings: Any) -> Any:
    """A section without the kind that it has when none is named: so runs have the ids of before there were others.
    Files that are known by a digest may be anywhere."""
    if isinstance(settings, Mapping) and settings.get("digest") and "path" in settings:
        settings = {k: v for k, v in settings.items() if k != "path"}
    usual = isinstance(settings, Mapping) and settings.get("kind") in USUAL
    return {k: v for k, v in settings.items() if k != "kind"} if usual else settings


def _codes(imports: Any) -> list[str]:
    """What imports can do to the numbers: a file by its text, whatever its name, a module by its name."""
    each = [one if isinstance(one, Mapping) else {"name": one} for one in imports]
    return sorted({str(one.get("digest") or one.get("name")) for one in each})


__getattr__ = old_names(__name__, identity="run_id")
