"""Texts with ids of their own, and edges that say of which films or studies they are: the predecessor's SigLIP tables.

`texts.csv`: text_id, prompt_text, and soft_weight where it is not 1. `edges.csv`: `clip` or `study` (keyed ids, as in `data.tables`)
with text_id, and weight where it is not 1; or one row a film with positive_text_ids (`T1|T2`). An edge weighs weight x soft_weight.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute

from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.scrubber import Scrubber
from deepcoro.ingest.table import Cells, read_table
from deepcoro.sample import StudyRecord, text_id

logger = logging.getLogger(__name__)

LEVELS = ("clip", "study")
"""Id columns of edges, from narrow to wide."""
_TEXT, _LISTED = "text_id", "positive_text_ids"
_RELINK = "tools/relink.py --to_keyed makes keyed ids from your own"


@dataclass(frozen=True)
class Edges:
    """The texts of each id, one behind another."""

    ids: np.ndarray
    """Sorted bytes, each once."""
    starts: np.ndarray
    """Place of each id's first edge, and the number of edges last."""
    texts: np.ndarray
    weights: np.ndarray

    def of(self, key: str) -> dict[int, float]:
        """Row of the text -> weight."""
        place = int(np.searchsorted(self.ids, key.encode()))
        if place == len(self.ids) or self.ids[place] != key.encode():
            return {}
        mine = slice(self.starts[place], self.starts[place + 1])
        return dict(zip(self.texts[mine].tolist(), self.weights[mine].tolist(), strict=True))


class TextBank:
    """Distinct texts (two ids of one text are one), and who they are of."""

    def __init__(self, texts: Path, edges: Path) -> None:
        """ConfigError or DataError, by file, row and column, when a table cannot be what it should."""
        self.texts: list[str] = []
        self.ids: list[int] = []
        """`text_id` of each text, as batches name it."""
        self._row_of: dict[str, int] = {}
        self._soft: dict[str, float] = {}
        self._read_texts(texts)
        self.edges = self._read_edges(edges)
        tables = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (texts, edges))
        self.sha256 = hashlib.sha256(" ".join(tables).encode()).hexdigest()
        """Of both tables."""

    def positives_of(self, study: StudyRecord, clip_indices: tuple[int, ...]) -> dict[int, float]:
        """Row of the text -> weight, over the films shown and their study; of several edges of one text the heaviest counts."""
        found: dict[int, float] = {}
        keys = [("clip", study.clips[index].clip) for index in clip_indices] + [("study", study.study)]
        for level, key in keys:
            if level in self.edges:
                for row, weight in self.edges[level].of(key).items():
                    found[row] = max(weight, found.get(row, 0.0))
        return dict(sorted(found.items()))

    def join(self, films: Iterable[pyarrow.Table]) -> None:
        """Counts the ids that films of the run have (columns `clip`, `study`) and logs the others. DataError when none has an edge."""
        unknown = {level: np.ones(len(edges.ids), bool) for level, edges in self.edges.items()}
        for part in films:
            for level, edges in self.edges.items():
                here = np.array(pyarrow.compute.unique(part[level]).drop_null().to_pylist(), np.bytes_)
                unknown[level] &= ~np.isin(edges.ids, here)
        for level, absent in unknown.items():
            log = logger.warning if absent.any() else logger.info
            log(
                "edges: %d of %d ids in '%s' are of no film of this run",
                absent.sum(),
                len(absent),
                level,
            )
        if all(absent.all() for absent in unknown.values()):
            raise DataError(
                f"no edge is of a film of this run; are its ids the keyed ones? {_RELINK}",
                topic="keys-of-ids",
            )

    def _read_texts(self, path: Path) -> None:
        scrubber, place = Scrubber(), {}
        for row, cells in _rows(path, required=(_TEXT, "prompt_text")):
            name, text = (_filled(row, cells, column) for column in (_TEXT, "prompt_text"))
            if name in self._row_of:
                raise DataError(f"{row}: its text_id is there twice; keep one of the rows", topic="ids-twice")
            text = scrubber.text(text)
            self._soft[name] = _weight(row, cells, "soft_weight")
            self._row_of[name] = place.setdefault(text_id(text), len(self.texts))
            if self._row_of[name] == len(self.texts):
                self.texts.append(text)
                self.ids.append(text_id(text))
        if scrubber.replaced:
            logger.warning("%s: identifiers in its texts are not used (%s)", path.name, scrubber.replaced)

    def _read_edges(self, path: Path) -> dict[str, Edges]:
        listed: dict[str, list[tuple[bytes, int, float]]] = {level: [] for level in LEVELS}
        lost = 0
        for row, cells in _rows(path, one_of=(LEVELS, (_TEXT, _LISTED))):
            level = next((each for each in LEVELS if cells.get(each)), None)
            if level is None:
                raise DataError(f"{row}: it names no clip and no study; fill in one of them")
            weight = _weight(row, cells, "weight")
            for name in _names(row, cells):
                if name not in self._row_of:
                    lost += 1
                    continue
                edge = (cells[level].encode(), self._row_of[name], weight * self._soft[name])
                listed[level].append(edge)
        if lost:
            logger.warning(
                "%s: %d edges name texts that the table of texts does not have; they are not used",
                path.name,
                lost,
            )
        if not any(listed.values()):
            raise DataError(f"{path.name}: none of its {lost} edges names a text of the table of texts")
        return {level: _sorted(edges) for level, edges in listed.items() if edges}


def _rows(
    path: Path, required: tuple[str, ...] = (), one_of: tuple[tuple[str, ...], ...] = ()
) -> Iterable[tuple[str, Cells]]:
    """Rows with their name for errors; blank columns are absent."""
    table = read_table(path)
    for names in (*((name,) for name in required), *one_of):
        if not set(names) & set(table.columns):
            raise ConfigError(
                f"{path.name} has no column {' or '.join(names)}; it has {list(table.columns)}"
                + (f" ({_RELINK})" if "clip" in names else "")
            )
    for number, cells in enumerate(table.rows, start=1):
        row = f"{path.name}, row {number}"
        if cells is None:
            raise DataError(f"{row}: it has more or fewer cells than the header; correct it")
        yield row, cells


def _filled(row: str, cells: Mapping[str, str | None], column: str) -> str:
    if not cells[column]:
        raise DataError(f"{row}: '{column}' is empty; fill it in, or drop the row")
    return cells[column]


def _names(row: str, cells: Mapping[str, str | None]) -> list[str]:
    """The texts that a row names; a film without any in positive_text_ids has none."""
    if _TEXT in cells:
        return [_filled(row, cells, _TEXT)]
    return [each.strip() for each in (cells[_LISTED] or "").split("|") if each.strip()]


def _weight(row: str, cells: Mapping[str, str | None], column: str) -> float:
    cell = cells.get(column)
    try:
        weight = 1.0 if cell is None else float(cell)
    except ValueError as error:
        raise DataError(f"{row}: '{column}' is no number; give one above 0, up to 1") from error
    if not 0 < weight <= 1:
        raise DataError(
            f"{row}: '{column}' is {weight:g}; give numbers above 0, up to 1 (divide all by the largest)"
        )
    return weight


def _sorted(edges: list[tuple[bytes, int, float]]) -> Edges:
    """One edge an id and text, the heaviest."""
    heaviest: dict[tuple[bytes, int], float] = {}
    for key, text, weight in edges:
        heaviest[key, text] = max(weight, heaviest.get((key, text), 0.0))
    pairs = sorted(heaviest)
    ids, starts = np.unique(np.array([key for key, _ in pairs]), return_index=True)
    return Edges(
        ids,
        np.append(starts, len(pairs)),
        np.array([text for _, text in pairs], np.int32),
        np.array([heaviest[pair] for pair in pairs]),
    )
