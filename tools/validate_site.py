#!/usr/bin/env python3
"""Measures a trained run at your own hospital: DICOM films and a table of labels in, one file of aggregates out, no rows."""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

# What loads torch is imported where it is used: the processes that decode films import this file too.
from deepcoro.inference.arguments import add_film_arguments, add_model_arguments  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  python tools/validate_site.py films.csv --checkpoint runs/theirs --output site.json
  python tools/validate_site.py export.csv --checkpoint runs/theirs --output site.json \\
      --label_columns '*_stenosis' cto --report_scope side

The table has a row a film and the columns that tools/shard_dataset.py knows; a patient column is needed for intervals that mean
something. Films are decoded, shown to the model and forgotten; OUTPUT is one JSON: the run's metrics with their intervals, counts,
what was left out and why. Heads are judged by the columns that they were trained on, decisions at the thresholds that val of the run fixed
(never at ones of yours). A number that rests on fewer than ten patients, or on fewer than ten with a finding or without it, is not in
it, nor is an id, a path, a text or a row: open it before you send it.

Research only; not a medical device.

exit codes: 0 done, 2 the command or the data are at fault (one line says how), 1 a bug.
"""


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("table", type=Path, metavar="TABLE", help="one row a film; paths relative to its folder")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON to write")
    for role in ("path", "study", "patient", "report", "side", "view"):
        add(f"--{role}_column", metavar="NAME", help="as in tools/shard_dataset.py")
    add(
        "--label_columns",
        nargs="*",
        metavar="NAME",
        help="names or patterns (default: the usual ones and what heads read)",
    )
    add("--label_rules", type=Path, metavar="FILE", help="YAML, as in tools/shard_dataset.py")
    derive = "add a yes-or-no column for each *_stenosis, as in tools/shard_dataset.py"
    add("--derive", nargs="*", default=[], metavar="THRESHOLD", help=derive)
    scope = "what one text speaks of: its film, all films of its tree, all of the study (default: clip)"
    add("--report_scope", choices=("clip", "side", "study"), default="clip", help=scope)
    add_model_arguments(parser)
    key = "secret of the ids, the one of training to see whether patients overlap"
    add_film_arguments(parser, key)
    return parser.parse_args(words)


def run(options: argparse.Namespace) -> None:
    from deepcoro import atomic
    from deepcoro.inference.opened import FilmOpener, settings_of

    atomic.check_writable(options.output)
    settings = settings_of(options.workers, options.modality, options.accept_burned_in, options.echo_mask)
    settings = settings.model_copy(update={"report_scope": options.report_scope})
    with FilmOpener(settings) as opener:
        measure(options, opener)


def measure(options: argparse.Namespace, opener: object) -> None:
    from deepcoro.inference.found import TableReading, studies_of_table
    from deepcoro.inference.model import Answerer
    from deepcoro.inference.site import Gathered, measure_site, write_site
    from deepcoro.inference.site_labels import columns_measured
    from deepcoro.ingest.identity import load_identity

    roles = ("path", "study", "patient", "report", "side", "view")
    answerer = Answerer(options.checkpoint, options.load, options.device)
    how = TableReading(
        columns={role: getattr(options, f"{role}_column") for role in roles},
        with_labels=True,
        label_columns=options.label_columns,
        asked=columns_measured(answerer.config),
        derive=options.derive,
        label_rules=options.label_rules,
        report_scope=options.report_scope,
    )
    identity = load_identity(options.key_file, table_folder=options.table.parent)
    studies, refused = studies_of_table(options.table, identity, how)
    gathered = Gathered(answerer)
    gathered.refuse(refused)
    for number, found in enumerate(studies, start=1):
        gathered.add(opener.open(found))
        logging.info("%d of %d studies", number, len(studies))
    record = measure_site(gathered, identity.check)
    write_site(options.output, record)
    print(f"{len(record['metrics'])} numbers of {record['patients']} patients: {options.output}")


def main() -> int:
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    return exit_code(
        "validate_site",
        lambda: run(options),
        options.debug,
        "; then run again",
        "nothing is written; the same command starts over",
    )


if __name__ == "__main__":
    sys.exit(main())
