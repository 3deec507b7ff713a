#!/usr/bin/env python3
"""Answers of a trained run for studies straight from DICOM (or one film, a table of films, or shards): JSON and CSV, a reason for every file left out."""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

# What loads torch is imported where it is used: the processes that decode films import this file too.
from deepcoro.inference.arguments import (  # noqa: E402
    CHECKED,
    add_certainty,
    add_film_arguments,
    add_model_arguments,
    check_given,
    given_of,
)
from deepcoro.tool import exit_code  # noqa: E402

STARTS_OVER = "the answers in STUDY.json stand, the tables are not written; the same command starts over"
EXAMPLES = """\
examples:
  One study, or a folder of many (told apart by their headers):
    python tools/predict.py /data/export --checkpoint runs/mine --output answers

  One film (DICOM, AVI, MP4, npy, ...), as a study of its own:
    python tools/predict.py one.dcm --checkpoint runs/mine --output answers

  The films of a table, with the columns that tools/shard_dataset.py knows:
    python tools/predict.py films.csv --checkpoint runs/mine --output answers

  With the training reports that are nearest to it, from the bank that inference.reports=true wrote:
    python tools/predict.py /data/export --checkpoint runs/mine --output answers --html --bank runs/mine

  A shard folder, one split of it:
    python tools/predict.py shards/study --split test --checkpoint runs/mine --output answers

what is written to OUTPUT:
  STUDY.json    findings, captions, every film and every file left out with its reason, seconds
  STUDY.html    with --html: film strips, findings, what was left out, in one file
  studies.csv, films.csv, skipped.csv   the same as tables
  audit.jsonl   a line an answer: when, which study, digests of weights, films and answer; each line seals those before it
  Studies, patients and files appear under keyed ids only (--key_file); --crosswalk FOLDER keeps what they stand for.
  A film that is a secondary capture, a dose sheet, a single frame, cut short, of another modality or damaged is skipped
  with its reason; a study without a usable film still has its JSON. A film that lies there twice is taken once. A structured report
  (--sr) that cannot be written has a line in skipped.csv too (no_structured_report).
  An option that would do nothing for SOURCE is refused.

Research only; not a medical device.

exit codes: 0 done (files that were left out are in skipped.csv), 2 the command or the data are at fault (one line says how), or all
is answered and a structured report is missing, 1 a bug, 130 Ctrl-C: the JSON of studies that were answered stands, the tables are not
written, and the same command starts over.
"""


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder of films, one film, table of films, or shard folder",
    )
    add("--output", type=Path, required=True, metavar="FOLDER", help="made if absent")
    page = "also STUDY.html, which shows the films: keep it where the study is kept"
    add("--html", action="store_true", help=page)
    private = "private folder (0700, outside OUTPUT) for crosswalk.csv, keyed id to file"
    add("--crosswalk", type=Path, metavar="FOLDER", help=private)
    reports = "private folder (0700, outside OUTPUT) for a DICOM Structured Report a study, with the TRUE ids of its films"
    add("--sr", type=Path, metavar="FOLDER", help=reports)
    bank = "the run, or its folder `embeddings` (inference.reports=true): also the nearest training reports and what their films were labelled; the answers then hold reports of the train split"
    add("--bank", type=Path, metavar="FOLDER", help=bank)
    add("--neighbours", type=int, default=50, help="with --bank: reports that are averaged (default: 50)")
    add("--split", help="of shards: train, val, test or inference (default: all)")
    add_model_arguments(parser)
    add_certainty(parser)
    add_film_arguments(parser)
    options = parser.parse_args(words)
    options.given = given_of(parser, words, CHECKED)
    return options


def run(options: argparse.Namespace) -> None:
    from deepcoro.inference.opened import FilmOpener, settings_of
    from deepcoro.inference.sources import is_shard_folder

    is_shards = is_shard_folder(options.source)
    check_given(options.given, is_shards)
    if is_shards:
        answer_all(options, None)
        return
    settings = settings_of(options.workers, options.modality, options.accept_burned_in, options.echo_mask)
    with FilmOpener(settings) as opener:  # its processes start while torch and the model load
        answer_all(options, opener)


def answer_all(options: argparse.Namespace, opener: object | None) -> None:
    """`opener`: of films; None = the source is shards."""
    from deepcoro.bank import bank_folder
    from deepcoro.inference.model import Answerer
    from deepcoro.inference.neighbours import Neighbours
    from deepcoro.inference.predict import Outputs, predict, summary_of
    from deepcoro.inference.sources import films_source, shards_source
    from deepcoro.ingest.identity import load_identity

    answerer = Answerer(options.checkpoint, options.load, options.device, options.certainty)
    bank = options.bank and bank_folder(options.bank)
    neighbours = Neighbours(bank, answerer.who.digest, options.neighbours) if bank else None
    if opener is None:
        source = shards_source(options.source, options.split)
    else:
        base = options.source if options.source.is_dir() else options.source.parent
        identity = load_identity(options.key_file, table_folder=base, output=options.output)
        source = films_source(options.source, identity, opener, options.crosswalk, options.output)
    outputs = Outputs(options.output, options.html, options.sr)
    done = predict(source, answerer, outputs, neighbours)
    print(summary_of(done.answers))
    done.check_reports()


def main() -> int:
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    return exit_code("predict", lambda: run(options), options.debug, "; then run again", STARTS_OVER)


if __name__ == "__main__":
    sys.exit(main())
