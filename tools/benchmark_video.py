"""Forward + backward of our MViTv2-S against torchvision's: time interleaved in one process, memory in a fresh process each.

    python tools/benchmark_video.py --batch 2 --frames 16 --size_px 224 --precision fp32 bf16 --repeats 5

Prints one Markdown row a precision. Activation memory is the peak above the process with model and input built: of the
resident set on CPU, of allocated memory on CUDA. Both models hold the same weights and run in training mode without drop path.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from deepcoro.mvit.shapes import VARIANTS
from deepcoro.towers.video_mvit import EncoderSettings, VideoMViT

MODELS = ("torchvision", "deepcoro")
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size_px", type=int, default=224)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each model, after one warm-up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="process: CPU seconds; fair on a busy machine, with OMP_NUM_THREADS=1",
    )
    parser.add_argument("--attention", default="auto", help="our attention backend")
    parser.add_argument("--checkpointing", action="store_true", help="recompute our blocks in backward")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--memory_of", choices=MODELS, help="internal: measure one model's memory here, print JSON"
    )
    return parser.parse_args(words)


def make_model(name: str, options: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    if name == "deepcoro":
        settings = EncoderSettings(
            drop_path_rate=0.0,
            head_dropout=0.0,
            attention=options.attention,
            activation_checkpointing="blocks" if options.checkpointing else "none",
        )
        model = VideoMViT.from_variant(
            "mvit_v2_s", 400, frames=options.frames, size_px=options.size_px, settings=settings
        )
    else:
        model = make_torchvision_model(options.frames, options.size_px)
    return model.to(options.device).train()


def make_torchvision_model(frames: int, size_px: int) -> nn.Module:
    """torchvision's `mvit_v2_s`, whose own constructor allows neither another film size nor no drop path."""
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    shapes = VARIANTS["mvit_v2_s"].block_shapes((frames // 2, size_px // 4, size_px // 4))
    kernel = [3, 3, 3]
    blocks = [
        MSBlockConfig(
            num_heads=shape.heads,
            input_channels=shape.dim_in,
            output_channels=shape.dim_out,
            kernel_q=kernel,
            kernel_kv=kernel,
            stride_q=[1, shape.query_stride, shape.query_stride],
            stride_kv=[1, shape.key_stride, shape.key_stride],
        )
        for shape in shapes
    ]
    switches = dict.fromkeys(("residual_pool", "rel_pos_embed", "proj_after_attn"), True)
    return MViT((size_px, size_px), frames, blocks, residual_with_cls_embed=False, dropout=0.0, **switches)


def make_video(options: argparse.Namespace) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(
        options.batch, 3, options.frames, options.size_px, options.size_px, device=options.device
    )


def run_step(model: nn.Module, video: Tensor, precision: str, clock: Callable[[], float]) -> float:
    """One forward and backward; seconds."""
    model.zero_grad(set_to_none=True)
    _wait(video)
    start = clock()
    with torch.autocast(video.device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss = model(video).float().logsumexp(-1).mean()
    loss.backward()
    _wait(video)
    return clock() - start


def _wait(video: Tensor) -> None:
    if video.is_cuda:
        torch.cuda.synchronize()


def time_models(options: argparse.Namespace, precision: str) -> dict[str, list[float]]:
    """Seconds of each step, the models taking turns so that another load on the machine meets all alike."""
    video = make_video(options)
    models = {name: make_model(name, options) for name in options.models}
    seconds = {name: [] for name in models}
    for repeat in range(options.repeats + 1):
        for name, model in models.items():
            elapsed = run_step(model, video, precision, CLOCKS[options.clock])
            if repeat:
                seconds[name].append(elapsed)
    return seconds


def measure_memory(options: argparse.Namespace) -> float:
    """Peak above idle of one step in this process, MB."""
    model, video = make_model(options.memory_of, options), make_video(options)
    gc.collect()
    if video.is_cuda:
        idle = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run_step(model, video, options.precision[0], time.perf_counter)
        return (torch.cuda.max_memory_allocated() - idle) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the present resident set
    idle = _status_mb("VmRSS")
    run_step(model, video, options.precision[0], time.perf_counter)
    return _status_mb("VmHWM") - idle


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(key + ":"))


def memory_in_fresh_process(name: str, precision: str, words: list[str]) -> float:
    command = [sys.executable, __file__, *words, "--precision", precision, "--memory_of", name]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def describe_machine(options: argparse.Namespace) -> str:
    if options.device.startswith("cuda"):
        return torch.cuda.get_device_name()
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = names[0].split(":")[1].strip() if names else platform.processor()
    native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    load = os.getloadavg()[0]
    return f"{processor}, {torch.get_num_threads()} threads, bfloat16 in hardware: {native}, load {load:.1f}"


def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    options = parse_arguments(words)
    if options.memory_of:
        print(json.dumps(measure_memory(options)))
        return
    shape = f"{options.batch} x {options.frames} x {options.size_px}²"
    print(f"{describe_machine(options)}; torch {torch.__version__}; batch {shape}\n")
    print(f"| precision | model | {options.clock} s/step median (min) | activation MB |\n|---|---|---|---|")
    for precision in options.precision:
        seconds = time_models(options, precision)
        memory = {name: memory_in_fresh_process(name, precision, words) for name in options.models}
        medians = {name: sorted(times)[len(times) // 2] for name, times in seconds.items()}
        for name, times in seconds.items():
            print(f"| {precision} | {name} | {medians[name]:.3f} ({min(times):.3f}) | {memory[name]:.0f} |")
        if len(medians) == 2:
            speed = medians["torchvision"] / medians["deepcoro"]
            print(
                f"| {precision} | ratio | {speed:.2f}x faster | {memory['deepcoro'] / memory['torchvision']:.2f}x |"
            )


if __name__ == "__main__":
    main()
