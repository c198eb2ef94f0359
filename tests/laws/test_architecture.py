"""The import rule: arrows may be followed, nothing else. And what is imported when nothing is asked yet."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAVES = {
    "iclab.digits",
    "iclab.errors",
    "iclab.files",
    "iclab.limits",
    "iclab.algorithm_names",
    "iclab.renamed",
    "iclab.shipped",
    "iclab.retired",
    "iclab.stops",
}  # standard library only
MAKING = {"iclab.tasks", "iclab.predictors", "iclab.models"}
MIDDLE = {"iclab.theory", "iclab.constructed", "iclab.learning", "iclab.analysis"}
ALLOWED = {
    "iclab.arrays": set(),
    "iclab.bar": set(),
    "iclab.tasks": set(),
    "iclab.predictors": {"iclab.arrays", "iclab.tasks.features"},
    "iclab.models": {"iclab.arrays"},
    "iclab.theory": MAKING,
    "iclab.constructed": MAKING,
    "iclab.learning": MAKING | {"iclab.theory", "iclab.bar"},
    "iclab.analysis": MAKING | {"iclab.theory"},
    "iclab.experiments": MAKING | MIDDLE,
    "iclab.measures": MAKING | MIDDLE | {"iclab.experiments"},
    "iclab.runs": MAKING | MIDDLE | {"iclab.experiments", "iclab.measures", "iclab"},  # for its version
    "iclab.commands": MAKING
    | MIDDLE
    | {"iclab.experiments", "iclab.measures", "iclab.runs", "iclab.plots", "iclab.bar"},
    "iclab.plots": set(),
    "iclab.__main__": {"iclab.cli"},
    "iclab.cli": {"iclab.experiments", "iclab.runs", "iclab.commands", "iclab.plots"},
}
SCIENCE_ONLY = {"torch", "jaxtyping", "einops", "safetensors"}  # what the lower half may take from outside
BESIDES = {  # all but scipy are extras: for texts alone, and for files of other people's models
    "iclab.analysis": {"scipy"},
    "iclab.tasks": {"tokenizers"},
    "iclab.models": {"yaml", "msgpack"},
}
DRAWING = {"matplotlib", "pandas"}
MODULES = sorted((ROOT / "iclab").rglob("*.py"))


def imports(path):
    """The absolute names that a module imports, lazily or not."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the arrow"
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part(module):
    """The unit of the import rule that a module belongs to."""
    return ".".join(module.split(".")[:2])


def name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def wrong_arrows(unit, imported):
    """What a unit imports and may not: a unit as a whole is allowed, or one module of it."""
    allowed = ALLOWED.get(unit, set()) | LEAVES | {unit}
    return sorted({part(m) for m in imported if m.split(".")[0] == "iclab" and not {m, part(m)} & allowed})


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent != ROOT / "iclab" or p.stem != "__init__"], ids=name)
def test_imports_follow_the_arrows(path):
    unit = part(name(path))
    found = list(imports(path))
    assert not wrong_arrows(unit, found)
    outside = {m.split(".")[0] for m in found} - {"iclab"} - set(sys.stdlib_module_names)
    if unit in LEAVES:
        assert not outside
    elif unit in MAKING | MIDDLE:
        assert outside <= SCIENCE_ONLY | BESIDES.get(unit, set())
    assert unit == "iclab.plots" or "matplotlib" not in outside
    assert "from __future__ import annotations" not in path.read_text(), "shapes would no longer be checked"


def test_the_rule_can_be_broken():
    assert wrong_arrows("iclab.tasks", ["iclab.predictors.ridge", "torch"]) == ["iclab.predictors"]
    assert wrong_arrows("iclab.predictors", ["iclab.tasks.features", "iclab.tasks.task"]) == ["iclab.tasks"]
    assert wrong_arrows("iclab.analysis", ["iclab.experiments"]) == ["iclab.experiments"]
    assert wrong_arrows("iclab.models", ["iclab.models.layouts", "iclab.files"]) == []


def test_every_unit_has_its_arrows():
    assert {part(name(p)) for p in MODULES} - {"iclab"} - LEAVES <= ALLOWED.keys()


def test_nothing_at_the_top_level_but_the_package_is_imported():
    content = {p.name for p in ROOT.iterdir() if p.is_dir()} - {"iclab"}
    for path in MODULES:
        for module in imports(path):
            assert module.split(".")[0] not in content or module.split(".")[0] in sys.stdlib_module_names


def test_importing_the_package_loads_no_torch():
    code = "import sys, iclab; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules), 'heavy'; iclab.bayes"
    subprocess.run([sys.executable, "-c", code], check=True)
