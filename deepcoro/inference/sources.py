"""What predictions are made of: a folder of films, one film, a table of films, or shards; all of them as opened studies."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepcoro.config import ConfigError, DataError
from deepcoro.data.manifest import MANIFEST
from deepcoro.data.shards import Shards
from deepcoro.inference.found import studies_of_folder, studies_of_table, study_of_film
from deepcoro.inference.opened import FilmOpener, OpenedStudy
from deepcoro.ingest.crosswalk import Entry, merge_crosswalk, prepare_folder
from deepcoro.ingest.film import Rejection
from deepcoro.ingest.identity import Identity
from deepcoro.ingest.open import is_film


@dataclass(frozen=True)
class Source:
    """Studies to answer for, in order."""

    studies: Iterator[OpenedStudy]
    """Read when asked for."""
    count: int
    key_check: str | None
    """Of the secret that keyed the ids; None = not known."""
    unread: Sequence[Rejection] = field(default=())
    """Rows of a table that belong to no study."""
    originals: Mapping[str, Sequence[Entry]] = field(default_factory=dict)
    """Keyed study -> what its ids stand for: for the owner's own archive. Empty for shards, which do not know it."""


def is_shard_folder(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def films_source(
    path: Path, identity: Identity, opener: FilmOpener, crosswalk: Path | None, output: Path
) -> Source:
    """A folder or a table of films, or one film. `crosswalk`: private folder for what the keyed ids stand for. ConfigError when there is nothing at
    `path`, or when the output would lie among the films.
    """
    if path.is_dir() and output.resolve().is_relative_to(path.resolve()):
        raise ConfigError("the output folder lies inside the folder of films; put it elsewhere")
    if path.is_dir():
        found, unread, base = studies_of_folder(path, identity), [], path
    elif path.is_file() and is_film(path):
        found, unread, base = [study_of_film(path, identity)], [], path.parent
    elif path.is_file():
        found, unread = studies_of_table(path, identity)
        base = path.parent
    else:
        raise ConfigError(
            f"'{path}' is neither a folder nor a table nor a film; give a study folder, a CSV, a film or shards"
        )
    originals = {study.source.study: study.crosswalk(base.resolve()) for study in found}
    if crosswalk is not None:
        prepare_folder(crosswalk, output)
        merge_crosswalk(crosswalk, itertools.chain.from_iterable(originals.values()))
    return Source(map(opener.open, found), len(found), identity.check, tuple(unread), originals)


def shards_source(path: Path, split: str | None) -> Source:
    """Studies of a shard folder: those of one split, or all. DataError when there are none."""
    shards = Shards.open(path)
    wanted = [split] if split else shards.splits
    rows = [int(row) for each in wanted for row in shards.units(each, True, 1).study_row]
    check = shards.manifest.key_check
    return Source((_from_shards(shards, row) for row in sorted(rows)), len(rows), check)


def _from_shards(shards: Shards, row: int) -> OpenedStudy:
    """Films whose bytes are damaged are skipped; a record that cannot be read ends the run."""
    began, record = time.perf_counter(), shards.study(row)
    payloads, kept, skipped = [], [], []
    for number, clip in enumerate(record.clips):
        try:
            payloads.append(shards.read_clip(row, number))
            kept.append(number)
        except DataError:
            skipped.append(Rejection(number + 1, clip.clip, "damaged: its bytes fail their checksum"))
    return OpenedStudy(
        record=record.model_copy(update={"clips": [record.clips[number] for number in kept]}),
        payloads=payloads,
        skipped=tuple(skipped),
        decode_s=time.perf_counter() - began,
        rows=tuple(number + 1 for number in kept),
    )
