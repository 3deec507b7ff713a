"""Studies in, shards out: what is already there is kept, what is missing is written, nothing twice."""

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydantic

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.append import admitted, check_same_kind
from deepcoro.data.batches import Batch, batch_of, publish_next, read_batches
from deepcoro.data.conclude import conclude
from deepcoro.data.engines import write_shards
from deepcoro.data.film_table import film_table
from deepcoro.data.manifest import PROGRESS, Encoding, Manifest
from deepcoro.data.member import encode
from deepcoro.data.sharding import Plan, Settings, digest_of, plan_shards
from deepcoro.data.tar import ShardRecord
from deepcoro.ingest.film import Rejection, StudySource

logger = logging.getLogger(__name__)

Progress = Callable[[int], None]


def encode_film(frames: Iterable[np.ndarray], encoding: Encoding) -> tuple[bytes, list[int]]:
    """Payload of a film's member and its frame offsets (num_frames + 1); frames are uint8 [height width] or [height width 3]."""
    member = encode(frames, encoding)
    return member.payload, member.frame_offsets


def write_dataset(
    studies: Sequence[StudySource],
    output: Path,
    settings: Settings,
    rejections: Sequence[Rejection] = (),
    on_progress: Progress = lambda films: None,
) -> Manifest:
    """Writes the shard folder, or completes one that an earlier run left unfinished; returns its manifest.

    `rejections` are rows refused before any film was opened; those refused here are added to `rejected.csv`.
    `on_progress` is called with the number of films settled so far. DataError when nothing is left to write, when a
    patient is in two splits, or when the folder holds another data set.
    """
    work = prepare(studies, output, settings, rejections)
    done = clear(work)
    settled = sum(plan.num_films for plan in work.plans if plan.name in done)
    if done:
        logger.info("%d of %d shards are already complete", len(done), len(work.plans))
    on_progress(settled)
    pending = [plan for plan in work.plans if plan.name not in done]
    for record in write_shards(pending, output, lambda films: on_progress(settled + films)):
        done[record.name] = record
    return finish(work, done)


@dataclass(frozen=True)
class Work:
    """What a run has to do: the shards of its table, and what other tables gave before."""

    output: Path
    settings: Settings
    plans: list[Plan]
    rejections: list[Rejection]
    splits: dict[str, str]
    """Study -> split, of this table."""
    digest: str
    """Of this table."""
    others: list[Batch]
    """What other tables gave."""
    place: int
    """This table's place among them."""
    is_complete: bool
    """A data set lies in the folder."""
    is_known: bool
    """This table is part of it."""


def prepare(
    studies: Sequence[StudySource], output: Path, settings: Settings, rejections: Sequence[Rejection]
) -> Work:
    """Looks at the folder and plans; opens no film. A conclusion that was interrupted is finished first."""
    film_table(
        (), settings.label_columns
    )  # a label that cannot have a column is told before a film is opened
    (output / PROGRESS).mkdir(parents=True, exist_ok=True)
    publish_next(output)
    is_complete = (output / schema.MANIFEST).is_file()
    manifest = schema.read_manifest(output) if is_complete else None
    digest = _table_digest(studies, settings)
    known = [entry.digest for entry in manifest.tables] if manifest else []
    place = known.index(digest) if digest in known else len(known)
    others: list[Batch] = []
    if manifest and (digest in known or settings.append):
        check_same_kind(manifest, settings)
        others = read_batches(output, manifest)
        del others[place : place + 1]
    elif settings.append and any(output.glob("shard-*")):
        raise DataError(f"{output} holds an unfinished data set; finish it without --append, then append")
    studies, known_films = admitted(studies, others, settings)
    first = sum(batch.numbers for batch in others[:place])
    return Work(
        output=output,
        settings=settings,
        plans=plan_shards(studies, settings, first),
        rejections=[*rejections, *known_films],
        splits={study.study: study.split for study in studies},
        digest=digest,
        others=others,
        place=min(place, len(others)),
        is_complete=is_complete,
        is_known=digest in known,
    )


def _table_digest(studies: Sequence[StudySource], settings: Settings) -> str:
    """Which table it is, in any order of its rows; another packing into shards makes it another."""
    films = digest_of(sorted(studies, key=lambda study: study.study), settings)
    return schema.sha256(f"{films} {settings.clips_per_shard}".encode())


def finish(work: Work, done: dict[str, ShardRecord]) -> Manifest:
    """The tables and the manifest, when the records of all shards are there."""
    records = [done[plan.name] for plan in work.plans]
    batch = batch_of(records, work.output, work.settings, work.digest, work.splits, work.rejections)
    batches = [*work.others[: work.place], batch, *work.others[work.place :]]
    rows = {film.clip: film.row for plan in work.plans for study in plan.studies for film in study.films}
    return conclude(batches, work.output, work.settings, rows)


def finished(output: Path, plan: Plan) -> ShardRecord | None:
    """The record of a shard that an earlier run completed from the same films and settings."""
    path = output / PROGRESS / schema.record_name(plan.name)
    if not path.is_file():
        return None
    try:
        record = ShardRecord.model_validate_json(path.read_bytes())
    except pydantic.ValidationError:
        return None
    rows = output / PROGRESS / schema.rows_name(plan.name)
    if not rows.is_file() or schema.sha256(rows.read_bytes()) != record.films_sha256:
        return None
    if record.digest != plan.digest:
        return None
    if record.entry is None:
        return record
    tar, index = output / plan.name, output / schema.index_name(plan.name)
    whole = tar.is_file() and index.is_file() and tar.stat().st_size == record.entry.bytes
    return record if whole and schema.sha256(index.read_bytes()) == record.entry.index_sha256 else None


def clear(work: Work) -> dict[str, ShardRecord]:
    """The finished shards. What belongs neither to them nor to another table is removed; of a complete data set only when told to."""
    output = work.output
    done = {plan.name: record for plan in work.plans if (record := finished(output, plan)) is not None}
    numbers = {plan.name for plan in work.plans}
    kept = set(done) | {shard.name for batch in work.others for shard in batch.shards}
    names = {name for shard in kept for name in (shard, schema.index_name(shard))}
    stale = [path for path in sorted(output.glob("shard-*")) if path.name not in names]
    is_new = work.settings.append and not work.is_known
    if work.is_complete and not is_new and (stale or len(done) < len(work.plans)):
        if not work.settings.overwrite:
            raise DataError(
                f"{output} holds a complete data set made from other films, rows or settings (or shards of it are damaged);"
                " choose another folder, pass --append to add to it, or --overwrite to replace it"
            )
        (output / schema.MANIFEST).unlink()
    for path in stale:
        path.unlink()
    _clear_progress(output, work, numbers - set(done))
    return done


def _clear_progress(output: Path, work: Work, pending: set[str]) -> None:
    """Keeps the records of finished shards and the spools of those that shall be written now."""
    taken = sum(batch.numbers for batch in work.others) + len(work.plans)
    shards = {schema.shard_name(number) for number in range(taken)}
    finished_names = {
        name for shard in shards - pending for name in (schema.record_name(shard), schema.rows_name(shard))
    }
    kept = finished_names | {schema.spool_name(shard) for shard in pending}
    for path in (output / PROGRESS).iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
