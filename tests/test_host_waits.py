"""Between log steps no operation of ours reads a number that may lie on the device: on a GPU each would empty its queue.

Counted on the CPU, where every such read is the operation `_local_scalar_dense`, or one whose result has as many rows as it finds.
"""

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deepcoro import train
from deepcoro.config import find_config
from deepcoro.run_config import load_run_config
from tests.launch import ROOT, SILENT, as_launched
from tests.ranks import Ranks

READS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "_unique",
    "_unique2",
    "unique_dim",
    "bincount",
}
BY_MASK = {"index", "index_put", "index_put_"}

# Looked at on a CPU alone; each stands behind a question for the device in the code.
OF_THE_CPU = {"_check_counts", "check_visible", "tap_pairs"}
# What log, evaluation and checkpoint read, and the host's own work on its samples.
ELSEWHERE = {"read_numbers", "_evaluate", "_save", "_fetched"}
# DeepSpeed 0.19.8 with weights in fp32; in bf16 it also asks in every step whether a gradient overflowed.
OF_DEEPSPEED = {"is_invalid_grad_norm"}

CONFIGS = {
    "demo/tiny": (),
    "demo/tiny_multitask": ("schedules.masked_modeling.start_fraction=0.0", "freeze=[]"),
    "demo/tiny_probe": (),
}


class Reads(TorchDispatchMode):
    """Counts reads of the steps between the first, which makes tables and checks kernels, and the last, which is logged."""

    def __init__(self, training: dict[str, Any]) -> None:
        super().__init__()
        self.ours, self.deepspeeds = Counter(), Counter()
        self._training = training

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if _is_read(func, args):
            self._note(func, traceback.extract_stack()[:-1])
        return func(*args, **(kwargs or {}))

    def _note(self, func: Any, stack: traceback.StackSummary) -> None:
        names = {frame.name for frame in stack}
        run = self._training.get("run")
        is_between = "_loop" in names and run is not None and 0 < run.progress.step < run.max_steps - 1
        if not is_between or names & (ELSEWHERE | OF_THE_CPU):
            return
        outside_torch = [frame for frame in stack if f"site-packages{'/'}torch" not in frame.filename]
        last = outside_torch[-1]
        if "deepspeed" in last.filename:
            self.deepspeeds[last.name] += 1
            return
        mine = [frame for frame in stack if frame.filename.startswith(str(ROOT / "deepcoro"))][-1]
        place = f"{Path(mine.filename).name}:{mine.lineno} {last.filename.rpartition('site-packages/')[2]}:{last.lineno}"
        self.ours[f"{func} at {place}"] += 1


def _is_read(func: Any, args: tuple) -> bool:
    name = func._schema.name.removeprefix("aten::")
    if name in BY_MASK:
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return name in READS


def reads_of_a_run(rank: int, name: str, engine: str, shards: Path, run_dir: Path) -> tuple[Counter, Counter]:
    """Of five steps of a shipped config, logged at the end: our reads and DeepSpeed's, by place."""
    words = [f"data.shards={shards}", f"run_dir={run_dir}", "max_steps=5", "tracking.log_every_steps=100"]
    training: dict[str, Any] = {}
    loop = train._loop

    def noted(run: train.Run, *arguments: Any) -> int:
        training["run"] = run
        return loop(run, *arguments)

    with as_launched(engine), pytest.MonkeyPatch.context() as patch, Reads(training) as reads:
        patch.setattr(train, "_loop", noted)
        config = load_run_config(find_config(name), [*words, *SILENT, *CONFIGS[name]])
        assert train.run(config) == 0
    return reads.ours, reads.deepspeeds


@pytest.mark.parametrize(
    "name", [each if "multitask" in each else pytest.param(each, marks=pytest.mark.slow) for each in CONFIGS]
)
def test_one_process_reads_nothing_between_log_steps(name: str, tiny_shards: Path, tmp_path: Path) -> None:
    assert reads_of_a_run(0, name, "ddp", tiny_shards, tmp_path) == (Counter(), Counter())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2"])
@pytest.mark.parametrize("name", CONFIGS)
def test_two_ranks_read_nothing_between_log_steps_but_what_deepspeed_reads(
    name: str, engine: str, tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    for ours, deepspeeds in two_ranks.run(reads_of_a_run, name, engine, tiny_shards, tmp_path):
        assert ours == Counter()
        assert set(deepspeeds) == (OF_DEEPSPEED if engine == "zero2" else set())


@pytest.mark.slow
def test_a_read_is_seen(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count can fail: an optimiser that keeps its step count apart reads it for every parameter."""
    monkeypatch.setattr(train, "build_optimizer", _not_fused)
    ours, _ = reads_of_a_run(0, "demo/tiny", "ddp", tiny_shards, tmp_path)
    assert sum(ours.values()) > 100


def _not_fused(*arguments: Any) -> torch.optim.AdamW:
    from deepcoro.optim import build_optimizer

    optimizer = build_optimizer(*arguments)
    for group in [*optimizer.param_groups, optimizer.defaults]:
        group["fused"] = False
    return optimizer
