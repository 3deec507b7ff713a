"""From one row to a film that lies ready for its tar; in a process of its own where an earlier one died over it.

Decoders are C and C++: some damaged films end the process (GDCM aborts on a few cut JPEG frames), some keep it busy for ever, some take
all memory. A process that never comes back leaves a mark, and the next attempt decodes that film apart: the film is refused, the run goes
on. A run that was killed by hand leaves the same mark, and its film is decoded apart too, to the same bytes.
"""

import logging
import multiprocessing
import signal
from dataclasses import replace
from multiprocessing.connection import Connection

from deepcoro.data.member import encode
from deepcoro.data.sharding import Settings
from deepcoro.data.spool import Outcome
from deepcoro.ingest.burned_in import cleaned
from deepcoro.ingest.film import FilmSource, RejectedFilm
from deepcoro.ingest.open import open_film
from deepcoro.ingest.sector import MaskedFrames
from deepcoro.ingest.workers import leave_with_parent

logger = logging.getLogger(__name__)

_ATTEMPTS_APART = 2


def make_film(source: FilmSource, settings: Settings) -> Outcome:
    """Opens, decodes, cleans and encodes a film, here."""
    try:
        film = open_film(source.path, settings.accept_burned_in)
        frames = cleaned(film, settings.accept_burned_in, settings.echo_mask, settings.modality)
        outcome = Outcome(film, encode(frames, settings.encoding))
    except RejectedFilm as error:
        return Outcome(reason=str(error))
    if isinstance(frames, MaskedFrames):
        percent = 100 * frames.masked_fraction
        logger.info(
            "row %d, film %s: %.0f %% of the picture, outside the sector, is black",
            source.row,
            source.clip,
            percent,
        )
    return outcome


def make_or_end(source: FilmSource, settings: Settings) -> Outcome:
    """The same in a process that may be lost over it: the system ends it after `film_timeout_s`, also deep inside a library."""
    signal.setitimer(signal.ITIMER_REAL, settings.film_timeout_s)
    try:
        return make_film(source, settings)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def make_apart(source: FilmSource, settings: Settings) -> Outcome:
    """The same in a child process, whose death is a reason: `crashed_decoder`, `timed_out`, or `killed_decoder` when every attempt was killed."""
    for _ in range(_ATTEMPTS_APART):
        outcome, exit_code = _in_child(source, settings)
        if outcome is not None:
            return outcome
        if exit_code != -signal.SIGKILL:
            break
    if exit_code == -signal.SIGKILL:
        return Outcome(reason="killed_decoder: each process that began it was killed, out of memory?")
    if exit_code == -signal.SIGALRM:
        return Outcome(reason=f"timed_out: not decoded within {settings.film_timeout_s:g} s")
    if exit_code < 0:
        return Outcome(reason=f"crashed_decoder: {signal.Signals(-exit_code).name}")
    raise AssertionError(
        f"row {source.row}: decoding ended with exit code {exit_code}; see the traceback above"
    )


def _in_child(source: FilmSource, settings: Settings) -> tuple[Outcome | None, int]:
    """What a child made of the film, None when it died over it; and its exit code."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_make, args=(theirs, source, settings))
    child.start()
    theirs.close()
    try:
        outcome = ours.recv()
    except (EOFError, OSError):  # OSError: it died in the middle of its answer
        outcome = None
    child.join()
    return outcome, child.exitcode


def _make(connection: Connection, source: FilmSource, settings: Settings) -> None:
    leave_with_parent()
    outcome = make_or_end(source, settings)
    if outcome.film is not None:
        outcome = outcome._replace(
            film=replace(outcome.film, frames=())
        )  # decoded already, and tied to an open file
    connection.send(outcome)
