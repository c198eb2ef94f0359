"""A Slurm of one machine without its daemons: `sbatch`, `squeue`, `scancel` and `scontrol requeue`, as far as arrays of
workers need them. Tasks are processes; what is kept is a file with the number of the process of each, in a folder.

    python fake_slurm.py sbatch --parsable --array=0-3%2 SCRIPT
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path


def main(name: str, words: list[str], folder: Path) -> int:
    """One call of a command."""
    with open(folder / "calls", "a") as file:
        file.write(f"{shlex.join([name, *words])}\n")
    if (folder / "away").exists():
        print(f"{name}: error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
        return 1
    return {"sbatch": sbatch, "squeue": squeue, "scancel": scancel, "scontrol": requeue}[name](words, folder)


def sbatch(words: list[str], folder: Path) -> int:
    """Starts the tasks of an array, all at once."""
    script = Path(words[-1])
    (last,) = [match[1] for word in words if (match := re.fullmatch(r"--array=0-(\d+)(?:%\d+)?", word))]
    job = 1 + max([0, *(int(path.stem) for path in folder.glob("*.sh"))])
    (folder / f"{job}.sh").write_bytes(script.read_bytes())
    for task in range(int(last) + 1):
        start(folder, job, task)
    print(job)
    return 0


def start(folder: Path, job: int, task: int, after: int | None = None) -> None:
    """Starts a task, or once another process has ended."""
    text = (folder / f"{job}.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
    log = shlex.split(options["output"])[0].replace("%a", str(task)).replace("%%", "%")
    waiting = [sys.executable, "-S", __file__, "await", str(after), str(folder / f"{job}.sh")]
    command = ["bash", str(folder / f"{job}.sh")] if after is None else waiting
    environment = {**os.environ, "SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(task)}
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    (folder / f"{job}_{task}.pid").write_text(str(process.pid))


def squeue(words: list[str], folder: Path) -> int:
    """Lists the tasks whose processes live; with a name the numbers of the arrays that have it."""
    names = [word.removeprefix("--name=") for word in words if word.startswith("--name=")]
    assert words[-1] == ("%F" if names else "%F|%K|%T|%r"), words
    for path in folder.glob("*.pid"):
        job, task = path.stem.split("_")
        if alive(int(path.read_text() or 0)) and not names:
            print(f"{job}|{task}|RUNNING|None")
        elif names and f"--job-name={names[0]}\n" in (folder / f"{job}.sh").read_text():
            print(job)
    return 0


def scancel(words: list[str], folder: Path) -> int:
    """Asks tasks to end."""
    for word in words:
        with suppress(ProcessLookupError):
            os.kill(int((folder / f"{word}.pid").read_text()), signal.SIGTERM)
    return 0


def requeue(words: list[str], folder: Path) -> int:
    """Starts a task again once it has ended."""
    assert words[0] == "requeue", words
    job, task = words[1].split("_")
    start(folder, int(job), int(task), after=int((folder / f"{words[1]}.pid").read_text()))
    return 0


def alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def tasks(folder: Path) -> dict[str, int]:
    """The processes of the tasks that live, by name."""
    found = {path.stem: int(path.read_text() or 0) for path in folder.glob("*.pid")}
    return {name: pid for name, pid in found.items() if alive(pid)}


if __name__ == "__main__":
    if sys.argv[1] == "await":
        while alive(int(sys.argv[2])):
            time.sleep(0.02)
        os.execvp("bash", ["bash", sys.argv[3]])
    sys.exit(main(sys.argv[1], sys.argv[2:], Path(os.environ["FAKE_SLURM"])))
