"""What a training step and a run cost, as `iclab bench` has it: where the time goes, and what the machine could do.

    step       share of sampling, forward, backward and update; operations and host waits, also of a step in a row; the
               roofline beside it; on a GPU a step taken alone, and in a row of a CUDA graph
    compile    a compiled step against that of the model, and the seconds that compiling takes
    engines    seconds of a sweep of tiny runs, by engine

An operation is one that computes or copies: each is at least one kernel on a GPU. A host wait is one whose result the
program needs as a number, so that a GPU runs dry. The roofline of a step is max(F / peak, B / bandwidth), with F its
floating-point operations and B the bytes that its operations read and write, one by one: fusing them lowers B.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from iclab.commands.turns import take_turns
from iclab.experiments.experiment import Experiment
from iclab.experiments.streams import experiment_generator
from iclab.experiments.study import recipe
from iclab.learning.graphs import MOST, CudaGraphs
from iclab.learning.training import Training, TrainingConfig
from iclab.tasks import Task

Row = dict[str, Any]
RECIPES = ("fast", "softmax", "interleaved")
WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.masked_select")
TINY = """title = "A tiny run"
question = "What does an engine cost?"
paper = "none"
[task]
kind = "LinearRegression"
d = 2
n = 3
[model]
n_layer = 1
d_model = 8
[train]
steps = 2
batch = 2
[eval]
prompts = 16
bootstrap = 2
"""


class Counter(TorchDispatchMode):
    """Counts operations below autograd: those that compute or copy, those that wait, and the bytes that all of them
    read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = self.waits = self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        made = function(*given, **(named or {}))
        self.waits += str(function).startswith(WAITS)
        before = {_place(one) for one in tree_leaves(given) if isinstance(one, Tensor)}
        news = [one for one in tree_leaves(made) if isinstance(one, Tensor)]
        views = news and all(_place(one) in before for one in news) and not function._schema.is_mutable
        if news and not views:
            self.ops += 1
            read = [one for one in tree_leaves((given, named)) if isinstance(one, Tensor)]
            self.bytes += sum(one.numel() * one.element_size() for one in [*read, *news])
        return made


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def roofline(size: int = 1024, megabytes: int = 64, rounds: int = 5) -> tuple[float, float]:
    """Returns what the machine can do on one thread: float32 GFLOP/s of a matrix product, and GB/s of a copy."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    source = torch.randn(megabytes * 2**18)
    target = torch.empty_like(source)
    seconds = take_turns({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, rounds)
    return 2e-9 * size**3 / seconds["product"], 2e-9 * 4 * len(source) / seconds["copy"]


def steps(
    d: int = 5, n: int = 17, rounds: int = 15, recipes: Sequence[str] = RECIPES, size: int = 1024
) -> Iterator[Row]:
    """Times the parts of a step of our recipes, and of the default one with Muon, in CPU time; counts its operations;
    and says what the machine could do at best."""
    gflops, bandwidth = roofline(size, rounds=min(rounds, 5))
    named = [(name, {}) for name in recipes] + [("fast", {"optimizer": "muon"})]
    for name, changes in named:
        training = of_recipe(name, d, n, **changes)
        shares = take_turns({"step": training.advance, **_parts(training)}, rounds, process_time)
        with Counter() as counted, FlopCounterMode(display=False) as flops:
            training.advance()
        whole, product, moved = shares.pop("step"), 1e-9 * flops.get_total_flops(), 1e-9 * counted.bytes
        total = sum(shares.values())
        yield {
            "recipe": name + "".join(f", {value}" for value in changes.values()),
            "ms": 1e3 * whole,
            **{part: f"{each / total:.0%}" for part, each in shares.items()},
            "ops": counted.ops,
            "waits": counted.waits,
            "waits in a row": waits_in_a_row(of_recipe(name, d, n, **changes)),
            "GFLOP/s": product / whole,
            "GB/s": moved / whole,
            "machine GFLOP/s": gflops,
            "machine GB/s": bandwidth,
            "roofline ms": 1e3 * max(product / gflops, moved / bandwidth),
            **on_cuda(lambda name=name, changes=changes: of_recipe(name, d, n, "cuda", **changes), rounds),
        }


def waits_in_a_row(training: Training) -> int:
    """Returns the host waits of a step in a row, as a CUDA graph has it."""
    replay = training.replayed()
    replay.open([[[training.recipe.rate(0)]]], [0], [0], [0])
    with Counter() as counted:
        replay.step()
    return counted.waits


def on_cuda(make: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Returns what a step takes on the GPU, taken one by one and in rows of a CUDA graph; nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    eager, rows = make(), make()
    rows.replay = rows.replayed(CudaGraphs(torch.device("cuda")))
    return in_turns(eager, rows, rounds)


def in_turns(eager: Any, rows: Any, rounds: int) -> dict[str, Any]:
    """Times steps of a training or pack, per replica, against those of another that takes its steps in rows."""
    replicas = len(getattr(eager, "trainings", (eager,)))

    def never(step: int) -> bool:
        return False

    def row() -> None:
        rows.advance_until([never] * replicas if hasattr(rows, "trainings") else never)

    def steps() -> None:
        for _ in range(MOST):
            eager.advance()
        if torch.cuda.is_available():  # a step has ended when its kernels have
            torch.cuda.synchronize()

    row()  # captures
    captured = rows.replay is not None and rows.replay.replay is not None
    taken = take_turns({"eager": steps, "graph": row}, rounds)
    ms = {way: 1e3 * each / MOST / replicas for way, each in taken.items()}
    return {"GPU ms eager": ms["eager"], "GPU ms graph": ms["graph"] if captured else "no graph"}


def of_recipe(name: str, d: int, n: int, device: str = "cpu", **changes: Any) -> Training:
    """Returns the training of a recipe on linear regression, before its first step."""
    task = {"kind": "LinearRegression", "d": d, "n": n, "noise": 0.5}
    settings: dict[str, Any] = {"task": task, "device": device, **recipe(name)}
    settings["train"] = {**settings.get("train", {}), **changes}
    made = Experiment.from_mapping(settings, f"recipe {name}")
    assert isinstance(made.task, Task) and isinstance(made.train, TrainingConfig)
    rng = experiment_generator(made, "train", torch.device(device))
    return Training(made.initial(device), made.task, made.train, rng)


def _parts(training: Training) -> dict[str, Callable[[], object]]:
    """The parts of a step, each with what the one before left."""
    held: dict[str, Any] = {}

    def sample() -> None:
        held["drawn"] = training._draw()

    def forward() -> None:
        held["loss"], _ = training._loss(*held["drawn"])

    def backward() -> None:
        held["gradients"] = torch.autograd.grad(held["loss"], list(training.parameters.values()))

    def update() -> None:
        training._update(held["gradients"], training.recipe.rate(training.step))

    return {"sampling": sample, "forward": forward, "backward": backward, "update": update}


def compiled(
    d: int = 5, n: int = 17, rounds: int = 15, recipes: Sequence[str] = ("fast", "interleaved")
) -> Iterator[Row]:
    """Times steps with and without `train.compile`, in CPU time, and compiling them. `difference` is the largest of 20
    losses, relative."""
    for name in recipes:
        plain, graph = of_recipe(name, d, n), of_recipe(name, d, n, compile=True)
        graph.log = lambda text: None
        start, first = perf_counter(), graph.advance()
        seconds = perf_counter() - start
        pairs = [(first, plain.advance()), *((graph.advance(), plain.advance()) for _ in range(19))]
        taken = take_turns({"plain": plain.advance, "compiled": graph.advance}, rounds, process_time)
        yield {
            "recipe": name,
            "compiled": "yes" if graph.graph else "no: there is no compiler",
            "seconds to compile": seconds,
            **{f"ms {way}": 1e3 * each for way, each in taken.items()},
            "times plain": taken["plain"] / taken["compiled"],
            "difference": max(abs(a - b) / abs(b) for a, b in pairs),
        }


def engines(runs: int = 4) -> Iterator[Row]:
    """Times sweeps of one tiny run and of several, one at a time, by each engine that this machine alone can have; the
    rest of the seconds of a sweep is its start."""
    for name in ("local", *(["dask"] if find_spec("distributed") else [])):
        with TemporaryDirectory() as folder:
            one, several = (_sweep(Path(folder), name, each) for each in (1, runs))
        yield {
            "engine": name,
            "seconds for 1 run": one,
            f"for {runs}": several,
            "for a further run": (several - one) / (runs - 1),
        }


def _sweep(folder: Path, engine: str, runs: int) -> float:
    """The seconds of a sweep of so many runs."""
    file = folder / "tiny.toml"
    file.write_text(TINY)
    words = [f"seed=0:{runs}", "device=cpu", "--engine", engine, "--jobs", "1", "--out", str(folder / f"{runs}")]
    start = perf_counter()
    subprocess.run([sys.executable, "-m", "iclab.cli", "sweep", str(file), *words], check=True, capture_output=True)
    return perf_counter() - start
