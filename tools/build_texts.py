#!/usr/bin/env python3
"""Reports, texts and edges out of a table whose columns say what each segment has; weights of edges by how rare their kind of text is."""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.config import ConfigError  # noqa: E402
from deepcoro.ingest.built_reports import build_reports  # noqa: E402
from deepcoro.ingest.built_texts import texts_and_edges, weighted  # noqa: E402
from deepcoro.ingest.columns import find_roles  # noqa: E402
from deepcoro.ingest.labels import read_rules  # noqa: E402
from deepcoro.ingest.relink import write_rows  # noqa: E402
from deepcoro.ingest.table import Table, read_table  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  A report for each film, of its tree, and texts with edges for siglip:
    python tools/build_texts.py labels.csv --output built
    python tools/shard_dataset.py --csv built/reports.csv --output shards/reports --report_scope side
    python tools/relink.py --to_keyed built/edges.csv --label_columns text_id weight --output built/edges_keyed.csv

  One report a study:
    python tools/build_texts.py labels.csv --output built --scope study

  New weights for edges that are there already:
    python tools/build_texts.py --reweight edges.csv --texts texts.csv --output weighted

what is written to FOLDER, for its owner's eyes alone (it holds the table's own ids):
  reports.csv   the table with a column Report, in the words of the report grammar; empty where the film shows nothing that is known
  texts.csv     each distinct sentence: text_id, prompt_text, prompt_type
  edges.csv     which film says which: FileName, StudyInstanceUID (as the table calls them), text_id, weight

Cells are read by the rules of tools/shard_dataset.py (docs/data.md), --label_rules among them. Paths stay as they are: write into the
table's own folder or use absolute ones.

exit codes: 0 done, 2 the command or the table is at fault (one line says how), 1 a bug.
"""


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="build_texts.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("csv", nargs="?", type=Path, metavar="TABLE.csv", help="one row a film")
    add("--output", type=Path, required=True, metavar="FOLDER", help="made if absent")
    add(
        "--scope",
        choices=("side", "study"),
        default="side",
        help="what a report speaks of (default: its tree)",
    )
    add("--label_rules", type=Path, metavar="FILE", help="as in tools/shard_dataset.py")
    for role in ("path", "study", "side"):
        add(f"--{role}_column", metavar="NAME", help="as in tools/shard_dataset.py")
    add(
        "--reweight", type=Path, metavar="EDGES.csv", help="edges that are there already, in place of a table"
    )
    add("--texts", type=Path, metavar="TEXTS.csv", help="their texts, with prompt_type")
    add("--beta", type=float, default=0.999, help="0: all the same; towards 1: rare kinds weigh more")
    add("--cap_percentile", type=float, default=99.0, metavar="P", help="no weight is above this percentile")
    add("--debug", action="store_true", help="show the whole traceback of an error")
    return parser.parse_args(words)


def work(options: argparse.Namespace) -> None:
    if not (0 <= options.beta < 1 and 0 < options.cap_percentile <= 100):
        raise ConfigError(
            f"--beta {options.beta} --cap_percentile {options.cap_percentile}: 0 <= beta < 1, and a percentile is above 0 up to 100"
        )
    if (options.csv is None) == (options.reweight is None):
        raise ConfigError("give a table, or --reweight EDGES.csv with --texts TEXTS.csv")
    if options.reweight is not None:
        reweight(options)
        return
    table, given = read_table(options.csv), {role: getattr(options, f"{role}_column") for role in ("path", "study", "side")}  # fmt: skip
    roles = find_roles(table.columns, given, [])
    if roles.report is not None:
        raise ConfigError(f"the table has reports already (column '{roles.report}'); leave that column out")
    reports = build_reports(table, roles, read_rules(options.label_rules), options.scope)
    texts, edges = texts_and_edges(table, (roles.path, roles.study), reports)
    kinds = {text["text_id"]: text["prompt_type"] for text in texts}
    said = [" ".join(each.text for each in report or ()) for report in reports]
    rows = [
        row | {"Report": text} for row, text in zip(whole_rows(table), said, strict=True) if row is not None
    ]
    write_rows(options.output / "reports.csv", rows, private=True)
    write_rows(options.output / "texts.csv", texts, private=True)
    edges = weighted(edges, kinds, options.beta, options.cap_percentile)
    write_rows(options.output / "edges.csv", edges, private=True)
    print(
        f"{sum(map(bool, said))} of {len(said)} films have a report; {len(texts)} texts, {len(edges)} edges: {options.output}"
    )


def whole_rows(table: Table) -> list[dict[str, str] | None]:
    """Cells as they stand, `none` among them, which is a grade; None for a malformed row."""
    pick = table.picker(table.columns)
    return [
        (
            None
            if row is None
            else {name: cell or "" for name, cell in zip(table.columns, pick(row), strict=True)}
        )
        for row in table.rows
    ]


def reweight(options: argparse.Namespace) -> None:
    if options.texts is None:
        raise ConfigError("--reweight needs --texts TEXTS.csv, which says the prompt_type of each text")
    edges, texts = read_table(options.reweight), read_table(options.texts)
    for file, table, wanted in (
        (options.reweight, edges, ("text_id",)),
        (options.texts, texts, ("text_id", "prompt_type")),
    ):
        absent = [name for name in wanted if name not in table.columns]
        if absent:
            raise ConfigError(f"{file} has no column {absent}; it has {list(table.columns)}")
    kinds = {row["text_id"]: row["prompt_type"] or "unknown" for row in texts.rows if row is not None}
    rows = [row for row in whole_rows(edges) if row is not None]
    made = weighted(rows, kinds, options.beta, options.cap_percentile)
    write_rows(options.output / "edges.csv", made, private=True)
    print(f"{len(made)} edges: {options.output / 'edges.csv'}")


def main(words: list[str] | None = None) -> int:
    options = parse_arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_code("build_texts", lambda: work(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
