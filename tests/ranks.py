"""Ranks that stay: a process group that runs one function after another, so that many tests pay for its imports once."""

import datetime
import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SERVED = multiprocessing.get_context("forkserver")
"""Makes processes that know what training imports: children of a server, one a test process, that has imported it once."""
SERVED.set_forkserver_preload(
    [
        *("deepspeed", "accelerate", "transformers.models.bert.modeling_bert", "torchvision"),
        *("matplotlib.backends.backend_svg", "deepcoro.train", "deepcoro.command_line"),
    ]
)


class Ranks:
    """A gloo process group of `world_size` ranks. A rank that fails or hangs ends them all; the next call starts new ones."""

    def __init__(self, world_size: int):
        self._world_size = world_size
        self._processes: list = []
        self._pipes: list = []

    def run(self, function: Callable[..., Any], *arguments: Any, timeout_s: float = 900) -> list[Any]:
        """`function(rank, *arguments)` on each rank, in order of ranks; a module-level function."""
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers = [self._answer(rank, timeout_s) for rank in range(self._world_size)]
        errors = [f"rank {rank}:\n{text}" for rank, (is_well, text) in enumerate(answers) if not is_well]
        if errors:
            self.end()
            raise AssertionError("\n".join(errors))
        return [result for _, result in answers]

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        for rank in range(self._world_size):
            mine, theirs = SERVED.Pipe()
            arguments = (rank, self._world_size, self._folder.name, theirs)
            process = SERVED.Process(target=_serve, args=arguments)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(mine)

    def _answer(self, rank: int, timeout_s: float) -> tuple[bool, Any]:
        if not self._pipes[rank].poll(timeout_s):
            return False, f"no answer within {timeout_s} s"
        try:
            # as bytes: between living processes torch would share the memory of every tensor, a file descriptor each
            return pickle.loads(self._pipes[rank].recv_bytes())
        except EOFError:
            return False, f"ended with exit code {self._processes[rank].exitcode}"


def _join_group(rank: int, world_size: int, folder: Path) -> None:
    """Makes this process a rank of the group that meets in `folder`."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=300),  # a rank may import for a minute longer than another
    )


def _serve(rank: int, world_size: int, folder: str, pipe: Any) -> None:
    _join_group(rank, world_size, Path(folder))
    while True:
        function, arguments = pipe.recv()
        try:
            answer = pickle.dumps((True, function(rank, *arguments)))
        except Exception:  # noqa: BLE001 - the parent reports whatever ended the function
            answer = pickle.dumps((False, traceback.format_exc()))
        pipe.send_bytes(answer)
