"""Searches over a bank of embeddings: sentences find films; a film finds reports and what its neighbours say of it."""

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from deepcoro import checkpoint
from deepcoro.bank import Bank, ReportBank, report_bank
from deepcoro.config import ConfigError, DataError
from deepcoro.data.collection import Collection
from deepcoro.embed import embed_texts
from deepcoro.evaluated import class_embedding
from deepcoro.inference.trained import config_of_checkpoint, model_of_weights
from deepcoro.kernels.tied_ranks import nearest
from deepcoro.run_config import RunConfig
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
        raise ConfigError("the bank holds no reports; run_mode=inference inference.reports=true writes them")
    reports = report_bank(bank.reports, patient, film.rpartition(".")[0])
    if not reports.texts:
        raise ConfigError(f"every report of the bank is of the patient of '{film}'")
    return reports


def config_of_bank(
    run_dir: Path, bank: Bank, shards: Path | None = None
) -> tuple[RunConfig, checkpoint.Checkpoint]:
    """The run that made the bank, and the very checkpoint. ConfigError when it is not there any more. `shards`: where the films are
    now."""
    step, digest = bank.checkpoint.removeprefix("step ").rstrip(")").split(" (")
    saved = checkpoint.find(run_dir / "checkpoints", f"step_{step}")
    if saved.digest() != digest:
        raise ConfigError(
            f"the bank was written by {bank.checkpoint}; that of '{run_dir}' has digest {saved.digest()}: write the bank anew"
        )
    config = config_of_checkpoint(saved.state(), run_dir)
    if shards is None:
        return config, saved
    data = config.data.model_copy(update={"shards": shards, "sources": {}})
    return config.model_copy(update={"data": data}), saved


def open_films(config: RunConfig) -> Collection:
    """Where the films of the results lie. DataError, which says how to name the place, where they do not."""
    try:
        return Collection.open(config.data)
    except DataError as error:
        raise DataError(
            f"{error}; or say with --shards where the films are now, seen from here", topic=error.topic
        ) from error


def embed_query(
    config: RunConfig, saved: checkpoint.Checkpoint, sentences: Sequence[str]
) -> Float[np.ndarray, " dim"]:
    """Sentences that say one thing, as one unit vector: the mean of theirs."""
    if config.towers.text is None:
        raise ConfigError("the run has no text tower, so sentences find nothing; search with --film")
    tokenizer = config.towers.text.load_tokenizer(config.run_dir / "tokenizer")
    model = model_of_weights(config, saved.evaluated_weights(), tokenizer).eval()
    with torch.no_grad():
        return class_embedding(embed_texts(model, config, tokenizer, list(sentences)))


def with_strips(shards: Collection, found: Sequence[FoundFilm]) -> list[FoundFilm]:
    """The films with their strips and own reports; one that cannot be read, or is not in these shards, stays as it is."""
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
    return FoundFilm(found.film, found.split, found.similarity, report, base64.b64encode(strip).decode())
