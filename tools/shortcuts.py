#!/usr/bin/env python3
"""Evaluates a trained model once more with less to see: a still frame, shuffled frames, a clip less, no film at all.

    python tools/shortcuts.py runs/mine
    python tools/shortcuts.py runs/mine --labels cto max_stenosis data.where="side == 'left'"

First frame, middle frame and shuffled frames go through the whole evaluation, so every metric has its counterpart. `metadata` is a
regression on what stands beside the film (angles, view, side, frames, rate, size), trained on the train split, for the labels of the
zero-shot tasks and of --labels. Where samples are studies and the pooler weighs clips, the clip attended to most is taken away, and a random one: within one side
(data.where) the first should hurt more. RUN/shortcuts.json holds the numbers, RUN/report.html the table.

exit codes: 0 done, 2 the command or the data are at fault (one line says how), 1 a bug.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro import atomic  # noqa: E402
from deepcoro.evaluate import open_run  # noqa: E402
from deepcoro.explain.compare import compare_shown_less  # noqa: E402
from deepcoro.report_shortcuts import FILE, shortcut_table  # noqa: E402
from deepcoro.run_pages import write_pages  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="shortcuts.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.shards=...")
    parser.add_argument("--labels", nargs="*", default=[], metavar="LABEL", help="more labels for metadata")
    parser.add_argument("--split", default="test", help="val or test (test)")
    parser.add_argument("--checkpoint", default="best", help="best, last or step_N (best)")
    return parser.parse_args(words)


def compare(options: argparse.Namespace) -> None:
    config, parts, model = open_run(options.run_dir, options.checkpoint, options.overrides)
    found = compare_shown_less(model, config, parts, options.split, options.labels)
    atomic.write_text(options.run_dir / FILE, found.model_dump_json(indent=1))
    table = shortcut_table(found)
    print("measure: " + " | ".join(table.columns))
    for name, *cells in table.rows:
        print(f"{name}: " + " | ".join(cells))
    for line in (*table.gaps, *table.notes):
        print(line)
    print(f"report: {write_pages(options.run_dir)}")


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    return exit_code("shortcuts", lambda: compare(options), debug=False)


if __name__ == "__main__":
    sys.exit(main())
