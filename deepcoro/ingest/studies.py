"""From the rows of a table to studies: ids keyed, splits kept or drawn, texts checked against their scope."""

import functools
import itertools
import logging
import posixpath
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from deepcoro.config import DataError
from deepcoro.ingest.columns import Roles, number_of_cell, view_of_cell
from deepcoro.ingest.film import FilmSource, Rejection, StudySource
from deepcoro.ingest.filmed import ShownReader
from deepcoro.ingest.identity import Identity
from deepcoro.ingest.label_reader import LabelReader
from deepcoro.ingest.labels import LabelRules
from deepcoro.ingest.scrubber import Scrubber
from deepcoro.ingest.shares import EIGHTY_TEN_TEN, draw_split
from deepcoro.ingest.table import Cells, Table
from deepcoro.sample import Scope, canonical_text

logger = logging.getLogger(__name__)

_SPLITS = ("train", "val", "test", "inference")


class _Row(NamedTuple):
    study: str
    patient: str | None
    split: str | None
    film: FilmSource


def read_studies(
    table: Table,
    roles: Roles,
    folder: Path,
    identity: Identity,
    scope: Scope,
    labels: LabelReader | None = None,
    choose: Callable[[list[StudySource]], Collection[str]] | None = None,
) -> tuple[list[StudySource], list[Rejection]]:
    """Studies in the order of the table, and the rows that give no film. Paths are relative to `folder` unless absolute.
    Texts, words of labels and names of views enter as the scrubber of `labels` leaves them.

    `labels` reads the label columns; None reads those of `roles` by the default rules, with a new scrubber. `choose` names the studies whose texts are
    wanted, by their ids: the others come without, and nothing is spent on scrubbing them.

    Without a split column patients (studies, where no patient is named) are drawn 80/10/10 by keyed hash. DataError when
    a study has two patients or two splits, when a split has another name, or when texts disagree within their scope.
    """
    labels = labels or LabelReader(table, roles.labels, LabelRules())
    scrubber = labels.scrubber
    shown = ShownReader(table, roles, labels.rules.not_assessed_status)
    reader = _RowReader(roles, folder, identity, scrubber, labels, shown)
    rows, rejections = [], []
    for number, cells in enumerate(table.rows, start=1):
        result = reader.read(number, cells)
        (rows if isinstance(result, _Row) else rejections).append(result)
    labels.finish()
    if not rows:
        raise DataError(
            f"none of the {len(table.rows)} rows can be used; {_reasons(rejections)}", topic="no-usable-film"
        )
    studies = [_study(key, group, identity) for key, group in _by_study(rows).items()]
    if roles.report:
        studies = _scrubbed(studies, scrubber, None if choose is None else set(choose(studies)))
    for study in studies:
        _check_texts(study, scope)
    _warn(studies, roles, scope)
    return studies, rejections


def _scrubbed(
    studies: Sequence[StudySource], scrubber: Scrubber, wanted: Collection[str] | None
) -> list[StudySource]:
    """With the texts of the wanted studies (None: of all) as they may enter a shard, and no others."""
    is_wanted = [wanted is None or study.study in wanted for study in studies]
    chosen = itertools.compress(studies, is_wanted)
    scrubber.prepare(film.text for study in chosen for film in study.films)
    return [
        _with_texts(study, scrubber.text if keep else lambda _: None)
        for study, keep in zip(studies, is_wanted, strict=True)
    ]


def _with_texts(study: StudySource, change: Callable[[str | None], str | None]) -> StudySource:
    texts = [change(film.text) for film in study.films]
    if all(text is film.text for text, film in zip(texts, study.films, strict=True)):
        return study
    films = tuple(replace(film, text=text) for film, text in zip(study.films, texts, strict=True))
    return replace(study, films=films)


def _reasons(rejections: Sequence[Rejection]) -> str:
    reasons: dict[str, int] = {}
    for each in rejections:
        reasons[each.reason] = reasons.get(each.reason, 0) + 1
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.items())


class _RowReader:
    """Reads one row at a time, its text as it stands; remembers the films seen, to refuse the second of two equal rows."""

    def __init__(
        self,
        roles: Roles,
        folder: Path,
        identity: Identity,
        scrubber: Scrubber,
        labels: LabelReader,
        shown: ShownReader,
    ) -> None:
        self._scrubber = scrubber
        self._roles = roles
        self._labels = labels
        self._shown = shown
        self._folder = folder.resolve()
        self._identity = identity
        self._first_row: dict[str, int] = {}

    def read(self, number: int, cells: Cells | None) -> _Row | Rejection:
        roles = self._roles
        if cells is None:
            return Rejection(number, None, "malformed_row: it has more or fewer cells than the header")
        if cells[roles.path] is None:
            return Rejection(number, None, "path_missing")
        path, clip = self._locate(str(cells[roles.path]))
        if cells[roles.study] is None:
            return Rejection(number, clip, "study_missing")
        if roles.split and cells[roles.split] is None:
            return Rejection(number, clip, "split_missing")
        first = self._first_row.setdefault(clip, number)
        if first != number:
            return Rejection(number, clip, f"duplicate_film: row {first} names the same file")
        film = self._film(number, path, clip, cells)
        original = str(cells[roles.study])
        patient = cells[roles.patient] if roles.patient else None
        return _Row(
            study=self._identity.keyed("study", original),
            patient=None if patient is None else self._identity.keyed("patient", patient),
            split=self._split(number, cells),
            film=film,
        )

    def _locate(self, cell: str) -> tuple[Path, str]:
        """The file and its keyed id. A path below the table's folder has the same id wherever that folder lies."""
        path = film_path(self._folder, cell)
        return path, self._identity.keyed("clip", original_clip(path, self._folder))

    def _split(self, number: int, cells: Cells) -> str | None:
        if self._roles.split is None:
            return None
        split = str(cells[self._roles.split]).lower()
        if split not in _SPLITS:
            raise DataError(
                f"row {number}: the split is none of {list(_SPLITS)}{_meant(split)}; correct it or name another --split_column"
            )
        return split

    def _film(self, number: int, path: Path, clip: str, cells: Cells) -> FilmSource:
        roles = self._roles
        cell = functools.partial(_cell, cells)
        shown = self._shown.read(number, cells)
        return FilmSource(
            row=number,
            path=path,
            clip=clip,
            text=cell(roles.report),
            side=shown.side,
            view=self._scrubber.view(view_of_cell(cell(roles.view))),
            primary_angle_deg=number_of_cell(cell(roles.primary_angle)),
            secondary_angle_deg=number_of_cell(cell(roles.secondary_angle)),
            frame_rate_fps=number_of_cell(cell(roles.frame_rate)),
            labels=self._labels.read(number, cells, shown),
        )


def film_path(folder: Path, cell: str) -> Path:
    """Where the film of a row lies. Backslashes of a table that was written under Windows mean folders everywhere."""
    return folder / cell.replace("\\", "/")


def original_clip(path: Path, folder: Path) -> str:
    """What the id of a film is made from: its path, relative to the table's (resolved) folder where it lies below it, each film
    one (`day/../films/a.dcm` is `films/a.dcm`)."""
    return posixpath.normpath((path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix())


def _cell(cells: Cells, column: str | None) -> str | None:
    return None if column is None else cells[column]


def _meant(split: str) -> str:
    """The spelling of a split that goes by another name elsewhere; of any other cell nothing is repeated, it may be a patient's."""
    meant = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}.get(split.strip())
    return f" (write '{meant}' for '{split.strip()}')" if meant else ""


def _by_study(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(row.study, []).append(row)
    return groups


def _study(key: str, rows: Sequence[_Row], identity: Identity) -> StudySource:
    patients = {row.patient for row in rows} - {None}
    if len(patients) > 1:
        raise DataError(
            f"study {key} (rows {_numbers(rows)}) names {len(patients)} patients; a study belongs to one: correct the table",
            topic="patients-in-two-splits",
        )
    splits = sorted({row.split for row in rows if row.split})
    if len(splits) > 1:
        raise DataError(
            f"study {key} (rows {_numbers(rows)}) is in two splits ({'/'.join(splits)}); give all its rows the same split",
            topic="patients-in-two-splits",
        )
    patient = next(iter(patients), None)
    split = splits[0] if splits else draw_split(identity, patient or key, EIGHTY_TEN_TEN)
    return StudySource(key, split, tuple(row.film for row in rows), patient)


def _numbers(rows: Sequence[_Row], most: int = 6) -> str:
    shown = ", ".join(str(row.film.row) for row in rows[:most])
    return f"{shown}, ..." if len(rows) > most else shown


def _check_texts(study: StudySource, scope: Scope) -> None:
    """A text that speaks of a tree (or of the study) is the same on every film of it."""
    if scope == "clip":
        return
    first: dict[str | None, FilmSource] = {}
    for film in study.films:
        if film.text is None or (scope == "side" and film.side is None):
            continue
        place = film.side if scope == "side" else None
        earlier = first.setdefault(place, film)
        if canonical_text(str(earlier.text)) != canonical_text(film.text):
            where = f"{place} side of study" if place else "study"
            raise DataError(
                f"rows {earlier.row} and {film.row}: two texts for the {where} {study.study} with --report_scope {scope};"
                " make them agree, or use --report_scope clip",
                topic="ids-twice",
            )


def _warn(studies: Sequence[StudySource], roles: Roles, scope: Scope) -> None:
    films = [film for study in studies for film in study.films]
    unnamed = sum(study.patient is None for study in studies)
    if unnamed:
        logger.warning(
            "PATIENT SPLIT UNVERIFIABLE: %d of %d studies name no patient, so one patient may be in two splits;"
            " name the column with --patient_column. Every result will say so.",
            unnamed,
            len(studies),
        )
    if roles.report is None:
        logger.warning("no report column: the shards will hold no text; name it with --report_column")
    sideless = sum(film.text is not None and film.side is None for film in films)
    if scope == "side" and sideless:
        logger.warning("%d films have a text but no known side: each keeps its text to itself", sideless)
