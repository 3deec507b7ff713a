"""Whether ranks can talk: processes of their own, started and timed, and ended where they hang."""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepcoro.doctor.finding import Finding

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
ANSWER, STDERR = "gb_per_s.json", 2
MEGABYTES = {"gloo": 16, "nccl": 256}
SLOW_GB_PER_S = 10.0
"""Below it GPUs talk through the host or one PCIe link: ZeRO-3 gathers every layer through that."""


@dataclass(frozen=True)
class Talk:
    """What an all-reduce among ranks did."""

    backend: str
    ranks: int
    gb_per_s: float | None
    """Bus bandwidth: 2 (N - 1) / N x bytes / seconds. None where it failed."""
    error: str = ""


def talk(num_gpus: int, timeout_s: float = 120.0) -> Talk:
    """All GPUs where there are several, else two processes on the CPU. Nothing it starts outlives it. Raises nothing."""
    backend, ranks = ("nccl", num_gpus) if num_gpus > 1 else ("gloo", 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [str(ranks), backend, str(_free_port()), str(timeout_s), str(folder)]
        started = [_start(rank, words, folder) for rank in range(ranks)]
        if not _end(started, timeout_s):
            return Talk(backend, ranks, None, f"no answer within {timeout_s:g} s")
        for rank, process in enumerate(started):
            if process.returncode != 0:
                told = (folder / f"errors_{rank}").read_text(errors="replace").strip().splitlines()
                return Talk(backend, ranks, None, told[-1] if told else f"rank {rank} was killed")
        return Talk(backend, ranks, json.loads((folder / ANSWER).read_text()))


def _end(started: Sequence[subprocess.Popen], timeout_s: float) -> bool:
    """Whether they ended by themselves, or one fell and the others were not waited for; none is left."""
    deadline = time.monotonic() + timeout_s
    while any(each.poll() is None for each in started) and not any(each.poll() for each in started):
        if time.monotonic() > deadline:
            for each in started:
                each.kill()
                each.wait()
            return False
        time.sleep(0.05)
    for each in started:
        _end_one(each)
    return True


def _end_one(process: subprocess.Popen) -> None:
    try:
        process.wait(5)  # what fell beside it may yet reach it as an error
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def findings(found: Talk) -> Iterator[Finding]:
    """One line."""
    who = f"{found.ranks} ranks over {found.backend}"
    if found.gb_per_s is None:
        advice = {
            "nccl": "NCCL_DEBUG=INFO tools/doctor.py says where it stops; NCCL_P2P_LEVEL=LOC tells whether direct copies are at fault (docs/multi_node.md)",
            "gloo": "a firewall or a host name that leads nowhere: GLOO_SOCKET_IFNAME=lo tells",
        }[found.backend]
        yield Finding("ranks", "broken", f"{who} cannot talk: {found.error}", advice)
        return
    what = f"{who} talk at {found.gb_per_s:.1f} GB/s"
    if found.backend == "nccl" and found.gb_per_s < SLOW_GB_PER_S:
        yield Finding(
            "ranks",
            "slow",
            what,
            "no NVLink, or it is not used: NCCL_DEBUG=INFO; prefer multi_gpu_zero1 or _zero2 to _zero3, and gradient_accumulation_steps",
        )
        return
    yield Finding("ranks", "ok", what)


def _start(rank: int, words: Sequence[str], folder: Path) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with (folder / f"errors_{rank}").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "deepcoro.doctor.ranks", str(rank), *words],
            env=os.environ | {"PYTHONPATH": path},
            stdout=STDERR if "NCCL_DEBUG" in os.environ else subprocess.DEVNULL,  # where NCCL talks
            stderr=errors,
        )


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def main(words: list[str] | None = None) -> int:
    """One rank: joins, sums a tensor five times, and rank 0 prints GB/s."""
    import datetime

    import torch
    import torch.distributed as dist

    parser = argparse.ArgumentParser()
    for name, kind in (
        ("rank", int),
        ("ranks", int),
        ("backend", str),
        ("port", int),
        ("timeout_s", float),
        ("folder", Path),
    ):
        parser.add_argument(name, type=kind)
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if asked.backend == "nccl":
        device = torch.device("cuda", asked.rank)
        torch.cuda.set_device(device)
    dist.init_process_group(
        asked.backend,
        init_method=f"tcp://127.0.0.1:{asked.port}",
        rank=asked.rank,
        world_size=asked.ranks,
        timeout=datetime.timedelta(seconds=asked.timeout_s),
    )
    values = torch.ones(MEGABYTES[asked.backend] * 250_000, device=device)
    seconds = min(_timed(values) for _ in range(5))
    if asked.rank == 0:
        rate = 2 * (asked.ranks - 1) / asked.ranks * values.nbytes / seconds / 1e9
        (asked.folder / ANSWER).write_text(json.dumps(rate))
    dist.destroy_process_group()
    return 0


def _timed(values: "Tensor") -> float:
    import torch
    import torch.distributed as dist

    dist.barrier()
    start = time.perf_counter()
    dist.all_reduce(values)
    if values.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
