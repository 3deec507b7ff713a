"""tools/sweep.py and tools/run_sweep.sh as people call them; the slow test trains for real."""

import csv
import os
import shlex
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml

from deepcoro import tracking
from deepcoro.config import ConfigError
from deepcoro.run_config import load_run_config
from deepcoro.sweeping import register, worker
from deepcoro.sweeping.sweep_file import read_sweep
from deepcoro.sweeping.trials import Sweep, Trials
from tests.launch import ROOT, main_on_this_rank
from tests.sweeping.test_sweep_file import OF_CONFIG, sweep_file
from tests.sweeping.test_trials import fast
from tests.test_run_config import tiny_twin
from tests.tools.command import call_tool

SWEEP = {
    "method": "random",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "program": "scripts/main.py",
    "parameters": {
        "optim": {"parameters": {"lr": {"distribution": "log_uniform_values", "min": "1e-5", "max": "1e-1"}}}
    },
}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Any:
    """The tool over SWEEP with a trainer that is done in a moment."""
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    monkeypatch.setattr(worker, "runner", lambda launch: fast)
    monkeypatch.setattr(worker.Worker, "look_every_s", 0.02)
    words = ("demo/tiny", tmp_path / "sweep.yaml", "--output", tmp_path / "out", "--selected_gpus", "none")

    def called(*more: str) -> tuple[int, str, str]:
        return call_tool("sweep", (*words, *more), monkeypatch, capsys)

    return called


def test_a_sweep_leaves_a_page_a_table_and_a_config_and_grows(call: Any, tmp_path: Path) -> None:
    code, out, told = call("--count", "2", "batch_size=2")
    assert code == 0
    assert out.split() == [str(tmp_path / "out" / name) for name in ("summary.html", "best_config.yaml")]
    assert "['program'] of the sweep file are W&B's agent's" in told
    code, out, _ = call("--count", "3", "batch_size=2")
    rows = list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))
    assert code == 0 and [row["state"] for row in rows] == ["complete"] * 3
    assert load_run_config(tmp_path / "out" / "best_config.yaml", []).batch_size == 2
    assert call("--summary_only", "--count", "3", "batch_size=2")[0] == 0
    code, _, told = call("--count", "3", "batch_size=4")
    assert code == 2 and "holds a sweep with another config" in told


def test_what_is_wrong_is_one_line(call: Any) -> None:
    for words, expected in (
        (("--count", "0"), "--count is 0; at least 1"),
        ((), "say how many trials with --count"),
        (("--count", "1", "--summary_only"), "holds no sweep yet"),
        (("--count", "1", "--launch", "cpu_3"), "--launch 'cpu_3' is neither a file nor one of"),
        (("--count", "1", "optim.lrr=1"), "did you mean 'lr'?"),
    ):
        code, _, told = call(*words)
        assert code == 2 and expected in told, words


def test_the_runner_is_given_the_place_and_the_words(tmp_path: Path) -> None:
    made = Sweep("demo/tiny", (), sweep_file({"seed": {"value": 1}}), tmp_path)
    words = worker.runner("cpu_1")(made, (), ["seed=1"])
    assert words[1:] == shlex.split(
        "-m deepcoro.launching --base_config demo/tiny --selected_gpus none --run_mode train --launch cpu_1 seed=1"
    )
    assert "2,3" in worker.runner(None)(made, (2, 3), [])


def test_wandb_is_sent_dotted_keys_and_a_command_that_names_the_folder_by_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}

    def sweep(tree: dict[str, Any], project: str, entity: str | None) -> str:
        if project == "unreachable":
            raise wandb.errors.CommError("no answer")
        sent.update(tree=tree, project=project, entity=entity)
        return "abc"

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(sweep=sweep, errors=wandb.errors))
    nested = {"optim": {"parameters": {"lr": {"min": 1e-5, "max": 1e-3}, "eps": {"values": ["1e-8", 1e-6]}}}}
    stop = {"type": "hyperband", "min_iter": 3}
    made = Sweep(
        "demo/tiny", ("batch_size=2",), sweep_file(nested, early_terminate=stop), tmp_path / "a b", count=7
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ConfigError, match="--wandb needs W&B: log in"):
        register.register(made, "deepcoro", None, None)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="nothing was registered, W&B says: no answer; leave --wandb out"):
        register.register(made, "unreachable", None, None)
    assert register.register(made, "deepcoro", "team", None) == "team/deepcoro/abc"
    tree = sent["tree"]
    assert tree["parameters"] == {
        "optim.lr": {"min": 1e-5, "max": 1e-3},
        "optim.eps": {"values": [1e-8, 1e-6]},
    }
    assert tree["run_cap"] == 7 and tree["early_terminate"] == stop
    *words, macro = tree["command"]
    assert macro == "${args_no_hyphens}"
    printed = [word.replace("exec tools/runner.sh", "printf '%s\\n'") for word in words]
    ran = subprocess.run(
        [*printed, "optim.lr=0.001"],
        env=os.environ | {"WANDB_RUN_ID": "r1"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = f"--base_config|demo/tiny|--run_mode|train|--use_wandb|true|batch_size=2|run_dir={tmp_path}/a b/trials/r1|optim.lr=0.001"
    assert ran.stdout.splitlines() == expected.split("|")
    assert register.agent_commands("t/p/abc", [(0, 1), (2, 3)], 7) == [
        f"CUDA_VISIBLE_DEVICES={gpus} wandb agent --count 7 t/p/abc" for gpus in ("0,1", "2,3")
    ]


def test_a_run_of_a_wandb_agent_has_the_id_that_the_agent_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict] = []
    fake = types.SimpleNamespace(init=lambda **words: given.append(words))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    config = load_run_config(ROOT / "deepcoro" / "configs" / "demo" / "tiny.yaml", [f"run_dir={tmp_path}"])
    tracking._WandB(config, {})
    monkeypatch.setenv("WANDB_RUN_ID", "r2")
    tracking._WandB(config, {})
    assert [each["id"] for each in given] == ["r1", "r1"], "a run that goes on stays the same run"


def run_sweep(folder: Path, words: Sequence[str]) -> subprocess.CompletedProcess:
    """tools/run_sweep.sh with an interpreter that prints its words."""
    printer = folder / "python"
    printer.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    printer.chmod(0o755)
    command = [ROOT / "tools" / "run_sweep.sh", *words]
    return subprocess.run(command, env=os.environ | {"PYTHON": str(printer)}, capture_output=True, text=True)


def test_the_predecessors_flags_start_the_same_sweep(tmp_path: Path) -> None:
    flags = "--base_config clip/base_config --sweep_config my/sweep.yaml --selected_gpus 0,1 --count 5 --master_port 29501"
    found = run_sweep(tmp_path, [*flags.split(), "data.shards=a b"])
    expected = "clip/base_config my/sweep.yaml --selected_gpus 0,1 --count 5 --output runs/sweeps/sweep --gpus_per_trial 2"
    assert found.stdout.splitlines()[1:] == [*expected.split(), "data.shards=a b"]
    assert "--master_port is not needed" in found.stderr
    missing = run_sweep(tmp_path, ["--base_config", "clip/base_config"])
    assert missing.returncode == 2 and "--sweep_config is missing" in missing.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_CONFIG)
def test_the_tiny_twin_of_a_trial_of_a_shipped_sweep_measures_its_metric(
    name: str, tiny_shards: Path, tmp_path: Path
) -> None:
    made = Sweep(OF_CONFIG[name], (), read_sweep(name), tmp_path / "sweep", count=1)
    held = Trials(made).claim()
    words = made.words(held.values, tmp_path / "run")
    held.let_go()
    twin = tiny_twin(made.config, tiny_shards, tmp_path / "run")
    assert main_on_this_rank("ddp", made.config, *words, *twin) == 0
    assert worker.measured_in(tmp_path / "run" / "metrics.jsonl", made.file.metric.name)


@pytest.mark.slow
def test_a_real_training_is_launched_and_measured(tmp_path: Path, tiny_shards: Path) -> None:
    metric = {"name": "val/retrieval/text_to_video/R@5", "goal": "maximize"}
    lr = {"optim.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}}
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump({"method": "bayes", "metric": metric, "parameters": lr}))
    words = ["demo/tiny", sweep, "--output", tmp_path / "out", "--selected_gpus", "none", "--count", "1"]
    words += [f"data.shards={tiny_shards}", "max_steps=4", "evaluate.every_steps=2"]
    command = [sys.executable, "tools/sweep.py", *map(str, words)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    (row,) = csv.DictReader((tmp_path / "out" / "trials.csv").open())
    assert (row["state"], row["evaluations"]) == ("complete", "2") and float(row[metric["name"]]) > 0
    assert "runner: on the CPU" in (tmp_path / "out" / "trials" / "0000" / "log.txt").read_text()
