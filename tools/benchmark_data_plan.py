"""What grows with the number of films, without the films: a rank's start, a label table's join, and how well windows of shards mix.

    OMP_NUM_THREADS=1 python tools/benchmark_data_plan.py --films 2000000 --ranks 1024 --table_films 200000

Makes simulated shard folders (indexes, splits, columns; no pixels) in a temporary folder, or in --folder, where they are used again.
Each figure is of a fresh process; memory is the peak over what the imports had left. Prints Markdown.
"""

import argparse
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from deepcoro.data import simulate
from deepcoro.data.shuffle_quality import Quality, quality_of_windows

WINDOWS = (1, 4, 16, 64, 1_000_000)
ORDERS = {
    "default": {},
    "data.balance=study": {"balance": "study"},
    "data.balance=label": {"balance": "label", "balance_by": "cto"},
    "data.where": {"where": "cto == 1 and num_frames >= 10"},
}


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--films", type=int, default=2_000_000, help="films to plan (default: 2000000)")
    parser.add_argument("--ranks", type=int, default=1024, help="ranks of the run (default: 1024)")
    parser.add_argument(
        "--table_films", type=int, default=200_000, help="films to join a table to (default: 200000)"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the simulated folders are made (default: temporary)"
    )
    return parser.parse_args(words)


def starts(folder: Path, ranks: int) -> str:
    """A row for each way to draw: the last rank opens the folder, orders an epoch and takes its first rows."""
    lines = ["| order | s | CPU s | MB | samples | steps an epoch |", "|---|---|---|---|---|---|"]
    for name, keys in ORDERS.items():
        cost = simulate.cost_of(simulate.start_rank, folder, ranks - 1, ranks, keys)
        lines.append(
            f"| {name} | {cost.wall_s:.1f} | {cost.cpu_s:.1f} | {cost.memory_mb:.0f} |"
            f" {cost.result['units']:,} | {cost.result['steps_per_epoch']:.1f} |"
        )
    return "\n".join(lines)


def join(folder: Path, size: simulate.Size) -> str:
    table = folder.parent / "labels.csv"
    simulate.write_label_table(table, size)
    cost = simulate.cost_of(simulate.join_table, folder, table)
    [joined] = cost.result["tables"]
    return (
        f"A table of {joined['rows']:,} rows ({table.stat().st_size / 1e6:.0f} MB: a label and a report a film, {joined['matched']:,}"
        f" matched): {cost.wall_s:.1f} s, {cost.cpu_s:.1f} CPU s, {cost.memory_mb:.0f} MB"
    )


def mixing(size: simulate.Size, rows: int) -> str:
    import numpy as np

    unit = np.arange(size.films)
    shard, study = unit // size.films_per_shard, unit // size.films_per_study
    found = quality_of_windows(shard, study, rows, WINDOWS)
    names = list(Quality.__dataclass_fields__)
    lines = ["| shards a window | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for window, quality in found.items():
        values = " | ".join(f"{getattr(quality, name):.3g}" for name in names)
        lines.append(f"| {'all' if window == WINDOWS[-1] else window} | {values} |")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    options = parse_arguments(words)
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        sizes = {
            "large": simulate.Size(films=options.films),
            "joined": simulate.Size(films=options.table_films),
        }
        for name, size in sizes.items():
            if not (root / name / "manifest.json").is_file():
                simulate.simulate_folder(root / name, size)
        print(
            f"{time.strftime('%Y-%m-%d %H:%M')} UTC, {simulate.device()}, Python {platform.python_version()}, "
            + ", ".join(f"{name} {version(name)}" for name in ("numpy", "pyarrow"))
        )
        print(f"\n{options.films:,} films, {options.ranks} ranks:\n\n{starts(root / 'large', options.ranks)}")
        print(f"\n{join(root / 'joined', sizes['joined'])}")
    rows = simulate.BATCH_SIZE * 16
    print(f"\n{options.table_films:,} films, global batches of {rows}:\n\n{mixing(sizes['joined'], rows)}")


if __name__ == "__main__":
    main()
