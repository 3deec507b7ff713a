"""Clips per second of one core: out of shards and plain webdataset, out of the original AVI the predecessor's way, out of H.264.

    OMP_NUM_THREADS=1 python tools/benchmark_data.py --films 24 --rounds 5

Films are generated 512 px angiograms. Prints a Markdown table with the quality of each encoding beside its speed; the files it makes
lie in a temporary folder unless --folder is given. torchcodec is measured where it is installed.
"""

import argparse
import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from deepcoro.data import benchmark, benchmark_readers

PACKAGES = ("torch", "simplejpeg", "av", "opencv-python-headless", "numpy", "webdataset", "torchcodec")


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--films", type=int, default=24, help="films, 512 px (default: 24)")
    parser.add_argument("--film_frames", type=int, default=60, help="frames of a film (default: 60)")
    parser.add_argument("--frames", type=int, default=16, help="frames of a clip (default: 16)")
    parser.add_argument("--size_px", type=int, default=224, help="side of a clip (default: 224)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="times each reader goes through all films (default: 5)"
    )
    parser.add_argument("--folder", type=Path, help="where films and shards are made (default: temporary)")
    return parser.parse_args(words)


def versioned(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def main(words: list[str] | None = None) -> None:
    import cv2
    import torch

    options = parse_arguments(words)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    task = benchmark.Task(options.film_frames, options.frames, options.size_px)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        films = benchmark.make_films(folder / "films", options.films, options.film_frames)
        readers, notes = benchmark_readers.all_readers(films, folder / "shards", task)
        results = benchmark.measure(readers, films, task, options.rounds)
    print(
        f"{options.films} films, 512 px, {task.film_frames} frames -> {task.frames} frames at {task.size_px} px, {options.rounds} rounds"
    )
    print(f"Python {platform.python_version()}, {', '.join(map(versioned, PACKAGES))}")
    print(f"load average {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    print(benchmark.table(results, benchmark_readers.PREDECESSOR, benchmark_readers.ONE_PASS))
    for note in notes:
        print(note)


if __name__ == "__main__":
    main()
