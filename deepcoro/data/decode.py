"""From one row to a film that lies ready for its tar; in a process of its own where an earlier one died over it.

Decoders are C and C++: some damaged films end the process (GDCM aborts on a few cut JPEG frames). A process that never comes back
leaves a mark, and the next attempt decodes that film apart: the film is refused, the run goes on. A run that was killed by hand
leaves the same mark, and its film is decoded apart too, to the same bytes.
"""

import logging
import multiprocessing
import signal
from dataclasses import replace
from multiprocessing.connection import Connection

from deepcoro.config import DataError
from deepcoro.data.member import encode
from deepcoro.data.sharding import Settings
from deepcoro.data.spool import Outcome
from deepcoro.ingest.burned_in import cleaned
from deepcoro.ingest.film import FilmSource, RejectedFilm
from deepcoro.ingest.open import open_film
from deepcoro.ingest.sector import MaskedFrames

logger = logging.getLogger(__name__)


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


def make_apart(source: FilmSource, settings: Settings) -> Outcome:
    """The same in a child process, whose death is a reason: `crashed_decoder`. DataError when it was killed from outside."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_make, args=(theirs, source, settings))
    child.start()
    theirs.close()
    try:
        outcome = ours.recv()
    except EOFError:
        outcome = None
    child.join()
    if outcome is not None:
        return outcome
    if child.exitcode == -signal.SIGKILL:
        raise DataError(
            f"row {source.row}: the process that decodes this film was killed, out of memory?; give fewer --workers"
        )
    if child.exitcode is not None and child.exitcode < 0:
        return Outcome(reason=f"crashed_decoder: {signal.Signals(-child.exitcode).name}")
    raise AssertionError(
        f"row {source.row}: decoding ended with exit code {child.exitcode}; see the traceback above"
    )


def _make(connection: Connection, source: FilmSource, settings: Settings) -> None:
    outcome = make_film(source, settings)
    if outcome.film is not None:
        outcome = outcome._replace(
            film=replace(outcome.film, frames=())
        )  # decoded already, and tied to an open file
    connection.send(outcome)
