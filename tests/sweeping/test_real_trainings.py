"""Twelve real trainings of a sweep whose workers are killed midway."""

import fcntl
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from deepcoro.launching.supervise import end_with_parent
from deepcoro.sweeping import summary, worker
from deepcoro.sweeping.trials import Sweep, Trials
from tests.launch import METRICS, last_step, losses, main_on_this_rank
from tests.ranks import SERVED
from tests.sweeping.test_sweep_file import sweep_file
from tests.sweeping.test_trials import results, wait_for

STEPS = 4
PATIENCE_S = 900
ONLY_RETRIEVAL = ", ".join(
    f"{name}: {{bootstrap_samples: 2}}" if name == "retrieval" else f"{name}: false" for name in METRICS
)
WORDS = (
    f"max_steps={STEPS}",
    "evaluate.every_steps=2",
    "checkpoint.every_steps=1",
    f"evaluate.metrics={{{ONLY_RETRIEVAL}}}",
)
PARAMETERS = {
    "optim.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
    "objectives.contrastive.loss": {"values": [{"type": "clip"}, {"type": "siglip"}]},
    "seed": {"values": [0, 1]},
}
METRIC = {"name": "val/retrieval/text_to_video/R@5", "goal": "maximize"}

_FORKED = multiprocessing.get_context("fork")


class Training:
    """A run of train in a forked process, seen as `subprocess.Popen` shows one."""

    def __init__(self, words: Sequence[str], folder: Path, lock: int):
        self._process = _FORKED.Process(target=_train, args=(words, folder))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _train(words: Sequence[str], folder: Path) -> None:
    """`starts.txt` has a line a start."""
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the worker's own
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    with (folder / "starts.txt").open("a", buffering=1) as starts:
        starts.write(f"{os.getpid()}\n")
        fcntl.flock(starts, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it is run by two
        sys.exit(main_on_this_rank("ddp", *words))


def _command(sweep: Sweep, place: worker.Place, words: Sequence[str]) -> list[str]:
    return [sweep.config, *words]


def _work(sweep: Sweep) -> None:
    worker.start_run = Training
    working = worker.Worker(sweep, [()], _command, functools.partial(summary.write_summary, sweep))
    working.look_every_s = 0.05
    sys.exit(working.run())


def _began(sweep: Sweep) -> multiprocessing.Process:
    process = SERVED.Process(target=_work, args=(sweep,))
    process.start()
    return process


def _kill_midway(process: multiprocessing.Process, sweep: Sweep, num_complete: int) -> None:
    """Once so many trials are complete, and one is between two steps."""
    trials, folder = Trials(sweep), sweep.folder / "trials"

    def is_midway() -> bool:
        return folder.is_dir() and any(0 < last_step(each) < STEPS for each in folder.iterdir())

    wait_for(lambda: is_midway() and len(trials.of_state("COMPLETE")) >= num_complete, PATIENCE_S)
    process.kill()
    process.join()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_twelve_trainings_whose_workers_are_killed_are_the_same_twelve_and_none_is_run_by_two(
    tmp_path: Path, tiny_shards: Path
) -> None:
    file = sweep_file(PARAMETERS, metric=METRIC)
    words = (f"data.shards={tiny_shards}", *WORDS)
    sweep, undisturbed = (Sweep("demo/tiny", words, file, tmp_path / name, count=12) for name in "ab")
    first, second = _began(sweep), _began(sweep)
    _kill_midway(first, sweep, 2)
    _kill_midway(second, sweep, 6)
    assert Trials(sweep).of_state("RUNNING"), "something was interrupted"
    last = _began(sweep)
    last.join()
    assert last.exitcode == 0

    draws = Trials(undisturbed)
    while held := draws.claim():
        draws.tell(held, "COMPLETE", 0.0)
    drawn = [(number, state, values) for number, state, values, _ in results(undisturbed)]
    assert [(number, state, values) for number, state, values, _ in results(sweep)] == drawn
    assert len(drawn) == 12

    folders = [sweep.run_dir(number) for number in range(12)]
    assert all(sorted(losses(folder)) == list(range(1, STEPS + 1)) for folder in folders)
    assert not any("BlockingIOError" in (folder / "log.txt").read_text() for folder in folders)
    num_starts = [len((folder / "starts.txt").read_text().splitlines()) for folder in folders]
    assert num_starts.count(1) in (10, 11), "what was interrupted is taken up, nothing else is done again"

    best = sweep.folder / "best_config.yaml"
    training = SERVED.Process(target=_train, args=([str(best)], sweep.run_dir(0)))
    training.start()
    training.join()
    assert training.exitcode == 0
    assert sorted(losses(sweep.folder / "best")) == list(range(1, STEPS + 1))
