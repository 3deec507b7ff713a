"""Studies in, shards out: what is already there is kept, what is missing is written, nothing twice."""

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.alone import LOCK, alone
from deepcoro.data.batches import batch_of
from deepcoro.data.conclude import conclude
from deepcoro.data.engines import write_shards
from deepcoro.data.manifest import PROGRESS, Manifest
from deepcoro.data.parts import check_all_there
from deepcoro.data.sharding import Settings
from deepcoro.data.tar import ShardRecord
from deepcoro.data.work import Work, finished, prepare, table_digest
from deepcoro.ingest.film import Rejection, StudySource

logger = logging.getLogger(__name__)

Progress = Callable[[int], None]


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
    patient is in two splits, when the folder holds another data set, or when another run writes to it.
    """
    with alone(output):
        return _write(studies, output, settings, rejections, on_progress)


def _write(
    studies: Sequence[StudySource],
    output: Path,
    settings: Settings,
    rejections: Sequence[Rejection],
    on_progress: Progress,
) -> Manifest:
    work = prepare(studies, output, settings, rejections)
    if settings.conclude_only:
        check_all_there(work)
    done = clear(work)
    settled = sum(plan.num_films for plan in work.plans if plan.name in done)
    if done:
        logger.info("%d of %d shards are already complete", len(done), len(work.plans))
    on_progress(settled)
    pending = [plan for plan in work.plans if plan.name not in done]
    for record in write_shards(pending, output, lambda films: on_progress(settled + films)):
        done[record.name] = record
    return finish(work, done)


def finish(work: Work, done: dict[str, ShardRecord]) -> Manifest:
    """The tables and the manifest, when the records of all shards are there."""
    records = [done[plan.name] for plan in work.plans]
    digest = table_digest(work.table, work.settings)
    batch = batch_of(records, work.output, work.settings, digest, work.splits, work.rejections)
    batches = [*work.others[: work.place], batch, *work.others[work.place :]]
    rows = {film.clip: film.row for plan in work.plans for study in plan.studies for film in study.films}
    return conclude(batches, work.output, work.settings, rows)


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
        schema.set_aside(output)
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
    kept = finished_names | {schema.spool_name(shard) for shard in pending} | {LOCK}
    if not (output / schema.MANIFEST).is_file():
        kept.add(schema.SET_ASIDE)
    for path in (output / PROGRESS).iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
