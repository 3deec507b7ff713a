"""`films.parquet`: one row a film, in the order of the indexes. Filters, samplers, label tables and the data sheet read it and open no tar."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow
import pyarrow.parquet

from deepcoro import atomic
from deepcoro.config import ConfigError, DataError
from deepcoro.data.arrow_memory import reader_of
from deepcoro.data.fingerprint import FINGERPRINT_BYTES
from deepcoro.data.storage import LocalFolder, Where, open_folder
from deepcoro.sample import StudyRecord, text_id

FILMS = "films.parquet"
_ROWS_AT_A_TIME = 1 << 17
_DAMAGED = f"{FILMS} is damaged; copy the folder again or run tools/shard_dataset.py again"
SCHEMA = pyarrow.schema(
    [
        ("clip", pyarrow.string()),
        ("study", pyarrow.string()),
        ("patient", pyarrow.string()),
        ("num_frames", pyarrow.int32()),
        ("height", pyarrow.int32()),
        ("width", pyarrow.int32()),
        ("channels", pyarrow.int8()),
        ("frame_rate_fps", pyarrow.float64()),
        ("frame_rate_source", pyarrow.string()),
        ("side", pyarrow.string()),
        ("view", pyarrow.string()),
        ("primary_angle_deg", pyarrow.float64()),
        ("secondary_angle_deg", pyarrow.float64()),
        ("text_id", pyarrow.int64()),
        ("text_words", pyarrow.int32()),
        ("pixel_sum", pyarrow.int64()),
        ("pixel_square_sum", pyarrow.int64()),
        ("fingerprint", pyarrow.binary(FINGERPRINT_BYTES)),
    ]
)
"""The columns that every folder has. `text_id` is that of the text a single film is paired with; -1 = none. The pixel sums are
those of the stored values before compression. Label columns follow."""


class Measured(NamedTuple):
    """What only the encoder knows of a film."""

    pixel_sum: int | None = None
    pixel_square_sum: int | None = None
    fingerprint: bytes | None = None


def film_table(
    studies: Iterable[StudyRecord], label_columns: Sequence[str], measured: Sequence[Measured] | None = None
) -> pyarrow.Table:
    """Rows of the films of these studies, `measured` one a film (null without). A label column is float64 when all it holds are numbers, else string; null = not assessed.

    ConfigError when a label column has the name of a fixed one.
    """
    taken = sorted(set(label_columns) & set(SCHEMA.names))
    if taken:
        raise ConfigError(f"label columns {taken} have names that films.parquet uses itself; rename them")
    rows = [
        (study, clip, study.report_of((number,)))
        for study in studies
        for number, clip in enumerate(study.clips)
    ]
    columns = {
        "clip": [clip.clip for _, clip, _ in rows],
        "study": [study.study for study, _, _ in rows],
        "patient": [study.patient for study, _, _ in rows],
        "text_id": [text_id(text) for _, _, text in rows],
        "text_words": [None if text is None else len(text.split()) for _, _, text in rows],
    }
    measured = [Measured()] * len(rows) if measured is None else measured
    columns |= {name: [getattr(each, name) for each in measured] for name in Measured._fields}
    columns |= {
        name: [getattr(clip, name) for _, clip, _ in rows] for name in SCHEMA.names if name not in columns
    }
    table = pyarrow.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
    for name in label_columns:
        table = table.append_column(name, _label_column([clip.labels.get(name) for _, clip, _ in rows]))
    return table


def _label_column(values: Sequence[float | str | None]) -> pyarrow.Array:
    if any(isinstance(value, str) for value in values):
        words = [f"{value:g}" if isinstance(value, float) else value for value in values]
        return pyarrow.array(words, pyarrow.string())
    return pyarrow.array(values, pyarrow.float64())


def joined(parts: Sequence[pyarrow.Table]) -> pyarrow.Table:
    """The tables of several shards as one; a label that is a number in one and a word in another becomes words.

    All have the same columns; they come out in the order of the first."""
    words = {name for part in parts for name in part.column_names if pyarrow.types.is_string(part[name].type)}
    same = [
        pyarrow.table(
            {name: as_words(part[name]) if name in words else part[name] for name in parts[0].column_names}
        )
        for part in parts
    ]
    return pyarrow.concat_tables(same).combine_chunks()


def as_words(column: pyarrow.ChunkedArray | pyarrow.Array) -> pyarrow.ChunkedArray | pyarrow.Array:
    """Numbers as `%g` writes them."""
    if pyarrow.types.is_string(column.type):
        return column
    words = [None if value is None else f"{value:g}" for value in column.to_pylist()]
    array = pyarrow.array(words, pyarrow.string())
    return array if isinstance(column, pyarrow.Array) else pyarrow.chunked_array([array])


def write_films(folder: Path, table: pyarrow.Table, name: str = FILMS) -> str:
    """Writes the table whole; the same rows give the same bytes. Returns its sha256."""
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    payload = sink.getvalue().to_pybytes()
    atomic.write_bytes(folder / name, payload)
    return hashlib.sha256(payload).hexdigest()


def read_film_schema(folder: Where | BinaryIO, name: str = FILMS) -> pyarrow.Schema:
    """Columns and types, of a folder's table or an open file. DataError when it is absent or damaged."""
    source = _source(folder, name)
    try:
        return pyarrow.parquet.read_schema(source)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(_DAMAGED, topic="shards-changed") from error


def read_films(
    folder: Where | BinaryIO,
    columns: Sequence[str] | None = None,
    num_films: int | None = None,
    name: str = FILMS,
) -> pyarrow.Table:
    """The table of a folder, or an open one, or some of its columns. DataError when it is absent, damaged, lacks a column (the message names those there are) or
    has another number of rows than the indexes have films."""
    source = _source(folder, name)
    try:
        there = pyarrow.parquet.read_schema(source).names
        unknown = sorted(set(columns or ()) - set(there))
        if unknown:
            raise DataError(f"{FILMS} has no column {unknown}; it has {there}")
        chosen = there if columns is None else list(columns)
        with pyarrow.parquet.ParquetFile(source, pre_buffer=False) as parquet:
            table = parquet.read(chosen, use_threads=False).select(chosen)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(_DAMAGED, topic="shards-changed") from error
    _check_rows(len(table), num_films)
    return table


def film_batches(file: BinaryIO, columns: Sequence[str], num_films: int) -> Iterator[pyarrow.Table]:
    """Columns of an open table, some rows at a time: a rank never holds a column of words of millions of films. DataError as `read_films`."""
    try:
        parquet = pyarrow.parquet.ParquetFile(file, pre_buffer=False)
        _check_rows(parquet.metadata.num_rows, num_films)
        for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=list(columns), use_threads=False):
            yield pyarrow.Table.from_batches([batch]).select(list(columns))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(_DAMAGED, topic="shards-changed") from error


def _check_rows(rows: int, num_films: int | None) -> None:
    if num_films not in (None, rows):
        raise DataError(
            f"{FILMS} has {rows} rows, the indexes have {num_films} films; copy the folder again",
            topic="shards-changed",
        )


def missing_films() -> DataError:
    return DataError(f"{FILMS} is missing from the shard folder; run tools/shard_dataset.py again")


def _source(folder: Where | BinaryIO, name: str) -> Path | BinaryIO | pyarrow.BufferReader:
    if isinstance(folder, io.IOBase):
        return folder
    folder = open_folder(folder)
    if isinstance(folder, LocalFolder) and (folder.path / name).is_file():
        return folder.path / name
    try:
        return reader_of(folder.read(name))
    except FileNotFoundError as error:
        raise missing_films() from error
