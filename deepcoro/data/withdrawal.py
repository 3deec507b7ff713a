"""A patient withdraws: first no run reads their films any more, then no byte of them is left.

`withdraw` takes them out of every table and index of a shard folder and opens no tar. `purge` rewrites the tars that still hold
their bytes, and no other. Both make all files whole beside the present ones and then give them their names, the manifest last
(`deepcoro.data.batches`): killed in between, the same command goes on.
"""

import csv
import io
import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute

from deepcoro import atomic
from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.alone import alone
from deepcoro.data.batches import Batch, next_folder, publish_next, read_batches, refused_rows
from deepcoro.data.conclude import totals
from deepcoro.data.datasheet import DATASHEET
from deepcoro.data.film_table import joined, write_films
from deepcoro.data.manifest import PROGRESS, ClipColumns, Index, Manifest, ShardEntry, StudyColumns
from deepcoro.data.tar import copy_without
from deepcoro.ingest.film import Rejection, StudySource
from deepcoro.sample import patient_digest

logger = logging.getLogger(__name__)

WITHDRAWN = "withdrawn.csv"


class Withdrawn(NamedTuple):
    """One line of `withdrawn.csv`: a study that was taken out, or a shard that was rewritten without it."""

    digest: str
    """Digest of the patient's keyed id, as checkpoints hold it."""
    patient: str
    """Keyed id; empty once purged, as is the study."""
    study: str
    shard: str
    """The tar that holds, or held, the films."""
    sha256: str
    """Of that tar while it held them: names copies in caches."""

    @property
    def is_purged(self) -> bool:
        return not self.study


def read_withdrawn(folder: Path) -> list[Withdrawn]:
    """Lines of `withdrawn.csv`; none where nobody was withdrawn."""
    path = folder / WITHDRAWN
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    if not lines or tuple(lines[0]) != Withdrawn._fields:
        raise DataError(f"{WITHDRAWN} must have the columns {','.join(Withdrawn._fields)}; restore it")
    return [Withdrawn(*line) for line in lines[1:]]


def refuse_withdrawn(
    folder: Path, studies: Sequence[StudySource]
) -> tuple[list[StudySource], list[Rejection]]:
    """Those who withdrew from this folder do not come back with next month's table: their rows are refused, without an id."""
    digests = {each.digest for each in read_withdrawn(folder)}
    gone = {study.study for study in studies if study.patient and patient_digest(study.patient) in digests}
    rows = [film.row for study in studies if study.study in gone for film in study.films]
    kept = [study for study in studies if study.study not in gone]
    return kept, [Rejection(row, None, "withdrawn") for row in rows]


def withdraw(folder: Path, patient: str, refused_clips: Iterable[str] = ()) -> list[Withdrawn]:
    """Takes a patient (keyed id) out of films, splits, indexes and manifest; returns what `purge` has to do for them.

    `refused_clips`: keyed ids of further films of theirs, which are blanked in `rejected.csv`. Nothing changes when the
    patient is not in the folder. The tars keep their bytes: purge them. DataError while another run writes to the folder.
    """
    _check_is_folder(folder)
    with alone(folder):
        return _withdraw(folder, patient, refused_clips)


def _check_is_folder(folder: Path) -> None:
    """A lock would make its place in any folder."""
    if not (folder / PROGRESS).is_dir():
        schema.read_manifest(folder)


def _withdraw(folder: Path, patient: str, refused_clips: Iterable[str]) -> list[Withdrawn]:
    publish_next(folder)
    manifest, known = schema.read_manifest(folder), read_withdrawn(folder)
    batches = read_batches(folder, manifest)
    studies = _studies_of(batches, patient)
    theirs = [each for each in known if each.digest == patient_digest(patient)]
    if not studies:
        return theirs
    after = next_folder(folder)
    indexes = {shard.name: index for shard, index in zip(manifest.shards, schema.read_indexes(folder, manifest.shards), strict=True)}  # fmt: skip
    lines, changed = [], {}
    for shard in manifest.shards:
        held = studies & set(indexes[shard.name].studies.key)
        if held:
            lines += [Withdrawn(patient_digest(patient), patient, study, shard.name, shard.sha256) for study in sorted(held)]  # fmt: skip
            changed[shard.name] = _write_index(after, shard, without(indexes[shard.name], held))
    _write_withdrawn(after, [*known, *lines])
    batches = [_without_patient(batch, studies, set(refused_clips), changed) for batch in batches]
    _write_tables(after, batches, manifest)
    publish_next(folder)
    (folder / DATASHEET).unlink(missing_ok=True)  # it may show a film of theirs
    for shard in changed:
        _forget_progress(folder, shard)
    return [*theirs, *lines]


def purge(folder: Path) -> list[Withdrawn]:
    """Rewrites the tars that hold bytes of withdrawn studies; returns the lines of all that were ever purged here.

    The other tars stay byte for byte. DataError when a film that stays is damaged: purging would make the damage look whole.
    """
    _check_is_folder(folder)
    with alone(folder):
        return _purge(folder)


def _purge(folder: Path) -> list[Withdrawn]:
    publish_next(folder)
    manifest, known = schema.read_manifest(folder), read_withdrawn(folder)
    pending = {each.shard for each in known if not each.is_purged}
    if pending:
        after = next_folder(folder)
        shards = [_purged(folder, after, shard) if shard.name in pending else shard for shard in manifest.shards]  # fmt: skip
        batches = [_with_shards(batch, shards) for batch in read_batches(folder, manifest)]
        _write_withdrawn(after, [each._replace(patient="", study="") for each in known])
        _write_tables(after, batches, manifest)
        publish_next(folder)
    _sweep(folder)
    return read_withdrawn(folder)


def without(index: Index, studies: set[str]) -> Index:
    """The index of the studies that stay; offsets are those of the same tar."""
    keep = [row for row, key in enumerate(index.studies.key) if key not in studies]
    new_row = {row: number for number, row in enumerate(keep)}
    clips = [place for place, row in enumerate(index.clips.study) if row in new_row]
    columns = {name: [getattr(index.clips, name)[place] for place in clips] for name in ClipColumns.model_fields}  # fmt: skip
    columns["study"] = [new_row[row] for row in columns["study"]]
    return Index(
        studies=StudyColumns(**{name: [getattr(index.studies, name)[row] for row in keep] for name in StudyColumns.model_fields}),
        clips=ClipColumns(**columns),
    )  # fmt: skip


def _studies_of(batches: Sequence[Batch], patient: str) -> set[str]:
    return {
        study
        for batch in batches
        for study, whose in zip(batch.films["study"].to_pylist(), batch.films["patient"].to_pylist(), strict=True)
        if whose == patient
    }  # fmt: skip


def _write_index(after: Path, shard: ShardEntry, index: Index) -> ShardEntry:
    digest = schema.write_block(after / schema.index_name(shard.name), index)
    counts = {"studies": len(index.studies.key), "clips": len(index.clips.clip)}
    return shard.model_copy(update={"index_sha256": digest, **counts})


def _without_patient(
    batch: Batch, studies: set[str], clips: set[str], changed: dict[str, ShardEntry]
) -> Batch:
    gone = pyarrow.array(np.isin(batch.films["study"].to_pylist(), sorted(studies)))
    return Batch(
        digest=batch.digest,
        numbers=batch.numbers,
        shards=[changed.get(shard.name, shard) for shard in batch.shards],
        films=batch.films.filter(pyarrow.compute.invert(gone)),
        splits={study: split for study, split in batch.splits.items() if study not in studies},
        rejections=[each._replace(clip=None) if each.clip in clips else each for each in batch.rejections],
    )


def _with_shards(batch: Batch, shards: Sequence[ShardEntry | None]) -> Batch:
    mine = {shard.name for shard in batch.shards}
    kept = [shard for shard in shards if shard is not None and shard.name in mine]
    return Batch(batch.digest, batch.numbers, kept, batch.films, batch.splits, batch.rejections)


def _purged(folder: Path, after: Path, shard: ShardEntry) -> ShardEntry | None:
    """The rewritten shard; None when nothing is left to be in it."""
    index = schema.read_index(folder, shard)
    return copy_without(folder / shard.name, index, after / shard.name) if index.studies.key else None


def _write_tables(after: Path, batches: Sequence[Batch], manifest: Manifest) -> None:
    """Films, splits, refused rows and the manifest of a folder whose settings stay."""
    films = joined([batch.films for batch in batches])
    refused, rows = refused_rows(batches), [row for batch in batches for row in batch.split_rows()]
    shards = [shard for batch in batches for shard in batch.shards]
    schema.write_rejected(after, refused)
    changes = {
        **totals(
            films, {row.study: row.split for row in rows}, len(refused), manifest.duplicates is not None
        ),
        "version": manifest.version + 1,
        "tables": [batch.entry for batch in batches],
        "shards": shards,
        "splits_sha256": schema.write_splits(after, rows),
        "films_sha256": write_films(after, films),
        "fingerprint": schema.fingerprint(shards),
    }
    schema.write_block(after / schema.MANIFEST, manifest.model_copy(update=changes), indent=2)


def _write_withdrawn(after: Path, lines: Iterable[Withdrawn]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Withdrawn._fields)
    writer.writerows(sorted(set(lines)))
    atomic.write_text(after / WITHDRAWN, text.getvalue())


def _forget_progress(folder: Path, shard: str) -> None:
    for name in (schema.record_name(shard), schema.rows_name(shard)):
        (folder / PROGRESS / name).unlink(missing_ok=True)
    shutil.rmtree(folder / PROGRESS / schema.spool_name(shard), ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Removes tars that hold nothing any more, what was noted of rewritten ones, pages with strips, and films that an interrupted run
    had set aside."""
    shards = [shard.name for shard in schema.read_manifest(folder).shards]
    kept = {name for shard in shards for name in (shard, schema.index_name(shard))}
    for path in folder.glob("shard-*"):
        if path.name not in kept:
            path.unlink()
    for each in read_withdrawn(folder):
        _forget_progress(folder, each.shard)
    for made_again in (*folder.glob("*.html"), folder / "damaged.csv"):
        made_again.unlink(missing_ok=True)  # strips of films, keyed ids; shard_dataset writes them anew
    for spool in (folder / PROGRESS).glob(schema.spool_name("*.tar")):
        shutil.rmtree(spool)
