#!/usr/bin/env python3
"""Pools the runs of a cross-validation: each measure as mean ± sd over folds, of all out-of-fold rows, and within folds."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro import atomic, cross_validation, fold_measures  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  Five folds of the column `fold` of a table, each trained in its own folder and evaluated on the fold that it held out:
    for k in 0 1 2 3 4; do
      accelerate launch train.py CONFIG data.tables=[folds.csv] data.fold.column=fold data.fold.held_out=$k run_dir=runs/fold_$k
      accelerate launch train.py runs/fold_$k/config.yaml run_mode=val checkpoint=last
    done
    python tools/pool_folds.py runs/fold_0 runs/fold_1 runs/fold_2 runs/fold_3 runs/fold_4 --output runs/folds

  Errors of one head alone on the screen (the CSV file has every measure all the same), with more resamples:
    python tools/pool_folds.py runs/fold_* --output runs/folds --measures '*/lvef/mae,*/lvef/rmse' --bootstrap_samples 5000

checkpoint=last, since the best one was chosen on the held-out fold itself; the table says which fold was not evaluated at its end.

what is refused:
  Runs that differ in more than data.fold.held_out and run_dir, of other shard folders or tables, two runs of one fold, a patient in two
  held-out folds. A fold that is missing is told. towers.video.weights may differ (an encoder trained without the fold) and is told.

what is written:
  OUTPUT/folds.md            the table that is printed, and what to know of it
  OUTPUT/folds.csv           every measure: mean, sd, pooled, within folds, counts, a column a fold
  OUTPUT/out_of_fold.csv     predictions of all held-out rows with their fold; keyed ids, as in predictions/ of a run: it stays at home

exit codes: 0 done, 2 the command or a run is at fault (one line says how), 1 a bug.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pool_folds.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run folder of each fold")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the tables")
    shown = f"patterns of the measures shown (default: {','.join(fold_measures.SHOWN)})"
    add("--measures", metavar="A,B", help=shown)
    resamples = "resamples of patients behind each interval; 0 = no intervals (default: 2000)"
    add("--bootstrap_samples", type=int, default=2000, metavar="N", help=resamples)
    add("--seed", type=int, default=0, metavar="N", help="seed of the resamples (default: 0)")
    add("--debug", action="store_true", help="show the whole traceback of an error")
    return parser.parse_args()


def work(options: argparse.Namespace) -> None:
    data = cross_validation.read_cross_validation(options.runs)
    measures = fold_measures.measure(data, options.bootstrap_samples, options.seed)
    patterns = options.measures.split(",") if options.measures else fold_measures.SHOWN
    text = fold_measures.markdown(data, measures, patterns)
    paths = [options.output / "folds.md", options.output / "folds.csv"]
    paths += cross_validation.write_predictions(options.output, data.runs)
    atomic.write_text(paths[0], text)
    atomic.write_text(paths[1], fold_measures.csv_table(data, measures))
    print(text)
    for path in paths:
        print(f"wrote {path}")


def main() -> int:
    options = parse_arguments()
    return exit_code("pool_folds.py", lambda: work(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
