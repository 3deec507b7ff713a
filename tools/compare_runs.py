#!/usr/bin/env python3
"""Compares two models on the same films: each measure, the difference and its 95 % interval over patients, mean ± sd over seeds."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from deepcoro import atomic, comparison  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  Is the pre-trained encoder better than the random one? Both were evaluated with run_mode=test on the same shards:
    python tools/compare_runs.py runs/pretrained runs/random

  Three seeds each; every measure into a file; AUROCs only on the screen:
    python tools/compare_runs.py runs/a_0,runs/a_1,runs/a_2 runs/b_0,runs/b_1,runs/b_2 --measures '*/auroc' --csv compared.csv

  Runs that were evaluated on several data sets:
    python tools/compare_runs.py runs/a runs/b --data other_hospital_test

what is compared:
  Findings of heads and zero-shot tasks that all runs have, on the rows that all runs have; labels must be the same. Sensitivity and
  the like are those at each run's own threshold, where its val chose one. What searches found (R@k, MRR) where all runs searched
  among the same films. One patient's films are drawn together.

exit codes: 0 done, 2 the command or a run is at fault (one line says how), 1 a bug.
"""


def runs(text: str) -> list[Path]:
    return [Path(each) for each in text.split(",") if each]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="compare_runs.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("first", type=runs, metavar="RUN_A[,RUN_A2,...]", help="run folder of one model, or one a seed")
    add("second", type=runs, metavar="RUN_B[,RUN_B2,...]", help="those of the other model")
    add(
        "--data",
        metavar="DATA_SPLIT",
        help="evaluation to compare, as in predictions/ (default: the only common one)",
    )
    add(
        "--measures",
        metavar="A,B",
        help=f"patterns of the measures shown (default: {','.join(comparison.SHOWN)})",
    )
    add(
        "--bootstrap_samples",
        type=int,
        default=2000,
        metavar="N",
        help="resamples of patients (default: 2000)",
    )
    add("--seed", type=int, default=0, metavar="N", help="seed of the resamples (default: 0)")
    add("--csv", type=Path, metavar="FILE", help="write every measure there")
    add("--debug", action="store_true", help="show the whole traceback of an error")
    return parser.parse_args()


def work(arguments: argparse.Namespace) -> None:
    compared = comparison.compare_runs(
        arguments.first, arguments.second, arguments.data, arguments.bootstrap_samples, arguments.seed
    )
    patterns = arguments.measures.split(",") if arguments.measures else comparison.SHOWN
    names = (arguments.first[0].name, arguments.second[0].name)
    print(comparison.markdown(compared, names, patterns))
    if arguments.csv:
        atomic.write_text(arguments.csv, comparison.table(compared))


def main() -> int:
    arguments = parse_arguments()
    return exit_code("compare_runs.py", lambda: work(arguments), arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
