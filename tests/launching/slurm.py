"""A SLURM of two commands: `srun` starts a process group a node on this machine and passes signals to every process of it, as the
real one does; `scontrol` names the nodes and writes down what it is asked to requeue.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.launch import ROOT

SRUN = """\
#!{python}
import os, signal, subprocess, sys
import psutil

words = sys.argv[1:]
while words[0].startswith("-"):
    words.pop(0)
nodes = []

def signal_every_process(number, frame):
    for node in nodes:
        try:
            for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
                process.send_signal(number)
        except psutil.NoSuchProcess:
            pass

signal.signal(signal.SIGUSR1, signal_every_process)
signal.signal(signal.SIGTERM, signal_every_process)
for number in range(int(os.environ["SLURM_JOB_NUM_NODES"])):
    environment = os.environ | {{"SLURM_NODEID": str(number)}}
    nodes.append(subprocess.Popen(words, env=environment, start_new_session=True, restore_signals=True))
codes = [node.wait() for node in nodes]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = """\
#!/usr/bin/env bash
case "$1 $2" in
  "show hostnames") echo 127.0.0.1; echo 127.0.0.1 ;;
  requeue*) echo "$2" >>"{requeued}" ;;
  *) exit 1 ;;
esac
"""


class Slurm:
    """A job of two nodes, run with `bash` as slurmd would."""

    def __init__(self, folder: Path, job: int):
        self.job = job
        self._folder = folder
        self._requeued = folder / "requeued"
        commands = folder / "bin"
        commands.mkdir(parents=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            path = commands / name
            path.write_text(text.format(python=sys.executable, requeued=self._requeued))
            path.chmod(0o755)

    @property
    def requeued(self) -> list[str]:
        """Jobs that were put into the queue again."""
        return self._requeued.read_text().split() if self._requeued.is_file() else []

    def start(self, root: Path, *words: str, **environment: str) -> subprocess.Popen:
        """The job's batch script, submitted from `root`."""
        slurm = {
            "SLURM_JOB_ID": str(self.job),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_SUBMIT_DIR": str(root),
            "PATH": f"{self._folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            ["bash", str(ROOT / "tools" / "train.sbatch"), *words],
            env=os.environ | slurm | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
