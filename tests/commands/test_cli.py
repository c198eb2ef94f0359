"""The command line: quick help, tables, and errors that are one clear line each."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from iclab import cli
from iclab.commands import terminal
from iclab.commands.progress import Moving, Plain, shown
from iclab.errors import UsageError, refuse
from iclab.experiments.experiment import Experiment
from iclab.runs.store import Run, Status, runs
from iclab.tasks import DecisionTree, LinearRegression

STUDY = """title = "A study for tests"
question = "What is printed?"
paper = "none"
[task]
kind = "LinearRegression"
d = 2
n = 3
[sweep]
model.n_layer = [1, 2]
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A task file, with the folder around it as the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "linear_regression.toml"
    path.write_text(STUDY)
    return path


def row(predictor="transformer", quantity="risk", value=1.0, stderr=0.1, position=None):
    columns = {"predictor": predictor, "quantity": quantity, "value": value, "stderr": stderr, "position": position}
    return {"distribution": "own", "layer": None, **columns}


def finished(folder, seed=0, state="done", task=LinearRegression(2, 3), **changes):
    experiment = Experiment(task, seed=seed)
    run = Run(folder / experiment.id)
    run.create(experiment.mapping())
    run.record(Status(state, 1, 12.5, **changes))
    if state == "done":
        rows = [row(p, position=at) for p in ("transformer", "ridge") for at in (0, 1, 2, None, "over")]
        fits = [
            row("ridge", "fit_distance", 0.01),
            row("zero", "fit_distance", 0.9),
            row("ridge", "fit_probability", 1.0),
            *(row("ridge", "fit_parameter", value, position=at) for at, value in enumerate((9.0, 0.75, 0.125))),
            row("ridge", "fit_parameter", 0.25),
        ]
        run.keep_rows([*rows, *fits, row("transformer", "excess", 0.034, 0.002)])
        (run.folder / "metrics.jsonl").write_text("".join(f'{{"step": {i}, "loss": {1 / i}}}\n' for i in range(1, 100)))
    return run


def call(capsys, *words):
    """Exit status, standard output and standard error of a command."""
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


# ---- help ----------------------------------------------------------------------------------------------------------


def test_the_help_loads_nothing_heavy():
    code = (
        "import sys; from iclab.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'numpy', 'pandas', 'scipy', 'matplotlib', 'jaxtyping'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in cli.COMMANDS)


def test_listing_and_showing_load_no_torch(tmp_path):
    finished(tmp_path / "a")
    code = f"import sys; from iclab.cli import main; main(['ls', {str(tmp_path)!r}]); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_teaches_by_an_example(capsys, command):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"Example: iclab {command}" in out
    assert "Args:" not in out  # they are printed at their options, unless a line is indented wrongly


# ---- bad usage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["swep"],
        ["sweep"],
        ["sweep", "f.toml", "--dry"],
        ["sweep", "f.toml", "--jobs", "x"],
        ["show"],
        ["--versoin"],
    ],
)
def test_bad_usage_ends_with_status_2(capsys, words):
    code, _, err = call(capsys, *words)
    assert code == 2
    assert err
    assert "Traceback" not in err


def test_a_mistyped_key_is_told_with_the_right_one(capsys, study):
    code, _, err = call(capsys, "sweep", str(study), "train.lrr=1")
    assert code == 2
    (line,) = err.strip().splitlines()
    assert line.startswith("iclab: command line: unknown key 'train.lrr'. Did you mean 'train.lr'? Known: ")
    assert "train.steps" in line
    assert not (study.parent / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "linear_regresion.toml"], "no such file. Did you mean linear_regression.toml?"),
        (["sweep", "."], "Is a directory"),
        (["sweep", "linear_regression.toml", "--jobs", "0"], "--jobs must be at least 1, given 0"),
        (["sweep", "linear_regression.toml", "--out", "linear_regression.toml"], "is a file, not a folder"),
        (["sweep", "linear_regression.toml", "--out", "linear_regression.toml/x"], "Not a directory"),
        (
            ["sweep", "linear_regression.toml", "--out", "/proc/iclab"],
            "cannot use /proc/iclab: No such file or directory",
        ),
        (["ls"], "no runs in runs"),
        (["show", "abc"], "unknown run 'abc'"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(capsys, study, words, message):
    code, out, err = call(capsys, *words)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("iclab: ")
    assert message in err
    assert not out


def test_a_bug_is_not_taken_for_bad_usage(capsys, study, monkeypatch):
    finished(study.parent / "runs" / "a")

    def broken(*_):
        raise ValueError("the matrix is singular")

    monkeypatch.setattr(terminal, "of_store", broken)
    with pytest.raises(ValueError, match="the matrix is singular"):
        cli.main(["ls"])
    assert not capsys.readouterr().err


def test_a_refusal_is_still_the_error_that_is_documented():
    with pytest.raises(ValueError, match=r"a: b; c") as caught:
        refuse("a", ["b", "c"])
    assert type(caught.value) is UsageError


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="the second GPU is there")
def test_a_device_that_is_absent_is_told_before_anything_is_made(capsys, study):
    code, out, err = call(capsys, "sweep", str(study), "device=cpu,cuda:1")
    assert code == 2
    (line,) = err.strip().splitlines()
    assert line.startswith("iclab: device: cuda:1 ")
    assert not out
    assert not (study.parent / "runs").exists()
    assert call(capsys, "sweep", str(study), "device=cuda:1", "--dry-run")[0] == 2  # as the sweep itself would


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="the second GPU is there")
def test_runs_that_are_done_need_no_device(capsys, study):
    study.write_text(STUDY.replace("[sweep]\nmodel.n_layer = [1, 2]\n", ""))
    run = finished(study.parent / "runs" / "linear_regression")
    code, out, _ = call(capsys, "sweep", str(study), "device=cuda:1")
    assert code == 0
    assert run.id in out


# ---- tables --------------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_grid_and_starts_nothing(capsys, study):
    finished(study.parent / "runs" / "linear_regression")
    code, out, err = call(capsys, "sweep", str(study), "--dry-run", "seed=0:2")
    assert code == 0, err
    assert "5 runs" not in out
    assert "4 runs would be in runs/linear_regression; nothing was started" in out
    table = [line for line in out.splitlines() if "lagged" in line]
    assert len(table) == 4
    assert all("sampled" in line and "pending" in line for line in table)
    assert len(runs(study.parent / "runs" / "linear_regression")) == 1


def test_the_size_of_each_model_is_printed(capsys, study):
    from iclab.models import Transformer, TransformerConfig

    size = sum(p.numel() for p in Transformer(2, 3, TransformerConfig(n_layer=2)).parameters())
    _, out, _ = call(capsys, "sweep", str(study), "--dry-run")
    assert f"{size:,}" in out


def test_sweeps_and_runs_are_listed_with_their_states(capsys, study):
    folder = study.parent / "runs"
    finished(folder / "a", 0)
    finished(folder / "a", 1, "failed", error="ValueError: what went wrong")
    finished(folder / "b", 0, "running")
    code, out, _ = call(capsys, "ls")
    assert code == 0
    assert [line.split("|")[1].strip() for line in out.splitlines() if "| runs/" in line] == ["runs/a", "runs/b"]
    assert all(word in out for word in ("done", "failed", "interrupted"))
    code, out, _ = call(capsys, "ls", "runs/a")
    assert "ValueError: what went wrong" in out
    assert "0.034 ± 0.002" in out
    assert "lagged" in out
    assert "sampled" in out


def test_a_run_is_shown_by_the_beginning_of_its_id(capsys, study):
    run = finished(study.parent / "runs" / "a")
    code, out, _ = call(capsys, "show", run.id[:5])
    assert code == 0
    assert 'kind = "LinearRegression"' in out
    assert "█" in out
    assert "(layout lagged, targets sampled)" in out
    table = out[out.index("risk by number of examples") :]
    lines = table[: table.index("distance")].splitlines()
    risks = [line.split("|")[1].strip() for line in lines if "1.00 ± 0.10" in line]
    assert risks == ["0", "1", "2", "over", "mean"]
    assert table.index("| ridge") < table.index("| zero")
    assert "| 0.25" in table[table.index("distance") :]  # the median of what was fitted


def test_shifted_distributions_are_shown_with_what_is_nearest_on_each(capsys, study):
    run = finished(study.parent / "runs" / "a")
    _, out, _ = call(capsys, "show", str(run.folder))
    assert "by distribution" not in out
    shifted = [
        row("transformer", "risk", 5.0, 0.5),
        row("transformer", "risk", 6.0, 0.5, position=0),
        row("bayes", "risk", 2.0, 0.25),
        row("transformer", "excess", 1.5, 0.2),
        row("zero", "fit_distance", 0.02),
        row("ridge", "fit_distance", 0.7),
        {**row("lasso", "fit_distance", 0.01), "layer": 1},
    ]
    run.keep_rows([*run.rows(), *({**each, "distribution": "larger"} for each in shifted)])
    _, out, _ = call(capsys, "show", str(run.folder))
    table = out[out.index("by distribution") :].splitlines()
    cells = [[word.strip() for word in line.split("|")[1:-1]] for line in table if line.startswith("|")]
    assert cells == [
        ["distribution", "risk of transformer", "risk of bayes", "excess", "nearest algorithm"],
        ["own", "1.00 ± 0.10", "", "0.034 ± 0.002", "ridge"],
        ["larger", "5.0 ± 0.5", "2.0 ± 0.2", "1.5 ± 0.2", "zero"],
    ]


def test_without_a_bayes_predictor_the_risk_is_the_result(capsys, study):
    run = finished(study.parent / "runs" / "a", task=DecisionTree(2, 3))
    assert " excess " in call(capsys, "ls", "runs/a")[1]
    run.keep_rows([each for each in run.rows() if each["quantity"] != "excess"])
    run.note("no Bayes predictor: nobody knows it")
    run.note("no Bayes predictor: nobody knows it")
    _, out, _ = call(capsys, "ls", "runs/a")
    assert " excess " not in out
    assert " risk " in out
    assert "1.00 ± 0.10" in out
    assert call(capsys, "show", run.id)[1].count("no Bayes predictor: nobody knows it") == 1


def test_who_beats_what_is_called_bayes_is_told_in_the_tables(capsys, study):
    run = finished(study.parent / "runs" / "a")
    told = "own: huber beats bayes by 0.14 ± 0.02 in risk: what is called so is not the Bayes predictor"
    assert told not in call(capsys, "ls", "runs/a")[1] + call(capsys, "show", run.id)[1]
    run.keep_rows([*run.rows(), row("huber", "below_bayes", 0.141, 0.02)])
    assert told in call(capsys, "ls", "runs/a")[1]
    assert told in call(capsys, "show", run.id)[1]


def test_a_run_is_drawn_where_a_picture_is_asked_for(capsys, study, tmp_path):
    run = finished(study.parent / "runs" / "a")
    picture = tmp_path / "near.png"
    code, _, told = call(capsys, "show", run.id, "--figure", str(picture))
    assert code == 2 and "no distances to algorithms" in told and not picture.exists()
    run.keep_rows([*run.rows(), *(row("ridge", "fit_distance_at", 0.5, position=i) for i in range(3))])
    code, out, _ = call(capsys, "show", "--figure", str(picture), run.id)
    assert code == 0 and f"wrote {picture}" in out
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    code, _, told = call(capsys, "show", run.id, "--figure", "near.txt")
    assert code == 2 and "near.txt must end in one of" in told and ".png" in told


def test_a_run_without_results_is_shown_with_its_error(capsys, study):
    run = finished(study.parent / "runs" / "a", state="failed", error="RuntimeError: oh [dear]")
    code, out, _ = call(capsys, "show", str(run.folder))
    assert code == 0
    assert "RuntimeError: oh [dear]" in out


def test_the_doctor_tells_versions_and_whether_runs_can_be_kept(capsys, study):
    code, out, _ = call(capsys, "doctor")
    assert code == 0
    assert sys.version.split()[0] in out
    assert "can be written" in out
    assert "extra [test]" in out
    assert not (study.parent / "runs").exists()
    _, out, _ = call(capsys, "doctor", "--out", "/proc/iclab")
    assert "cannot be written" in out


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([1.0, 10.0, 100.0], "▁▅█"),
        ([-1.0, 0.0, 1.0], "▁▅█"),
        ([2.0], "▁"),
        ([], ""),
        ([1.0, float("nan"), 10.0], "▁ █"),
    ],
)
def test_curves_are_drawn_in_a_line(values, bars):
    assert terminal.sparkline(values).replace("▄", "▅") == bars


def test_long_curves_are_thinned():
    assert len(terminal.sparkline([float(i) for i in range(1, 1000)])) == 60


# ---- progress ------------------------------------------------------------------------------------------------------


def watched(folder, to):
    """A sweep as a display sees it, and what it prints."""
    done, working = finished(folder, 0), finished(folder, 1)
    held = finished(folder, 2)
    labels = {run.id: f"seed={seed}" for seed, run in enumerate([done, working, held])}
    with shown(labels, to) as display:
        if isinstance(display, Plain):
            display.last -= 3600
        display.started(working)
        display.look({working.id: working}, {held.id: held}, 1, {})
        display.ended(done, Status("done", 1, 3.0))
        display.ended(held, Status("failed", 1, 3.0, "it [broke]"))
        display.look({working.id: working}, {}, 0, {working.id: "GPU 1"})
    return type(display), to.file.getvalue()


def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path):
    kind, text = watched(tmp_path, Console(file=io.StringIO(), width=200))
    assert kind is Plain
    assert "\x1b" not in text
    lines = text.splitlines()
    assert [line.split()[0] for line in lines] == ["started", "waits", "running", "sweep", "done", "failed"]
    assert "step 99" in lines[2] or "step 0" in lines[2]
    assert lines[3].split(maxsplit=1)[1].startswith("0 of 3 runs ended, ") and lines[3].endswith("time left unknown")
    assert lines[5].endswith("it [broke]")


def test_each_phase_of_a_run_is_a_line_once(tmp_path):
    run, to = finished(tmp_path), Console(file=io.StringIO(), width=200)
    status = run.record(run.recorded(), state="running")
    with shown({run.id: "seed=0"}, to) as display:
        display.started(run)
        for phase in ("train", "train", "measure risks", "measure risks"):
            run.begin(phase)
            display.look({run.id: run}, {}, 0, {})
        display.last -= 3600
        display.look({run.id: run}, {}, 0, {})
        display.ended(run, status)
    lines = [line.replace(f"{run.id} seed=0", "run") for line in to.file.getvalue().splitlines()]
    assert lines[:4] == [
        "started  run",
        "running  run  train",
        "running  run  measure risks",
        "running  run  measure risks",
    ]
    assert lines[4] == "sweep    0 of 1 runs ended, 0%, time left unknown"


def test_progress_is_a_live_table_on_a_terminal_unless_colour_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    kind, text = watched(tmp_path / "a", Console(file=io.StringIO(), width=200, force_terminal=True))
    assert kind is Moving
    assert "it [broke]" in text
    assert "3 runs: " in text and "GPU 1" in text
    monkeypatch.setenv("NO_COLOR", "1")
    kind, _ = watched(tmp_path / "b", Console(file=io.StringIO(), width=200, force_terminal=True))
    assert kind is Plain


def test_a_claim_that_does_not_hold_changes_the_exit_status_only_when_asked(capsys, study):
    bound = 'quantity = "excess"\npredictor = "transformer"\nat_most = 0.01\n'
    study.write_text(STUDY.replace("[sweep]\nmodel.n_layer = [1, 2]\n", f'[[claims]]\nname = "It is near"\n{bound}'))
    finished(study.parent / "runs" / "linear_regression")
    code, out, _ = call(capsys, "sweep", str(study))
    assert code == 0
    assert "fails" in out
    assert call(capsys, "sweep", str(study), "--strict")[0] == 4
    assert (study.parent / "runs" / "linear_regression" / "verdicts.json").exists()
    code, out, _ = call(capsys, "sweep", "runs/linear_regression/study.toml")
    assert code == 0
    assert "It is near" in out


def test_the_verdicts_of_all_sweeps_are_one_table(capsys, study):
    code, _, told = call(capsys, "verdicts", str(study.parent))
    assert code == 2 and "no claims were judged" in told
    bound = 'quantity = "excess"\npredictor = "transformer"\nat_most = 0.01\n'
    more = 'written = "after"\norigin = "Fig. 1"\n'
    claims = f'[[claims]]\nname = "It is | near"\n{bound}{more}[[claims]]\nname = "It is near, too"\n{bound}'
    text = STUDY.replace("[sweep]\nmodel.n_layer = [1, 2]\n", claims)
    study.write_text(text.replace('"none"', '"Someone 2022, Fig. 1: settings, at length"'))
    finished(study.parent / "runs" / "linear_regression")
    call(capsys, "sweep", str(study))
    _, out, _ = call(capsys, "verdicts", "--markdown")
    lines = out.strip().splitlines()
    columns = "paper | claim | expected | kind | measured | seeds | distance | written | verdict | minutes"
    assert lines[0] == f"| {columns} |"
    told = "≤ 0.01 | typical | 0.034 ± 0.002 | this network | -1.2 |"
    assert lines[2] == f"| Someone 2022, Fig. 1 | It is \\| near | {told} after | fails | 0.2 |"
    assert lines[3] == f"|  | It is near, too | {told}  | fails |  |"
    assert lines[-4:-2] == ["| --- | --- | --- | --- | --- | --- |", "| fails |  | 1 | 1 | 2 | 2 |"]
    assert lines[-1] == "Bounds with an origin: 1 of 2."
    _, out, _ = call(capsys, "verdicts", "--json", "claims.json")
    assert "It is near, too" in out and "0.034 ± 0.002" in out
    told = json.loads(Path("claims.json").read_text())["verdicts"]
    assert [(one["study"], one["outcome"], one["written"]) for one in told] == [
        ("linear_regression", "fails", "after"),
        ("linear_regression", "fails", None),
    ]


OLD_RECORD = {"claim": "It is near", "expected": "≤ 0.01", "measured": "0.002 ± 0.001", "verdict": "holds"}


def test_verdicts_of_before_there_were_seeds_can_be_read_and_compared(capsys, study):
    bound = 'quantity = "excess"\npredictor = "transformer"\nat_most = 0.01\n'
    study.write_text(STUDY.replace("[sweep]\nmodel.n_layer = [1, 2]\n", f'[[claims]]\nname = "It is near"\n{bound}'))
    finished(study.parent / "runs" / "linear_regression")
    call(capsys, "sweep", str(study))
    assert call(capsys, "verdicts", "--compare", "runs")[:2] == (0, "0 verdicts differ from those in runs\n")
    kept = study.parent / "results"
    kept.mkdir()
    (kept / "linear_regression.json").write_text(json.dumps({"verdicts": [OLD_RECORD | {"outcome": "holds"}]}))
    code, out, _ = call(capsys, "verdicts", "--compare", "results")
    assert code == 4 and "verdict holds → fails; kind worst run → typical" in out
    (kept / "linear_regression.json").write_text("[]")
    code, _, told = call(capsys, "verdicts", "--compare", "results")
    assert code == 2 and "linear_regression.json: it holds no list of verdicts" in told
    older = [OLD_RECORD, OLD_RECORD | {"claim": "It is nearer", "verdict": "undecided"}]
    (study.parent / "runs" / "linear_regression" / "verdicts.json").write_text(json.dumps(older))
    code, out, _ = call(capsys, "verdicts")
    assert code == 0 and "worst run" in out and "0.002 ± 0.001" in out and "inconclusive" in out
