"""What the cells of `data.tables` mean: names, rules and scope are those of the table that the films were sharded from."""

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow
import pyarrow.compute

from deepcoro.config import ConfigError, DataError
from deepcoro.data.film_table import as_words
from deepcoro.ingest.aliases import canonical_columns
from deepcoro.ingest.filmed import place_of, reason_against, shown_by
from deepcoro.ingest.labels import Rule, Unreadable, fraction_complaint, settle
from deepcoro.ingest.scrubber import Scrubber
from deepcoro.ingest.table import NONE

logger = logging.getLogger(__name__)

FACTS = ("side", "main_structure", "status", "contrast_agent", "dominance")
"""What decides which findings a film can show; all but the side are label columns, and may be absent."""


def canonical_names(table: str, names: Sequence[str]) -> list[str]:
    """ConfigError, by the file's name, when two columns mean the same."""
    try:
        renamed = canonical_columns(names)
    except ConfigError as error:
        raise ConfigError(f"{table}: {error}") from error
    return [renamed[name] for name in names]


def meaning(
    of: tuple[str, str], cells: pyarrow.Array, erased: str, rule: Rule, scrubber: Scrubber
) -> pyarrow.Array:
    """Each cell `of` a table's column as its rule reads it, scrubbed; a code for not assessed becomes `erased`.

    DataError, by the names of file and column, when a cell does not fit.
    """
    table, column = of
    coded = cells.dictionary_encode()
    written = coded.dictionary.to_pylist()
    settled = settle(column, column, rule, lambda: (cell for cell in written if cell != erased))
    try:
        values = [None if cell == erased else settled.read(cell) for cell in written]
    except Unreadable as error:
        raise DataError(
            f"{table}: a cell of '{column}' is {error}; correct the table, or declare data.label_rules",
            topic="labels",
        ) from error
    if complaint := fraction_complaint(settled, values):
        raise DataError(f"{table}: '{column}' has {complaint}")
    kept = [scrubber.label(column, value) for value in values]
    meant = [
        _text(value, is_withheld=whole is not value and value is None, cell=cell, erased=erased)
        for cell, whole, value in zip(written, values, kept, strict=True)
    ]
    return pyarrow.array(meant, pyarrow.string()).take(coded.indices)


def _text(value: float | str | None, is_withheld: bool, cell: str, erased: str) -> str | None:
    if value is None:
        return None if is_withheld or cell.lower() == NONE else erased
    if isinstance(value, str):
        return value
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


class Showing:
    """Which films can show which finding. A row that speaks of a study or a patient speaks of their own tree's films alone."""

    def __init__(self, facts: dict[str, pyarrow.Array], study_of_film: np.ndarray) -> None:
        """`facts` holds those of FACTS that are known, a value a film."""
        coded = {name: as_words(column).dictionary_encode() for name, column in facts.items()}
        words = {name: [*column.dictionary.to_pylist(), None] for name, column in coded.items()}
        codes = np.stack([column.indices.fill_null(-1).to_numpy() for column in coded.values()], axis=1)
        kinds, self._kind_of_film = np.unique(codes, axis=0, return_inverse=True)
        tells_side = facts["side"].null_count < len(facts["side"])
        alone = [
            shown_by({name: words[name][code] for name, code in zip(coded, kind, strict=True)}, tells_side)
            for kind in kinds
        ]
        both = self._both_trees(alone, study_of_film)
        self._kinds = [kind._replace(both_trees=with_other) for kind in alone for with_other in (False, True)]
        self._kind_of_film = 2 * self._kind_of_film.reshape(-1) + both

    def _both_trees(self, kinds: Sequence, study_of_film: np.ndarray) -> np.ndarray:
        """Of each film whether its study has diagnostic films of both trees."""
        num_studies = int(study_of_film.max(initial=-1)) + 1
        has = np.ones(num_studies, bool)
        for side in ("left", "right"):
            shows = np.array([kind.is_of_tree(side) for kind in kinds], bool)[self._kind_of_film.reshape(-1)]
            has &= np.bincount(study_of_film, shows, minlength=num_studies) > 0
        return has[study_of_film]

    def only(self, table: str, column: str, cells: pyarrow.Array) -> pyarrow.Array:
        """The cells of the films that can show the column's finding; null, no word about it, for the others."""
        if place_of(column) is None:
            return cells
        can_show = np.array([reason_against(column, kind) is None for kind in self._kinds])[
            self._kind_of_film
        ]
        left_out = int((cells.is_valid().to_numpy(zero_copy_only=False) & ~can_show).sum())
        if left_out:
            logger.info("%s: '%s' does not speak of %d films that do not show it", table, column, left_out)
        return pyarrow.compute.if_else(pyarrow.array(can_show), cells, pyarrow.scalar(None, pyarrow.string()))
