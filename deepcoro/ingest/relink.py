"""A user's own label table to keyed ids, so that `data.tables` can join it; a table of predictions back to the user's ids."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from deepcoro import atomic
from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.columns import NAMES, find_column, find_labels, number_of_cell
from deepcoro.ingest.crosswalk import Entry
from deepcoro.ingest.identity import Identity
from deepcoro.ingest.scrubber import Scrubber
from deepcoro.ingest.studies import film_path, original_clip
from deepcoro.ingest.table import Table

logger = logging.getLogger(__name__)

IDS = {"path": "clip", "study": "study", "patient": "patient"}
"""Role of a column in the user's table -> kind of id, which is also its name in the keyed table."""
ORIGINALS = {"patient": "PatientID", "study": "StudyInstanceUID", "clip": "FileName"}
"""Kind of id -> its column in a table that was given its originals back."""

_ERASED = "!"  # how a label table says "not assessed"
Row = dict[str, str]


def keyed_rows(
    table: Table,
    given: Mapping[str, str | None],
    labels: Sequence[str] | None,
    folder: Path,
    identity: Identity,
    scrubber: Scrubber,
) -> list[Row]:
    """Rows with keyed ids, `Split`, `Report` (scrubbed) and label columns; every other column is dropped, and the log names it.

    `given` names columns by role where they have unusual names; `labels` are names or patterns (None = the usual labels). Paths
    are relative to `folder`, that of the table that was sharded. ConfigError when no column holds an id.
    """
    roles = {role: find_column(role, table.columns, given.get(role)) for role in (*IDS, "split", "report")}
    if not any(roles[role] for role in IDS):
        usual = [name for role in IDS for name in NAMES[role]]
        raise ConfigError(
            f"no column holds an id: none of {usual} is in the table; name one with --study_column, --path_column or"
            " --patient_column"
        )
    taken = find_labels(table.columns, labels, set(roles.values()))
    dropped = [name for name in table.columns if name not in {*roles.values(), *taken}]
    if dropped:
        logger.warning(
            "columns left out, since nothing says that they are labels: %s; --label_columns NAME takes one",
            dropped,
        )
    rows = [cells for cells in table.rows if cells is not None]
    if not rows:
        raise DataError(
            f"each of the {len(table.rows)} rows has more or fewer cells than the header; check the delimiter"
        )
    if len(rows) < len(table.rows):
        logger.warning("%d rows have more or fewer cells than the header: left out", len(table.rows) - len(rows))  # fmt: skip
    folder = folder.resolve()
    return [_keyed_row(cells, roles, taken, folder, identity, scrubber) for cells in rows]


def _keyed_row(
    cells: Mapping[str, str | None],
    roles: Mapping[str, str | None],
    labels: Sequence[str],
    folder: Path,
    identity: Identity,
    scrubber: Scrubber,
) -> Row:
    row: Row = {}
    for role, kind in IDS.items():
        if column := roles[role]:
            original = cells[column]
            if original is not None and kind == "clip":
                original = original_clip(film_path(folder, original), folder)
            row[kind] = "" if original is None else identity.keyed(kind, original)
    for label in labels:
        row[label] = _label(label, cells[label], scrubber)
    if column := roles["split"]:
        row["Split"] = (cells[column] or "").lower()
    if column := roles["report"]:
        row["Report"] = scrubber.text(cells[column]) or ""
    return row


def _label(column: str, cell: str | None, scrubber: Scrubber) -> str:
    if cell is None or cell == _ERASED:
        return cell or ""
    number = number_of_cell(cell)
    kept = scrubber.label(column, cell if number is None else number)
    return "" if kept is None else kept if isinstance(kept, str) else cell


def original_rows(
    rows: Sequence[Row], crosswalk: Sequence[Entry], film_ids: Mapping[str, str] = {}
) -> list[Row]:
    """The rows with `PatientID`, `StudyInstanceUID` and `FileName` in place of keyed ids.

    `film_ids`: name of a film as runs write it (`study.000`) -> its keyed id. DataError, with counts, when ids are not in the
    crosswalk.
    """
    by_clip = {entry.clip: entry for entry in crosswalk}
    by_study = {entry.study: entry for entry in crosswalk}
    by_patient = {entry.patient: entry for entry in crosswalk if entry.patient}
    found, unknown = [], 0
    for row in rows:
        name = row.get("clip", "")
        film = by_clip.get(film_ids.get(name, name))
        entry = film or by_study.get(row.get("study") or name) or by_patient.get(row.get("patient", ""))
        if entry is None or ("." in name and film is None):
            unknown += 1
            continue
        found.append(_originals(entry, film, row) | {name: cell for name, cell in row.items() if name not in ORIGINALS})  # fmt: skip
    if unknown:
        raise DataError(
            f"{unknown} of {len(rows)} rows name films, studies or patients that the crosswalk does not know; give the"
            " --crosswalk of these shards, and --shards FOLDER for films named study.000"
        )
    return found


def _originals(entry: Entry, film: Entry | None, row: Row) -> Row:
    names = {"PatientID": entry.original_patient}
    if film or row.get("study") or row.get("clip"):
        names["StudyInstanceUID"] = entry.original_study
    if "clip" in row:
        names["FileName"] = film.original_clip if film else ""
    return names


def read_rows(path: Path) -> list[Row]:
    """A comma-separated table of predictions. ConfigError when it is absent, DataError when no column holds a keyed id."""
    if not path.is_file():
        raise ConfigError(f"table {path} does not exist")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    if rows and not set(rows[0]) & set(ORIGINALS):
        raise DataError(
            f"{path.name} has none of the columns {list(ORIGINALS)} with keyed ids; it has {list(rows[0])}"
        )
    return rows


def write_rows(path: Path, rows: Sequence[Row], private: bool) -> None:
    """Writes the rows, whole or not at all; `private`: only the owner can read the file (0600)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_bytes(path, text.getvalue().encode(), private=private)
