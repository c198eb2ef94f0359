"""A private Slurm of this machine for tests: a controller and two nodes on 127.0.0.1, for root and without systemd.

    python -m tests.runs.engines.slurm_on_loopback FOLDER         starts it, and stops it at the end of the input
    python -m tests.runs.engines.slurm_on_loopback FOLDER tend    looks after one that runs

Everything is in the folder: key and socket of its own munge, configuration, state, logs. It needs slurmctld, slurmd and
munged (Debian: slurmctld slurmd slurm-client munge); none of them need run, and one that runs is left alone.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

TEND = 3.0  # seconds between two looks of the administrator
CONFIGURATION = """ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=5
SlurmctldTimeout=10
SlurmdTimeout=10
DebugFlags=NO_CONF_HASH
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=500
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=500
PartitionName=main Nodes=n[1-2] Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=n[1-2] State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Why there can be no such Slurm here; empty where there can."""
    absent = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name, path=_path())]
    return f"no {', '.join(absent)} on PATH" if absent else "" if os.geteuid() == 0 else "needs root"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"


@dataclass
class Loopback:
    """The processes of the cluster."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What commands of Slurm need to find it."""
        return {**os.environ, "PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def configure(self) -> None:
        """Writes the configuration and the key."""
        for name in ("munge", "state", "n1", "n2"):
            (self.folder / name).mkdir(mode=0o700)
        key = self.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        text = CONFIGURATION.format(folder=self.folder, host=socket.gethostname().split(".")[0], ports=free_ports(3))
        (self.folder / "slurm.conf").write_text(text)

    def start(self, name: str, *command: str) -> None:
        """Starts a daemon in the foreground."""
        with open(self.folder / f"{name}.out", "ab") as output:
            self.processes[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def controller(self) -> None:
        """Starts the controller, which finds the state of the one before."""
        self.start("slurmctld", "slurmctld", "-D")

    def node(self, name: str) -> None:
        """Starts a node."""
        self.start(name, "slurmd", "-D", "-N", name)

    def up(self) -> None:
        """Starts everything and waits for it."""
        self.configure()
        munge = self.folder / "munge"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        own = [f"--{option}={munge / name}" for option, name in files.items()]
        self.start("munged", "munged", "--foreground", "--force", *own)
        _await((munge / "socket").exists)
        self.controller()
        for name in ("n1", "n2"):
            self.node(name)
        self.start("administrator", sys.executable, __file__, str(self.folder), "tend")
        self.idle()

    def saved(self) -> None:
        """Waits until the controller has written down which jobs run: one that is killed before forgets them."""
        now = time.time()
        for job in self.call("squeue", "-h", "-r", "-o", "%A").split():
            self.call("scontrol", "update", f"jobid={job}", "comment=to be remembered")
        _await(lambda: (self.folder / "state" / "job_state").stat().st_mtime > now)

    def idle(self) -> None:
        """Waits until both nodes are there and free."""
        _await(lambda: self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == ["idle", "idle"], 90)

    def call(self, *command: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout.strip()

    def kill(self, name: str) -> None:
        """kill -9 of a daemon."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def lose(self, name: str) -> None:
        """kill -9 of all that is on a node: its daemon, the keepers of its jobs, the jobs."""
        self.kill(name)
        for pid in self.on(name):
            for each in (parent(pid), pid):
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)

    def tend(self) -> None:
        """Does what an administrator does: a controller that was killed may have forgotten a job, and gives its number
        away again, upon which Slurm drains the node and holds the other job."""
        states = [line.split() for line in self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines()]
        for node in [name for name, state in states if state.startswith("drain")]:
            self.call("scontrol", "update", f"nodename={node}", "state=resume")
        waiting = self.call("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i|%r").splitlines()
        for job in [line.partition("|")[0] for line in waiting if line.endswith("held")]:
            self.call("scontrol", "release", job)

    def on(self, name: str) -> list[int]:
        """The processes of jobs on a node."""
        signs = {f"SLURMD_NODENAME={name}".encode(), f"SLURM_CONF={self.folder}/slurm.conf".encode()}
        return [int(path.parts[2]) for path in Path("/proc").glob("[0-9]*/environ") if signs <= _entries(path)]

    def down(self) -> None:
        """Ends all jobs and all daemons."""
        if "slurmctld" in self.processes:
            self.call("scancel", "--user=root")
            with suppress(AssertionError):
                _await(lambda: not self.call("squeue", "-h"))
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _await(what, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.1)


def _entries(path: Path) -> set[bytes]:
    try:
        return set(path.read_bytes().split(b"\0"))
    except OSError:
        return set()


def parent(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def running(folder: Path) -> Iterator[Loopback]:
    """Yields a cluster that is there while the block lasts."""
    cluster = Loopback(folder)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


if __name__ == "__main__":
    place = Path(sys.argv[1]).absolute()
    while sys.argv[2:] == ["tend"]:
        time.sleep(TEND)
        Loopback(place).tend()
    place.mkdir(parents=True, exist_ok=True)
    with running(place) as made:
        print(f"export SLURM_CONF={made.folder}/slurm.conf", flush=True)
        sys.stdin.read()
