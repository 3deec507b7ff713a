#!/usr/bin/env python3
"""Models of the same findings in one table: seeds, paired differences, shortcuts, counterfactuals and the bars of severity."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro import atomic, findings_table  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
example, after the runs of docs/benchmarks/2026-11-26-small-probes.md, each with run_mode=test on both data sets:
  python tools/shortcuts.py runs/tuned_0
  python tools/counterfactuals.py data/ab runs/tuned_0 --head severe --vendors Aster Borealis Cormorant
  python tools/findings_table.py probe=runs/probe_0,runs/probe_1,runs/probe_2 random=runs/random_0,runs/random_1,runs/random_2 \\
      tuned=runs/tuned_0,runs/tuned_1,runs/tuned_2 --data ab_test c_test --output table.md

The first model is compared with each other one on the same patients (as tools/compare_runs.py does). What was not measured is said, with
the command that measures it.

exit codes: 0 done, 2 the command or a run is at fault (one line says how), 1 a bug.
"""


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="findings_table.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="NAME=RUN,RUN,...", help="a model, a run a seed")
    data = "evaluations, as the files in results/ are named: DATA_SPLIT"
    add("--data", nargs="+", required=True, metavar="DATA_SPLIT", help=data)
    measures = f"patterns of measures (default: {' '.join(findings_table.MEASURES)})"
    add("--measures", nargs="+", default=findings_table.MEASURES, metavar="PATTERN", help=measures)
    add("--bootstrap_samples", type=int, default=2000, metavar="N", help="of differences (default: 2000)")
    add("--output", type=Path, metavar="FILE.md", help="where the table goes besides the screen")
    add("--debug", action="store_true", help="show the whole traceback of an error")
    return parser.parse_args(words)


def work(options: argparse.Namespace) -> None:
    models = findings_table.models_of(options.models)
    text = findings_table.findings_table(models, options.data, options.measures, options.bootstrap_samples)
    if options.output:
        atomic.write_text(options.output, text)
    print(text)


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    return exit_code("findings_table", lambda: work(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
