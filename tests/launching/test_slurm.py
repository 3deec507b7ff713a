"""tools/train.sbatch under a SLURM of two commands (slurm.py): its logic with a runner of three lines, and two nodes that train."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from deepcoro.checkpoint import newest_whole
from tests.launch import CONSTANT_LR, ROOT, SILENT, kill, losses, main_on_rank, metrics, tiny
from tests.launching.slurm import Slurm
from tests.ranks import Ranks

SCRIPT = (ROOT / "tools" / "train.sbatch").read_text()
RUNNER = """\
#!/usr/bin/env bash
echo "$@" >"node_$SLURM_NODEID"
{ends}
"""
WAITS = """\
trap 'exit 75' USR1
trap 'exit 75' TERM
touch "ready_$SLURM_NODEID"
while :; do sleep 0.1; done
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path / "slurm", 31000 + os.getpid() % 1000)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's root whose runner the tests write."""
    (tmp_path / "project" / "tools").mkdir(parents=True)
    return tmp_path / "project"


def give_runner(project: Path, ends: str) -> None:
    path = project / "tools" / "runner.sh"
    path.write_text(RUNNER.format(ends=ends))
    path.chmod(0o755)


def finish(process: subprocess.Popen, timeout_s: float = 60) -> tuple[int, str]:
    try:
        out, errors = process.communicate(timeout=timeout_s)
    finally:
        kill(process)
    return process.returncode, out + errors


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (2, False), (75, True), (1, False), (137, False)])
def test_75_alone_queues_the_job_again(slurm: Slurm, project: Path, code: int, requeued: bool) -> None:
    give_runner(project, f"exit {code}")
    assert finish(slurm.start(project, "demo/tiny"))[0] == code
    assert slurm.requeued == ([str(slurm.job)] if requeued else [])


def test_the_worst_node_speaks_for_the_job(slurm: Slurm, project: Path) -> None:
    give_runner(project, '[ "$SLURM_NODEID" = 0 ] && exit 75; exit 1')
    assert finish(slurm.start(project, "demo/tiny"))[0] == 75
    assert slurm.requeued == [str(slurm.job)]


def test_failures_queue_the_job_again_as_often_as_asked(slurm: Slurm, project: Path) -> None:
    give_runner(project, "exit 1")
    for expected in (1, 2, 2):
        assert finish(slurm.start(project, "demo/tiny", MAX_RESTARTS="2"))[0] == 1
        assert len(slurm.requeued) == expected


def test_every_node_is_told_who_it_is_and_where_they_meet(slurm: Slurm, project: Path) -> None:
    give_runner(project, "exit 0")
    assert finish(slurm.start(project, "demo/tiny", "--launch", "cpu_2_ddp", "a=b c", "seed=1"))[0] == 0
    told = [(project / f"node_{number}").read_text() for number in (0, 1)]
    for number, words in enumerate(told):
        assert words.startswith(f"--machine_rank {number} --num_machines 2 --main_process_ip 127.0.0.1 ")
        assert words.endswith("--base_config demo/tiny --launch cpu_2_ddp a=b c seed=1\n")
    ports = {re.search(r"--main_process_port (\d+)", words)[1] for words in told}
    assert ports == {str(20000 + slurm.job % 20000)}


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_warned_job_goes_on_later_and_a_cancelled_one_does_not(
    slurm: Slurm, project: Path, number: signal.Signals, requeued: bool
) -> None:
    give_runner(project, WAITS)
    process = slurm.start(project, "demo/tiny")
    while not all((project / f"ready_{node}").exists() for node in (0, 1)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)  # --signal=B: reaches the batch script alone
    code, told = finish(process)
    assert code == 75, told
    assert slurm.requeued == ([str(slurm.job)] if requeued else [])


def test_another_folder_or_no_config_is_one_line(slurm: Slurm, tmp_path: Path) -> None:
    code, told = finish(slurm.start(tmp_path, "demo/tiny"))
    assert code == 2 and "is not the project's root" in told
    code, told = finish(slurm.start(tmp_path))
    assert code == 2 and "usage: sbatch" in told


def test_the_warning_comes_to_the_script_and_jobs_may_be_queued_again() -> None:
    for asked in ("--signal=B:USR1@120", "--requeue", "--ntasks-per-node=1", "--open-mode=append"):
        assert f"#SBATCH {asked}\n" in SCRIPT


def test_no_nccl_variable_is_set_unasked_and_each_is_explained_twice() -> None:
    named = re.findall(r"^# export (NCCL_\w+)=\S+ +# \S+", SCRIPT, re.MULTILINE)
    assert {
        "NCCL_P2P_LEVEL",
        "NCCL_ALGO",
        "NCCL_MIN_NCHANNELS",
        "NCCL_SHM_DISABLE",
        "NCCL_NET_GDR_LEVEL",
    } <= set(named)
    assert not re.findall(r"^\s*export NCCL", SCRIPT, re.MULTILINE)
    document = (ROOT / "docs" / "multi_node.md").read_text()
    assert [name for name in named if f"`{name}" not in document] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_nodes_train_together_are_warned_and_go_on_exactly(
    slurm: Slurm, tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    words = tiny(
        tiny_shards, run_dir, *SILENT, *CONSTANT_LR, "checkpoint.every_steps=100", "data.num_workers=1"
    )
    nodes = ("--launch", "cpu_2_ddp", "--selected_gpus", "none")
    process = slurm.start(ROOT, words[0], *nodes, *words[1:], "max_steps=100000")
    deadline = time.monotonic() + 600
    while not (run_dir / "metrics.jsonl").is_file() or len(metrics(run_dir)) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    code, told = finish(process, 600)
    assert code == 75 and slurm.requeued == [str(slurm.job)], told
    saved = newest_whole(run_dir / "checkpoints").step
    assert saved == len(metrics(run_dir)), "nothing that was logged is lost"
    code, told = finish(slurm.start(ROOT, words[0], *nodes, *words[1:], f"max_steps={saved + 2}"), 600)
    assert code == 0 and f"continuing from step_{saved}" in told, told
    whole = tiny(tiny_shards, tmp_path / "whole", *words[3:], f"max_steps={saved + 2}")
    assert two_ranks.run(main_on_rank, "ddp", *whole) == [0, 0]
    assert losses(run_dir) == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)
