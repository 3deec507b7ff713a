"""Training in processes that are really killed, many times over."""

import functools
import json
import os
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from deepcoro import checkpoint, saving, train
from tests.launch import main_on_this_rank
from tests.ranks import SERVED, _join_group

TIMEOUT_S = 600
SURVIVAL_S = 120


class Attempt:
    """One start of a run, on as many processes as asked for."""

    def __init__(self, engine: str, world_size: int, words: list[str], fault: str | None = None) -> None:
        """`fault`: one of `FAULTS`, at which rank 0 kills itself while it saves for the second time."""
        self._folder = tempfile.TemporaryDirectory()
        arguments = (world_size, self._folder.name, engine, words, fault)
        self._processes = [
            SERVED.Process(target=_train, args=(rank, *arguments)) for rank in range(world_size)
        ]
        for process in self._processes:
            process.start()

    def kill(self, rank: int | None = None) -> None:
        """SIGKILL to all at once, as when a node dies, or to one rank, which no launcher tells the others."""
        for process in self._processes if rank is None else [self._processes[rank]]:
            process.kill()
        self.wait()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Returns early when a process has ended."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition() and all(process.is_alive() for process in self._processes):
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.01)

    def wait(self) -> list[int | None]:
        """Exit codes; -9 too of a process that outlives a dead one by `SURVIVAL_S`."""
        self.wait_until(lambda: False)
        for process in self._processes:
            process.join(None if self._ended_well() else SURVIVAL_S)
            process.kill()
            process.join()
        return [process.exitcode for process in self._processes]

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(Path(self._folder.name).glob("log.*")))

    def _ended_well(self) -> bool:
        return all(process.exitcode in (None, 0) for process in self._processes)


def _train(rank: int, world_size: int, folder: str, engine: str, words: list[str], fault: str | None) -> None:
    log = os.open(f"{folder}/log.{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    if world_size > 1:
        _join_group(rank, world_size, Path(folder))
    run_dir = Path(next(word for word in words if word.startswith("run_dir=")).removeprefix("run_dir="))
    _note_rows(run_dir, rank)
    if fault is not None and rank == 0:
        FAULTS[fault]()
    code = main_on_this_rank(engine, *words)
    sys.stdout.flush()
    os._exit(code)


def _note_rows(run_dir: Path, rank: int) -> None:
    """`rows.RANK.jsonl`: for each step what the rank was fed, by position in the plan and by what the pictures are."""
    step_of_training = train.train_step
    run_dir.mkdir(parents=True, exist_ok=True)
    file = (run_dir / f"rows.{rank}.jsonl").open("a", buffering=1)

    def noting(engine: Any, window: list[dict], step: int, *rest: Any) -> Any:
        pictures = [zlib.crc32(batch["video"].contiguous().numpy().tobytes()) for batch in window]
        positions = [batch["position"].tolist() for batch in window]
        file.write(json.dumps({"step": step + 1, "positions": positions, "pictures": pictures}) + "\n")
        return step_of_training(engine, window, step, *rest)

    mock.patch.object(train, "train_step", noting).start()


def rows_of(run_dir: Path) -> dict[tuple[str, int], dict]:
    """File, step -> what was fed. A step that was done again must have been fed the same."""
    rows: dict[tuple[str, int], dict] = {}
    for path in sorted(run_dir.glob("rows.*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            assert rows.setdefault((path.name, row["step"]), row) == row
    return rows


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_second_time(module: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
    """In place of the second call of `module.name`."""
    called, function = [], getattr(module, name)

    def dying(*arguments: Any) -> Any:
        if when(*arguments):
            called.append(name)
            if len(called) == 2:
                _die()
        return function(*arguments)

    mock.patch.object(module, name, dying).start()


def _halfway_through_the_files() -> None:
    """The weights are there, the moments are cut."""
    save, called = checkpoint.save_file, []

    def dying(tensors: dict, path: Path) -> None:
        save(tensors, path)
        called.append(path)
        if len(called) == 4:
            os.truncate(path, path.stat().st_size // 2)
            _die()

    mock.patch.object(checkpoint, "save_file", dying).start()


def _halfway_through_removing() -> None:
    """A folder that still has its name lacks a file."""
    prune, called = checkpoint._prune, []

    def dying(folder: Path, retention: checkpoint.Retention) -> None:
        called.append(folder)
        doomed = checkpoint._committed(folder)[retention.newest :]
        if len(called) > 1 and doomed:
            (doomed[0].folder / checkpoint.WEIGHTS).unlink()
            _die()
        prune(folder, retention)

    mock.patch.object(checkpoint, "_prune", dying).start()


FAULTS: dict[str, Callable[[], None]] = {
    "while copying": functools.partial(_die_second_time, saving.checkpoint, "take"),
    "halfway through the files": _halfway_through_the_files,
    "before the digests": functools.partial(
        _die_second_time, checkpoint, "write_bytes", lambda path, *_: path.name == checkpoint.DIGESTS
    ),
    "before the rename": functools.partial(_die_second_time, checkpoint, "publish"),
    "before latest": functools.partial(
        _die_second_time, checkpoint, "write_bytes", lambda path, *_: path.name == "latest"
    ),
    "before removing": functools.partial(_die_second_time, checkpoint, "_prune"),
    "halfway through removing": _halfway_through_removing,
}
