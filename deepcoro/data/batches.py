"""What each source table gave to a shard folder, read back from its tables: adding one and correcting one are the same work."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow

from deepcoro import atomic
from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.film_table import FILMS, film_table, joined, read_films
from deepcoro.data.manifest import PROGRESS, Manifest, RefusedRow, ShardEntry, SplitRow, TableEntry
from deepcoro.data.sharding import Settings
from deepcoro.data.tar import ShardRecord
from deepcoro.ingest.film import Rejection

NEXT = "next"


@dataclass(frozen=True)
class Batch:
    """The films of one source table."""

    digest: str
    """Of the table's films, rows and settings."""
    numbers: int
    """Shard numbers that it takes."""
    shards: list[ShardEntry]
    """Its tars in order."""
    films: pyarrow.Table
    """Their rows of `films.parquet`."""
    splits: dict[str, str]
    """Study -> split, of the studies that have a film."""
    rejections: list[Rejection]
    """Its other rows."""

    @property
    def entry(self) -> TableEntry:
        return TableEntry(
            digest=self.digest,
            clips=self.films.num_rows,
            rejected_clips=len(self.rejections),
            shards=len(self.shards),
            numbers=self.numbers,
        )

    def split_rows(self) -> list[SplitRow]:
        """Its lines of `splits.csv`; a withdrawn study has none."""
        patients = dict(zip(self.films["study"].to_pylist(), self.films["patient"].to_pylist(), strict=True))
        return [
            SplitRow(study, patient, self.splits[study])
            for study, patient in patients.items()
            if study in self.splits
        ]


def batch_of(
    records: Sequence[ShardRecord],
    output: Path,
    settings: Settings,
    digest: str,
    splits: dict[str, str],
    refused: Sequence[Rejection],
) -> Batch:
    """From the records of all its shards; `refused` are rows that no shard knows of."""
    names = [schema.rows_name(record.name) for record in records]
    parts = [read_films(output / PROGRESS, name=name) for name in names]
    films = joined([film_table((), settings.label_columns), *parts])
    written = set(films["study"].to_pylist())
    inside = [Rejection(*each) for record in records for each in record.rejections]
    return Batch(
        digest=digest,
        numbers=len(records),
        shards=[record.entry for record in records if record.entry is not None],
        films=films,
        splits={study: split for study, split in splits.items() if study in written},
        rejections=[*refused, *inside],
    )


def read_batches(folder: Path, manifest: Manifest) -> list[Batch]:
    """The batches of a complete folder. DataError when its tables do not agree with its manifest."""
    films, refused = read_films(folder), schema.read_refused(folder)
    split_of = {row.study: row.split for row in schema.read_splits(folder)}
    if films.num_rows != sum(entry.clips for entry in manifest.tables):
        raise DataError(
            f"{FILMS} has {films.num_rows} rows, the manifest counts another number; copy the folder again",
            topic="shards-changed",
        )
    batches, shard, row = [], 0, 0
    for number, entry in enumerate(manifest.tables, start=1):
        rows = films.slice(row, entry.clips)
        studies = dict.fromkeys(rows["study"].to_pylist())
        batches.append(
            Batch(
                digest=entry.digest,
                numbers=entry.numbers,
                shards=manifest.shards[shard : shard + entry.shards],
                films=rows,
                splits={study: split_of[study] for study in studies if study in split_of},
                rejections=[Rejection(*each[1:]) for each in refused if each.table == number],
            )
        )
        shard, row = shard + entry.shards, row + entry.clips
    return batches


def refused_rows(batches: Sequence[Batch]) -> list[RefusedRow]:
    return [RefusedRow(number, *each) for number, batch in enumerate(batches, 1) for each in batch.rejections]


def next_folder(output: Path) -> Path:
    """Where the tables and the manifest that shall be are made whole before any of the present ones is touched."""
    folder = output / PROGRESS / NEXT
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left there is of no use
    folder.mkdir(parents=True)
    return folder


def publish_next(output: Path) -> None:
    """Gives them their names, the manifest last. Killed in between it goes on where it stopped; until then there is no manifest."""
    folder = output / PROGRESS / NEXT
    if not (folder / schema.MANIFEST).is_file():
        return
    (output / schema.MANIFEST).unlink(missing_ok=True)
    for path in sorted(folder.iterdir()):
        if path.name != schema.MANIFEST and path.suffix != ".tmp":
            atomic.publish(path, output / path.name)
    atomic.publish(folder / schema.MANIFEST, output / schema.MANIFEST)
    shutil.rmtree(folder)
