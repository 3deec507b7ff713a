"""The table of films: comma, tab, semicolon or `α` between the columns, as its users write it."""

import csv
import io
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepcoro.config import ConfigError, DataError

DELIMITERS = {"comma": ",", "tab": "\t", "alpha": "α", "semicolon": ";"}
_MISSING = frozenset(("", "nan", "null", "na", "n/a", "<na>", "nat"))
NONE = "none"
"""A cell that says `None`: an empty field of a program, or a grade of calcification. Only a label column's rule can tell."""
_LONGEST_CELL = 10_000_000

Cells = Mapping[str, str | None]


class Row(Mapping[str, str | None]):
    """Cells by column name. A list beside one shared index: a dictionary a row would take five times the memory."""

    __slots__ = ("_cells", "_places")

    def __init__(self, places: Mapping[str, int], cells: list[str | None]) -> None:
        self._places = places
        self._cells = cells

    def __getitem__(self, column: str) -> str | None:
        cell = self._cells[self._places[column]]
        return None if cell == NONE else cell

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"Row of {len(self)} cells"  # never the cells: a traceback may be sent to somebody


@dataclass(frozen=True)
class Table:
    """A read table. Row 1 is the first under the header; a row of the wrong length is kept as None."""

    columns: tuple[str, ...]
    rows: tuple[Cells | None, ...]

    def picker(self, columns: Sequence[str]) -> Callable[[Cells], tuple[str | None, ...]]:
        """A function from a row to its cells in these columns, NONE among them: the fast way to read many columns of many rows."""
        if not columns:
            return lambda row: ()
        is_fast = all(isinstance(row, Row) for row in self.rows if row is not None)
        if not is_fast:
            return lambda row: tuple(row[name] for name in columns)
        places = {name: number for number, name in enumerate(self.columns)}
        pick = operator.itemgetter(*(places[name] for name in columns))
        if len(columns) == 1:
            return lambda row: (pick(row._cells),)
        return lambda row: pick(row._cells)


def with_column(table: Table, name: str, cells: Sequence[str | None]) -> Table:
    """The table with one more column, a cell a row; malformed rows stay so. ConfigError when it has such a column."""
    if name in table.columns:
        raise ConfigError(f"the table has a column '{name}' already; leave out the flag that would add it")
    columns = (*table.columns, name)
    places = {each: number for number, each in enumerate(columns)}
    pick = table.picker(table.columns)
    rows = zip(table.rows, cells, strict=True)
    return Table(
        columns, tuple(None if row is None else Row(places, [*pick(row), cell]) for row, cell in rows)
    )


def read_table(path: Path, delimiter: str = "auto") -> Table:
    """Reads a UTF-8 table; `auto` takes the delimiter that the header uses most. Cells that say missing become None.

    ConfigError when the file is absent or a column name occurs twice; DataError when it is not UTF-8 or holds no row.
    """
    if not path.is_file():
        raise ConfigError(f"table {path} does not exist; give --csv FILE")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it again as 'CSV UTF-8'") from error
    if not text.strip():
        raise DataError(f"{path} is empty; a header and one row a film are expected")
    csv.field_size_limit(_LONGEST_CELL)
    separator = DELIMITERS.get(delimiter) or _sniff(text.split("\n", 1)[0])
    lines = (line for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if line)
    try:
        columns = tuple(name.strip() for name in next(lines))
        _check_names(columns, path)
        rows = tuple(_rows(columns, lines))
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table ({error}); check its quotes") from error
    if not rows:
        raise DataError(f"{path} holds a header and no row; one row a film is expected")
    return Table(columns, rows)


def _check_names(columns: Sequence[str], path: Path) -> None:
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise ConfigError(f"{path} names columns twice: {twice}; rename or drop one")


def _sniff(header: str) -> str:
    return max(DELIMITERS.values(), key=header.count)


def _rows(columns: Sequence[str], lines: Iterator[list[str]]) -> Iterator[Row | None]:
    places = {name: number for number, name in enumerate(columns)}
    width, cleaned = len(columns), _Cleaned()
    for line in lines:
        yield Row(places, [cleaned[cell] for cell in line]) if len(line) == width else None


class _Cleaned(dict[str, str | None]):
    """What a cell says. Each distinct cell is looked at once: a label table holds millions of cells and few values."""

    def __missing__(self, cell: str) -> str | None:
        stripped = cell.strip()
        word = stripped.lower()
        value = self[cell] = None if word in _MISSING else NONE if word == NONE else stripped
        return value
