"""The columns of films.parquet over all sources of a run, newer tables laid over them."""

import difflib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow

from deepcoro.config import ConfigError
from deepcoro.data.film_table import as_words
from deepcoro.data.index import StudyTable
from deepcoro.data.manifest import SPLIT_NAMES
from deepcoro.data.shards import Shards
from deepcoro.data.tables import Overlay

VIRTUAL = ("split", "source")
"""Columns that a film has by where it is."""


def stored_columns(sources: Sequence[Shards], columns: Sequence[str]) -> pyarrow.Table:
    """The sources one after another; null where one lacks a column that another has."""
    return pyarrow.concat_tables(stored_batches(sources, columns)).combine_chunks()


def stored_batches(sources: Sequence[Shards], columns: Sequence[str]) -> Iterator[pyarrow.Table]:
    """The same, some rows at a time. A label that is a number in one source and a word in another is a word in all."""
    kinds: dict[str, pyarrow.DataType] = {}
    for field in (field for shards in sources for field in shards.film_schema):
        if field.name not in kinds or pyarrow.types.is_string(field.type):
            kinds[field.name] = field.type
    for shards in sources:
        own = [name for name in columns if name in shards.film_schema.names]
        for part in shards.film_batches(own):
            found = {name: part[name] for name in own}
            found |= {name: as_words(part[name]) for name in own if pyarrow.types.is_string(kinds[name])}
            absent = {name: pyarrow.nulls(part.num_rows, kinds[name]) for name in columns if name not in own}
            yield _of_rows({name: (found | absent)[name] for name in columns}, part.num_rows)


def _of_rows(columns: dict[str, pyarrow.Array | pyarrow.ChunkedArray], num_rows: int) -> pyarrow.Table:
    """A table that knows its length even when it has no column."""
    if columns:
        return pyarrow.table(columns)
    return pyarrow.table({"": pyarrow.nulls(num_rows)}).select([])


class FilmColumns:
    """What can be said of every film without opening a tar."""

    def __init__(self, sources: dict[str, Shards], studies: StudyTable, overlay: Overlay | None) -> None:
        self._sources = sources
        self._studies = studies
        self._overlay = overlay

    @property
    def names(self) -> list[str]:
        stored = {name for shards in self._sources.values() for name in shards.film_schema.names}
        return sorted(stored.union(VIRTUAL, self._overlay.labels if self._overlay else ()))

    def read(self, columns: Sequence[str]) -> pyarrow.Table:
        """One row a film. ConfigError, with the nearest name, when there is no such column."""
        return pyarrow.concat_tables(self.batches(columns)).combine_chunks()

    def batches(self, columns: Sequence[str]) -> Iterator[pyarrow.Table]:
        """The same, some films at a time: what a rank reads when it starts should not be held at once."""
        known = self.names
        for name in columns:
            if name not in known:
                match = difflib.get_close_matches(name, known, n=1)
                nearest = f"did you mean '{match[0]}'? " if match else ""
                raise ConfigError(f"the films have no column '{name}'; {nearest}there are: {known}")
        sources = list(self._sources.values())
        in_films = {name for shards in sources for name in shards.film_schema.names}
        stop = 0
        for stored in stored_batches(sources, [name for name in columns if name in in_films]):
            rows = slice(stop, stop + stored.num_rows)
            stop = rows.stop
            yield pyarrow.table({name: self._column(name, stored, rows) for name in columns})
        pyarrow.default_memory_pool().release_unused()

    def _column(self, name: str, stored: pyarrow.Table, rows: slice) -> pyarrow.Array:
        if name == "split":
            codes = np.repeat(self._studies.split, self._studies.num_clips)[rows]
            return pyarrow.array(SPLIT_NAMES).take(pyarrow.array(codes, mask=codes < 0))
        if name == "source":
            films = [shards.studies.num_films for shards in self._sources.values()]
            numbers = np.repeat(np.arange(len(films), dtype=np.int32), films)[rows]
            return pyarrow.array(list(self._sources)).take(pyarrow.array(numbers))
        column = stored[name].combine_chunks() if name in stored.column_names else None
        return column if self._overlay is None else self._overlay.over(name, column, rows)
