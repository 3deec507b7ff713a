"""The table of films: comma, tab or `α` between the columns, as its users write it."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from deepcoro.config import ConfigError, DataError

DELIMITERS = {"comma": ",", "tab": "\t", "alpha": "α"}
_MISSING = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>", "nat"))
_LONGEST_CELL = 10_000_000


@dataclass(frozen=True)
class Table:
    """A read table. Row 1 is the first under the header; a row of the wrong length is kept as None."""

    columns: tuple[str, ...]
    rows: tuple[dict[str, str | None] | None, ...]


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
    try:
        header, *lines = [
            line for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if line
        ]
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table ({error}); check its quotes") from error
    columns = tuple(name.strip() for name in header)
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise ConfigError(f"{path} names columns twice: {twice}; rename or drop one")
    if not lines:
        raise DataError(f"{path} holds a header and no row; one row a film is expected")
    return Table(columns, tuple(_row(columns, line) for line in lines))


def _sniff(header: str) -> str:
    return max(DELIMITERS.values(), key=header.count)


def _row(columns: tuple[str, ...], line: list[str]) -> dict[str, str | None] | None:
    if len(line) != len(columns):
        return None
    return {name: _cell(cell) for name, cell in zip(columns, line, strict=True)}


def _cell(cell: str) -> str | None:
    cell = cell.strip()
    return None if cell.lower() in _MISSING else cell
