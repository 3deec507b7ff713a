"""Rows of Table 1 on one variable: medians of numbers, counts of words and of yes and no, and how many were not assessed."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow
from jaxtyping import Float, Int

from deepcoro.aggregates import is_small
from deepcoro.small_cells import WORD, Told, told_cells, total

_MOST_WORDS = 8
_MISSING, _OTHER, _FIRST_WORD = 0, 1, 2
_YES, _NO = 1, 2

Row = tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """The films of one split."""

    name: str
    films: Int[np.ndarray, " film"]
    """Rows of the film table."""
    study: Int[np.ndarray, " film"]
    """Row of each film's study."""
    patient: Int[np.ndarray, " film"]
    """Number of each film's patient, or of its study where the data name no patients."""

    @property
    def persons(self) -> int:
        return len(np.unique(self.patient))


@dataclass(frozen=True)
class _Reduced:
    """A variable by whom it is counted of."""

    values: np.ndarray
    """One an owner: a number (NaN: not assessed) or a word's code (-1)."""
    patient: Int[np.ndarray, " owner"]


def variable_rows(
    name: str, column: pyarrow.ChunkedArray, groups: Sequence[Group], fewest: int, of_a_person: bool
) -> list[Row]:
    """Name, a cell a group, a cell of all of them; no row where nothing is known. `groups`: one or more, of `fewest` patients at least."""
    if pyarrow.types.is_string(column.type):
        words, codes = _coded(column)
        return _word_rows(name, words, _by_owner(groups, codes, of_a_person, _agreed), fewest)
    reduce = np.fmin if of_a_person else np.fmax  # the age at the first study; the worst finding of a study
    values = column.to_numpy().astype(float)
    found = _by_owner(groups, values, of_a_person, functools.partial(_reduced, reduce=reduce))
    pooled = np.concatenate([each.values for each in found])
    known = pooled[~np.isnan(pooled)]
    if not len(known):
        return []
    return (_yes_no_rows if np.isin(known, (0.0, 1.0)).all() else _number_rows)(name, found, fewest)


def quarters(values: Float[np.ndarray, " owner"]) -> str:
    """Median and quarters."""
    if not len(values):
        return "–"
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.4g} [{low:.4g}, {high:.4g}]"


def _by_owner(
    groups: Sequence[Group],
    values: np.ndarray,
    of_a_person: bool,
    reduce: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> list[_Reduced]:
    owner = [group.patient if of_a_person else group.study for group in groups]
    first = [np.unique(own, return_index=True)[1] for own in owner]
    return [
        _Reduced(reduce(values[group.films], own), group.patient[one])
        for group, own, one in zip(groups, owner, first, strict=True)
    ]


class _Counts:
    """How many owners are in each cell, as may be told of each group and of all together; the first cell is of those not assessed."""

    def __init__(
        self,
        cells: Sequence[Int[np.ndarray, " _"]],
        found: Sequence[_Reduced],
        num_cells: int,
        fewest: int,
        unprinted: Sequence[int] = (),
    ) -> None:
        told = [
            told_cells(cell, each.patient, num_cells, fewest, unprinted)
            for cell, each in zip(cells, found, strict=True)
        ]
        self._columns = [*told, [total(each) for each in zip(*told, strict=True)]]
        self._sizes = [*map(len, cells), sum(map(len, cells))]
        self._met = np.bincount(np.concatenate(cells), minlength=num_cells) > 0

    def of_all(self, cell: int) -> Told:
        return self._columns[-1][cell]

    def row(self, cell: int, name: str) -> Row:
        return (name, *(_share(told, cell, size) for told, size in zip(self._columns, self._sizes, strict=True)))  # fmt: skip

    def rows_met(self, cell: int, name: str) -> list[Row]:
        """The row, where anybody is in it."""
        return [self.row(cell, name)] if self._met[cell] else []


def _share(told: Sequence[Told], cell: int, size: int) -> str:
    """n (%). A percentage of those assessed tells how many they are: there is none where that is withheld."""
    count, missing = told[cell], told[_MISSING]
    if not count.is_exact or not missing.is_exact:
        return str(count)
    of = size if cell == _MISSING else size - missing.low
    return f"{count} ({100 * count.low / of:.1f} %)" if of else "–"


def _number_rows(name: str, found: Sequence[_Reduced], fewest: int) -> list[Row]:
    values = [each.values for each in found]
    patient = [each.patient for each in found]
    counts = _Counts([(~np.isnan(each)).astype(int) for each in values], found, 2, fewest, (1,))
    columns = zip([*values, np.concatenate(values)], [*patient, np.concatenate(patient)], strict=True)
    row = (name, *(_quarters_of_enough(each, own, fewest) for each, own in columns))
    return [row, *counts.rows_met(_MISSING, f"{name}: not assessed")]


def _yes_no_rows(name: str, found: Sequence[_Reduced], fewest: int) -> list[Row]:
    values = [each.values for each in found]
    cells = [np.where(np.isnan(each), _MISSING, np.where(each == 1, _YES, _NO)) for each in values]
    counts = _Counts(cells, found, 3, fewest, (_NO,))
    return [counts.row(_YES, name), *counts.rows_met(_MISSING, f"{name}: not assessed")]


def _word_rows(name: str, words: Sequence[str], found: Sequence[_Reduced], fewest: int) -> list[Row]:
    """The words that most have, then the others together. The order of those that are withheld would tell of them: it is that of letters."""
    codes = [each.values for each in found]
    times = np.bincount(np.concatenate(codes) + 1, minlength=len(words) + 1)[1:]
    shown = [code for code in np.argsort(-times, kind="stable").tolist() if times[code]][:_MOST_WORDS]
    if not shown:
        return []
    cell_of = np.full(len(words) + 1, _OTHER)
    cell_of[-1] = _MISSING
    cell_of[shown] = np.arange(len(shown)) + _FIRST_WORD
    counts = _Counts([cell_of[each] for each in codes], found, len(shown) + _FIRST_WORD, fewest)

    def place(row: tuple[int, str]) -> tuple[int, str]:
        whole = counts.of_all(row[0])
        return (-whole.low if whole.is_exact else 1, row[1])

    named = sorted(enumerate((words[code] for code in shown), start=_FIRST_WORD), key=place)
    return [
        *(counts.row(cell, f"{name} = {word}") for cell, word in named),
        *counts.rows_met(_OTHER, f"{name}: other words"),
        *counts.rows_met(_MISSING, f"{name}: not assessed"),
    ]


def _coded(column: pyarrow.ChunkedArray) -> tuple[list[str], Int[np.ndarray, " film"]]:
    """Distinct words and each film's number among them; -1 = not assessed."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)


def _agreed(codes: Int[np.ndarray, " film"], owner: Int[np.ndarray, " film"]) -> Int[np.ndarray, " owner"]:
    """The one word that the assessed films of each owner have; -1 where none is assessed or they differ."""
    _, owner = np.unique(owner, return_inverse=True)
    low, high = np.full(owner.max() + 1, np.iinfo(np.int64).max), np.full(owner.max() + 1, -1)
    known = codes >= 0
    np.minimum.at(low, owner[known], codes[known])
    np.maximum.at(high, owner[known], codes[known])
    return np.where(low == high, high, -1)


def _reduced(
    values: Float[np.ndarray, " film"], owner: Int[np.ndarray, " film"], reduce: np.ufunc
) -> Float[np.ndarray, " owner"]:
    """The least or largest known value of each owner; NaN where none is known."""
    _, owner = np.unique(owner, return_inverse=True)
    result = np.full(owner.max() + 1, np.nan)
    reduce.at(result, owner, values)
    return result


def _quarters_of_enough(
    values: Float[np.ndarray, " owner"], patient: Int[np.ndarray, " owner"], fewest: int
) -> str:
    known = ~np.isnan(values)
    return WORD if is_small(len(np.unique(patient[known])), fewest) else quarters(values[known])
