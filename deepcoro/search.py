"""Searches over a bank of embeddings: sentences find films; a film finds reports and what its neighbours say of it."""

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from deepcoro.bank import EXPORTED, Bank, ReportBank, report_bank
from deepcoro.config import ConfigError, DataError
from deepcoro.data.collection import Collection
from deepcoro.embed import embed_texts
from deepcoro.evaluated import class_embedding
from deepcoro.inference.trained import Trained, open_trained
from deepcoro.kernels.tied_ranks import nearest
from deepcoro.run_config import RunConfig
from deepcoro.sharing.layout import is_shared_model
from deepcoro.strips import strip_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundFilm:
    """A film among the results of a search."""

    film: str
    """Keyed study and number, `STUDY.000`."""
    split: str
    similarity: float
    """Cosine with the query."""
    report: str | None = None
    """Its own report."""
    strip: str | None = None
    """JPEG of its frames, base64; None = its shards were not read, or it cannot be."""


def films_nearest(bank: Bank, query: Float[np.ndarray, " dim"], num_films: int) -> list[FoundFilm]:
    """The films nearest to a unit vector, best first. Of several windows of a film the best counts."""
    films, splits = bank.clips["clip"].to_pylist(), bank.clips["split"].to_pylist()
    rows, similarities = nearest(query[None], bank.embeddings, len(films))
    found: dict[str, FoundFilm] = {}
    for row, similarity in zip(rows[0].tolist(), similarities[0].tolist(), strict=True):
        if len(found) == num_films:
            break
        found.setdefault(films[row], FoundFilm(films[row], splits[row], similarity))
    return list(found.values())


def film_query(bank: Bank, film: str) -> tuple[FoundFilm, Float[np.ndarray, " dim"], str | None]:
    """A film of the bank as a query: who it is, its embedding (the mean of its windows), its patient. ConfigError when it is not there."""
    rows = np.flatnonzero(np.array(bank.clips["clip"].to_pylist()) == film)
    if not len(rows):
        raise ConfigError(
            f"the bank has no film '{film}'; films are named STUDY.000, as in the column `clip`"
        )
    row = int(rows[0])
    found = FoundFilm(film, bank.clips["split"][row].as_py(), 1.0)
    return found, class_embedding(bank.embeddings[rows]), bank.clips["patient"][row].as_py()


def reports_for(bank: Bank, film: str, patient: str | None) -> ReportBank:
    """Distinct training reports, without those of the film's own patient. ConfigError where the bank holds none."""
    if bank.reports is None:
        raise ConfigError(
            f"the bank holds no reports; run_mode=inference inference.reports=true writes them{EXPORTED}"
        )
    reports = report_bank(bank.reports, patient, film.rpartition(".")[0])
    if not reports.texts:
        raise ConfigError(f"every report of the bank is of the patient of '{film}'")
    return reports


def trained_of_bank(folder: Path, bank: Bank) -> Trained:
    """The very weights that wrote the bank, of a run or a shared folder. ConfigError when they are not there any more."""
    step, digest = bank.checkpoint.removeprefix("step ").rstrip(")").split(" (")
    trained = open_trained(folder, f"step_{step}")
    if trained.who.digest != digest:
        raise ConfigError(
            f"the bank was written by {bank.checkpoint}; that of '{folder}' has digest {trained.who.digest}: write the bank anew"
        )
    return trained


def open_films(config: RunConfig, shards: Path | None = None) -> Collection | None:
    """Where the films of the results lie: in `shards`, else where the run read them; None of a shared folder, which holds none. DataError,
    which says how to name the place, where they do not."""
    if shards is None and is_shared_model(config.run_dir):
        return None
    where = {} if shards is None else {"shards": shards, "sources": {}}
    try:
        return Collection.open(config.data.model_copy(update=where))
    except DataError as error:
        raise DataError(
            f"{error}; or say with --shards where the films are now, seen from here", topic=error.topic
        ) from error


def embed_query(trained: Trained, sentences: Sequence[str]) -> Float[np.ndarray, " dim"]:
    """Sentences that say one thing, as one unit vector: the mean of theirs."""
    if trained.config.towers.text is None:
        raise ConfigError("the model has no text tower, so sentences find nothing; search with --film")
    model, tokenizer = trained.build()
    with torch.no_grad():
        return class_embedding(embed_texts(model.eval(), trained.config, tokenizer, list(sentences)))


def with_strips(shards: Collection | None, found: Sequence[FoundFilm]) -> list[FoundFilm]:
    """The films with their strips and own reports; one that cannot be read, or is not in these shards, stays as it is."""
    if shards is None:
        return list(found)
    row_of = {key.decode(): row for row, key in enumerate(shards.studies.key)}
    return [_with_strip(shards, row_of, each) for each in found]


def _with_strip(shards: Collection, row_of: dict[str, int], found: FoundFilm) -> FoundFilm:
    study, _, number = found.film.rpartition(".")
    if study not in row_of:
        logger.warning("film %s is not in these shards", found.film)
        return found
    row, film = row_of[study], int(number)
    try:
        strip, report = strip_of(shards, row, film), shards.study(row).report_of((film,))
    except DataError as error:
        logger.warning("film %s cannot be shown: %s", found.film, error)
        return found
    return replace(found, report=report, strip=base64.b64encode(strip).decode())
