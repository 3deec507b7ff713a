#!/usr/bin/env python3
"""Seconds a study from a folder of DICOM films to its answer, as tools/predict.py gives it, with the share spent decoding.

Writes a generated study (ten films of 60 frames of 512 x 512 unless told otherwise) and an untrained model of each size, and answers
for it over and over. Medians after one turn that is not counted; loading the model is not counted either.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

# What loads torch is imported where it is used: the processes that decode films import this file too.
from deepcoro.tool import exit_code, num_cores  # noqa: E402

SYNTAXES, MODELS = ("explicit", "rle", "j2k"), ("tiny", "mvit_v2_s")


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--films", type=int, default=10)
    add("--frames", type=int, default=60, help="of a film")
    add("--size_px", type=int, default=512)
    syntax = "transfer syntaxes: not compressed, RLE, JPEG 2000 lossless (default: all)"
    add("--syntaxes", nargs="+", choices=SYNTAXES, default=list(SYNTAXES), help=syntax)
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    add("--workers", type=int, default=num_cores(), help="processes that decode (default: one a core)")
    add("--repeats", type=int, default=3, help="counted turns (default: 3)")
    return parser.parse_args(words)


def run(options: argparse.Namespace) -> None:
    from deepcoro.inference.opened import FilmOpener, settings_of

    with (
        tempfile.TemporaryDirectory() as folder,
        FilmOpener(settings_of(options.workers, "XA", False, "sector")) as opener,
    ):
        measure(options, Path(folder), opener)


def measure(options: argparse.Namespace, folder: Path, opener: object) -> None:
    import torch

    from deepcoro.inference.latency import HEADER, Study, row_of, time_study, write_study, write_untrained
    from deepcoro.inference.model import Answerer

    sizes = {}
    for syntax in options.syntaxes:
        study = Study(options.films, options.frames, options.size_px, syntax)
        sizes[syntax] = write_study(folder / syntax, study) / 1e6
    print(
        f"{options.films} films of {options.frames} x {options.size_px} px "
        f"({', '.join(f'{syntax} {size:.0f} MB' for syntax, size in sizes.items())}); {options.device}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {options.workers} processes that decode, load {os.getloadavg()[0]:.1f}\n\n{HEADER}"
    )
    for model in options.models:
        answerer = Answerer(
            write_untrained(folder / f"run_{model}", model, options.films), "last", options.device
        )
        for syntax in options.syntaxes:
            times = time_study(folder / syntax, answerer, opener, folder / "answers", options.repeats)
            print(row_of(model, f"{syntax}, {sizes[syntax]:.0f} MB", times), flush=True)


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    return exit_code("benchmark_inference", lambda: run(options), debug=False)


if __name__ == "__main__":
    sys.exit(main())
