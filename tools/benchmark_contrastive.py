"""The contrastive losses' forms side by side: live bytes and CPU time of forward + backward, beside a plain local loss.

    OMP_NUM_THREADS=1 python tools/benchmark_contrastive.py --batch 1024 4096 --ranks 1 2 --dim 512 --repeats 3

`plain` is the usual way: both sides gathered with gradient, this rank's rows against all, two cross-entropies over the logits (or
log-sigmoid), left to autograd. Forms take turns, so that another load on the machine meets all alike; bytes are counted on
the untimed first turn and are the same on any machine. Prints one Markdown table, then bytes by formula for large batches.
"""

import argparse
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from deepcoro.distributed import gather_rows_with_gradient, rank, world_size
from deepcoro.kernels.tiled_contrastive import Tiling
from deepcoro.live_bytes import step_bytes
from deepcoro.losses import clip, siglip
from deepcoro.pairing import pair_up

FORMS = ("plain", "dense", "gather", "ring")
LOSSES = {"clip": clip.Config().build(), "siglip": siglip.Config().build()}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LARGE_BATCHES = [2**power for power in range(15, 21)]
Step = Callable[[], Tensor]


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1024, 2048, 4096], help="global batch sizes")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--loss", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument(
        "--precision", choices=DTYPES, default="fp32", help="of the features; logits are fp32"
    )
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed turns, after the counted one; 0 counts only"
    )
    parser.add_argument("--device", default="cpu", help="cuda: one rank a GPU, wall time")
    return parser.parse_args(words)


def plain_step(name: str, video: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    all_videos, first = gather_rows_with_gradient(video)
    all_texts, _ = gather_rows_with_gradient(text)
    scale = scale.to(video.dtype)  # as under autocast: the product is of the features' precision
    if name == "clip":
        own = torch.arange(first, first + len(video), device=video.device)
        logits = (scale * video @ all_texts.T, scale * text @ all_videos.T)
        return sum(functional.cross_entropy(each.float(), own, reduction="sum") for each in logits) / 2
    logits = scale * video @ all_texts.T + bias
    signs = 2 * torch.eye(len(all_texts), device=video.device)[first : first + len(video)] - 1
    return -functional.logsigmoid(signs * logits.float()).sum()


def make_step(name: str, form: str, batch: int, options: argparse.Namespace) -> Step:
    """A function that gives this rank's share of the loss for its rows of the batch."""
    device = torch.device(options.device, rank()) if options.device == "cuda" else torch.device("cpu")
    rows = batch // world_size()
    generator = torch.Generator().manual_seed(rank())
    video, text = (
        functional.normalize(torch.randn(rows, options.dim, generator=generator), dim=-1)
        .to(device, DTYPES[options.precision])
        .requires_grad_()
        for _ in range(2)
    )
    scale, bias = (torch.tensor([number], device=device, requires_grad=True) for number in (14.0, -10.0))
    ids = torch.arange(rows, device=device) + rows * rank()

    def step() -> Tensor:
        video.grad = text.grad = scale.grad = bias.grad = None
        if form == "plain":
            return plain_step(name, video, text, scale, bias)
        pairs = pair_up(video, text, ids, ids)
        return (
            LOSSES[name]
            .share(pairs, scale, bias if name == "siglip" else None, Tiling(form, options.tile))
            .sum
        )

    return step


def timed(step: Step, device: str) -> float:
    """Seconds of forward and backward: CPU seconds of this process, or wall seconds of the GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    step().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure(name: str, batch: int, options: argparse.Namespace) -> dict[str, tuple[int, float]]:
    """Peak bytes and median seconds of each form on this rank."""
    forms = [form for form in options.forms if form != "ring" or world_size() > 1]
    steps = {form: make_step(name, form, batch, options) for form in forms}
    peaks = {form: step_bytes(step).peak for form, step in steps.items()}
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(options.repeats):
        for form, step in steps.items():
            seconds[form].append(timed(step, options.device))
    medians = {form: statistics.median(times) if times else float("nan") for form, times in seconds.items()}
    return {form: (peaks[form], medians[form]) for form in forms}


def run_rank(number: int, ranks: int, port: int, options: argparse.Namespace) -> None:
    if ranks > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        backend = "nccl" if options.device == "cuda" else "gloo"
        dist.init_process_group(backend, rank=number, world_size=ranks)
    for name in options.loss:
        for batch in options.batch:
            measured = measure(name, batch, options)
            if number == 0:
                print_rows(name, batch, ranks, measured)
    if ranks > 1:
        dist.destroy_process_group()


def print_rows(name: str, batch: int, ranks: int, measured: dict[str, tuple[int, float]]) -> None:
    base_bytes, base_seconds = next(iter(measured.values()))
    for form, (peak, seconds) in measured.items():
        ratios = f"{peak / base_bytes:.3f} | {seconds:.3f} | {seconds / base_seconds:.2f}"
        print(f"| {name} | {batch} | {ranks} | {form} | {peak / 1e6:.2f} | {ratios} |", flush=True)


def print_formulas(options: argparse.Namespace, ranks: int = 8) -> None:
    """Bytes of a rank of eight, from the formulas of the kernel's docstring; 16 b B + 8 B D of the plain loss."""
    size, dim, tile = DTYPES[options.precision].itemsize, options.dim, 3 * 4 * options.tile**2
    print(
        f"\n| batch (by formula, {ranks} ranks, D = {dim}) | plain GB | gather GB | ring GB |\n|---|---|---|---|"
    )
    for batch in LARGE_BATCHES:
        own = batch // ranks
        plain = 16 * own * batch + 8 * batch * dim
        gather = (size + 4) * batch * dim + 8 * own * dim + tile
        ring = (2 * size + 12) * own * dim + tile
        print(f"| {batch} | {plain / 1e9:.2f} | {gather / 1e9:.2f} | {ring / 1e9:.2f} |")


def main(words: list[str] | None = None) -> None:
    options = parse_arguments(words)
    print(
        f"{options.precision} features, D = {options.dim}, tile {options.tile}, torch {torch.__version__}, "
    )
    print(
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; {options.repeats} turns, rank 0\n"
    )
    clock = "wall s" if options.device == "cuda" else "CPU s"
    print(
        f"| loss | batch | ranks | form | peak MB | x first | {clock} | x first |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for ranks in options.ranks:
        if ranks == 1:
            run_rank(0, 1, 0, options)
            continue
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        multiprocessing.spawn(run_rank, (ranks, port, options), nprocs=ranks)
    print_formulas(options)


if __name__ == "__main__":
    main()
