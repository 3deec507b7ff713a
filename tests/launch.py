"""Starts train.py the way its users do (`accelerate launch`), or many times in one process group, which costs its imports once."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from deepcoro.run_config import Evaluate

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 900
STEP_TIMEOUT_S = 600

# No dropout, so that the same samples give the same loss however they are spread over ranks; no evaluation unless asked for.
STEADY = ("towers.text.from_scratch.dropout=0.0",)
METRICS = tuple(Evaluate.model_fields["metrics"].default)
SILENT = (f"evaluate.metrics={{{', '.join(f'{name}: false' for name in METRICS)}}}",)
# The learning rate then does not depend on max_steps, so runs of other lengths have the same curve.
CONSTANT_LR = ("optim.warmup_steps=0", "optim.final_lr_fraction=1.0")


@dataclass(frozen=True)
class Finished:
    """A launch that ended."""

    code: int
    stdout: str
    stderr: str


def launch(accelerate_config: str, *words: str, **environment: str) -> Finished:
    """`accelerate launch --config_file accelerate_configs/NAME.yaml train.py WORDS`, waited for."""
    with launched(accelerate_config, *words, **environment) as process:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    return Finished(process.returncode, stdout, stderr)


def launched(
    accelerate_config: str, *words: str, **environment: str
) -> contextlib.AbstractContextManager[subprocess.Popen]:
    """The launcher, running; it and all its ranks are killed on leaving."""
    command = (
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", f"accelerate_configs/{accelerate_config}.yaml"),
        *("--main_process_port", "0"),  # the launcher finds a free one, a moment before it takes it
        *("train.py", *words),
    )
    return running(*command, stdout=subprocess.PIPE, **environment)


@contextlib.contextmanager
def running(*command: str | Path, stdout: int, **environment: str) -> Iterator[subprocess.Popen]:
    """A command in the project's folder; it and all that it started are killed on leaving."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill(process)


def wait_for_step(process: subprocess.Popen, run_dir: Path, step: int) -> None:
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while last_step(run_dir) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.05)


def last_step(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    whole = (
        [line for line in path.read_text().splitlines(True) if line.endswith("\n")] if path.is_file() else []
    )
    return json.loads(whole[-1])["step"] if whole else 0


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the launcher and its ranks at once, as when a node dies."""
    for pid in [*_descendants(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):  # it ended in the meantime
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _descendants(ancestor: int) -> set[int]:
    """By parent, not by group or session: the elastic launcher gives each rank its own of both."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parent_of = dict(map(int, line.split()) for line in table.splitlines())
    found = {ancestor}
    while more := {pid for pid, parent in parent_of.items() if parent in found} - found:
        found |= more
    return found - {ancestor}


def main_on_this_rank(engine: str, *words: str) -> int:
    """train.py's exit code on this rank, as if `accelerate launch` had started it."""
    from deepcoro.command_line import main

    with as_launched(engine):
        return main(list(words))


def main_on_rank(rank: int, engine: str, *words: str) -> int:
    """`main_on_this_rank` for `Ranks.run`."""
    return main_on_this_rank(engine, *words)


@contextlib.contextmanager
def as_launched(engine: str, **zero: int) -> Iterator[None]:
    """The environment that `accelerate launch` makes, any number of times in a process.

    `engine`: `ddp` (one process where there is no group), `zero0` to `zero3` as shipped, or `zero3_whole`, which divides
    every parameter: the shipped threshold keeps those of the tiny model whole. `zero`: settings of ZeRO other than as shipped.
    """
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(contextlib.chdir(ROOT))
        stack.enter_context(mock.patch.dict(os.environ, _accelerate_environment(engine, folder, zero)))
        yield
    used = AcceleratorState._shared_state.get("distributed_type")
    root.handlers[:] = handlers
    root.setLevel(level)
    # accelerate may choose another backend in silence
    assert used is None or (used.value == "DEEPSPEED") == engine.startswith("zero"), f"{engine} ran as {used}"


def _accelerate_environment(engine: str, folder: Path, zero: dict[str, int]) -> dict[str, str]:
    environment = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}
    if engine == "ddp":
        return environment | {"ACCELERATE_USE_CPU": "true"}
    settings = json.loads((ROOT / "ds_configs" / f"{engine.removesuffix('_whole')}.json").read_text())
    if engine == "zero3_whole":
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    settings["zero_optimization"] |= zero
    (folder / "deepspeed.json").write_text(json.dumps(settings))
    return environment | {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(folder / "deepspeed.json"),
    }


def tiny(shards: Path, run_dir: Path, *words: str) -> list[str]:
    """Words of a run of demo/tiny."""
    return ["demo/tiny", f"data.shards={shards}", f"run_dir={run_dir}", *words]


def metrics(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def losses(run_dir: Path) -> dict[int, float]:
    """The training curve: step -> train/loss."""
    lines = metrics(run_dir)
    curve = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert len(curve) == sum("train/loss" in line for line in lines), "a step was logged twice"
    return curve


def exit_code(run_dir: Path) -> int:
    return json.loads((run_dir / "exit.json").read_text())["code"]
