#!/usr/bin/env python3
"""Withdraws a patient from shard folders: at once from every table that a run reads, with --purge from every byte."""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from deepcoro.config import ConfigError, DataError  # noqa: E402
from deepcoro.data import traces, withdrawal  # noqa: E402
from deepcoro.data.manifest import read_manifest  # noqa: E402
from deepcoro.data.withdrawal import Withdrawn  # noqa: E402
from deepcoro.ingest import review  # noqa: E402
from deepcoro.ingest.crosswalk import Entry, forget_patient, read_crosswalk  # noqa: E402
from deepcoro.ingest.identity import load_identity  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  The patient as your own records name them; no run reads their films from now on:
    python tools/remove_patient.py --patient 7734501 --key_file ~/.config/deepcoro/id.key shards/mine

  The same by keyed id, and every byte of them deleted from shards, cache, crosswalk and the results of runs:
    python tools/remove_patient.py --keyed 0f3a5c1e77aa0912 --purge --crosswalk ~/deepcoro-private \\
        --cache /scratch/cache --runs runs/first runs/second -- shards/mine

what happens:
  Without --purge the studies leave films.parquet, splits.csv, the indexes and the manifest (its version goes up); the tars
  keep the bytes. --purge rewrites the tars that held anybody withdrawn, and no other. Run it again after an interruption, and
  once on every machine that has a --cache. Checkpoints that learned from the patient are listed: weights cannot forget; delete
  them or train again. A run that would go on with the changed shards is refused by its fingerprint.

exit codes: 0 done, 2 the command or the data are at fault (one line says how), 1 a bug.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="FOLDER", help="shard folders on a disk")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--patient", metavar="ORIGINAL", help="the patient as the source table names them")
    who.add_argument("--keyed", metavar="ID", help="the patient's keyed id, as splits.csv shows it")
    add("--key_file", type=Path, metavar="FILE", help="secret of the ids (default: as in shard_dataset.py)")
    add("--purge", action="store_true", help="delete the bytes too")
    crosswalk = "take them out of this crosswalk, and blank their refused films in rejected.csv"
    add("--crosswalk", type=Path, metavar="FOLDER", help=crosswalk)
    cache = "with --purge: delete copies of the old tars from these data caches"
    add("--cache", type=Path, nargs="*", default=[], metavar="FOLDER", help=cache)
    runs = "list checkpoints that saw them; with --purge also delete results that name them"
    add("--runs", type=Path, nargs="*", default=[], metavar="FOLDER", help=runs)
    add("--debug", action="store_true", help="show the full traceback of an error")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    patient = arguments.keyed or keyed_patient(arguments)
    for folder in (*arguments.cache, *arguments.runs):
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder; give --cache and --runs folders that exist")
    known = read_crosswalk(arguments.crosswalk) if arguments.crosswalk else []
    theirs = [entry for entry in known if entry.patient == patient]
    clips = {entry.clip for entry in theirs}
    lines = [line for folder in arguments.folders for line in withdraw_from(folder, patient, clips)]
    if not lines and not theirs:
        raise DataError(f"patient {patient} is in none of the folders; check the id, the key and the folders")
    if arguments.purge:
        clean(arguments, lines, patient, theirs)
    if arguments.crosswalk:
        forget_patient(arguments.crosswalk, patient)
        (arguments.crosswalk / review.FILE).unlink(missing_ok=True)
        print(
            f"{arguments.crosswalk}: {len(theirs)} films forgotten; {review.FILE} deleted, as it may quote them"
        )
    list_checkpoints(arguments.runs, lines)


def keyed_patient(arguments: argparse.Namespace) -> str:
    """The keyed id; DataError when a folder was keyed with another secret, under which the patient would not be found."""
    identity = load_identity(arguments.key_file)
    for folder in arguments.folders:
        check = read_manifest(folder).key_check if (folder / "manifest.json").is_file() else None
        if check is not None and check != identity.keyed("key", "check"):
            raise DataError(
                f"{folder} was keyed with another secret; give the --key_file that made it, or --keyed ID",
                topic="keys-of-ids",
            )
    return identity.keyed("patient", arguments.patient)


def withdraw_from(folder: Path, patient: str, clips: set[str]) -> list[Withdrawn]:
    lines = withdrawal.withdraw(folder, patient, clips)
    studies = {line.study for line in lines} - {""}
    print(f"{folder}: {len(studies)} studies withdrawn, version {read_manifest(folder).version}")
    return lines


def clean(arguments: argparse.Namespace, lines: list[Withdrawn], patient: str, theirs: list[Entry]) -> None:
    """Copies and results first: what names them is forgotten when the shards are purged."""
    ids = {patient, *(line.study for line in lines), *(entry.study for entry in theirs)} - {""}
    ids |= {entry.clip for entry in theirs}
    held = [line for folder in arguments.folders for line in withdrawal.read_withdrawn(folder)]
    for folder in arguments.cache:
        print(f"{folder}: {traces.clean_cache(folder, held)} cached files deleted")
    for folder in arguments.runs:
        deleted, filtered = traces.clean_run(folder, ids)
        for path in (*deleted, *filtered):
            print(f"{'deleted' if path in deleted else 'rows taken out of'} {path}")
    for folder in arguments.folders:
        shards = {line.shard for line in withdrawal.read_withdrawn(folder) if not line.is_purged}
        withdrawal.purge(folder)
        print(f"{folder}: {len(shards)} shards rewritten, version {read_manifest(folder).version}")


def list_checkpoints(runs: list[Path], lines: list[Withdrawn]) -> None:
    for folder in runs:
        for checkpoint in traces.checkpoints_that_saw(folder, lines):
            print(f"saw the patient: {checkpoint}")


def main() -> int:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    return exit_code("remove_patient", lambda: run(arguments), arguments.debug, "; then run again")


if __name__ == "__main__":
    sys.exit(main())
