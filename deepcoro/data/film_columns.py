"""The columns of films.parquet over all sources of a run, newer tables laid over them."""

import difflib
from collections.abc import Sequence

import numpy as np
import pyarrow

from deepcoro.config import ConfigError
from deepcoro.data.film_table import joined
from deepcoro.data.index import StudyTable
from deepcoro.data.manifest import SPLIT_NAMES
from deepcoro.data.shards import Shards
from deepcoro.data.tables import Overlay

VIRTUAL = ("split", "source")
"""Columns that a film has by where it is."""


def stored_columns(sources: Sequence[Shards], columns: Sequence[str]) -> pyarrow.Table:
    """The sources one after another; null where one lacks a column that another has."""
    kinds = {field.name: field.type for shards in reversed(sources) for field in shards.film_schema}
    parts = []
    for shards in sources:
        own = [name for name in columns if name in shards.film_schema.names]
        table = shards.films(own)
        for name in set(columns) - set(own):
            table = table.append_column(name, pyarrow.nulls(shards.studies.num_films, kinds[name]))
        parts.append(table.select(list(columns)))
    return joined(parts) if len(parts) > 1 else parts[0]


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
        known = self.names
        for name in columns:
            if name not in known:
                match = difflib.get_close_matches(name, known, n=1)
                nearest = f"did you mean '{match[0]}'? " if match else ""
                raise ConfigError(f"the films have no column '{name}'; {nearest}there are: {known}")
        sources = list(self._sources.values())
        in_films = {name for shards in sources for name in shards.film_schema.names}
        stored = stored_columns(sources, [name for name in columns if name in in_films])
        return pyarrow.table({name: self._column(name, stored) for name in columns})

    def _column(self, name: str, stored: pyarrow.Table) -> pyarrow.Array:
        if name == "split":
            codes = np.repeat(self._studies.split, self._studies.num_clips)
            return pyarrow.array(SPLIT_NAMES).take(pyarrow.array(codes, mask=codes < 0))
        if name == "source":
            films = [shards.studies.num_films for shards in self._sources.values()]
            numbers = np.repeat(np.arange(len(films)), films)
            return pyarrow.array(list(self._sources)).take(pyarrow.array(numbers))
        column = stored[name].combine_chunks() if name in stored.column_names else None
        return column if self._overlay is None else self._overlay.over(name, column)
