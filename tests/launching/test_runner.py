"""tools/runner.sh as people call it: real launches, killed and warned."""

import contextlib
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from deepcoro.checkpoint import newest_whole
from deepcoro.launching.__main__ import main
from tests.launch import CONSTANT_LR, ROOT, SILENT, main_on_rank, metrics, running, tiny, wait_for_step
from tests.ranks import Ranks

WORDS = (*SILENT, *CONSTANT_LR, "checkpoint.every_steps=2", "data.num_workers=1")
TIMEOUT_S = 600


def told(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    return (code, *capsys.readouterr())


@pytest.fixture
def in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_dry_run_prints_the_command(capsys: pytest.CaptureFixture, in_root: None) -> None:
    code, line, _ = told(
        capsys,
        "--base_config",
        "demo/tiny",
        "--selected_gpus",
        "none",
        "--use_wandb",
        "false",
        "--dry_run",
        "seed=3",
    )
    assert code == 0
    assert "accelerate_configs/cpu_1.yaml" in line
    assert line.endswith("train.py demo/tiny seed=3 tracking.use_wandb=false\n")


def test_several_machines_run_ddp_and_are_told_why_and_what_else_there_is(
    capsys: pytest.CaptureFixture, in_root: None
) -> None:
    machines = ("--num_machines", "2", "--machine_rank", "0", "--main_process_ip", "node0")
    words = ("--base_config", "demo/tiny", "--selected_gpus", "none", "--dry_run", *machines)
    code, line, said = told(capsys, *words)
    assert code == 0 and "accelerate_configs/cpu_2_ddp.yaml" in line
    assert "sends the least" in said and "tools/plan_memory.py demo/tiny" in said
    code, line, said = told(capsys, *words, "--launch", "cpu_2_zero3")
    assert code == 0 and "accelerate_configs/cpu_2_zero3.yaml" in line and "plan_memory" not in said


BAD = {
    "an unknown config": (["--base_config", "demo/tinny"], "did you mean 'demo/tiny'?"),
    "a key of the config": (["--base_config", "demo/tiny", "optim.lrr=1"], "did you mean 'lr'?"),
    "a flag": (["--selected_gpu", "0"], "did you mean --selected_gpus?"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line_before_a_rank_is_started(
    capsys: pytest.CaptureFixture, in_root: None, case: str
) -> None:
    words, expected = BAD[case]
    code, _, error = told(capsys, *words, "--dry_run")
    assert code == 2 and expected in error and error.count("\n") == 1


def test_another_folder_than_the_root_is_refused(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = told(capsys, "--base_config", "demo/tiny")
    assert code == 2 and "run it from the project's root" in error


def test_the_script_finds_python_and_the_package_from_anywhere(tmp_path: Path) -> None:
    finished = subprocess.run(
        [ROOT / "tools" / "runner.sh", "--lr", "1"], cwd=tmp_path, capture_output=True, text=True
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("runner: unknown flag '--lr'")


def runner(*words: str) -> contextlib.AbstractContextManager[subprocess.Popen]:
    """tools/runner.sh on two CPU processes; it and all that it started are killed on leaving."""
    fixed = (ROOT / "tools" / "runner.sh", "--selected_gpus", "none", "--launch", "cpu_2_ddp")
    return running(*fixed, "--base_config", *words, stdout=subprocess.DEVNULL)


def ranks(process: subprocess.Popen) -> list[psutil.Process]:
    launcher = psutil.Process(process.pid).children()[-1]
    return launcher.children()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_rank_is_replaced_and_a_warned_run_saves_and_goes_on(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    words = tiny(tiny_shards, tmp_path, *WORDS)
    with runner(*words, "max_steps=100000", "--max_restarts", "1") as process:
        wait_for_step(process, tmp_path, 4)
        ranks(process)[-1].kill()
        saved = newest_whole(tmp_path / "checkpoints").step
        wait_for_step(process, tmp_path, saved + 5)
        process.send_signal(signal.SIGUSR1)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 75, errors
    assert "restart 1 of 1" in errors and "continuing from step_" in errors
    steps = [line["step"] for line in metrics(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))
    assert newest_whole(tmp_path / "checkpoints").step == steps[-1], "nothing that was logged is lost"
    assert two_ranks.run(main_on_rank, "ddp", *words, f"max_steps={steps[-1] + 2}") == [0, 0]
    # that the runner itself goes on and ends with 0: test_slurm.py
    assert len(metrics(tmp_path)) == steps[-1] + 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bad_data_is_2_and_told_once(tmp_path: Path) -> None:
    with runner("demo/tiny", "data.shards=nowhere", f"run_dir={tmp_path}") as process:
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    # the summary of torch's launcher says it again, behind words of its own
    told = [line for line in errors.splitlines() if line.startswith("DataError: ")]
    assert len(told) == 1 and "nowhere holds no manifest.json" in told[0]
