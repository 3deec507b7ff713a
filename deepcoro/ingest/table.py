"""The table of films: comma, tab, semicolon or `α` between the columns, as its users write it."""

import codecs
import csv
import io
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.columns import shown_names

DELIMITERS = {"comma": ",", "tab": "\t", "alpha": "α", "semicolon": ";"}
_MISSING = frozenset(("", "nan", "null", "na", "n/a", "<na>", "nat"))
NONE = "none"
"""A cell that says `None`: an empty field of a program, or a grade of calcification. Only a label column's rule can tell."""
_LONGEST_CELL = 10_000_000
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""First bytes of .xlsx and .ods, and of .xls."""
_END = "\x1eend of table\x1e"
"""A row behind the last one: the rest of a table is not lost in a cell unnoticed."""

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
    """Reads a table in UTF-8, or in UTF-16 with its mark; `auto` takes the delimiter that the header uses most. Cells that say missing become None.

    ConfigError when there is no such file or a column name occurs twice; DataError when it is in another code, holds no row, or
    a quote swallows its end.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"table {path} {what}; give the file, a header and one row a film in CSV or TSV")
    text = _read_text(path)
    if not text.strip():
        raise DataError(f"{path} is empty; a header and one row a film are expected")
    csv.field_size_limit(_LONGEST_CELL)
    separator = DELIMITERS.get(delimiter) or _sniff(text.split("\n", 1)[0])
    reader = csv.reader(io.StringIO(f"{text}\n{_END}", newline=""), delimiter=separator)
    lines = (line for line in reader if line)
    try:
        columns = tuple(name.strip() for name in next(lines))
        _check_names(columns, path)
        rows = tuple(_rows(columns, lines, path))
    except csv.Error as error:
        raise DataError(
            f"{path} cannot be read as a table ({error}); check its quotes", topic="columns-of-tables"
        ) from error
    if not rows:
        raise DataError(f"{path} holds a header and no row; one row a film is expected")
    return Table(columns, rows)


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        mark = file.read(4)
    if mark.startswith(_WORKBOOKS):
        raise DataError(f"{path} is a workbook; save its sheet as 'CSV UTF-8'", topic="columns-of-tables")
    encoding = "utf-16" if mark.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return path.read_text(encoding)
    except UnicodeError as error:
        where = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(
            f"{path} is not UTF-8{where}; save it again as 'CSV UTF-8'", topic="columns-of-tables"
        ) from error


def _check_names(columns: Sequence[str], path: Path) -> None:
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{path} names columns twice: {shown_names(twice, columns)}; rename or drop one",
            topic="columns-of-tables",
        )


def _sniff(header: str) -> str:
    return max(DELIMITERS.values(), key=header.count)


def _rows(columns: Sequence[str], lines: Iterator[list[str]], path: Path) -> Iterator[Row | None]:
    places = {name: number for number, name in enumerate(columns)}
    width, cleaned = len(columns), _Cleaned()
    for number, line in enumerate(lines, start=1):
        if line == [_END]:
            return
        if line[-1].endswith(_END):
            raise DataError(
                f"{path}: a quote is opened in row {number} and never closed; close it, or double it"
            )
        yield Row(places, [cleaned[cell] for cell in line]) if len(line) == width else None


class _Cleaned(dict[str, str | None]):
    """What a cell says. Each distinct cell is looked at once: a label table holds millions of cells and few values."""

    def __missing__(self, cell: str) -> str | None:
        stripped = cell.strip()
        word = stripped.lower()
        value = self[cell] = None if word in _MISSING else NONE if word == NONE else stripped
        return value
