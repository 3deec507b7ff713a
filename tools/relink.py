#!/usr/bin/env python3
"""Between a hospital's own ids and keyed ones: label tables in, predictions and structured reports out."""

import argparse
import logging
import sys
from collections.abc import Container, Sequence
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.config import ConfigError, DataError  # noqa: E402
from deepcoro.data.film_table import read_films  # noqa: E402
from deepcoro.ingest.columns import number_of_cell  # noqa: E402
from deepcoro.ingest.crosswalk import Entry, read_crosswalk  # noqa: E402
from deepcoro.ingest.identity import load_identity  # noqa: E402
from deepcoro.ingest.relink import (  # noqa: E402
    Row,
    keyed_rows,
    original_rows,
    read_rows,
    write_rows,
)
from deepcoro.ingest.scrubber import Scrubber  # noqa: E402
from deepcoro.ingest.structured_report import Measurement, write_report  # noqa: E402
from deepcoro.ingest.table import DELIMITERS, read_table  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  A newer table of labels with your own ids, for data.tables=[labels_keyed.csv]:
    python tools/relink.py --to_keyed labels.csv --key_file ~/.config/deepcoro/id.key --output labels_keyed.csv

  Predictions of a run with your own ids again (a private file, 0600):
    python tools/relink.py --to_original runs/first/predictions/mine_test.csv --crosswalk ~/deepcoro-private \\
        --shards shards/mine --output predictions.csv

  One study of them as a DICOM structured report for your archive:
    python tools/relink.py --sr runs/first/predictions/mine_test.csv --study 0f3a5c1e77aa0912 --model 'run first, step_500' \\
        --crosswalk ~/deepcoro-private --output report.dcm

what happens:
  --to_keyed keeps ids (keyed), Split, Report (scrubbed) and label columns; all other columns are dropped and named in the log.
  --to_original needs the crosswalk that shard_dataset.py --crosswalk wrote; the key alone cannot lead back.
  --sr writes a Comprehensive SR: each score and probability of the study, and what its heads say (the mean over its rows), is a measurement.

exit codes: 0 done, 2 the command or the data are at fault (one line says how), 1 a bug.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to_keyed", type=Path, metavar="TABLE.csv", help="a table with your own ids")
    what.add_argument("--to_original", type=Path, metavar="TABLE.csv", help="a table with keyed ids")
    what.add_argument(
        "--sr", type=Path, metavar="TABLE.csv", help="predictions of which one study is reported"
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help="what is written")
    add("--debug", action="store_true", help="show the full traceback of an error")
    add = parser.add_argument_group("to keyed ids").add_argument
    add("--key_file", type=Path, metavar="FILE", help="secret of the ids (default: as in shard_dataset.py)")
    folder = (
        "what paths of films are relative to: the folder of the sharded table (default: that of TABLE.csv)"
    )
    add("--folder", type=Path, metavar="FOLDER", help=folder)
    add("--delimiter", choices=("auto", *DELIMITERS), default="auto", help="default: what the header uses")
    for role in ("path", "study", "patient", "split", "report"):
        add(f"--{role}_column", metavar="NAME", help="as in shard_dataset.py")
    add("--label_columns", nargs="*", metavar="NAME", help="names or patterns (default: the usual labels)")
    add = parser.add_argument_group("to original ids").add_argument
    add("--crosswalk", type=Path, metavar="FOLDER", help="the private folder of shard_dataset.py --crosswalk")
    add("--shards", type=Path, metavar="FOLDER", help="tells which film `study.000` is")
    add("--study", metavar="ID", help="the study to report, keyed or original")
    add("--model", metavar="TEXT", help="name and version of the model, as the report shall say it")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    if arguments.to_keyed:
        to_keyed(arguments)
        return
    if arguments.crosswalk is None:
        raise ConfigError("--crosswalk is missing: keyed ids lead back to nobody without it")
    crosswalk = read_crosswalk(arguments.crosswalk)
    if arguments.sr:
        structured_report(arguments, crosswalk)
        return
    rows = original_rows(read_rows(arguments.to_original), crosswalk, film_ids(arguments.shards))
    write_rows(arguments.output, rows, private=True)
    print(f"{len(rows)} rows with original ids in {arguments.output}: keep it private")


def to_keyed(arguments: argparse.Namespace) -> None:
    source = arguments.to_keyed
    given = {role: getattr(arguments, f"{role}_column") for role in ("path", "study", "patient", "split", "report")}  # fmt: skip
    folder, scrubber = arguments.folder or source.parent, Scrubber()
    identity = load_identity(arguments.key_file, table_folder=folder)
    table = read_table(source, arguments.delimiter)
    rows = keyed_rows(table, given, arguments.label_columns, folder, identity, scrubber)
    write_rows(arguments.output, rows, private=False)
    taken = ", ".join(f"{count} x {kind}" for kind, count in scrubber.replaced.most_common()) or "nothing"
    print(f"{len(rows)} rows in {arguments.output}, columns {list(rows[0])}; scrubbed: {taken}")
    for column, count in scrubber.withheld.items():
        print(f"{count} cells of '{column}' left out: they look like record numbers")


def film_ids(shards: Path | None) -> dict[str, str]:
    """`study.000` -> keyed id of the film."""
    if shards is None:
        return {}
    films, numbers = read_films(shards, ["clip", "study"]), {}
    names = {}
    for clip, study in zip(films["clip"].to_pylist(), films["study"].to_pylist(), strict=True):
        number = numbers[study] = numbers.get(study, -1) + 1
        names[f"{study}.{number:03d}"] = clip
    return names


def structured_report(arguments: argparse.Namespace, crosswalk: Sequence[Entry]) -> None:
    if not arguments.study or not arguments.model:
        raise ConfigError("--sr needs --study ID and --model TEXT")
    entries = [entry for entry in crosswalk if arguments.study in (entry.study, entry.original_study)]
    if not entries:
        raise DataError("the crosswalk knows no such study; --study takes a keyed or an original id")
    rows = [row for row in read_rows(arguments.sr) if row.get("study") == entries[0].study]
    measurements = measured(rows)
    if not measurements:
        raise DataError(f"{arguments.sr.name} holds no score or probability of this study")
    said = [Measurement(name, value) for name, value in measurements.items()]
    write_report(arguments.output, entries, said, arguments.model, datetime.now())
    print(f"{len(measurements)} measurements of one study in {arguments.output}: keep it private")


def measured(rows: list[Row]) -> dict[str, float]:
    """Scores, probabilities and what heads say, the mean over the study's rows."""
    numbers: dict[str, list[float]] = {}
    for row in rows:
        for name, cell in row.items():
            value = number_of_cell(cell or None)
            if value is not None and is_said(name, row):
                numbers.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in numbers.items()}


def is_said(name: str, columns: Container[str]) -> bool:
    """Whether a column of predictions holds what a model says in numbers: by its own name, and of a head by the columns beside it."""
    if name.endswith(("_score", "_probability")) or name.startswith("prediction_"):
        return True
    if name.endswith("_pred"):
        return f"{name.removesuffix('_pred')}_true" in columns
    head, is_of_class, _ = name.partition("_prob_")
    return bool(is_of_class) and f"{head}_pred_class" in columns


def main() -> int:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    return exit_code("relink", lambda: run(arguments), arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
