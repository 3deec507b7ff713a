"""Next month's films: which rows of a further table are new, and whether they agree with what the folder holds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepcoro.config import DataError
from deepcoro.data.batches import Batch
from deepcoro.data.conclude import check_splits
from deepcoro.data.manifest import MANIFEST, Encoding, Manifest, SplitRow, read_manifest
from deepcoro.data.sharding import Settings
from deepcoro.ingest.aliases import canonical_columns
from deepcoro.ingest.film import Rejection, StudySource

ALREADY = "already_sharded"
STUDY_ALREADY = "study_already_sharded: its other films lie in a shard that is not rewritten"


def folder_labels(folder: Path, columns: Sequence[str]) -> list[str] | None:
    """Those of a table's columns that are label columns of a complete folder: what a further table gives unless told
    otherwise. None when there is no data set."""
    if not (folder / MANIFEST).is_file():
        return None
    column_of = {name: column for column, name in canonical_columns(columns).items()}
    return [column_of[name] for name in read_manifest(folder).label_columns if name in column_of]


def folder_encoding(folder: Path) -> Encoding | None:
    """How the films of a complete folder are stored: as a further table's will be unless told otherwise. None when there is no data set."""
    return read_manifest(folder).encoding if (folder / MANIFEST).is_file() else None


def check_same_kind(manifest: Manifest, settings: Settings) -> None:
    """DataError when the films of the table would not be of one kind with those of the folder."""
    pairs = {
        "the encoding": (manifest.encoding, settings.encoding),
        "--report_scope": (manifest.report_scope, settings.report_scope),
        "the label columns": (sorted(manifest.label_columns), sorted(settings.label_columns)),
    }
    for what, (there, here) in pairs.items():
        if there != here:
            raise DataError(
                f"{what} of the folder: {there}; of this run: {here}; a folder has one, so use the folder's"
            )
    if manifest.key_check != settings.key_check:
        raise DataError(
            "the ids of the folder were keyed with another secret, so its patients would not be known again;"
            " give the --key_file that made it",
            topic="keys-of-ids",
        )
    if manifest.split_rule != settings.split_rule and manifest.split_rule != "given" and settings.is_drawn:
        raise DataError(
            f"the splits of the folder are {manifest.split_rule}, this run's {settings.split_rule}; use the same --split_shares"
        )


def admitted(
    studies: Sequence[StudySource], others: Sequence[Batch], settings: Settings
) -> tuple[list[StudySource], list[Rejection]]:
    """The studies that are to be sharded, and refusals for films that the folder knows.

    A drawn split follows the folder for patients that it knows; a given one that contradicts it is a DataError.
    """
    there = [row for batch in others for row in batch.split_rows()]
    if settings.is_drawn:
        studies = _follow(studies, there)
    known_studies = {row.study: row.split for row in there}
    again = [SplitRow(study.study, study.patient, study.split) for study in studies]
    _check_again([row for row in again if row.study in known_studies], known_studies)
    row_of_study = {study.study: study.films[0].row for study in studies}
    check_splits([*there, *(row for row in again if row.study not in known_studies)], row_of_study)
    known_films = {film for batch in others for film in batch.films["clip"].to_pylist()}
    known = {study for batch in others for study in batch.films["study"].to_pylist()}
    new, refused = [], []
    for study in studies:
        films = (
            ()
            if study.study in known
            else tuple(film for film in study.films if film.clip not in known_films)
        )
        kept = {film.row for film in films}
        for film in study.films:
            if film.row not in kept:
                reason = ALREADY if film.clip in known_films else STUDY_ALREADY
                refused.append(Rejection(film.row, film.clip, reason))
        if films:
            new.append(replace(study, films=films))
    return new, refused


def _follow(studies: Sequence[StudySource], there: Sequence[SplitRow]) -> list[StudySource]:
    split_of = {row.patient or row.study: row.split for row in there}
    return [
        replace(study, split=split_of.get(study.patient or study.study, study.split)) for study in studies
    ]


def _check_again(again: Sequence[SplitRow], known: dict[str, str]) -> None:
    pairs = sorted(
        {"/".join(sorted((known[row.study], row.split))) for row in again if known[row.study] != row.split}
    )
    if pairs:
        raise DataError(
            f"studies of this table are in the folder under another split ({', '.join(pairs)});"
            " give them the split that they have, or correct it with the table that brought them"
        )
