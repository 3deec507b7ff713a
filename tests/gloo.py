"""Runs a function on N gloo processes and hands back what each returned; a hung or failed rank fails the test."""

import datetime
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run_on_ranks(
    function: Callable[..., Any], world_size: int, *arguments: Any, timeout_s: float = 500
) -> list[Any]:
    """`function(rank, *arguments)` on each rank of a fresh process group; a module-level function, since ranks are spawned."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        ranks = [
            context.Process(target=_rank, args=(function, rank, world_size, folder, arguments))
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        deadline = time.monotonic() + timeout_s
        for process in ranks:
            process.join(max(deadline - time.monotonic(), 0.1))
        hung = [number for number, process in enumerate(ranks) if process.is_alive()]
        for process in ranks:
            process.kill()
        errors = [path.read_text() for path in sorted(Path(folder).glob("error-*"))]
        assert not errors, "\n".join(errors)
        assert not hung, f"ranks {hung} of {world_size} did not end within {timeout_s} s"
        assert [process.exitcode for process in ranks] == [0] * world_size
        return [pickle.loads((Path(folder) / f"result-{rank}").read_bytes()) for rank in range(world_size)]


def join_group(rank: int, world_size: int, folder: Path) -> None:
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


def _rank(function: Callable[..., Any], rank: int, world_size: int, folder: str, arguments: tuple) -> None:
    try:
        join_group(rank, world_size, Path(folder))
        result = function(rank, *arguments)
        (Path(folder) / f"result-{rank}").write_bytes(pickle.dumps(result))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:  # noqa: BLE001 - the parent reports whatever ended the rank
        (Path(folder) / f"error-{rank}").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise
