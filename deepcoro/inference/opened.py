"""Films of a study decoded beside each other, each in a process that may be lost over it: a film or a reason, never a stack trace."""

import concurrent.futures
import logging
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace

from deepcoro.data.decode import make_apart, make_film, make_or_end
from deepcoro.data.sharding import Settings
from deepcoro.data.spool import Outcome
from deepcoro.data.study_record import EncodedFilm, in_order, study_record
from deepcoro.inference.found import FoundStudy
from deepcoro.ingest.film import FilmSource, Modality, RejectedFilm, Rejection
from deepcoro.ingest.open import ARRAY_SUFFIXES, NIFTI_SUFFIXES, open_film
from deepcoro.ingest.workers import worker_pool
from deepcoro.sample import StudyRecord

logger = logging.getLogger(__name__)

_KINDS: dict[Modality, str] = {"XA": "an angiogram", "US": "an echo film"}


@dataclass(frozen=True)
class OpenedStudy:
    """A study as a shard would hold it, and what of it could not be used."""

    record: StudyRecord
    payloads: Sequence[bytes]
    """Encoded frames of each clip of the record."""
    skipped: tuple[Rejection, ...] = ()
    decode_s: float = 0.0
    """Wall time from the files to here, the look for them in a folder included."""
    rows: tuple[int, ...] = field(default=())
    """Number of each clip in the folder or table."""


class FilmOpener:
    """Opens studies, one at a time; keeps its processes from study to study. Use it in a `with` block."""

    def __init__(self, settings: Settings) -> None:
        """`settings.modality` is what the model reads: films of another are skipped. One worker decodes in this process, which a
        damaged film can then end.
        """
        self._settings = settings
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> "FilmOpener":
        if self._settings.workers > 1:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def open(self, found: FoundStudy) -> OpenedStudy:
        """All films that can be used, in acquisition order, and a reason for each that cannot."""
        began, study = time.perf_counter(), found.source
        outcomes = self._outcomes(study.films)
        pairs = list(zip(study.films, outcomes, strict=True))
        films = [
            EncodedFilm(source, outcome.film, outcome.member)
            for source, outcome in pairs
            if outcome.reason is None
        ]
        films = in_order(films)
        skipped = [Rejection(film.row, film.clip, made.reason) for film, made in pairs if made.reason]
        return OpenedStudy(
            record=study_record(study, films, self._settings),
            payloads=[each.member.payload for each in films],
            skipped=(*found.refused, *skipped),
            decode_s=found.scan_s + time.perf_counter() - began,
            rows=tuple(each.source.row for each in films),
        )

    def _outcomes(self, films: Sequence[FilmSource]) -> list[Outcome]:
        """What a header refuses costs no process."""
        refused = [_refused_by_header(source, self._settings) for source in films]
        wanted = [source for source, outcome in zip(films, refused, strict=True) if outcome is None]
        made = iter(self._made(wanted))
        return [outcome or next(made) for outcome in refused]

    def _made(self, films: Sequence[FilmSource]) -> list[Outcome]:
        if self._pool is None:
            return [_make(source, self._settings) for source in films]
        waiting = [self._pool.submit(_make_or_end, source, self._settings) for source in films]
        outcomes = [self._outcome(each, source) for each, source in zip(waiting, films, strict=True)]
        if any(isinstance(each.exception(), BrokenProcessPool) for each in waiting):
            self._pool.shutdown()
            self._start()
        return outcomes

    def _outcome(self, waiting: concurrent.futures.Future, source: FilmSource) -> Outcome:
        """A film that was under way, or waited, when a process was lost is decoded once more, alone."""
        try:
            return waiting.result()
        except BrokenProcessPool:
            logger.info("film %d ended the process that decoded it, or one beside it", source.row)
            return make_apart(source, self._settings)

    def _start(self) -> None:
        """The processes are there before the first study is: they start while the model is read from disk."""
        self._pool = worker_pool(self._settings.workers)
        for _ in range(self._settings.workers):
            self._pool.submit(_wake)


def settings_of(workers: int, modality: str, accept_burned_in: bool, echo_mask: str) -> Settings:
    """How films are opened: as for shards, with a shorter patience for one film."""
    return Settings(
        workers=workers,
        modality=modality,
        accept_burned_in=accept_burned_in,
        echo_mask=echo_mask,
        film_timeout_s=120.0,
    )


def _wake() -> None:
    from deepcoro.ingest import dicom  # noqa: F401  imported now, not at the first film


def _make(source: FilmSource, settings: Settings) -> Outcome:
    return _detached(make_film(source, settings))


def _make_or_end(source: FilmSource, settings: Settings) -> Outcome:
    return _detached(make_or_end(source, settings))


def _refused_by_header(source: FilmSource, settings: Settings) -> Outcome | None:
    """A reason that the header alone gives: no film, or one of another modality than the model's. None: go on."""
    if source.path.name.lower().endswith((*ARRAY_SUFFIXES, *NIFTI_SUFFIXES)):
        return None  # they tell no modality, and to open them is to read all of their frames
    try:
        film = open_film(source.path, settings.accept_burned_in)
    except RejectedFilm as error:
        return Outcome(reason=str(error))
    if film.modality in (None, settings.modality):
        return None
    met, wanted = _KINDS[film.modality], _KINDS[settings.modality]
    return Outcome(reason=f"wrong_modality: {met}, and the model reads {wanted}")


def _detached(outcome: Outcome) -> Outcome:
    """Without what is tied to the open file: it is decoded already."""
    return outcome._replace(film=replace(outcome.film, frames=())) if outcome.film else outcome
