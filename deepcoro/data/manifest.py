"""What lies beside the tars of a shard folder: the manifest, one index a shard, the table of splits. `shards/README.md` is the format."""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow.compute
import pyarrow.csv
import pydantic

from deepcoro import atomic
from deepcoro.config import Block, DataError
from deepcoro.data.arrow_memory import reader_of
from deepcoro.data.storage import Where, open_folder

_MISSING = "{} is missing from the shard folder; run tools/shard_dataset.py again"
SCHEMA_VERSION = 1
SET_ASIDE = "manifest-before.json"
"""Under `.progress/`: the manifest while shards of its data set are made anew, or replaced by others."""
MANIFEST, SPLITS, REJECTED, PROGRESS = "manifest.json", "splits.csv", "rejected.csv", ".progress"
Split = Literal["train", "val", "test", "inference"]
SPLIT_NAMES: tuple[str, ...] = ("train", "val", "test", "inference")


class Encoding(Block):
    """How the frames of a film are stored."""

    type: Literal["jpeg", "lossless"] = "jpeg"
    """`jpeg`: concatenated JPEG frames; `lossless`: one zstd block of raw bytes a frame."""
    quality: int = pydantic.Field(90, ge=1, le=100)
    """JPEG quality; not used when lossless. 90 stores two thirds of the bytes of 95, 1.5 dB further from the source."""
    short_side_px: int = pydantic.Field(448, ge=16)
    """The stored shorter side is min(source, this); films are never enlarged. 448 is twice what towers are shown: decoding at half
    the scale ends at 224 px and nothing is left to resize."""

    @property
    def extension(self) -> str:
        return "mjpg" if self.type == "jpeg" else "zst"


class StudyColumns(Block):
    """One entry per study, in tar order; offsets are those of the JSON member's payload."""

    key: list[str] = []
    """Keyed id of the study: the tar key."""
    patient: list[str | None] = []
    """Keyed id of the patient; None where the source names none."""
    offset: list[int] = []
    """Byte offset of the payload in the tar."""
    size: list[int] = []
    """Payload bytes."""
    crc32: list[int] = []
    """zlib.crc32 of the payload."""


class ClipColumns(Block):
    """One entry per film, in tar order."""

    study: list[int] = []
    """Row in the study columns of this index."""
    clip: list[int] = []
    """Index of the film in its study."""
    offset: list[int] = []
    """Byte offset of the payload in the tar."""
    size: list[int] = []
    """Payload bytes."""
    crc32: list[int] = []
    """zlib.crc32 of the payload."""


class Index(Block):
    """`shard-%06d.index.json`: where every member of one tar lies and how to verify it."""

    schema_version: Literal[1] = 1
    """Version of the format."""
    studies: StudyColumns = StudyColumns()
    """JSON members."""
    clips: ClipColumns = ClipColumns()
    """Film members."""


class ShardEntry(Block):
    """One tar of the folder."""

    name: str
    """File name of the tar."""
    studies: int
    """Studies inside."""
    clips: int
    """Films inside."""
    bytes: int
    """Size of the tar."""
    sha256: str
    """Digest of the tar."""
    index_sha256: str
    """Digest of its index."""


class SplitCounts(Block):
    """How much of the data one split holds."""

    studies: int = 0
    """Studies."""
    clips: int = 0
    """Films."""
    patients: int = 0
    """Distinct patients among those named."""


class Counts(Block):
    """How much the folder holds, and how much of the table it does not."""

    studies: int
    """Studies written."""
    clips: int
    """Films written."""
    frames: int
    """Frames written."""
    patients: int
    """Distinct patients among those named."""
    rejected_clips: int
    """Rows of the table that gave no film; `rejected.csv` says why."""
    splits: dict[Split, SplitCounts]
    """The same by split; splits without a study are absent."""


class TableEntry(Block):
    """What one source table gave: the first makes the folder, the others were appended."""

    digest: str
    """Of its films, rows and settings, not of its splits: the same table again changes nothing but splits."""
    clips: int
    """Films written from it."""
    rejected_clips: int
    """Its other rows."""
    shards: int
    """Tars that hold its films; those of a table follow each other in `shards`."""
    numbers: int
    """Shard numbers that it takes; some have no tar when every film of theirs was refused."""


class Duplicates(Block):
    """Films that look the same, by their fingerprints."""

    inside_a_split: int
    """Films that look like an earlier one of their split."""
    across_splits: int
    """Films that look like one of another split; not 0 only with `--accept_duplicates`."""


class Manifest(Block):
    """`manifest.json`: written last, so a folder that has one is complete."""

    schema_version: Literal[1] = 1
    """Version of the format."""
    version: int = pydantic.Field(1, ge=1)
    """Of this data set: one more for each withdrawal of a patient, each purge, and for another data set by `--overwrite`."""
    encoding: Encoding
    """How frames are stored."""
    pixel_mean: float | None
    """Mean of the stored training pixels, 0-255; None when no film is in the train split."""
    pixel_std: float | None
    """Their standard deviation, 0-255."""
    patient_split: Literal["verified", "unverifiable"]
    """`verified`: every study names its patient and no patient is in two splits."""
    report_scope: Literal["clip", "side", "study"] = "clip"
    """What one text of the source table speaks of."""
    split_rule: str
    """`given` by the table, or `drawn 80/10/10`: by keyed hash of the patient."""
    key_check: str | None
    """Equal for tables keyed with the same secret."""
    label_columns: list[str]
    """Columns kept in `labels` of every film."""
    counts: Counts
    """Totals."""
    tables: list[TableEntry]
    """The source tables in the order in which they were sharded."""
    duplicates: Duplicates | None
    """Films that look the same; None when they were not looked for."""
    shards: list[ShardEntry]
    """The tars in order."""
    splits_sha256: str
    """Digest of `splits.csv` as written at sharding."""
    films_sha256: str
    """Digest of `films.parquet`."""
    fingerprint: str
    """Identity of the pixels and records: sha256 over the shards' digests."""


class SplitRow(NamedTuple):
    """One line of `splits.csv`."""

    study: str
    patient: str | None
    split: str


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def index_name(shard: str) -> str:
    return shard.removesuffix(".tar") + ".index.json"


def record_name(shard: str) -> str:
    """Under `.progress/`: says that a shard is finished."""
    return shard.removesuffix(".tar") + ".json"


def rows_name(shard: str) -> str:
    """Under `.progress/`: the rows that a finished shard gives to `films.parquet`."""
    return shard.removesuffix(".tar") + ".films.parquet"


def spool_name(shard: str) -> str:
    """Under `.progress/`: the folder of films that wait for this shard's tar."""
    return shard.removesuffix(".tar") + ".spool"


def fingerprint(shards: Sequence[ShardEntry]) -> str:
    return sha256("\n".join(shard.sha256 for shard in shards).encode())


def sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def write_block(path: Path, block: Block, indent: int | None = None) -> str:
    """Writes the block as JSON; returns the sha256 of the file."""
    payload = (block.model_dump_json(indent=indent) + "\n").encode()
    atomic.write_bytes(path, payload)
    return sha256(payload)


def read_manifest(folder: Where) -> Manifest:
    """DataError when the folder has no manifest (an unfinished run) or one of another version."""
    folder = open_folder(folder)
    try:
        payload = folder.read(MANIFEST)
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} holds no {MANIFEST}: not a shard folder, or tools/shard_dataset.py was interrupted; run it again",
            topic="shards-missing",
        ) from error
    return _parsed(Manifest, payload, MANIFEST)


def read_index(folder: Where, shard: ShardEntry) -> Index:
    """The index of one shard. DataError when it is absent or is not the one the manifest names."""
    return next(read_indexes(folder, [shard]))


def read_indexes(folder: Where, shards: Sequence[ShardEntry]) -> Iterator[Index]:
    """The indexes of several shards, in order; raises what `read_index` raises."""
    payloads = open_folder(folder).read_many(index_name(shard.name) for shard in shards)
    for shard in shards:
        name = index_name(shard.name)
        try:
            payload = next(payloads)
        except FileNotFoundError as error:
            raise DataError(
                f"{name} is missing; copy the folder again or run tools/shard_dataset.py again",
                topic="shards-missing",
            ) from error
        if sha256(payload) != shard.index_sha256:
            raise DataError(
                f"{name} differs from the manifest's digest; copy the folder again", "shards-changed"
            )
        yield _parsed(Index, payload, name)


def _parsed(block: type[Block], payload: bytes, name: str) -> Block:
    try:
        return block.model_validate_json(payload)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DataError(
            f"{name} is not a {block.__name__} of schema version {SCHEMA_VERSION} ({where}: {first['msg']})"
        ) from error


class RefusedRow(NamedTuple):
    """One line of `rejected.csv`: a row that gave no film."""

    table: int
    """Which source table, 1 for the first."""
    row: int
    """Row of that table, 1 for the first under the header."""
    clip: str | None
    """Keyed id; None where the row names no film."""
    reason: str


def next_version(output: Path, tables: Sequence[TableEntry]) -> int:
    """That of the data set which lies in the folder, also when it is being made anew; one more for another one, so that no two of a
    folder share a version. 1 where there was none."""
    if (output / MANIFEST).is_file():
        return read_manifest(output).version
    before = read_set_aside(output)
    if before is None:
        return 1
    is_another = [each.digest for each in before.tables] != [each.digest for each in tables]
    return before.version + is_another


def set_aside(output: Path) -> None:
    """Takes the manifest away before tars change: until the next one is there, the folder is unfinished."""
    (output / MANIFEST).replace(output / PROGRESS / SET_ASIDE)


def read_set_aside(output: Path) -> Manifest | None:
    """That of the data set which was being made anew, or replaced, when a run was interrupted."""
    path = output / PROGRESS / SET_ASIDE
    return _parsed(Manifest, path.read_bytes(), SET_ASIDE) if path.is_file() else None


def write_rejected(folder: Path, rows: Sequence[RefusedRow]) -> None:
    """Writes `rejected.csv` sorted by table and row."""
    ordered = sorted(rows, key=lambda each: (each.table, each.row))
    lines = [(each.table, each.row, each.clip or "", each.reason) for each in ordered]
    atomic.write_bytes(folder / REJECTED, _table(RefusedRow._fields, lines))


def read_refused(folder: Where) -> list[RefusedRow]:
    """Rows of `rejected.csv`. DataError when it is missing or has other columns."""
    try:
        payload = open_folder(folder).read(REJECTED)
    except FileNotFoundError as error:
        raise DataError(_MISSING.format(REJECTED), topic="shards-missing") from error
    lines = list(csv.reader(io.StringIO(payload.decode(), newline="")))
    if not lines or tuple(lines[0]) != RefusedRow._fields:
        raise DataError(f"{REJECTED} must have the columns {','.join(RefusedRow._fields)}")
    return [RefusedRow(int(table), int(row), clip or None, reason) for table, row, clip, reason in lines[1:]]


def read_rejected(folder: Path) -> list[tuple[int, str | None, str]]:
    """Row, keyed id and reason of every refused row of all tables."""
    return [tuple(each[1:]) for each in read_refused(folder)]


def _table(header: Sequence[str], lines: Iterable[Sequence]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue().encode()


def write_splits(folder: Path, rows: Sequence[SplitRow]) -> str:
    """Writes `splits.csv` sorted by study; returns its sha256."""
    lines = [(row.study, row.patient or "", row.split) for row in sorted(rows, key=lambda row: row.study)]
    payload = _table(SplitRow._fields, lines)
    atomic.write_bytes(folder / SPLITS, payload)
    return sha256(payload)


def read_splits(folder: Where) -> list[SplitRow]:
    """Rows of `splits.csv`; raises what `read_split_table` raises."""
    columns = read_split_table(folder).to_pydict()
    return [
        SplitRow(study, patient or None, split)
        for study, patient, split in zip(*columns.values(), strict=True)
    ]


def read_split_table(folder: Where) -> pyarrow.Table:
    """`splits.csv` as columns of text, an unknown patient empty. DataError on a missing file, an unknown split or a study listed twice."""
    try:
        payload = open_folder(folder).read(SPLITS)
    except FileNotFoundError as error:
        raise DataError(_MISSING.format(SPLITS), topic="shards-missing") from error
    text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(SplitRow._fields, pyarrow.string()))
    try:
        table = pyarrow.csv.read_csv(reader_of(payload), convert_options=text)
    except pyarrow.ArrowInvalid:
        table = None
    if table is None or tuple(table.column_names) != SplitRow._fields:
        raise DataError(f"{SPLITS} must have the columns {','.join(SplitRow._fields)}")
    unknown = table.filter(
        pyarrow.compute.invert(pyarrow.compute.is_in(table["split"], pyarrow.array(SPLIT_NAMES)))
    )
    if len(unknown):
        row = unknown.to_pylist()[0]
        raise DataError(
            f"{SPLITS}: study {row['study']} has split '{row['split']}'; allowed: {list(SPLIT_NAMES)}"
        )
    study = table["study"].combine_chunks()
    is_sorted = pyarrow.compute.all(
        pyarrow.compute.greater(study[1:], study[:-1])
    ).as_py()  # as it is written
    if not is_sorted and pyarrow.compute.count_distinct(study).as_py() != len(study):
        raise DataError(f"{SPLITS} lists a study twice; keep one line a study", topic="ids-twice")
    return table
