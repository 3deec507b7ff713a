"""`data.tables`: newer labels, splits and texts, joined by keyed id when a run starts. Films are fixed, tables change; no tar is touched.

A row speaks of the narrowest thing whose id it gives: `clip`, else `study`, else `patient`. Later tables win over earlier ones, within a
table narrower rows over wider ones. An empty cell leaves what was known; `!` makes it not assessed.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.csv

from deepcoro.config import ConfigError, DataError
from deepcoro.data.arrow_memory import reader_of
from deepcoro.data.film_table import SCHEMA, as_words
from deepcoro.data.index import StudyTable
from deepcoro.data.manifest import SPLIT_NAMES
from deepcoro.data.table_cells import FACTS, Showing, canonical_names, meaning
from deepcoro.ingest.filmed import place_of
from deepcoro.ingest.labels import LabelRules
from deepcoro.ingest.scrubber import Scrubber
from deepcoro.sample import Report, StudyRecord, text_id

logger = logging.getLogger(__name__)

IDS = ("clip", "study", "patient")
"""From narrow to wide."""
ERASED = "!"
RESERVED = (*SCHEMA.names, "split", "source")

_SPLIT, _REPORT = "Split", "Report"
_NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "None"]


@dataclass(frozen=True)
class LabelTable:
    """One table as it was read: all cells are text."""

    name: str
    sha256: str
    cells: pyarrow.Table

    @property
    def ids(self) -> list[str]:
        """Its id columns, narrow to wide."""
        return [name for name in IDS if name in self.cells.column_names]

    @property
    def values(self) -> list[str]:
        return [name for name in self.cells.column_names if name not in IDS]


@dataclass(frozen=True)
class JoinedTable:
    """What a run remembers of a table."""

    name: str
    sha256: str
    rows: int
    matched: int


def read_label_table(path: Path, rules: LabelRules | None = None) -> LabelTable:
    """A comma, semicolon or tab separated table, its cells read by `rules` or the built-in ones. ConfigError or DataError, by the file's name, when it cannot be one."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"data.tables: {path} does not exist")
    payload = path.read_bytes()
    header = payload.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace").strip()
    separator = max(",;\t", key=header.count)
    names = [name.strip().strip('"') for name in header.split(separator)]
    try:
        cells = pyarrow.csv.read_csv(
            reader_of(payload),
            read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=1),
            parse_options=pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pyarrow.string()),
                null_values=_NULLS,
                strings_can_be_null=True,
            ),
        )
    except pyarrow.ArrowInvalid as error:
        raise DataError(
            f"{path.name} cannot be read as a table; check that every row has {len(names)} cells"
        ) from error
    _check_columns(path.name, names)
    columns, scrubber, rules = {}, Scrubber(), rules or LabelRules()
    for name, canonical in zip(names, canonical_names(path.name, names), strict=True):
        trimmed = pyarrow.compute.utf8_trim_whitespace(cells[name]).combine_chunks()
        is_label = name not in (*IDS, _SPLIT, _REPORT)
        if is_label:
            trimmed = meaning((path.name, canonical), trimmed, ERASED, rules.rule_of(canonical), scrubber)
        columns[canonical] = trimmed
    _tell(path.name, "its labels", scrubber)
    return LabelTable(path.name, hashlib.sha256(payload).hexdigest(), pyarrow.table(columns))


def _tell(table: str, place: str, scrubber: Scrubber) -> None:
    """That identifiers were found: whoever shares this table shares them."""
    found = [f"{count} x {kind}" for kind, count in scrubber.replaced.most_common()]
    found += [f"{count} numbers of '{column}'" for column, count in scrubber.withheld.items()]
    if found:
        logger.warning(
            "%s: identifiers in %s are not used (%s); tools/relink.py --to_keyed makes a table without them",
            table,
            place,
            ", ".join(found),
        )


def _check_columns(name: str, columns: Sequence[str]) -> None:
    if not set(columns) & set(IDS):
        raise ConfigError(
            f"{name} has none of the columns clip, study, patient with keyed ids; tools/relink.py --to_keyed makes them"
            " from your own ids",
            topic="keys-of-ids",
        )
    taken = [each for each in columns if each in RESERVED and each not in IDS]
    if taken or len(set(columns)) != len(columns) or not all(columns):
        raise ConfigError(
            f"{name}: columns must be named, each once, and not {taken or 'twice'}: the films have such a column themselves"
        )
    if _REPORT in columns and "patient" in columns and not {"clip", "study"} & set(columns):
        raise ConfigError(f"{name}: a Report speaks of a study or a clip; give one of these columns")


class Overlay:
    """What the tables say of every film; nothing where they say nothing."""

    def __init__(self, films: pyarrow.Table, studies: StudyTable) -> None:
        """`films` holds the id columns that the tables name, and those of FACTS that the films have."""
        self.records: list[JoinedTable] = []
        self.texts: list[str] = []
        """Joined texts; the two columns below hold rows of it, or -1."""
        self.text_of_film = np.full(len(films), -1, np.int32)
        self.text_of_study = np.full(len(studies), -1, np.int32)
        self._films = films
        self._study_of_film = studies.study_of_film()
        self._given: dict[str, np.ndarray] = {}
        self._cells: dict[str, pyarrow.Array] = {}
        self._typed: dict[str, pyarrow.Array] = {}

    @property
    def labels(self) -> list[str]:
        """Label columns that a table gave."""
        return [name for name in self._cells if name != _SPLIT]

    def join(self, table: LabelTable) -> None:
        """Lays a table over those before it. DataError when an id is listed twice, or no row is of these films."""
        matched = 0
        for level in reversed(table.ids):
            rows = self._rows_of_level(table, level)
            keys = table.cells[level].take(rows).combine_chunks()
            if pyarrow.compute.count_distinct(keys).as_py() != len(keys):
                raise DataError(
                    f"{table.name} lists a {level} twice; keep one row a {level}", topic="ids-twice"
                )
            place = pyarrow.compute.index_in(self._films[level].combine_chunks(), keys)
            matched += len(pyarrow.compute.unique(place.drop_null()))
            self._lay(table, level, pyarrow.compute.take(rows, place))
        self.records.append(JoinedTable(table.name, table.sha256, len(table.cells), matched))
        if not matched:
            raise DataError(
                f"none of the {len(table.cells)} rows of {table.name} is of a film of this run; are its ids the keyed ones?"
                " tools/relink.py --to_keyed makes them from your own",
                topic="keys-of-ids",
            )
        log = logger.info if matched == len(table.cells) else logger.warning
        log("%s: %d of %d rows are of films of this run", table.name, matched, len(table.cells))

    def column(self, name: str) -> tuple[np.ndarray, pyarrow.Array]:
        """For each film whether a table speaks of it, and the value: float64 if the column holds numbers only, else text."""
        if name not in self._typed:
            self._typed[name] = _numbers_or_words(self._cells[name])
        return self._given[name], self._typed[name]

    def over(
        self,
        name: str,
        stored: pyarrow.Array | None,
        rows: slice = slice(None),  # noqa: B008 - cannot change
    ) -> pyarrow.Array:
        """A column of films.parquet, or None where it has none of this name, with what the tables say in its place; or some rows of it."""
        if name == "text_id":
            return self._text_ids(stored, rows)
        if name not in self.labels:
            return stored
        given, values = (column[rows] for column in self.column(name))
        if stored is None:
            return values
        if stored.type != values.type:
            stored, values = as_words(stored), as_words(values)
        return pyarrow.compute.if_else(pyarrow.array(given), values, stored)

    def of_study(self, record: StudyRecord, row: int, first_film: int) -> StudyRecord:
        """The record of a study with what the tables say of it and its films, which are numbered from `first_film`."""
        clips = [
            clip.model_copy(update={"labels": self._labels_of(first_film + number, clip.labels)})
            for number, clip in enumerate(record.clips)
        ]
        own = {
            number: Report(scope="clip", clip=number, text=self.texts[text])
            for number, text in enumerate(self.text_of_film[first_film : first_film + len(clips)].tolist())
            if text >= 0
        }
        reports = [report for report in record.reports if report.clip not in own]
        if self.text_of_study[row] >= 0:
            reports = [Report(scope="study", text=self.texts[self.text_of_study[row]])]
        return record.model_copy(update={"clips": clips, "reports": [*reports, *own.values()]})

    def _labels_of(self, film: int, known: dict[str, float | str | None]) -> dict[str, float | str | None]:
        columns = {name: self.column(name) for name in self.labels}
        newer = {name: values[film].as_py() for name, (given, values) in columns.items() if given[film]}
        return dict.fromkeys(columns) | known | newer

    def _text_ids(self, stored: pyarrow.Array, rows: slice) -> pyarrow.Array:
        ids = np.array([*map(text_id, self.texts), -1])
        own = self.text_of_film[rows]
        text = np.where(own >= 0, own, self.text_of_study[self._study_of_film[rows]])
        return pyarrow.array(np.where(text >= 0, ids[text], stored.to_numpy()))

    def split_codes(self, known: np.ndarray) -> np.ndarray:
        """Splits of the studies, `known` where no table gives one; a withdrawn study (-1) stays so. DataError on two for one study."""
        if _SPLIT not in self._given:
            return known
        given, values = self._given[_SPLIT], self._cells[_SPLIT]
        films = np.flatnonzero(given & values.is_valid().to_numpy(zero_copy_only=False))
        code = pyarrow.compute.index_in(values.take(pyarrow.array(films)), pyarrow.array(SPLIT_NAMES))
        if code.null_count:
            raise DataError(f"data.tables gives a Split that is none of {list(SPLIT_NAMES)}")
        code, study, codes = code.to_numpy().astype(np.int8), self._study_of_film[films], known.copy()
        codes[study] = code
        if (codes[study] != code).any():
            raise DataError(
                "data.tables gives the films of one study different splits; a study has one split",
                topic="patients-in-two-splits",
            )
        withdrawn = int(((known == -1) & (codes != -1)).sum())
        if withdrawn:
            logger.warning("data.tables names %d withdrawn studies; they stay withdrawn", withdrawn)
        return np.where(known == -1, known, codes).astype(np.int8)

    def _rows_of_level(self, table: LabelTable, level: str) -> pyarrow.Array:
        """Rows whose narrowest id is of this level."""
        mine = pyarrow.compute.is_valid(table.cells[level])
        for narrower in table.ids[: table.ids.index(level)]:
            mine = pyarrow.compute.and_(mine, pyarrow.compute.is_null(table.cells[narrower]))
        return pyarrow.array(np.flatnonzero(np.asarray(mine, bool)), pyarrow.int64())

    def _lay(self, table: LabelTable, level: str, row_of_film: pyarrow.Array) -> None:
        showing = None
        for name in sorted(
            table.values, key=lambda name: name not in FACTS
        ):  # facts first: they decide on findings
            cells = table.cells[name].combine_chunks().take(row_of_film)
            if name == _REPORT:
                self._lay_texts(table.name, cells, is_of_clip=level == "clip")
                continue
            if place_of(name) is not None:
                showing = showing or self._showing()
                cells = showing.only(table.name, name, cells)
            given = cells.is_valid().to_numpy(zero_copy_only=False)
            is_erased = pyarrow.compute.fill_null(pyarrow.compute.equal(cells, ERASED), False)
            cells = pyarrow.compute.if_else(is_erased, pyarrow.scalar(None, pyarrow.string()), cells)
            if name in self._cells:
                cells = pyarrow.compute.if_else(pyarrow.array(given), cells, self._cells[name])
                given = given | self._given[name]
            self._given[name], self._cells[name] = given, cells
            self._typed.pop(name, None)

    def _showing(self) -> Showing:
        """What the films are, by their own columns and the tables so far."""
        own = {name: self._films[name].combine_chunks() for name in FACTS if name in self._films.column_names}
        newer = [name for name in FACTS if name in self.labels and name not in own]
        facts = {name: self.over(name, column) for name, column in own.items()}
        return Showing(facts | {name: self.over(name, None) for name in newer}, self._study_of_film)

    def _lay_texts(self, table: str, cells: pyarrow.Array, is_of_clip: bool) -> None:
        """A study's text replaces all that was known of the study, a clip's that of the clip. It is scrubbed like those of shards."""
        films = np.flatnonzero(cells.is_valid().to_numpy(zero_copy_only=False))
        coded = cells.take(pyarrow.array(films, pyarrow.int64())).dictionary_encode()
        text = coded.indices.to_numpy() + len(self.texts)
        written, scrubber = coded.dictionary.to_pylist(), Scrubber()
        if ERASED in written:
            raise DataError(f"data.tables: '{ERASED}' in Report; it erases labels, not texts")
        self.texts += map(scrubber.text, written)
        _tell(table, "its texts", scrubber)
        if is_of_clip:
            self.text_of_film[films] = text
        else:
            self.text_of_film[films] = -1
            self.text_of_study[self._study_of_film[films]] = text


def _numbers_or_words(cells: pyarrow.Array) -> pyarrow.Array:
    """True and false are 1 and 0, as in the shards."""
    lower = pyarrow.compute.utf8_lower(cells)
    words = pyarrow.compute.case_when(
        pyarrow.compute.make_struct(
            pyarrow.compute.equal(lower, "true"), pyarrow.compute.equal(lower, "false")
        ),
        pyarrow.scalar("1"),
        pyarrow.scalar("0"),
        cells,
    )
    try:
        return words.cast(pyarrow.float64())
    except pyarrow.ArrowInvalid:
        return cells
