"""Speed, as ratios measured in one process on one thread: `iclab bench`.

    baselines    every prefix of every prompt: one factorisation per prompt against a batched `lstsq` per prefix,
                 and against loops over prompts and prefixes (NumPy, and scikit-learn as published scripts have it)
    probes       ridge probes of every layer and position of a model of four layers at once, against a loop of
                 scikit-learn's
    throughput   training steps per second by token layout, attention and width
    packs        CPU time of a training step of one replica, of seeds that train as a pack against one after the other
    step         where the time of a step goes, its operations and host waits, and the roofline of the machine
                 (both on a GPU, too: steps taken one by one against a CUDA graph)
    compile      a compiled step against a plain one, and the seconds that compiling takes
    engines      seconds of sweeps of tiny runs, by engine
    devices      training steps per second by batch on each device of the machine, for the papers' form at two widths
    quality      seconds of training until the excess risk is within 10, 5, 2 and 1 % of the Bayes risk, for recipes of
                 ours and one of the papers', each within a budget

Things that are compared take turns, and the median of the turns is reported, so that a machine whose speed drifts slows
them alike.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclab.analysis import algorithm_state, answer, excess, features
from iclab.analysis.layers.probing import fit_map
from iclab.commands import costs
from iclab.commands.terminal import console, table
from iclab.commands.turns import take_turns
from iclab.errors import refuse, unknown
from iclab.experiments.experiment import Experiment
from iclab.experiments.streams import experiment_generator
from iclab.experiments.study import recipe
from iclab.files import write_json
from iclab.learning.pack import pack_trainings
from iclab.learning.training import Diverged, Training, TrainingConfig
from iclab.models import Transformer, TransformerConfig
from iclab.predictors import LeastSquares, Predictor, Ridge
from iclab.runs.environment import environment
from iclab.tasks import LinearRegression, Prompts, Task
from iclab.theory.posterior import bayes

Row = dict[str, Any]
Precision = Literal["float32", "bfloat16"]
LEVELS = (0.10, 0.05, 0.02, 0.01)
CONTESTS = (  # recipe, dimensions, examples, changes of ours
    ("fast", 5, 17, {}),
    ("fast", 8, 17, {"model": {"d_model": 48}}),
    ("softmax", 5, 17, {}),
    ("interleaved", 5, 17, {}),
    ("garg2022_tiny", 5, 17, {}),
)


def bench(budget: float, path: Path | None = None, parts: Sequence[str] = ()) -> dict[str, Any]:
    """Measures all parts or some, prints their tables and writes JSON to `path`. `budget` bounds the seconds of
    training of each recipe of the last part; what is not reached within it is reported as not reached."""
    sections = {"baselines": baselines, "probes": probes, "throughput": throughput, "packs": packs}
    sections |= {"step": costs.steps, "compile": costs.compiled, "engines": costs.engines, "devices": devices}
    sections |= {"quality": lambda: quality(budget)}
    problems = [] if budget > 0 else [f"budget must be positive, given {budget}"]
    refuse("bench", problems + [unknown("part", part, sections) for part in parts if part not in sections])
    torch.set_num_threads(1)
    results = {"environment": environment("cpu"), "budget": budget}
    for name in parts or sections:
        results[name] = list(_printed(name, sections[name]()))
    if path:
        write_json(path, results)
    return results


def _printed(title: str, rows: Iterator[Row]) -> Sequence[Row]:
    to = console()
    with to.status(f"{title} ..."):
        done = list(rows)
    to.print(table(title, list(done[0]), [list(row.values()) for row in done], to))
    return done


# ---- baselines -----------------------------------------------------------------------------------------------------


def baselines(batch: int = 1024, n: int = 40, d: int = 20, lam: float = 0.25, rounds: int = 5) -> Iterator[Row]:
    """Times ridge and least squares on every prefix, float64: ours, a batched `lstsq` per prefix, and loops over
    prompts too.

    The loops are timed on one prompt in 64 and scaled up. `difference` is the largest distance of an answer from ours,
    relative to the largest answer.
    """
    whole = LinearRegression(d, n, lam**0.5).sample(batch, torch.Generator().manual_seed(0), torch.float64)
    few = Prompts(whole.xs[::64], whole.ys[::64], whole.fs[::64], whole.truth)
    for name, ours, penalty in (("ridge", Ridge(lam), lam), ("least squares", LeastSquares(), 0.0)):
        ways = {
            "ours": (whole, lambda p, penalty, ours=ours: ours(p.xs, p.ys)),
            "per prefix, batched": (whole, per_prefix),
        }
        ways |= {f"per prompt and prefix, {kind}": (few, loop) for kind, loop in LOOPS.items()}
        seconds = take_turns({way: partial(call, p, penalty) for way, (p, call) in ways.items()}, rounds)
        seconds = {way: taken * batch / len(ways[way][0].xs) for way, taken in seconds.items()}
        for way, (prompts, call) in ways.items():
            expected = ours(prompts.xs, prompts.ys)
            yield {
                "predictor": name,
                "way": way,
                "ms": 1e3 * seconds[way],
                "ratio to ours": seconds[way] / seconds["ours"],
                "difference": ((call(prompts, penalty) - expected).abs().max() / expected.abs().max()).item(),
            }


def per_prefix(prompts: Prompts, lam: float) -> Float[Tensor, "batch n"]:
    """Returns the predictions by one batched least-squares solve for each prefix; ridge through √lam rows with label
    0."""
    batch, n, d = prompts.xs.shape
    answers = torch.zeros_like(prompts.ys)
    rows = (lam**0.5 * torch.eye(d, dtype=torch.float64)).expand(batch, d, d)[:, : d if lam else 0]
    for i in range(1, n):
        design = torch.cat([prompts.xs[:, :i], rows], dim=1)
        labels = torch.nn.functional.pad(prompts.ys[:, :i], (0, rows.shape[1])).unsqueeze(-1)
        ws = torch.linalg.lstsq(design, labels).solution.squeeze(-1)
        answers[:, i] = (ws * prompts.xs[:, i]).sum(-1)
    return answers


def numpy_loop(prompts: Prompts, lam: float) -> Float[Tensor, "batch n"]:
    """Returns the predictions by one solve for each prefix of each prompt."""

    def fit(design: np.ndarray, labels: np.ndarray) -> np.ndarray:
        d = design.shape[1]
        rows = lam**0.5 * np.eye(d) if lam else np.empty((0, d))
        augmented = np.concatenate([design, rows]), np.concatenate([labels, np.zeros(len(rows))])
        return np.linalg.lstsq(*augmented, rcond=None)[0]

    return _loop(prompts, fit)


def sklearn_loop(prompts: Prompts, lam: float) -> Float[Tensor, "batch n"]:
    """Returns the predictions by one scikit-learn estimator for each prefix of each prompt, as in the released code of
    Bai et al. 2023."""
    from sklearn.linear_model import LinearRegression as Ordinary
    from sklearn.linear_model import Ridge as Penalised

    def fit(design: np.ndarray, labels: np.ndarray) -> np.ndarray:
        estimator = Penalised(alpha=lam, fit_intercept=False) if lam else Ordinary(fit_intercept=False)
        return estimator.fit(design, labels).coef_

    return _loop(prompts, fit)


def _loop(prompts: Prompts, fit: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Float[Tensor, "batch n"]:
    xs, ys, answers = prompts.xs.numpy(), prompts.ys.numpy(), torch.zeros_like(prompts.ys)
    for b, i in product(range(xs.shape[0]), range(1, xs.shape[1])):
        answers[b, i] = float(fit(xs[b, :i], ys[b, :i]) @ xs[b, i])
    return answers


# scikit-learn is no requirement: its row is there where it is installed.
SKLEARN = find_spec("sklearn") is not None
LOOPS = {"NumPy": numpy_loop} | ({"scikit-learn": sklearn_loop} if SKLEARN else {})


# ---- probes --------------------------------------------------------------------------------------------------------


def probes(prompts: int = 2048, n: int = 17, d: int = 5, lam: float = 0.1, rounds: int = 3) -> Iterator[Row]:
    """Times ridge probes for XᵀY / i of a model of four layers, fitted to all prompts with one penalty. `difference` is
    the largest distance of an answer from ours."""
    drawn, rng = LinearRegression(d, n, 0.5).sample(prompts, torch.Generator().manual_seed(0)), torch.Generator()
    hidden = features(Transformer(d, n, TransformerConfig(layout="interleaved"), rng.manual_seed(1)), drawn)
    target = algorithm_state(drawn, lam)["moment"]
    ways = {"ours": lambda: fit_map(hidden, target, lam)(hidden)}
    ways |= {"per layer and position, scikit-learn": lambda: sklearn_probes(hidden, target, lam)} if SKLEARN else {}
    seconds, expected = take_turns(ways, rounds), ways["ours"]()
    for way, call in ways.items():
        yield {
            "way": way,
            "ms": 1e3 * seconds[way],
            "ratio to ours": seconds[way] / seconds["ours"],
            "difference": (call() - expected).abs().max().item(),
        }


def sklearn_probes(
    hidden: Float[Tensor, "layers batch n D"], target: Float[Tensor, "batch n m"], lam: float
) -> Float[Tensor, "layers batch n m"]:
    """Fits one scikit-learn estimator for each layer and position."""
    from sklearn.linear_model import Ridge as Penalised

    answers = torch.zeros(len(hidden), *target.shape, dtype=hidden.dtype)
    for layer, i in product(range(len(hidden)), range(target.shape[1])):
        h, v = hidden[layer, :, i].numpy(), target[:, i].numpy()
        answers[layer, :, i] = torch.from_numpy(Penalised(alpha=lam).fit(h, v).predict(h))
    return answers


# ---- throughput ----------------------------------------------------------------------------------------------------


def throughput(d: int = 5, n: int = 17, batch: int = 64, rounds: int = 7) -> Iterator[Row]:
    """Times training steps by layout, attention and width, four layers of four heads; softmax and ReLU with an MLP of
    four times the width, as in the papers. The ratio is to the papers' form: interleaved softmax of the same width."""
    shapes = list(product((32, 64, 128), ("interleaved", "paired", "lagged"), ("softmax", "relu", "linear")))
    steps = {"/".join(map(str, shape)): _stepper(*shape, d, n, batch) for shape in shapes}
    seconds = take_turns(steps, rounds)
    for width, layout, attention in shapes:
        taken = seconds[f"{width}/{layout}/{attention}"]
        yield {
            "width": width,
            "layout": layout,
            "attention": attention,
            **_speed(taken, batch),
            "times the papers'": seconds[f"{width}/interleaved/softmax"] / taken,
        }


def _speed(taken: float, batch: int) -> Row:
    return {"ms per step": 1e3 * taken, "prompts per second": round(batch / taken)}


def _stepper(width: int, layout: Any, attention: Any, d: int, n: int, batch: int) -> Callable[[], object]:
    mlp = 0 if attention == "linear" else 4 * width
    config = TransformerConfig(d_model=width, d_mlp=mlp, layout=layout, attention=attention)
    return _stepping(config, d, n, batch)


def _stepping(
    config: TransformerConfig, d: int, n: int, batch: int, device: str = "cpu", precision: Precision = "float32"
) -> Callable[[], object]:
    recipe = TrainingConfig(batch=batch, lr=1e-4, precision=precision)
    model, rng = Transformer(d, n, config).to(device), torch.Generator(device)
    training = Training(model, LinearRegression(d, n, 0.5), recipe, rng)

    def step() -> None:
        training.advance()
        if device == "cuda":  # a step has ended when its kernels have
            torch.cuda.synchronize()

    return step


def packs(d: int = 5, n: int = 17, sizes: Sequence[int] = (1, 4, 8), rounds: int = 9) -> Iterator[Row]:
    """Times a step of seeds that train one after the other, and as a pack, by the default recipe, in CPU time per
    replica. The ratio is of both in the same turns. On a GPU a step of the pack is timed too, taken alone and in a row
    of a CUDA graph."""

    def trainings(seeds: int, device: str = "cpu") -> list[Training]:
        made = [Transformer(d, n, rng=torch.Generator().manual_seed(seed)).to(device) for seed in range(seeds)]
        rngs = [torch.Generator(device).manual_seed(seed) for seed in range(seeds)]
        task, recipe = LinearRegression(d, n, 0.5), TrainingConfig()
        return [Training(model, task, recipe, rng) for model, rng in zip(made, rngs, strict=True)]

    for size in sizes:
        pack, singles = pack_trainings(trainings(size)), trainings(size)
        ways = {"alone": lambda singles=singles: [one.advance() for one in singles], "pack": pack.advance}
        seconds = take_turns(ways, rounds, process_time)
        taken = {f"ms {way}": 1e3 * each / size for way, each in seconds.items()}
        there = costs.on_cuda(lambda size=size: pack_trainings(trainings(size, "cuda")), rounds)
        yield {"replicas": size, **taken, "times alone": seconds["alone"] / seconds["pack"], **there}


def devices(d: int = 5, n: int = 17, batches: Sequence[int] = (64, 1024), rounds: int = 5) -> Iterator[Row]:
    """Times training steps of four layers, interleaved softmax with MLP, on one thread and on the GPU where there is
    one.

    Small models are bound by the launches of kernels there, so that what is gained grows with the batch and the width.
    """
    here: dict[str, tuple[str, Precision]] = {"cpu": ("cpu", "float32")}
    if torch.cuda.is_available():
        here |= {"cuda": ("cuda", "float32"), "cuda, bfloat16": ("cuda", "bfloat16")}
    for width, batch in product((64, 256), batches):
        config = TransformerConfig(n_head=4, d_model=width, d_mlp=4 * width, layout="interleaved", attention="softmax")
        seconds = take_turns({name: _stepping(config, d, n, batch, *at) for name, at in here.items()}, rounds)
        for name, taken in seconds.items():
            yield {
                "width": width,
                "batch": batch,
                "device": name,
                **_speed(taken, batch),
                "times the CPU": seconds["cpu"] / taken,
            }


# ---- quality -------------------------------------------------------------------------------------------------------


def quality(budget: float, seed: int = 0, contests: Sequence[tuple] = CONTESTS) -> Iterator[Row]:
    """Yields seconds of training (sampled labels, noise 0.5) until each level of excess risk is first seen on the
    curve.

    The curve is measured 40 times in a run, outside the clock; "end" is on prompts that were not looked at before.
    """
    for name, d, n, changes in contests:
        experiment = _experiment(name, d, n, changes, seed)
        times, training = _race(experiment, budget)
        yield {
            "recipe": name,
            "d": d,
            **{key: getattr(experiment.model, key) for key in ("layout", "attention")},
            **{f"{level:.0%}": times.get(level, "not reached") for level in LEVELS},
            "end": _excess(experiment, training.model, "test", 2048),
            "steps": training.step,
            "seconds": times["spent"],
        }


def _experiment(name: str, d: int, n: int, changes: Mapping[str, Mapping], seed: int) -> Experiment:
    task = {"kind": "LinearRegression", "d": d, "n": n, "noise": 0.5}
    settings = {"task": task, "seed": seed, "device": "cpu", **recipe(name)}
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values}
    return Experiment.from_mapping(settings, f"recipe {name}")


def _race(experiment: Experiment, budget: float) -> tuple[dict[Any, float], Training]:
    """Trains until the steps or the seconds are used up; the time at which each level was first seen, and the total."""
    task, how = experiment.task, experiment.train
    assert isinstance(task, Task) and isinstance(how, TrainingConfig)
    training = Training(experiment.initial(), task, how, experiment_generator(experiment, "train"))
    spent, looked, times = 0.0, 0, {}
    while training.step < training.recipe.steps and spent < budget:
        start = perf_counter()
        try:
            training.advance()
        except Diverged:
            break
        spent += perf_counter() - start
        progress = max(training.step / training.recipe.steps, spent / budget)
        if progress * 40 >= looked + 1:
            looked = int(progress * 40)
            reached = _excess(experiment, training.model, "curve", 1024)
            times |= {level: spent for level in LEVELS if reached <= level and level not in times}
    return {**times, "spent": spent}, training


def _excess(experiment: Experiment, model: Predictor, which: str, prompts: int) -> float:
    """The excess risk on a fixed set of prompts."""
    assert isinstance(experiment.task, Task)
    drawn = experiment.task.sample(prompts, experiment_generator(experiment, which))
    answers = answer({"model": model, "bayes": bayes(experiment.task)}, drawn)
    return excess(answers["model"], answers["bayes"], drawn.ys).value.item()
