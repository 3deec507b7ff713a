#!/usr/bin/env python3
"""Evaluates trained models once more with less to see: a still frame, shuffled frames, a clip less, no film at all.

    python tools/shortcuts.py runs/mine
    python tools/shortcuts.py runs/mine data.where="side == 'left'" --labels cto max_stenosis
    python tools/shortcuts.py runs/a runs/b runs/c --table --csv shown_less.csv

First frame, middle frame and shuffled frames go through the whole evaluation, at the same thresholds (on val each has its own), so every measure
of heads, tasks and searches has its counterpart; captions and clinical findings with --captions alone, since all reports are then written
four to six times. Errors of masked modelling have none: they are no claim about patients, and on a still film hidden cells are copies.

`metadata` is a regression on what stands beside the film (angles, view, side, frames, rate, size), trained on the train split, for the
labels of heads, of the zero-shot tasks and of --labels. It has AUROC, AUPRC, sensitivity at a specificity, the Brier score, calibration error,
slope and intercept of two classes, and decisions at the threshold that its own scores choose on val; macro and micro AUROC and AUPRC,
accuracy and F1 of several classes; MAE, RMSE, Pearson's r, ICC and bias of numbers. It has none of: searches and captions (columns find and
write no report); C-index and AUC at a time (the regressions know of no time); selective errors, recalibrated scores and prediction intervals
(val chooses them for the model's own answers); weighted kappa (words have no order for it); means over heads, AUROC and AUPRC aside.

Where samples are studies and the pooler weighs clips, the clip attended to most is taken away, and a random one: within one side
(data.where) the first should hurt more. RUN/shortcuts.json holds all numbers, RUN/report.html the headlines as a table and the first frame and
the metadata beside each measure. A table with a row a run and measure is printed; with --table of what was measured before, and nothing is
evaluated.

exit codes: 0 done, 2 the command or the data are at fault (one line says how), 1 a bug.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro import atomic, shortcut_overview  # noqa: E402
from deepcoro.config import DataError  # noqa: E402
from deepcoro.evaluate import open_run  # noqa: E402
from deepcoro.explain.compare import compare_shown_less  # noqa: E402
from deepcoro.report_shortcuts import FILE, Shortcuts, read_shortcuts, shortcut_table  # noqa: E402
from deepcoro.run_pages import write_pages  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="shortcuts.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words", nargs="+", metavar="RUN|key=value", help="run folders, and keys such as data.shards=..."
    )
    parser.add_argument("--labels", nargs="*", default=[], metavar="LABEL", help="more labels for metadata")
    parser.add_argument("--captions", action="store_true", help="write reports with less to see (slow)")
    parser.add_argument("--split", default="test", help="val or test (test)")
    parser.add_argument("--checkpoint", default="best", help="best, last or step_N (best)")
    parser.add_argument("--table", action="store_true", help="only the table, of what was measured before")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, with all intervals")
    options = parser.parse_intermixed_args(words)
    options.runs = [Path(word) for word in options.words if is_run(word)]
    options.overrides = [word for word in options.words if not is_run(word)]
    if not options.runs:
        parser.error("name a run folder")
    if any("=" in label for label in options.labels):
        parser.error("key=value stands before --labels")
    if options.table and (options.overrides or options.labels or options.captions):
        parser.error("--table evaluates nothing: it takes no key=value, no --labels and no --captions")
    return options


def is_run(word: str) -> bool:
    """A folder may have an equals sign in its name, as those of sweeps do."""
    return "=" not in word or Path(word).is_dir()


def measure(run_dir: Path, options: argparse.Namespace) -> Shortcuts:
    config, parts, model = open_run(run_dir, options.checkpoint, options.overrides)
    found = compare_shown_less(model, config, parts, options.split, options.labels, options.captions)
    atomic.write_text(run_dir / FILE, found.model_dump_json(indent=1))
    table = shortcut_table(found)
    for line in (*table.gaps, *table.notes):
        print(line)
    print(f"report: {write_pages(run_dir)}")
    return found


def measured(run_dir: Path) -> Shortcuts:
    found = read_shortcuts(run_dir)
    if found is None:
        raise DataError(f"{run_dir / FILE} is not there: tools/shortcuts.py {run_dir} writes it")
    return found


def work(options: argparse.Namespace) -> None:
    found = {str(run): measured(run) if options.table else measure(run, options) for run in options.runs}
    print(shortcut_overview.markdown(found))
    if options.csv:
        atomic.write_text(options.csv, shortcut_overview.csv_text(found))


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    return exit_code("shortcuts", lambda: work(options), debug=False)


if __name__ == "__main__":
    sys.exit(main())
