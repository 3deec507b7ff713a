"""Films as somebody at a prompt has them (a study's folder, files, arrays) to a study as the model is shown it."""

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from deepcoro.config import DataError
from deepcoro.data.decode import make_film
from deepcoro.data.member import encode
from deepcoro.data.sharding import Settings
from deepcoro.data.study_record import EncodedFilm, in_order, study_record
from deepcoro.inference.opened import OpenedStudy
from deepcoro.ingest.array_file import as_uint8
from deepcoro.ingest.burned_in import cleaned
from deepcoro.ingest.film import Film, FilmSource, RejectedFilm, Rejection, StudySource, check_complete

logger = logging.getLogger(__name__)

Films = str | PathLike | np.ndarray | Tensor | Sequence[Any]
"""One study: a folder of files; a file or an array [frame, height, width(, 3)]; or several files and arrays."""
_STUDY = "study"


def opened_study(films: Films, settings: Settings, frame_rate_fps: float | None = None) -> OpenedStudy:
    """The study's films as shards would hold them, decoded here. `frame_rate_fps`: of films that do not tell it.

    Of a folder, files that cannot be used are left out and logged; of films that are named one by one each has to be usable.
    DataError when one is not, or when there is none.
    """
    given, is_folder = _listed(films)
    encoded, refused = [], []
    for number, film in enumerate(given):
        made = _encoded(number, film, settings, frame_rate_fps)
        (refused if isinstance(made, Rejection) else encoded).append(made)
    if refused and not is_folder:
        raise DataError(f"film {refused[0].row} of {len(given)} cannot be used: {refused[0].reason}")
    if not encoded:
        reasons = sorted({each.reason.split(":")[0] for each in refused}) or ["no film was given"]
        raise DataError(f"none of {len(given)} files can be used ({', '.join(reasons)})")
    for each in refused:
        logger.info("file %d is left out: %s", each.row, each.reason)
    encoded = in_order(encoded)
    study = StudySource(_STUDY, "inference", tuple(each.source for each in encoded))
    return OpenedStudy(
        record=study_record(study, encoded, settings),
        payloads=[each.member.payload for each in encoded],
        skipped=tuple(refused),
        rows=tuple(each.source.row for each in encoded),
    )


def _listed(films: Films) -> tuple[list[Any], bool]:
    """The films one by one, and whether they are what a folder happens to hold."""
    if isinstance(films, str | PathLike):
        path = Path(films)
        if path.is_dir():
            return sorted(each for each in path.rglob("*") if each.is_file()), True
        return [path], False
    if isinstance(films, np.ndarray | Tensor):
        return [films], False
    return list(films), False


def _encoded(
    number: int, film: Any, settings: Settings, frame_rate_fps: float | None
) -> EncodedFilm | Rejection:
    """`row` of the source is the film's place among those given, from 0."""
    is_file = isinstance(film, str | PathLike)
    source = FilmSource(number, Path(film if is_file else ""), f"{number:03d}", frame_rate_fps=frame_rate_fps)
    if is_file and not source.path.is_file():
        return Rejection(number, source.clip, "missing: there is no such file")
    if is_file:
        made = make_film(source, settings)
        opened, member, reason = made.film, made.member, made.reason
    else:
        opened, member, reason = _of_array(film, settings)
    return Rejection(number, source.clip, reason) if reason else EncodedFilm(source, opened, member)


def _of_array(film: Any, settings: Settings) -> tuple[Film | None, Any, str | None]:
    """As the same array in a file would be."""
    try:
        frames = as_uint8(np.asarray(film))
        check_complete(len(frames), None)
        opened = Film(frames)
        shown = cleaned(opened, settings.accept_burned_in, settings.echo_mask, settings.modality)
        return opened, encode(shown, settings.encoding), None
    except RejectedFilm as error:
        return None, None, str(error)
