"""Notebooks are committed without outputs, take from iclab what is there, and run from top to bottom."""

import ast
import builtins
import importlib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def cells(path):
    """The notebook, and its cells of code."""
    notebook = nbformat.read(path, as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


def checked(source):
    """Parses a program and resolves what it imports, the attributes of those modules, and every name it reads."""
    tree, modules, bound = ast.parse(source), {}, set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                module = importlib.import_module(one.name)
                modules[one.asname or one.name] = module
                bound.add((one.asname or one.name).partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for one in node.names:
                target = getattr(module, one.name, None) or importlib.import_module(f"{node.module}.{one.name}")
                bound.add(one.asname or one.name)
                if hasattr(target, "__spec__"):
                    modules[one.asname or one.name] = target
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            assert node.id in bound, f"nothing is called {node.id}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id} has no {node.attr}"


@each
def test_a_notebook_is_committed_without_outputs_and_names_what_there_is(path):
    _, code = cells(path)
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)
    checked("\n".join(cell.source for cell in code))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import iclab\niclab.byes(1)", AssertionError),
        ("from iclab.analysis import rsk", ImportError),
        ("import iclab.analyses", ImportError),
        ("from iclab import plots\nplots.LOOKS; plots.LOOK", AssertionError),
        ("x = 1\nprint(x, y)", AssertionError),
        ("def f(x:", SyntaxError),
    ],
)
def test_a_slip_of_the_pen_in_a_notebook_is_noticed(source, error):
    with pytest.raises(error):
        checked(source)


@pytest.mark.slow
@each
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    notebook, _ = cells(path)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()


def test_there_are_notebooks():
    assert NOTEBOOKS
