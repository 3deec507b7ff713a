"""Studies in, shards out: which study goes into which tar, one process a tar, nothing half-written, nothing done twice."""

import concurrent.futures
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.film_table import film_table, joined, read_films, write_films
from deepcoro.data.manifest import PROGRESS, Counts, Encoding, Manifest, SplitCounts, SplitRow
from deepcoro.data.member import encode
from deepcoro.data.sharding import Plan, Settings, plan_shards
from deepcoro.data.tar import ShardRecord, WrittenStudy, write_shard
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
    check_splits([SplitRow(study.study, study.patient, study.split) for study in studies])
    film_table(
        (), settings.label_columns
    )  # a label that cannot have a column is told before a film is opened
    plans = plan_shards(studies, settings)
    progress = output / PROGRESS
    progress.mkdir(parents=True, exist_ok=True)
    done = {plan.name: record for plan in plans if (record := _finished(output, plan)) is not None}
    _clear(output, plans, done, settings.overwrite)
    settled = sum(plan.num_films for plan in plans if plan.name in done)
    if done:
        logger.info("%d of %d shards are already complete", len(done), len(plans))
    on_progress(settled)
    pending = [plan for plan in plans if plan.name not in done]
    for record in _write_all(pending, output, settings, lambda films: on_progress(settled + films)):
        schema.write_block(progress / f"{record.name}.json", record)
        done[record.name] = record
    splits = {study.study: study.split for study in studies}
    return _conclude([done[plan.name] for plan in plans], splits, output, settings, rejections)


def check_splits(rows: Sequence[SplitRow]) -> None:
    """DataError when a study key occurs twice or a patient is in two splits; names the splits, not the patient."""
    if len({row.study for row in rows}) != len(rows):
        raise DataError("two studies share one key; give each study its own id")
    first: dict[str, str] = {}
    crossing: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row.patient is None:
            continue
        earlier = first.setdefault(row.patient, row.split)
        if earlier != row.split:
            pair = tuple(sorted((earlier, row.split)))
            crossing.setdefault(pair, set()).add(row.patient)
    if crossing:
        pairs = ", ".join(
            f"{one}/{other}: {len(who)} patient(s)" for (one, other), who in sorted(crossing.items())
        )
        raise DataError(
            f"patients are in two splits ({pairs}); give every row of a patient the same split, or drop the split column"
        )


def _finished(output: Path, plan: Plan) -> ShardRecord | None:
    """The record of a shard that an earlier run completed from the same films and settings."""
    path = output / PROGRESS / f"{plan.name}.json"
    if not path.is_file():
        return None
    try:
        record = ShardRecord.model_validate_json(path.read_bytes())
    except pydantic.ValidationError:
        return None
    if record.digest != plan.digest:
        return None
    rows = output / PROGRESS / schema.rows_name(plan.name)
    if not rows.is_file() or schema.sha256(rows.read_bytes()) != record.films_sha256:
        return None
    if record.entry is None:
        return record
    tar, index = output / plan.name, output / schema.index_name(plan.name)
    whole = tar.is_file() and index.is_file() and tar.stat().st_size == record.entry.bytes
    return record if whole and schema.sha256(index.read_bytes()) == record.entry.index_sha256 else None


def _clear(output: Path, plans: Sequence[Plan], done: dict[str, ShardRecord], overwrite: bool) -> None:
    """Removes what belongs to no finished shard of this plan; a complete data set only when told to."""
    known = {name for shard in done for name in (shard, schema.index_name(shard))}
    stale = [path for path in sorted(output.glob("shard-*")) if path.name not in known]
    changed = len(done) < len(plans) or bool(stale)
    complete = output / schema.MANIFEST
    if complete.exists() and changed:
        if not overwrite:
            raise DataError(
                f"{output} holds a complete data set made from other films, rows or settings (or shards of it are damaged);"
                " choose another folder or pass --overwrite"
            )
        complete.unlink()
    for path in stale:
        path.unlink()
    kept = {name for shard in done for name in (f"{shard}.json", schema.rows_name(shard))}
    for path in (output / PROGRESS).iterdir():
        if path.name not in kept:
            path.unlink()


def _write_all(
    plans: Sequence[Plan], output: Path, settings: Settings, on_progress: Progress
) -> Iterable[ShardRecord]:
    workers = min(settings.workers, len(plans))
    if workers <= 1:
        counter = _LocalCounter(on_progress)
        yield from (write_shard(plan, output, settings, counter) for plan in plans)
        return
    # spawn: a forked child could inherit a lock that the progress bar's thread holds.
    context = multiprocessing.get_context("spawn")
    counter, messages = context.Value("q", 0), context.Queue()
    level = logging.getLogger().getEffectiveLevel()
    listener = QueueListener(messages, *logging.getLogger().handlers)
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (counter, messages, level))
    listener.start()
    try:
        waiting = {pool.submit(_write_in_worker, plan, output, settings) for plan in plans}
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, 0.2, concurrent.futures.FIRST_COMPLETED)
            on_progress(counter.value)
            yield from (future.result() for future in finished)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died (out of memory, or a decoder crashed); run again: complete shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        listener.stop()


class _LocalCounter:
    """Counts settled films in this process; looks like a shared value to `write_shard`."""

    def __init__(self, on_progress: Progress) -> None:
        self.films = 0
        self.on_progress = on_progress

    def __call__(self, films: int) -> None:
        self.films += films
        self.on_progress(self.films)


_shared_counter: Any = None


def _start_worker(counter: Any, messages: Any, level: int) -> None:
    global _shared_counter
    _shared_counter = counter
    logging.basicConfig(level=level, handlers=[QueueHandler(messages)], force=True)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A pool's worker would wait for ever when its parent is killed; what it leaves half-written has a temporary name."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _count_in_worker(films: int) -> None:
    with _shared_counter.get_lock():
        _shared_counter.value += films


def _write_in_worker(plan: Plan, output: Path, settings: Settings) -> ShardRecord:
    return write_shard(plan, output, settings, _count_in_worker)


def _conclude(
    records: Sequence[ShardRecord],
    splits: dict[str, str],
    output: Path,
    settings: Settings,
    rejections: Sequence[Rejection],
) -> Manifest:
    """Writes the tables and, last, the manifest that makes the folder a data set."""
    refused = [*rejections, *(Rejection(*each) for record in records for each in record.rejections)]
    schema.write_rejected(output, refused)
    studies = [study for record in records for study in record.studies]
    if not studies:
        raise DataError(
            f"no film could be used ({len(refused)} rows refused); see {schema.REJECTED} in the output folder"
        )
    mean, deviation = _pixel_statistics([study for study in studies if splits[study.study] == "train"])
    shards = [record.entry for record in records if record.entry is not None]
    rows = [SplitRow(study.study, study.patient, splits[study.study]) for study in studies]
    films = joined([read_films(output / PROGRESS, name=schema.rows_name(record.name)) for record in records])
    named = all(study.patient is not None for study in studies)
    manifest = Manifest(
        encoding=settings.encoding,
        pixel_mean=mean,
        pixel_std=deviation,
        patient_split="verified" if named else "unverifiable",
        report_scope=settings.report_scope,
        label_columns=list(settings.label_columns),
        counts=_count(studies, splits, len(refused)),
        shards=shards,
        splits_sha256=schema.write_splits(output, rows),
        films_sha256=write_films(output, films),
        fingerprint=schema.fingerprint(shards),
    )
    schema.write_block(output / schema.MANIFEST, manifest, indent=2)
    return manifest


def _pixel_statistics(studies: Sequence[WrittenStudy]) -> tuple[float | None, float | None]:
    total = sum(study.pixels for study in studies)
    if not total:
        return None, None
    mean = sum(study.pixel_sum for study in studies) / total
    variance = sum(study.pixel_square_sum for study in studies) / total - mean**2
    return round(mean, 4), round(max(variance, 0.0) ** 0.5, 4)


def _count(studies: Sequence[WrittenStudy], split_of: dict[str, str], rejected: int) -> Counts:
    splits = {}
    for split in schema.SPLIT_NAMES:
        inside = [study for study in studies if split_of[study.study] == split]
        if inside:
            clips = sum(study.clips for study in inside)
            patients = len({study.patient for study in inside} - {None})
            splits[split] = SplitCounts(studies=len(inside), clips=clips, patients=patients)
    return Counts(
        studies=len(studies),
        clips=sum(study.clips for study in studies),
        frames=sum(study.frames for study in studies),
        patients=len({study.patient for study in studies} - {None}),
        rejected_clips=rejected,
        splits=splits,
    )
