"""A Dask scheduler and workers of it that are started from the shell, in another folder than that of a sweep."""

import json
import os
import subprocess
import sys
from pathlib import Path

import iclab
from tests.faults.processes import shot
from tests.runs.test_sweep import wait_for


class Shell:
    """Processes that are started by hand, each in a session of its own: a scheduler, and a nanny for each node."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        self.begin()

    def begin(self):
        """Starts a scheduler, and waits until it says where it is."""
        file = self.folder / f"{len(self.started)}.json"
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        wait_for(file.exists)
        self.address = wait_for(lambda: _address(file))

    def start(self, *words, path=None):
        """Starts a command of Dask, with iclab from a path."""
        source = str(path or Path(iclab.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
        with open(self.folder / f"{len(self.started)}.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words, "--no-dashboard"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def worker(self, path=None):
        """Starts a node: a nanny and its worker, which takes one run at a time."""
        return self.start("worker", self.address, "--nthreads", "1", "--host", "127.0.0.1", path=path)

    def close(self):
        """Kills everything."""
        for process in self.started:
            shot(process.pid, group=True)
            process.wait()


def _address(file):
    try:
        return json.loads(file.read_text())["address"]
    except ValueError:
        return None
