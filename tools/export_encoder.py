#!/usr/bin/env python3
"""Writes a video encoder as a folder that others can load: from a trained run, or from public Kinetics weights."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from torch import nn  # noqa: E402

from deepcoro import checkpoint  # noqa: E402
from deepcoro.config import ConfigError, DataError  # noqa: E402
from deepcoro.exported import export_encoder  # noqa: E402
from deepcoro.mvit.shapes import VARIANTS  # noqa: E402
from deepcoro.run_config import run_config_from_dump  # noqa: E402
from deepcoro.seen import SAW_NOBODY, seen_through  # noqa: E402
from deepcoro.sharing.portable import ONNX, PROGRAM, Portable  # noqa: E402
from deepcoro.towers import video_mvit  # noqa: E402
from deepcoro.weights import read_pixel_constants  # noqa: E402

EXAMPLES = """\
examples:
  The encoder of a trained run, with what it was trained on and the grey levels it expects:
    python tools/export_encoder.py runs/mine encoders/mine
    python tools/export_encoder.py runs/mine encoders/mine --checkpoint step_4000

  Public weights, whose file does not say what it holds (torchvision's mvit_v2_s, SlowFast's MViTv2-S, -B, -L):
    python tools/export_encoder.py MViTv2_B_32x3_k400_f304025456.pyth encoders/mvit_v2_b \\
        --variant mvit_v2_b --frames 32 --size_px 224

  Also as a graph that runs without this package, held against the encoder before it is kept:
    python tools/export_encoder.py runs/mine encoders/mine --graph torch
    python tools/export_encoder.py runs/mine encoders/mine --graph torch onnx

  Put it on the Hugging Face hub, and start from it anywhere:
    hf upload ORGANISATION/NAME encoders/mine
    accelerate launch ... train.py CONFIG towers.video.variant=mvit_v2_s towers.video.weights=encoders/mine
    accelerate launch ... train.py CONFIG towers.video.variant=mvit_v2_s towers.video.weights=hf://ORGANISATION/NAME@main

what is written: FOLDER/model.safetensors (fp32, no text tower, no heads) and FOLDER/config.json (variant, frames, size, mean and
std of the grey levels, where the weights come from); with --graph FOLDER/encoder.pt2 and FOLDER/encoder.onnx: grey levels of any number
of films to tokens, the class token first. No path, patient or report is in either. A run whose films differ in frames
or size stretches the positions; another variant is refused.

exit codes: 0 done, 2 the command or the weights are at fault (one line says how), 1 a bug.
"""


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="export_encoder.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="run folder, or a file of public weights")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="written; must not exist")
    parser.add_argument("--checkpoint", default="best", help="of a run: best (default), last or step_N")
    parser.add_argument("--variant", choices=sorted(VARIANTS), help="of a file: which encoder it holds")
    parser.add_argument("--frames", type=int, default=16, help="of a file: frames of a clip (default: 16)")
    parser.add_argument(
        "--size_px", type=int, default=224, help="of a file: side of a picture (default: 224)"
    )
    parser.add_argument(
        "--graph",
        nargs="+",
        choices=("torch", "onnx"),
        default=(),
        help=f"also write {PROGRAM} of torch.export, and {ONNX} (needs the extra onnx, writes both)",
    )
    return parser.parse_args(arguments)


def graphs_of(
    options: argparse.Namespace, tower: nn.Module, pixel_constants: tuple[float, float] | None
) -> Callable[[Path], dict[str, Any]] | None:
    """What writes the graphs that were asked for."""
    if not options.graph:
        return None
    if not isinstance(tower, video_mvit.VideoMViT):
        raise ConfigError("--graph is for video_mvit; a timm model's own package exports it")
    return Portable(tower, pixel_constants, onnx="onnx" in options.graph).write


def from_run(options: argparse.Namespace) -> None:
    if options.variant is not None:
        raise ConfigError("--variant is for a file of weights; a run folder knows its own")
    saved = checkpoint.find(options.source / "checkpoints", options.checkpoint)
    state = saved.state()
    config = run_config_from_dump(state["config"], str(options.source))
    field = config.data.fields["video"]
    provenance = {
        "step": saved.step,
        "digest": saved.digest(),
        "data": state["data"].get("fingerprint"),
        "objectives": sorted(config.objectives),
    }
    tower = build(config.towers.video, str(saved.folder), field.frames, field.size_px)
    grey = read_pixel_constants(saved.folder)
    export_encoder(tower, options.folder, grey, provenance, graphs_of(options, tower, grey))


def from_file(options: argparse.Namespace) -> None:
    if options.variant is None:
        raise ConfigError(
            f"'{options.source}' is a file; say which encoder it holds: --variant {sorted(VARIANTS)}"
        )
    tower = build(
        video_mvit.Config(variant=options.variant), str(options.source), options.frames, options.size_px
    )
    seen = seen_through(str(options.source))
    provenance = {"file": options.source.name, SAW_NOBODY: seen.is_whole and not seen.patients}
    graphs = graphs_of(options, tower, None)
    export_encoder(tower, options.folder, provenance=provenance, write_graphs=graphs)


def build(config: video_mvit.Config, weights: str, frames: int, size_px: int) -> nn.Module:
    return config.model_copy(update={"weights": weights}).build(frames, size_px)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")
    # not of the libraries: ONNX's optimiser tells of each node
    logging.getLogger("deepcoro").setLevel(logging.INFO)
    try:
        (from_file if options.source.is_file() else from_run)(options)
    except (ConfigError, DataError) as error:
        print(f"export_encoder: {error.told}", file=sys.stderr)
        return 2
    print(f"written {options.folder}: use it with towers.video.weights={options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
