"""The command line. Each command is a function; its docstring is its help."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from iclab.errors import UsageError

BAD_USAGE, RUNS_FAILED, CLAIMS_FAILED, INTERRUPTED = 2, 3, 4, 130
RUNS = Path("runs")
Numbers = Annotated[Path | None, arg(metavar="FILE")]  # a file to write, of JSON
# What a command needs is imported inside of it: the help must not wait for torch.


def sweep(
    file: Annotated[Positional[Path], arg(metavar="STUDY")],
    settings: Annotated[Positional[tuple[str, ...]], arg(metavar="[KEY=VALUE ...]")] = (),
    *,
    out: Annotated[Path | None, arg(metavar="DIR")] = None,
    jobs: Annotated[int | None, arg(metavar="N")] = None,
    engine: Annotated[str, arg(metavar="local|dask|slurm")] = "local",
    address: Annotated[str | None, arg(metavar="URL")] = None,
    cluster: Annotated[str | None, arg(metavar="NAME")] = None,
    option: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = (),
    chunk: Annotated[int | None, arg(metavar="N")] = None,
    detach: bool = False,
    pack: Annotated[str, arg(metavar="auto|off|N")] = "auto",
    dry_run: bool = False,
    retry_failed: bool = False,
    strict: bool = False,
    reuse: Annotated[Path | None, arg(metavar="DIR")] = None,
    report: bool = False,
) -> int:
    """Runs every experiment of a task file and judges its claims.

    Example: iclab sweep linear_regression model.n_layer=1,2,4 seed=0:4

    Finished runs are not repeated: the same command finishes a sweep that was stopped or killed. Settings have their
    names in the file; an unknown one is refused, with a list of those that are known. Runs that differ only in their
    final measurements are trained once.

    Args:
        file: A study of the package by name (`iclab tasks` lists them), or a task file of your own (TOML).
        settings: Replace settings of the file or add to its [sweep]. Several values: model.n_layer=1,2,4 or seed=0:4 or
            train.lr=log:1e-4..1e-2:5. recipe=NAME takes a model and its training by name; with scale=NAME the file's
            [scale.NAME] counts, such as scale=paper.
        out: Folder of the runs. Default: runs/ and the name of the file.
        jobs: Processes at a time. Default: one for each GPU that may be used, or without GPUs for each core.
        engine: Where workers run: processes of this machine, a Dask cluster, or job arrays of Slurm.
        address: Of a Dask scheduler, such as tcp://host:8786. Without one Dask starts processes on this machine.
        cluster: A cluster that dask-jobqueue starts: SLURM, PBS, SGE, LSF and others; --jobs bounds its workers.
        option: Of sbatch, or of that cluster, once or more: --option partition=gpu --option time=04:00:00.
        chunk: Runs or packs that a task of a Slurm array works through. Default: one, or as many as keep an array below
            1,000.
        detach: Submit the Slurm arrays and return; the same command later waits for them and judges the claims.
        pack: Which runs take their training steps together, each as a run of its own: those of one shape that differ in
            seed, rate or noise, where that is faster (auto); whatever can, at most N at a time; or none (off).
        dry_run: Print the grid, and with --engine slurm the script of the array; start nothing.
        retry_failed: Repeat the runs that failed or diverged.
        strict: Exit with status 4 where a claim does not hold (else 0: all runs done, 2: bad usage, 3: some failed).
        reuse: A sweep, or a folder of sweeps, whose finished trainings are reused, in addition to those in the folder
            of the runs.
        report: Write report.html into the folder at the end; see `iclab report --help`.
    """
    from iclab.commands import terminal
    from iclab.commands.sweep import plan, sweep
    from iclab.experiments.study import Study
    from iclab.runs.engines import Site
    from iclab.runs.trainings import stores
    from iclab.shipped import task_file

    place = Site(engine, jobs, address, cluster, tuple(option), chunk, detach, pack)
    study = Study.read(task_file(file), settings)
    folder, to, reused = out or _folder(file), terminal.console(), [] if reuse is None else stores(reuse)
    if dry_run:
        plan(study, folder, to, reused, place)
        return 0
    try:
        outcomes, verdicts = sweep(study, folder, place, retry_failed, to, reused)
    except KeyboardInterrupt:
        return _stopped()
    if detach:
        print("\nSubmitted. The same command waits for the runs and judges the claims.", file=sys.stderr)
        return 0
    if report:
        from iclab.commands import webpage

        webpage.write(folder, None, None, to)
    if any(status.state != "done" for status in outcomes.values()):
        return RUNS_FAILED
    return CLAIMS_FAILED if strict and any(v.outcome != "holds" for v in verdicts) else 0


def _stopped() -> int:
    """Prints how to resume a sweep that was interrupted."""
    print("\nStopped. Finished work is kept: the same command resumes from here.", file=sys.stderr)
    return INTERRUPTED


def tasks(words: Annotated[Positional[tuple[str, ...]], arg(metavar="[WORD ...]")] = ()) -> int:
    """Lists the studies that come with the package: title, paper, runs, training seeds, and how long they take.

    Example: iclab tasks random feature

    `minutes` are those of one core that the kept results took; a machine of N cores divides them by about N. A study
    that was never run with its present settings has none.

    Args:
        words: Words that must all be in the name, title, question or paper.
    """
    from iclab.commands.tasks import listed
    from iclab.commands.terminal import console

    to = console()
    to.print(listed(words, to))
    return 0


def quantities(words: Annotated[Positional[tuple[str, ...]], arg(metavar="[STUDY] [WORD]")] = ()) -> int:
    """Lists the quantities that a study yields and claims may use, each with its meaning, unit and range.

    Example: iclab quantities akyurek2022_probes attention

    Args:
        words: A study by name or a task file, whose analyses count (default: all), and a word to search for in names
            and meanings.
    """
    from iclab.commands import terminal
    from iclab.experiments.measurable import quantities
    from iclab.experiments.study import Study
    from iclab.shipped import studies, task_file

    files = [word for word in words if word.endswith(".toml") or word in studies()]
    rest = [word for word in words if word not in files]
    if len(files) > 1 or len(rest) > 1:
        raise UsageError(f"quantities takes one study and one word, given {', '.join(words)}")
    cells = Study.read(task_file(Path(files[0]))).cells if files else ()
    listed = list(quantities([cell.experiment for cell in cells] if files else None, rest[0] if rest else ""))
    if not listed:
        raise UsageError(f"no quantity has {rest[0]!r} in its name or meaning; `iclab quantities` lists all")
    to = terminal.console()
    to.print(
        terminal.table("quantities: {a,b} is either, * any letters", ["quantity", "analysis", "meaning"], listed, to)
    )
    return 0


def measure(
    run: Annotated[Positional[str], arg(metavar="RUN")],
    settings: Annotated[Positional[tuple[str, ...]], arg(metavar="[KEY=VALUE ...]")] = (),
    *,
    root: Path = RUNS,
) -> int:
    """Measures a trained model again, with other settings of [eval], and shows the results; trains nothing.

    Example: iclab measure 3f9a analyses=layers,probes prompts=4096

    This makes a new run next to the given one, with the same weights and curve. Settings that are not given stay;
    analyses=A,B replaces those of the run. A curve cannot be extended: for analyses=evolution, and for another
    eval.every, `iclab sweep` trains anew. Shifts: shifts.NAME='{ kind = "SkewedInputs" }'.

    Args:
        run: The run's folder, or the beginning of its id.
        settings: Settings of [eval], with or without "eval." before them; device=cpu measures elsewhere.
        root: The folder to search for the id.
    """
    from iclab.commands import terminal
    from iclab.commands.remeasurement import remeasure
    from iclab.runs.store import find

    to = terminal.console()
    run_measured, status = remeasure(find(run, root, "measure"), settings, to)
    to.print(f"run {run_measured.id}")
    for part in terminal.of_run(run_measured, to):
        to.print(part)
    return 0 if status.state == "done" else RUNS_FAILED


def ls(folder: Annotated[Positional[Path], arg(metavar="DIR")] = RUNS) -> int:
    """Lists sweeps, or the runs of one sweep, with their states.

    Example: iclab ls runs/linear_regression

    Args:
        folder: Where to look.
    """
    from iclab.commands import terminal

    to = terminal.console()
    for table in terminal.of_store(folder, to):
        to.print(table)
    return 0


def verdicts(
    folder: Annotated[Positional[Path], arg(metavar="DIR")] = RUNS,
    *,
    markdown: bool = False,
    json: Numbers = None,
    compare: Annotated[Path | None, arg(metavar="FOLDER")] = None,
) -> int:
    """Lists the verdict on every claim, with the confidence interval over training seeds, and counts the verdicts.

    Example: iclab verdicts runs --compare paper_figs/results

    `distance` is how far the mean is inside the bound, in half-widths of its interval: from +1 on a claim holds, below
    -1 it fails. With one seed the verdict is about this network alone, with its standard error over prompts. Exit
    status 4 where --compare finds another verdict.

    Args:
        folder: A sweep, or a folder of sweeps.
        markdown: Print the tables as Markdown.
        json: A file for the verdicts as data, in addition to the tables.
        compare: Print only what differs from this folder, of sweeps or of results that were kept.
    """
    from iclab.commands.terminal import console
    from iclab.commands.verdicts import show, show_changes

    if compare is not None:
        return CLAIMS_FAILED if show_changes(folder, compare, console()) else 0
    show(folder, console(), markdown, json)
    return 0


def results(
    folder: Annotated[Positional[Path], arg(metavar="DIR")] = Path("paper_figs"),
    *,
    runs: Annotated[Path | None, arg(metavar="DIR")] = None,
) -> int:
    """Stores the results of sweeps in small files, draws the figures and writes the pages made from them.

    Example: iclab results paper_figs --runs runs

    The folder has scripts, each with STUDY and draw(table); task files are next to it, in tasks/. The command writes
    results/STUDY.json, with the rows that claims and figures need, and one picture for each script. It rewrites the
    marked parts of pages: README.md in the folder, Markdown files next to it, and those in docs/ there.

    Args:
        folder: The scripts and pages.
        runs: A sweep, or a folder of sweeps, whose results are stored first. Default: those that are stored already.
    """
    from iclab.commands.results import update
    from iclab.commands.terminal import console

    update(folder, runs, console())
    return 0


def export(
    folder: Annotated[Positional[Path], arg(metavar="DIR")],
    *,
    to: Annotated[str, arg(metavar="csv|parquet|tensorboard|wandb")],
    out: Annotated[Path | None, arg(metavar="PATH")] = None,
) -> int:
    """Writes learning curves, final rows and settings for other tools. Runs stay as they are.

    Example: iclab export runs/linear_regression --to tensorboard

    csv and parquet: three tables, of runs, curves and rows. tensorboard: a folder of event files for each run, to be
    shown by `tensorboard --logdir PATH`. wandb: an offline run for each, which `wandb sync` uploads; nothing is sent.
    Parquet and TensorBoard need pip install 'iclab[export]', W&B needs pip install wandb.

    Args:
        folder: A run, a sweep, or a folder of sweeps.
        to: What to write for.
        out: The folder to write. Default: exports/NAME/ and the target.
    """
    from iclab.commands.export import export
    from iclab.commands.terminal import console

    export(folder, to, out, console())
    return 0


def report(
    folder: Annotated[Positional[Path], arg(metavar="DIR")] = RUNS,
    *,
    out: Annotated[Path | None, arg(metavar="FILE")] = None,
    figures: Annotated[Path | None, arg(metavar="DIR")] = None,
) -> int:
    """Writes one page of HTML that can be read offline, or sent by mail: on a sweep, or on all sweeps of a folder.

    Example: iclab report runs/linear_regression --out report.html

    The page holds the verdicts with their intervals, drawn against their bounds, and links from each claim to its runs;
    the figures of the study; the learning curves of all runs; the settings that differ; the environments; and the ends
    of the logs of runs that failed. With `pip install 'iclab[report]'` the curves can be zoomed and show their values;
    without it, without scripts and in print they are pictures. Nothing is run or judged again.

    Args:
        folder: A sweep, or a folder of sweeps.
        out: The page. Default: report.html in the folder.
        figures: Scripts with STUDY and draw(table), as for `iclab results`. Default: those of the package. Studies
            without a script show the distances of their runs to algorithms.
    """
    from iclab.commands import webpage
    from iclab.commands.terminal import console

    webpage.write(folder, out, figures, console())
    return 0


def show(
    run: Annotated[Positional[str], arg(metavar="RUN")],
    *,
    root: Path = RUNS,
    figure: Annotated[Path | None, arg(metavar="PICTURE")] = None,
) -> int:
    """Shows one run: settings, training curve, risk by number of examples, and the nearest algorithm.

    Example: iclab show 3f9a --figure nearest.png

    Args:
        run: The run's folder, or the beginning of its id.
        root: The folder to search for the id.
        figure: Draw the distances to algorithms into this file instead: by examples, by layer and in training.
    """
    from iclab.commands import terminal
    from iclab.runs.store import find

    shown_run = find(run, root)
    if figure is not None:
        return _draw(shown_run.folder, figure)
    to = terminal.console()
    for part in terminal.of_run(shown_run, to):
        to.print(part)
    return 0


def _draw(folder: Path, picture: Path) -> int:
    """Draws which algorithm a run is near."""
    from iclab.plots import identification, picture_endings, save
    from iclab.runs.results import load

    endings = picture_endings()
    if picture.suffix.lstrip(".") not in endings:
        raise UsageError(f"--figure: {picture} must end in one of .{', .'.join(endings)}")
    save(identification, load(folder), picture)
    print(f"wrote {picture}")
    return 0


def verify(
    names: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME ...]")] = (),
    *,
    cases: Annotated[int | None, arg(metavar="N")] = None,
    json: Numbers = None,
) -> int:
    """Tests theorems on transformers with weights set by hand: measured error, bound, PASS or FAIL.

    Example: iclab verify akyurek2022_theorem1 akyurek2022_theorem1_printed --cases 100

    A misprint of a paper is a separate check: it passes if a counterexample is found and the corrected one holds.
    The exit status is 4 where a theorem does not pass.

    Args:
        names: The theorems, by name or by the beginning of their names: iclab verify bai2023. A Python file, such as
            my_theorems.py, stands for those in its list THEOREMS. Default: all of the package.
        cases: The number of cases for each. Default: the number that each theorem sets.
        json: A file for the numbers, in addition to the table.
    """
    from iclab.commands import terminal
    from iclab.commands.theorems import verify

    return 0 if verify(names, cases, json, terminal.console()) else CLAIMS_FAILED


def falsify(name: Annotated[Positional[str], arg(metavar="NAME")], *, examples: int = 200) -> int:
    """Searches for a counterexample to a theorem, and prints the smallest as Python.

    Example: iclab falsify akyurek2022_theorem1_printed

    Exit status 0 where a statement that is expected to hold has none, or one that was published wrong has one; else 4.

    Args:
        name: The theorem; my_theorems.py:NAME for one of a Python file.
        examples: The number of cases to search.
    """
    from iclab.commands import terminal
    from iclab.commands.theorems import falsify

    return 0 if falsify(name, examples, terminal.console()) else CLAIMS_FAILED


def errata(*, examples: int = 200) -> int:
    """Prints published statements that do not hold, each corrected and with a counterexample, as Markdown.

    Example: iclab errata > iclab/constructed/ERRATA.md

    Args:
        examples: The number of cases to search for each.
    """
    from iclab.commands.theorems import errata

    print(errata(examples), end="")
    return 0


def precision(*, out: Path = RUNS / "precision") -> int:
    """Measures how exact constructions are in float64, float32 and bfloat16, as they grow.

    Example: iclab precision && python paper_figs/precision.py runs/precision

    Args:
        out: The folder for the table, precision.json.
    """
    from iclab.commands import terminal
    from iclab.commands.precision import precision

    precision(out, terminal.console())
    return 0


def channels(
    model: Annotated[Positional[Path], arg(metavar="MODEL")],
    *,
    top: int = 20,
    by: str = "z",
    json: Numbers = None,
) -> int:
    """Ranks the channels between heads of a model on this disk: what a component of one writes and a later one reads.

    Example: iclab channels ~/models/gpt2 --top 30

    Nothing is fetched. Supported are GPT-2, GPT-NeoX (Pythia) and the Llama family as folders of safetensors, state
    dicts of TransformerLens, and iclab's token models. A writer "0.1.5" is layer 0, head 1, component 5, and a reader
    "2.3" head 3 of layer 2, which reads in its queries (Q), keys (K) or values (V). CS is the composition score,
    between 0 and 1, and z how many standard deviations its square lies above chance: of all pairs of a model the size
    of GPT-2 small the largest z is about 7 by chance.

    Args:
        model: A folder with config.json and model.safetensors, or a file of weights.
        top: The number of channels to list.
        by: The score to rank by: z (above random rotations), z_unreachable (above components that cannot reach the
            reader), z_head (above the others of the same head), z_robust (the same by medians), score.
        json: A file for the numbers, in addition to the table.
    """
    from iclab.commands.channels import report
    from iclab.commands.terminal import console

    report(model, top, by, console(), json)
    return 0


def identify(
    words: Annotated[Positional[tuple[str, ...]], arg(metavar="[CHECKPOINT] [KEY=VALUE ...]")] = (),
    *,
    module: Annotated[str | None, arg(metavar="MODULE:NAME")] = None,
    layers: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")] = (),
    imports: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FILE|MODULE")] = (),
    out: Annotated[Path | None, arg(metavar="DIR")] = None,
    figure: Annotated[Path | None, arg(metavar="PICTURE")] = None,
) -> int:
    """Reports which algorithm somebody else's model of (x, y) pairs is nearest to: as a whole, by number of examples
    and by layer; and what its layers hold.

    Example: iclab identify models/linear_regression/pretrained task.n=41 --figure nearest.png

    Nothing is fetched, and no code in the files is run. These are opened:
    Garg et al. 2022 (state.pt with config.yaml); Bai et al. 2023, encoders and decoders (the same files);
    Raventós et al. 2023 (config.json with a checkpoint of flax); iclab (weights.safetensors, or a run's folder);
    any torch.nn.Module by --module, alone or with its weights from CHECKPOINT (safetensors, or torch.save).
    A format of your own is a class in a file that --imports names (docs/extending.md).
    Models over tokens (GPT-2, GPT-NeoX, the family of Llama, TransformerLens) are opened as well, by iclab.load_model
    and `iclab channels`, and the first three by `iclab recall`.

    Prompts are of linear regression. d, n, noise and prior are those of the training where the files tell them; else
    give them: task.d=20 task.n=41 task.noise=0.5. A model that was trained on something else is compared on this all
    the same: then give its task, such as task.kind=SparseLinearRegression.

    Args:
        words: The file or folder of the model, and settings as `iclab sweep` takes them.
        module: Makes the model: my_models:Network, a class or a function without arguments.
        layers: Of such a module: a submodule whose output is read out, once or more, as named_modules() names it.
        imports: A file or module with code that the model or its format needs, once or more.
        out: Folder of the run. Default: runs/identify_ and the name of the checkpoint.
        figure: Draw the distances to algorithms into this file, by examples and by layer.
    """
    from iclab.commands.identify import Checkpoint, identify
    from iclab.commands.terminal import console

    settings = [word for word in words if "=" in word and not Path(word).exists()]
    places = [Path(word) for word in words if word not in settings]
    if len(places) > 1:
        raise UsageError(f"identify takes one CHECKPOINT, given {', '.join(map(str, places))}")
    path = places[0] if places else None
    name = path.expanduser().resolve().stem if path else (module or "").replace(":", "_")
    checkpoint = Checkpoint(path, module, tuple(layers), tuple(imports))
    try:
        runs = identify(checkpoint, settings, out or RUNS / f"identify_{name}", console())
    except KeyboardInterrupt:
        return _stopped()
    if runs and figure is not None:
        return _draw(runs[0].folder, figure)
    return 0 if runs else RUNS_FAILED


def recall(
    model: Annotated[Positional[Path], arg(metavar="FOLDER")],
    *,
    prompts: int = 100,
    heads: int = 4,
    out: Annotated[Path | None, arg(metavar="DIR")] = None,
    json: Numbers = None,
) -> int:
    """Tests a language model on this disk on list recall and indirect-object identification, finds the heads
    involved, and judges claims about GPT-2.

    Example: iclab recall ~/models/gpt2 --json gpt2.json

    Nothing is fetched. Texts are this project's reconstructions of those of the papers. Needs the package tokenizers.
    The name-mover head attends from the end of the text to the target; S-inhibition heads steer its queries away from
    the other names. `iclab quantities` explains the quantities of the table. The result is kept as a sweep of one run
    of tasks/given/recall.toml, and is not measured again.

    Args:
        model: A folder of GPT-2, GPT-NeoX (Pythia) or Llama: config.json, weights as safetensors, tokenizer.json.
        prompts: The number of texts of each kind, 8 or more.
        heads: The number of S-inhibition heads that are analysed component by component, which takes most of the time.
        out: Folder of the run. Default: runs/recall_ and the name of the model's folder.
        json: A file for the numbers, in addition to the tables.
    """
    from iclab.commands.recall import recall
    from iclab.commands.terminal import console

    folder = out or RUNS / f"recall_{model.expanduser().resolve().name}"
    try:
        return 0 if recall(model.expanduser(), prompts, heads, folder, console(), json) else RUNS_FAILED
    except KeyboardInterrupt:
        return _stopped()


def bench(
    parts: Annotated[Positional[tuple[str, ...]], arg(metavar="[PART ...]")] = (),
    *,
    json: Numbers = None,
    budget: float = 120.0,
) -> int:
    """Measures this machine: predictors against plain loops, training throughput, time to the Bayes risk.

    Example: iclab bench step compile --json bench.json

    On one thread. Parts, each with a table: baselines (ridge and least squares against loops), probes, throughput
    (training by layout, attention and width), packs (seeds that train together), step (where the time of a step goes,
    its operations and host waits, against the roofline of the machine), compile (train.compile against a plain step),
    engines (sweeps of tiny runs), devices, and quality (seconds until the excess risk is within 10, 5, 2 and 1 % of
    Bayes). The last part takes up to --budget for each of its recipes, the others a few minutes.

    Args:
        parts: Which parts; all without any.
        json: A file for the numbers, in addition to the tables.
        budget: Seconds that each recipe of the last part may train.
    """
    from iclab.commands.bench import bench

    bench(budget, json, parts)
    return 0


def doctor(
    *,
    out: Path = RUNS,
    engine: Annotated[str, arg(metavar="local|dask|slurm")] = "local",
    address: Annotated[str | None, arg(metavar="URL")] = None,
    cluster: Annotated[str | None, arg(metavar="NAME")] = None,
    option: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = (),
) -> int:
    """Reports the environment on this machine: versions, device, threads, extras, and whether it can write its runs.
    With an engine, that of each of its workers, and whether they all agree.

    Example: iclab doctor --engine slurm --option partition=gpu --out /shared/runs

    All workers must have the same iclab, the same text of its modules and the same PyTorch as this machine; on Dask a
    sweep refuses others. On Slurm two nodes also request one lock at the same time, and only one of them may get it. On
    some disks both do, and a run would be trained twice. The last line states what to do. Exit status 0 where all
    agree, 3 where they do not.

    Args:
        out: The folder of runs to test for writing, and on Slurm for its locks.
        engine: Whose workers are checked; see `iclab sweep --help` for this and the options below.
        address: Of a Dask scheduler.
        cluster: A cluster that dask-jobqueue starts.
        option: Of Slurm, or of that cluster, once or more.
    """
    from iclab.commands.doctor import doctor
    from iclab.commands.terminal import console
    from iclab.runs.engines import Site

    place = Site(engine, None, address, cluster, tuple(option))
    return 0 if doctor(place, out, console()) else RUNS_FAILED


COMMANDS: dict[str, Callable[..., int]] = {
    "tasks": tasks,
    "sweep": sweep,
    "measure": measure,
    "quantities": quantities,
    "ls": ls,
    "verdicts": verdicts,
    "results": results,
    "export": export,
    "report": report,
    "show": show,
    "verify": verify,
    "falsify": falsify,
    "errata": errata,
    "precision": precision,
    "channels": channels,
    "identify": identify,
    "recall": recall,
    "bench": bench,
    "doctor": doctor,
}


DESCRIPTION = """A bench for in-context-learning theory: from a task file to a verdict.

Start with:   iclab tasks, and then   iclab sweep linear_regression --dry-run
Completion:   iclab --tyro-print-completion bash >> ~/.bash_completion   (or zsh, tcsh)
Version:      iclab --version"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status. An error that the user can mend is printed in one line; bugs show in
    full."""
    given = _words_first(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(f"iclab {version('iclab')}")
        return 0
    style = (tyro.conf.FlagCreatePairsOff,)
    try:
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="iclab", description=DESCRIPTION, args=given, config=style
        )
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UsageError, OSError) as error:
        from iclab.runs.disk import told

        print(f"iclab: {told(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


def _words_first(given: Sequence[str]) -> list[str]:
    """The words before the options, so that settings may also stand behind an option. Options of tyro, which print a
    completion for shells, stay as they are."""
    if given and given[0].startswith("--tyro-"):
        return [*given]
    words: list[str] = []
    options: list[str] = []
    takes_value = {option for command in COMMANDS.values() for option in _options_with_value(command)}
    for before, word in zip(["", *given], given, strict=False):
        (options if word.startswith("-") or before in takes_value else words).append(word)
    return words + options


def _options_with_value(command: Callable[..., int]) -> list[str]:
    """The options of a command that are followed by a value: all but flags."""
    options = [each for each in signature(command).parameters.values() if each.kind is each.KEYWORD_ONLY]
    return [f"--{each.name.replace('_', '-')}" for each in options if each.annotation is not bool]


def _folder(file: Path) -> Path:
    """Where the runs of a task file go; the file that a sweep folder keeps belongs to that folder."""
    return file.parent if file.name == "study.toml" else RUNS / file.stem


if __name__ == "__main__":
    sys.exit(main())
