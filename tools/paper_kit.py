#!/usr/bin/env python3
"""Writes what a paper on a run needs: Table 1, flow of exclusions, TRIPOD+AI and CLAIM checklists filled from the run's record.

    python tools/paper_kit.py runs/mine
    python tools/paper_kit.py runs/mine --output paper/ data.shards=/new/place/of/the/shards

RUN/paper then holds table_1, exclusion_flow (csv, tex; the flow also as svg), tripod_ai and claim (csv, md). Tables of results are in
RUN/tables, written by every evaluation. Nothing names a patient; cells of fewer than ten are not told (--fewest), nor those from which they
would follow.

exit codes: 0 done, 2 the command or the data are at fault (one line says how), 1 a bug.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.aggregates import FEWEST  # noqa: E402
from deepcoro.config import ConfigError  # noqa: E402
from deepcoro.paper.kit import write_kit  # noqa: E402
from deepcoro.run_config import config_of_run  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="paper_kit.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="where the data are now, e.g. data.shards=..."
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: RUN/paper")
    fewest = f"counts below this are not told; 1 tells all (default: {FEWEST})"
    parser.add_argument("--fewest", type=int, default=FEWEST, metavar="N", help=fewest)
    return parser.parse_args(words)


def make(options: argparse.Namespace) -> None:
    config = config_of_run(options.run_dir, options.overrides)
    if options.fewest < 1:
        raise ConfigError(f"--fewest is {options.fewest}; allowed: 1 or more")
    for path in write_kit(
        options.run_dir, config, options.output or options.run_dir / "paper", options.fewest
    ):
        print(f"written {path}")


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    return exit_code("paper_kit", lambda: make(options), debug=False)


if __name__ == "__main__":
    sys.exit(main())
