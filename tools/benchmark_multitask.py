"""What masked video modelling adds to a training step: forward and backward of all objectives, with it and without, in turns.

    python tools/benchmark_multitask.py                        # CPU: fp32, 2 films of 16 x 224 px
    python tools/benchmark_multitask.py --precision bf16 --latent dense
    python tools/benchmark_multitask.py --device cuda --batch 32 --precision bf16

The towers are those of clip/base_config (MViTv2-S and a text encoder of BERT's base size, the lower 80 % of it frozen), with random
weights; reports are generated. Every repeat times each set of objectives once; the ratio is the median over repeats. The optimiser is
left out; the teacher of --latent ema is moved within the step.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from deepcoro.angiography.cohort import patient_of, studies_of
from deepcoro.angiography.presets import preset_named
from deepcoro.config import parse
from deepcoro.model import Batch, VideoTextModel, to_device
from deepcoro.run_config import RunConfig
from deepcoro.sample import ClipRecord, Report, StudyRecord
from deepcoro.teachers import move_teachers

BASE = ("contrastive", "captioning")
ALL = (*BASE, "masked_modeling")
FROZEN_TEXT = 0.8
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=2, help="films a step (default: 2)")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size_px", type=int, default=224)
    parser.add_argument("--variant", default="mvit_v2_s", help="video tower (default: mvit_v2_s)")
    parser.add_argument("--text_dim", type=int, default=768, help="width of the text tower (default: 768)")
    parser.add_argument("--text_layers", type=int, default=12, help="its blocks (default: 12)")
    parser.add_argument("--latent", choices=("none", "dense", "ema"), default="none")
    parser.add_argument("--mask_ratio", type=float, default=0.75)
    parser.add_argument("--repeats", type=int, default=5, help="after a warm-up of each")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="process: CPU seconds; fair on a busy machine, with OMP_NUM_THREADS=1",
    )
    return parser.parse_args(words)


def make_config(options: argparse.Namespace) -> RunConfig:
    heads = max(options.text_dim // 64, 1)
    text = {"hidden_size": options.text_dim, "layers": options.text_layers, "heads": heads, "dropout": 0.0}
    tree = {
        "precision": options.precision,
        "data": {
            "fields": {
                "video": {"frames": options.frames, "size_px": options.size_px},
                "report": {},
                "caption": {},
            }
        },
        "towers": {
            "video": {"variant": options.variant},
            "text": {"type": "text_hf", "from_scratch": text},
        },
        "objectives": {
            "contrastive": {},
            "captioning": {"decoder_layers": max(options.text_layers // 2, 1), "decoder_heads": heads},
            "masked_modeling": {"latent": options.latent, "mask_ratio": options.mask_ratio},
        },
    }
    return parse(RunConfig, tree, "benchmark")


def make_studies(num: int) -> list[StudyRecord]:
    """Studies of one film, with generated reports."""
    preset = preset_named("full")
    studies = [
        study for number in range(num) for study in studies_of(preset, 0, patient_of(preset, 0, number))
    ]
    clip = ClipRecord(clip="film", member="000.mjpg", frame_offsets=[0, 1], height=512, width=512)
    return [
        StudyRecord(
            study=str(number),
            clips=[clip],
            reports=[Report(scope="study", text=next(iter(study.reports.values())))],
        )
        for number, study in enumerate(studies[:num])
    ]


def make_model_and_batch(options: argparse.Namespace) -> tuple[VideoTextModel, Batch]:
    config, studies = make_config(options), make_studies(options.batch)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokenizer"
        config.towers.text.make_tokenizer((study.reports[0].text for study in studies), tokens)
        tokenizer = config.towers.text.load_tokenizer(tokens)
    torch.manual_seed(0)
    model = VideoTextModel(config, tokenizer, 100.0, 60.0).train()
    model.towers["text"].freeze(FROZEN_TEXT)
    rows = torch.arange(options.batch)
    shape = (options.batch, 1, options.frames, options.size_px, options.size_px)
    batch: Batch = {
        "video": torch.randint(0, 256, shape, dtype=torch.uint8),
        "clip_mask": torch.ones(options.batch, 1, dtype=torch.bool),
        "valid": torch.ones(options.batch, dtype=torch.bool),
        "position": rows,
        "unit": rows,
    }
    for name in ("report", "caption"):
        field = config.data.fields[name].build(tokenizer)
        draw = np.random.default_rng(0)
        batch |= field.collate([field.decode(study, (0,), lambda _: b"", draw) for study in studies], 1)
    return model, batch


def time_step(
    model: VideoTextModel, batch: Batch, active: tuple[str, ...], clock: Callable[[], float]
) -> float:
    """One forward and backward; seconds."""
    model.zero_grad(set_to_none=True)
    _wait(batch)
    start = clock()
    losses = model(batch, task="losses", active=active)
    sum(each["sum"] / model.objectives[name].count(batch) for name, each in losses.items()).sum().backward()
    move_teachers(model, 0, active)
    _wait(batch)
    return clock() - start


def _wait(batch: Batch) -> None:
    if batch["video"].is_cuda:
        torch.cuda.synchronize()


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    clock = CLOCKS[options.clock]
    model, batch = make_model_and_batch(options)
    device = torch.device(options.device)
    model, batch = model.to(device), to_device(batch, device)
    sets = (("contrastive",), BASE, ALL)
    for active in sets:
        time_step(model, batch, active, clock)
    seconds: dict[tuple[str, ...], list[float]] = {active: [] for active in sets}
    for _ in range(options.repeats):
        for active in sets:
            seconds[active].append(time_step(model, batch, active, clock))
    print(
        f"{options.batch} films of {options.frames} x {options.size_px}² px, {options.precision}, {device}, "
        f"mask_ratio {options.mask_ratio}, latent {options.latent}; {options.clock} clock, median of {options.repeats}"
    )
    for active in sets:
        ratios = [own / base for own, base in zip(seconds[active], seconds[BASE], strict=True)]
        median = statistics.median(seconds[active])
        print(
            f"{' + '.join(active):48} {median:8.3f} s   {statistics.median(ratios):5.3f} of "
            f"{' + '.join(BASE)} ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
