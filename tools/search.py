#!/usr/bin/env python3
"""Searches the films of a bank with sentences, or the reports of the train split with a film."""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.bank import bank_folder, read_bank, reports_nearest  # noqa: E402
from deepcoro.config import ConfigError  # noqa: E402
from deepcoro.search import (  # noqa: E402
    embed_query,
    film_query,
    films_nearest,
    open_films,
    reports_for,
    trained_of_bank,
    with_strips,
)
from deepcoro.search_page import Search, search_lines, write_search_page  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  A bank first: the films of two splits, and the reports of the train split for --film:
    accelerate launch ... train.py CONFIG run_dir=runs/mine run_mode=inference \\
        inference.splits=[val,test] inference.reports=true

  Sentences find films; several that say the same are averaged:
    python tools/search.py "severe mid LAD stenosis" --bank runs/mine
    python tools/search.py "Severe stenosis (80 %) of the mid LAD." "Critical mid LAD lesion." --bank runs/mine --splits test

  A film finds reports, and what the nearest of them are labelled:
    python tools/search.py --film STUDY.000 --bank runs/mine

  A model that others exported, with what it was exported with: films by --with_bank, reports for --film by --with_reports. It holds no
  films, so that ids are found and no strips, unless --shards says where films of these ids are:
    python tools/search.py "severe mid LAD stenosis" --bank models/theirs

what is written: one HTML file with strips of the films and their reports, which holds patient data as your shards do; nothing else.
Cosines rank, they are no probabilities: write sentences as your reports are written.

exit codes: 0 done, 2 the command, the bank or the films are at fault (one line says how), 1 a bug.
"""


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="search.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="what the films should show")
    parser.add_argument(
        "--film", help="search reports with this film instead: STUDY.000, as in the column clip"
    )
    bank = "folder of a run or of tools/export_model.py --with_bank, or its folder `embeddings`"
    parser.add_argument("--bank", type=bank_folder, required=True, metavar="FOLDER", help=bank)
    parser.add_argument("--run", type=Path, help="folder of the model (default: the one that holds the bank)")
    parser.add_argument(
        "--shards", type=Path, help="where the films are now (default: where the run read them)"
    )
    parser.add_argument("--splits", help="films of these alone, such as test,val (default: all of the bank)")
    parser.add_argument("--num", type=int, default=8, help="results shown (default: 8)")
    parser.add_argument(
        "--neighbours", type=int, default=50, help="with --film: reports that are averaged (default: 50)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("search.html"), help="page (default: search.html)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of bad input")
    return parser.parse_args(words)


def search(options: argparse.Namespace) -> None:
    if bool(options.sentences) == bool(options.film):
        raise ConfigError("give sentences, or a film with --film; one of the two")
    if options.film and options.splits:
        raise ConfigError(
            "--splits chooses among the films that sentences find; --film finds reports, of the train split alone: leave --splits out"
        )
    if min(options.num, options.neighbours) < 1:
        raise ConfigError(f"--num {options.num} and --neighbours {options.neighbours} must be 1 or more")
    found = find_reports(options) if options.film else find_films(options)
    print("\n".join(search_lines(found)))
    print(f"page: {write_search_page(options.output, found)}")


def find_films(options: argparse.Namespace) -> Search:
    bank = read_bank(options.bank, options.splits.split(",") if options.splits else None)
    trained = trained_of_bank(options.run or options.bank.parent, bank)
    shards = open_films(trained.config, options.shards)
    films = films_nearest(bank, embed_query(trained, options.sentences), options.num)
    return Search(
        num_candidates=len(set(bank.clips["clip"].to_pylist())),
        checkpoint=bank.checkpoint,
        sentences=options.sentences,
        films=with_strips(shards, films),
        has_films=shards is not None,
    )


def find_reports(options: argparse.Namespace) -> Search:
    bank = read_bank(options.bank)
    shards = open_films(trained_of_bank(options.run or options.bank.parent, bank).config, options.shards)
    film, query, patient = film_query(bank, options.film)
    reports = reports_for(bank, options.film, patient)
    found, readings = reports_nearest(reports, query, options.num, options.neighbours)
    return Search(
        num_candidates=len(reports.texts),
        checkpoint=bank.checkpoint,
        film=with_strips(shards, [film])[0],
        reports=found,
        readings=readings,
        num_neighbours=min(options.neighbours, len(reports.texts)),
        has_films=shards is not None,
    )


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_code("search", lambda: search(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
