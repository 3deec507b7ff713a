"""What the layouts of public data sets share: reading their tables, and giving back the one table that a CSV would give."""

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.columns import number_of_cell
from deepcoro.ingest.table import Row, Table

Record = Mapping[str, Any]


def inside(folder: Path, layout: str, *names: str) -> Path:
    """The first of these files or folders that is there. ConfigError that says what the layout's folder holds."""
    found = next((folder / name for name in names if (folder / name).exists()), None)
    if found is None:
        expected = " or ".join(names)
        raise ConfigError(f"--layout {layout}: --source holds no {expected}; give the folder that holds it")
    return found


def records(path: Path, needed: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows of a CSV (also `.csv.gz`), read one by one: some are larger than memory. DataError when a needed column is absent, or
    when a row has more or fewer cells than the header: half of a download would pass for the whole."""
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8-sig", newline="") as text:
            yield from _whole_rows(csv.DictReader(text), path.name, needed)
    except (csv.Error, EOFError, UnicodeDecodeError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path.name} is damaged ({error}); download it again") from error


def _whole_rows(reader: csv.DictReader, name: str, needed: Sequence[str]) -> Iterator[dict[str, str]]:
    missing = sorted(set(needed) - set(reader.fieldnames or ()))
    if missing:
        raise DataError(f"{name} has no column {missing}; it has {list(reader.fieldnames or ())}")
    for row in reader:
        if None in row or None in row.values():
            raise DataError(
                f"{name}: line {reader.line_num} has more or fewer cells than the header; download it again"
            )
        yield row


def number(record: Record, column: str, file_name: str) -> float:
    """DataError that names file and column when the cell is no finite number."""
    value = number_of_cell(record[column])
    if value is None:
        raise DataError(f"{file_name}: a cell of '{column}' is no number; download it again")
    return value


def lines_of(path: Path) -> list[str]:
    """Lines with something on them; none where there is no such file."""
    if not path.is_file():
        return []
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def as_table(columns: Sequence[str], rows: Iterable[Record], layout: str) -> Table:
    """Columns that no row fills are left out; None and an absent key are empty cells. ConfigError without a row."""
    rows = list(rows)
    if not rows:
        raise ConfigError(
            f"--layout {layout}: not one film was found under --source; see docs/data.md for the layout"
        )
    used = tuple(name for name in columns if any(row.get(name) is not None for row in rows))
    places = {name: number for number, name in enumerate(used)}
    return Table(used, tuple(Row(places, [_cell(row.get(name)) for name in used]) for row in rows))


def _cell(value: Any) -> str | None:
    if value is None:
        return None
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def by_number(path: Path) -> tuple[int, str]:
    """Sorts p2 before p10."""
    digits = "".join(letter for letter in path.name if letter.isdigit())
    return int(digits or 0), path.name
