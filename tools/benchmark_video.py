"""Forward + backward of our MViTv2-S against torchvision's, dense and sparse, with and without recomputation: one table.

    python tools/benchmark_video.py                                  # CPU: fp32 and bf16, 2 clips of 16 x 224 px
    python tools/benchmark_video.py --device cuda                    # bf16, 32 clips
    python tools/benchmark_video.py --contenders torchvision deepcoro deepcoro+blocks

Times are taken in turns in one process, memory in a fresh process for each row. Activation memory is the peak above the process
with model and batch built (weight gradients included): of the resident set on CPU, of allocated memory on CUDA. Speed and memory
are relative to the first contender. FLOPs are those of the mathematics, whoever computes it (deepcoro/mvit/work.py: what torch's
FLOP counter counts in torchvision's forward, times three); what is recomputed counts once, what is masked not at all. The share
of copy bandwidth is that of the bytes which matrix products, pooling and attention cannot help moving.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from deepcoro.kernels.precision import cpu_has_bfloat16
from deepcoro.video_benchmark import (
    CLOCKS,
    CONTENDERS,
    HEADER,
    Contender,
    Result,
    Task,
    activation_mb,
    measure_peaks,
    time_in_turns,
)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--batch", type=int, help="clips a step (default: 2 on CPU, 32 on CUDA)")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size_px", type=int, default=224)
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("fp32", "bf16"),
        help="default: fp32 and bf16 on CPU, bf16 on CUDA",
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each, after two warm-up steps")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="process: CPU seconds; fair on a busy machine, with OMP_NUM_THREADS=1",
    )
    parser.add_argument("--attention", default="auto", help="our attention backend")
    parser.add_argument(
        "--contenders",
        nargs="+",
        default=list(CONTENDERS),
        help=f"rows of the table, options joined by + (default: {' '.join(CONTENDERS)})",
    )
    parser.add_argument("--memory_of", help="internal: measure one contender's memory here, print JSON")
    options = parser.parse_args(words)
    on_cuda = options.device.startswith("cuda")
    options.batch = options.batch or (32 if on_cuda else 2)
    options.precision = options.precision or (["bf16"] if on_cuda else ["fp32", "bf16"])
    return options


def memory_in_fresh_process(name: str, precision: str, words: list[str]) -> float:
    command = [sys.executable, __file__, *words, "--precision", precision, "--memory_of", name]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def measure_memory(options: argparse.Namespace, precision: str, words: list[str]) -> dict[str, float]:
    """Activation MB of each contender. On CUDA four at a time: allocated bytes are a process's own."""
    at_once = 4 if options.device.startswith("cuda") else 1
    with ThreadPoolExecutor(at_once) as pool:
        found = pool.map(lambda name: memory_in_fresh_process(name, precision, words), options.contenders)
        return dict(zip(options.contenders, found, strict=True))


def describe_machine(options: argparse.Namespace) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision"))
    if options.device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, {packages}"
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = names[0].split(":")[1].strip() if names else platform.processor()
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    return f"{processor}, {threads} threads, bfloat16 in hardware: {cpu_has_bfloat16()}, load {load:.1f}, {packages}"


def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    options = parse_arguments(words)
    task = Task(options.batch, options.frames, options.size_px, options.device, options.attention)
    if options.memory_of:
        print(json.dumps(activation_mb(options.memory_of, task, options.precision[0])))
        return
    for name in options.contenders:
        Contender.named(name)  # a wrong name is found before the first minute
    print(
        f"{describe_machine(options)}; {task.batch} x {task.frames} x {task.size_px}² px; {options.clock} clock"
    )
    peaks = {each: measure_peaks(task.device, each, options.clock) for each in options.precision}
    for precision, peak in peaks.items():
        print(f"{precision}: matmul peak {peak.tflops:.3g} TFLOP/s, copy {peak.gb_per_s:.3g} GB/s")
    print(f"\n{HEADER}")
    for precision in options.precision:
        seconds = time_in_turns(options.contenders, task, precision, options.repeats, options.clock)
        memory = measure_memory(options, precision, words)
        results = [Result(name, seconds[name], memory[name]) for name in options.contenders]
        for result in results:
            print(result.row(results[0], task, precision, peaks[precision]), flush=True)


if __name__ == "__main__":
    main()
