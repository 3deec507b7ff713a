#!/usr/bin/env python3
"""Turns DICOM, AVI/MP4 or npy films and their table into verified, de-identified WebDataset shards."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.config import ConfigError, DataError, parse  # noqa: E402
from deepcoro.data.alone import check_free  # noqa: E402
from deepcoro.data.append import folder_encoding, folder_labels  # noqa: E402
from deepcoro.data.datasheet import write_datasheet  # noqa: E402
from deepcoro.data.manifest import MANIFEST, Encoding, read_manifest  # noqa: E402
from deepcoro.data.parts import part_lines, part_of, studies_of_part, write_part  # noqa: E402
from deepcoro.data.sharding import Settings  # noqa: E402
from deepcoro.data.summary import summary_lines  # noqa: E402
from deepcoro.data.verify import DAMAGED, verify_folder  # noqa: E402
from deepcoro.data.withdrawal import refuse_withdrawn  # noqa: E402
from deepcoro.data.writer import write_dataset  # noqa: E402
from deepcoro.ingest.columns import DEFAULT_LABELS, NAMES, find_roles, tell_unread  # noqa: E402
from deepcoro.ingest.crosswalk import entries_of, merge_crosswalk, prepare_folder  # noqa: E402
from deepcoro.ingest.film import StudySource  # noqa: E402
from deepcoro.ingest.identity import load_identity  # noqa: E402
from deepcoro.ingest.label_reader import LabelReader  # noqa: E402
from deepcoro.ingest.labels import read_rules  # noqa: E402
from deepcoro.ingest.layouts import LAYOUTS, layout_named  # noqa: E402
from deepcoro.ingest.prompts_table import with_prompts  # noqa: E402
from deepcoro.ingest.review import rare_strings, write_review  # noqa: E402
from deepcoro.ingest.scrubber import Scrubber  # noqa: E402
from deepcoro.ingest.shares import DEFAULT, drawn, shares_of  # noqa: E402
from deepcoro.ingest.studies import read_studies  # noqa: E402
from deepcoro.ingest.table import DELIMITERS, Table, read_table  # noqa: E402
from deepcoro.tool import exit_code, num_cores  # noqa: E402

CONSOLE = Console(stderr=True)
EXAMPLES = """\
examples:
  The table of make_demo_data, or a table whose columns have the usual names:
    python tools/shard_dataset.py --csv data/dataset.csv --output shards/study --workers 8

  A DICOM export with its own column names; one text for all films of a tree:
    python tools/shard_dataset.py --csv export.csv --output shards/export \\
        --path_column DICOMPath --study_column ss_event_cath_id --patient_column ss_patient_id \\
        --report_column finding_text --report_scope side --side_column main_structure

  Labels for linear probes only; patterns are allowed (quote them):
    python tools/shard_dataset.py --csv labels.csv --output shards/labels --label_columns '*_stenosis' '*_cto' lvef

  No study column: every film is its own study:
    python tools/shard_dataset.py --csv films.csv --output shards/films --study_column FileName

  Next month's table; then a check of every byte:
    python tools/shard_dataset.py --csv february.csv --output shards/study --append
    python tools/shard_dataset.py --output shards/study --verify

  A job array of eight (SLURM; K is $SLURM_ARRAY_TASK_ID), then one job that concludes:
    python tools/shard_dataset.py --csv export.csv --output shards/export --part 3/8
    python tools/shard_dataset.py --csv export.csv --output shards/export --conclude

  A public data set, as it was downloaded:
    python tools/shard_dataset.py --layout echonet_dynamic --source data/EchoNet-Dynamic --output shards/echonet

what happens:
  One sample is one study with all its films, each with its tree and view, so the same shards serve single-clip and
  multi-view training. A Split column wins unchanged; without one, patients are drawn 80/10/10 (--split_shares) by a keyed hash.
  Every row of the table is either in the shards or in OUTPUT/rejected.csv with a reason. Interrupted? Run the same
  command again: finished films are kept, and the result is the same byte for byte. A film that looks the same in two
  splits is an error (--accept_duplicates).
  Patient, study and file names enter only as ids keyed with a secret (--key_file). Keep that file: another key
  gives other ids. shards/README.md describes the format.

exit codes: 0 done, 2 the command or the data are at fault (one line says how), 1 a bug.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--csv", type=Path, metavar="FILE", help="one row a film; paths relative to its folder")
    layout = f"a public data set as it is published, in place of --csv: {', '.join(LAYOUTS)}"
    add("--layout", metavar="NAME", help=layout)
    add("--source", type=Path, metavar="FOLDER", help="where the data set of --layout was unpacked")
    add("--output", type=Path, required=True, metavar="FOLDER", help="shard folder, made if absent")
    add("--delimiter", choices=("auto", *DELIMITERS), default="auto", help="default: what the header uses")
    _add_columns(parser)
    _add_storage(parser)
    _add_running(parser)
    _add_scale(parser)
    _add_privacy(parser)
    return parser.parse_args()


def _add_columns(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("columns", "looked for under their usual names unless given").add_argument
    for role, names in NAMES.items():
        add(f"--{role}_column", metavar="NAME", help=f"usual names: {', '.join(names)}")
    labels = f"names or patterns (default: those in the table of {', '.join(DEFAULT_LABELS)})"
    add("--label_columns", nargs="*", metavar="NAME", help=labels)
    rules = (
        "YAML: how the cells of which label columns are read (docs/data.md); comes before the built-in rules"
    )
    add("--label_rules", type=Path, metavar="FILE", help=rules)
    derive = "add a yes-or-no column for each *_stenosis: severe (>= 70), significant (>= 50), or a threshold of FILE"
    add("--derive", nargs="*", default=[], metavar="THRESHOLD", help=derive)
    constant = "only warn of labels that have one class in the training films (else refused)"
    add("--allow_constant_labels", action="store_true", help=constant)
    texts = "the predecessor's texts.csv: the prompts of a film's positive_text_ids become its report"
    add("--texts", type=Path, metavar="FILE", help=texts)
    scope = "what one text speaks of: its film, all films of its tree, all of the study (default: clip)"
    shares = f"percentages of patients in train/val/test where the table has no split (default: {DEFAULT})"
    add("--split_shares", default=DEFAULT, metavar="A/B/C", help=shares)
    add("--report_scope", choices=("clip", "side", "study"), default="clip", help=scope)


def _add_storage(parser: argparse.ArgumentParser) -> None:
    described = "with --append: those of the folder unless given"
    add = parser.add_argument_group("storage", described).add_argument
    usual = Encoding()
    short_side = f"largest stored shorter side, px; films are never enlarged (default: {usual.short_side_px})"
    add("--short_side_px", type=int, help=short_side)
    add("--jpeg_quality", type=int, help=f"1 to 100 (default: {usual.quality})")
    add("--lossless", action="store_true", help="zstd instead of JPEG: three to five times larger")
    add("--clips_per_shard", type=int, default=64, help="films in one tar (default: 64)")


def _add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("running").add_argument
    add(
        "--workers",
        type=int,
        default=min(16, num_cores()),
        help="processes (default: one a core, at most 16)",
    )
    limit = (
        "longest time for one film, with more than one worker; then it is refused as timed_out (default: 900)"
    )
    add("--film_timeout_s", type=float, default=900.0, metavar="S", help=limit)
    burned = "take films that declare, or seem to hold, names or dates burnt into the pixels"
    add("--accept_burned_in", action="store_true", help=burned)
    mask = "echo outside its sector, where names and clocks stand: black it out, or keep it (default: sector)"
    add("--echo_mask", choices=("sector", "none"), default="sector", help=mask)
    shown = "what films show that do not say it themselves: video, arrays, pictures (default: the layout's, else XA)"
    add("--modality", choices=("XA", "US"), type=str.upper, help=shown)
    add("--overwrite", action="store_true", help="replace another data set in the output folder")
    duplicates = "take films that look the same in two splits (the copy of a training film in the test set)"
    add("--accept_duplicates", action="store_true", help=duplicates)
    add("--debug", action="store_true", help="show the full traceback of an error (it may name files)")


def _add_scale(parser: argparse.ArgumentParser) -> None:
    name = "next month, many machines, a check"
    group = parser.add_argument_group(name, "docs/data.md, section 'Sharding'")
    add = group.add_argument
    append = "add the films of this table to the data set in OUTPUT; its shards stay as they are, nobody changes split"
    add("--append", action="store_true", help=append)
    engine = "who works: this machine, or a Ray cluster (RAY_ADDRESS, else a local one; pip install 'deepcoro[ray]')"
    add("--engine", choices=("local", "ray"), default="local", help=engine)
    part = "write every N-th shard from the K-th on and nothing else: one job of an array on a shared file system"
    one_of = group.add_mutually_exclusive_group()
    one_of.add_argument("--part", metavar="K/N", help=part)
    conclude = "after all parts: check that all shards are there and write the manifest"
    one_of.add_argument("--conclude", action="store_true", help=conclude)
    examples = "films shown in OUTPUT/datasheet.html (default: 6; 0 = none)"
    add("--datasheet_examples", type=int, default=6, metavar="N", help=examples)
    verify = "re-read every byte of OUTPUT and decode every frame; what is damaged now goes to OUTPUT/damaged.csv (films refused while sharding are in rejected.csv)"
    add("--verify", action="store_true", help=verify)


def _add_privacy(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("privacy", "docs/data.md, section 'Nobody is named'").add_argument
    key = (
        "secret of the ids, outside OUTPUT (default: $DEEPCORO_KEY_FILE, else the public demo.key beside a generated"
        " table, else ~/.config/deepcoro/id.key, made on first use)"
    )
    add("--key_file", type=Path, metavar="FILE", help=key)
    scrub = "take names, dates, numbers and paths out of texts and labels by their pattern (default: on)"
    add("--scrub", choices=("on", "off"), default="on", help=scrub)
    crosswalk = (
        "private folder (0700, outside OUTPUT) for crosswalk.csv, keyed id to original, and review.csv"
    )
    add("--crosswalk", type=Path, metavar="FOLDER", help=crosswalk)
    below = "review.csv lists unknown words met in fewer patients than this (default: 3)"
    add("--review_below", type=int, default=3, metavar="PATIENTS", help=below)


def run(arguments: argparse.Namespace) -> None:
    if arguments.verify:
        verify(arguments)
        return
    settings = make_settings(arguments)
    check_free(arguments.output, settings.part)
    table, folder, label_columns = read_films(arguments)
    given = {role: getattr(arguments, f"{role}_column") for role in NAMES}
    if label_columns is None and arguments.append:
        label_columns = folder_labels(arguments.output, table.columns)
    roles = find_roles(table.columns, given, label_columns)
    tell_unread(table.columns, roles)
    identity = load_identity(arguments.key_file, table_folder=folder, output=arguments.output)
    scrubber = Scrubber(arguments.scrub == "on", settings.workers)
    if arguments.crosswalk:
        prepare_folder(arguments.crosswalk, arguments.output)
    labels = LabelReader(table, roles.labels, read_rules(arguments.label_rules), arguments.derive, scrubber)
    choose = chooser(arguments.output, settings)
    studies, rejections = read_studies(table, roles, folder, identity, settings.report_scope, labels, choose)
    if not roles.split:
        studies = drawn(studies, identity, shares_of(arguments.split_shares))
    may_be_constant = arguments.allow_constant_labels or arguments.append  # a month may well have one class
    labels.check_classes(studies, may_be_constant, arguments.label_columns is not None)
    make_folder(arguments.output)
    studies, withdrawn = refuse_withdrawn(arguments.output, studies)
    rejections += withdrawn
    if arguments.crosswalk:
        merge_crosswalk(arguments.crosswalk, entries_of(studies, table, roles, folder))
    told = {
        "label_columns": labels.names,
        "split_rule": "given" if roles.split else f"drawn {arguments.split_shares}",
        "key_check": identity.check,
    }
    settings = settings.model_copy(update=told)
    write = write_part if settings.part else write_dataset
    num_films = sum(len(study.films) for study in studies)
    with films_bar(num_films) as show:
        done = write(studies, arguments.output, settings, rejections, show)
    if settings.part:
        print("\n".join(part_lines(done, settings)))
        return
    rare = rare_strings(studies, arguments.review_below)
    if arguments.crosswalk:
        write_review(arguments.crosswalk, rare)
    write_datasheet(arguments.output, arguments.datasheet_examples)
    print("\n".join(summary_lines(done, arguments.output, len(table.rows), labels.summary())))
    summarise_privacy(scrubber, len(rare), arguments)


def chooser(output: Path, settings: Settings) -> Callable[[list[StudySource]], Collection[str]] | None:
    """A part of a new data set needs the texts of its own studies only; one that lies there already is known by all its texts."""
    if not settings.part or settings.append or (output / MANIFEST).is_file():
        return None
    return lambda studies: studies_of_part(refuse_withdrawn(output, studies)[0], settings)


def read_films(arguments: argparse.Namespace) -> tuple[Table, Path, list[str] | None]:
    """The table, the folder that its paths start from, and the label columns to take (None: the usual ones)."""
    if (arguments.csv is None) == (arguments.layout is None):
        raise ConfigError("give either --csv FILE, or --layout NAME --source FOLDER")
    if arguments.layout is None:
        if arguments.source is not None:
            raise ConfigError(
                "--source belongs to --layout; the paths of --csv start from the folder of the table"
            )
        table = read_table(arguments.csv, arguments.delimiter)
        table = table if arguments.texts is None else with_prompts(table, arguments.texts)
        return table, arguments.csv.parent, arguments.label_columns
    layout = layout_named(arguments.layout)
    if arguments.texts is not None:
        raise ConfigError(f"--texts belongs to --csv; --layout {layout.NAME} has no prompts")
    if arguments.source is None or not arguments.source.is_dir():
        raise ConfigError(f"--layout {layout.NAME} needs --source, the folder that holds {layout.SOURCE}")
    table = layout.read(arguments.source)
    print(f"source   {layout.SOURCE}")
    print(f"licence  {layout.LICENCE}")
    usual = [name for name in layout.LABELS if name in table.columns]
    return table, arguments.source, usual if arguments.label_columns is None else arguments.label_columns


def make_settings(arguments: argparse.Namespace) -> Settings:
    same = (
        *("report_scope", "clips_per_shard", "workers", "film_timeout_s", "engine"),
        *("accept_burned_in", "echo_mask", "accept_duplicates", "overwrite", "append"),
    )
    tree = {"encoding": encoding_of(arguments), **{name: getattr(arguments, name) for name in same}}
    usual = layout_named(arguments.layout).MODALITY if arguments.layout else "XA"
    tree |= {"modality": arguments.modality or usual, "conclude_only": arguments.conclude}
    tree |= {"part": part_of(arguments.part) if arguments.part else None}
    return parse(Settings, tree, "command line")


def encoding_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags say; the rest is the folder's for --append, else the default."""
    there = folder_encoding(arguments.output) if arguments.append else None
    given = {
        "type": "lossless" if arguments.lossless else None,
        "quality": arguments.jpeg_quality,
        "short_side_px": arguments.short_side_px,
    }
    usual = (there or Encoding()).model_dump()
    return usual | {key: value for key, value in given.items() if value is not None}


def make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output {output} cannot be made: {error.strerror}; choose another folder"
        ) from error


@contextlib.contextmanager
def films_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar that is told how many films are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("films"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE) as bar:
        task = bar.add_task("films", total=total)
        yield lambda films: bar.update(task, completed=films)


def verify(arguments: argparse.Namespace) -> None:
    """Exit code 2 when anything is damaged, like other data at fault."""
    manifest = read_manifest(arguments.output)
    with films_bar(manifest.counts.clips) as show:
        damages = verify_folder(arguments.output, arguments.workers, show)
    print(f"verified {manifest.counts.clips} films in {len(manifest.shards)} shards: {len(damages)} damaged")
    if damages:
        first = damages[0]
        name = first.clip or first.study or first.shard
        raise DataError(
            f"{len(damages)} damages, first: {name}: {first.reason}; {DAMAGED} in the output folder lists them. Restore those"
            " shards from a copy, or let the command that made them make them anew (with --overwrite; the others are kept), or train"
            " without those films: they are masked and counted",
            topic="damaged-samples",
        )


def summarise_privacy(scrubber: Scrubber, num_rare: int, arguments: argparse.Namespace) -> None:
    """Counts only: what was taken out, and how much a human should look at."""
    taken = (
        ", ".join(f"{count} x {kind}" for kind, count in scrubber.replaced.most_common()) or "nothing found"
    )
    print(f"scrubbed {taken if scrubber.on else 'NOTHING: --scrub off'}")
    for column, count in scrubber.withheld.most_common():
        print(
            f"         {count} values of '{column}' left out: they look like record numbers or name no projection"
        )
    where = (
        "review.csv beside the crosswalk" if arguments.crosswalk else "give --crosswalk FOLDER to list them"
    )
    print(f"review   {num_rare} unknown strings in fewer than {arguments.review_below} patients; {where}")


def main() -> int:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", handlers=[BarHandler()])
    return exit_code("shard_dataset", lambda: run(arguments), arguments.debug, "; then run again")


class BarHandler(logging.Handler):
    """Prints log lines above the progress bar, unwrapped."""

    def emit(self, record: logging.LogRecord) -> None:
        CONSOLE.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
