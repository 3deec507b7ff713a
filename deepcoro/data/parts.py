"""One table sharded by many jobs: each writes every N-th shard, none needs to know of the others, one concludes."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from deepcoro import atomic
from deepcoro.config import ConfigError, DataError
from deepcoro.data.alone import alone
from deepcoro.data.engines import Progress, write_shards
from deepcoro.data.manifest import PROGRESS
from deepcoro.data.sharding import Settings, plan_shards
from deepcoro.data.tar import ShardRecord
from deepcoro.data.work import Work, finished, prepare
from deepcoro.ingest.film import Rejection, StudySource

logger = logging.getLogger(__name__)

_SHOWN = 5


def part_of(text: str) -> tuple[int, int]:
    """`3/8` -> (3, 8). ConfigError otherwise."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise ConfigError(f"--part '{text}' is not K/N with 1 <= K <= N, such as 3/8")
    return number, count


def studies_of_part(studies: Sequence[StudySource], settings: Settings) -> set[str]:
    """Those that `settings.part` writes into a folder of its own: which shard takes a study depends on no text."""
    number, count = settings.part
    mine = plan_shards(studies, settings)[number - 1 :: count]
    return {study.study for plan in mine for study in plan.studies}


def write_part(
    studies: Sequence[StudySource],
    output: Path,
    settings: Settings,
    rejections: Sequence[Rejection] = (),
    on_progress: Progress = lambda films: None,
) -> list[ShardRecord]:
    """Writes the shards of `settings.part` and touches nothing else in the folder; returns their records.

    DataError when the folder holds a complete data set that this table does not belong to, or when another run writes to
    the whole folder or the same part.
    """
    with alone(output, settings.part):
        return _write(studies, output, settings, rejections, on_progress)


def _write(
    studies: Sequence[StudySource],
    output: Path,
    settings: Settings,
    rejections: Sequence[Rejection],
    on_progress: Progress,
) -> list[ShardRecord]:
    number, count = settings.part
    work = prepare(studies, output, settings, rejections)
    if work.is_locked:
        raise DataError(
            f"{output} holds a complete data set; parts go into another folder, or into this one with --append"
        )
    mine = work.plans[number - 1 :: count]
    done = [record for plan in mine if (record := finished(output, plan)) is not None]
    names = {record.name for record in done}
    settled = sum(plan.num_films for plan in mine if plan.name in names)
    on_progress(settled)
    pending = [plan for plan in mine if plan.name not in names]
    done += write_shards(pending, output, lambda films: on_progress(settled + films))
    atomic.write_text(output / PROGRESS / f"part-{number}-of-{count}", "")
    return done


def part_lines(records: Sequence[ShardRecord], settings: Settings) -> list[str]:
    """What a part prints."""
    films = sum(record.entry.clips for record in records if record.entry)
    refused = sum(len(record.rejections) for record in records)
    number, count = settings.part
    return [
        f"part     {number} of {count}: {films} films sharded, {refused} rejected in {len(records)} shards",
        "next     when all parts are done: the same command with --conclude in place of --part",
    ]


def check_all_there(work: Work) -> None:
    """DataError that names the parts, or the shards, that are not there."""
    missing = [plan.name for plan in work.plans if finished(work.output, plan) is None]
    if not missing:
        return
    shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    parts = _missing_parts(work.output)
    which = f"; part {', '.join(parts)} has not ended" if parts else ""
    raise DataError(
        f"{len(missing)} of {len(work.plans)} shards are missing ({shown}){which}; run the missing parts, or the same command"
        " without --part and --conclude, which makes what is missing"
    )


def _missing_parts(output: Path) -> list[str]:
    ended: dict[int, set[int]] = {}
    for path in (output / PROGRESS).glob("part-*-of-*"):
        number, count = map(int, re.findall(r"\d+", path.name))
        ended.setdefault(count, set()).add(number)
    return [
        f"{number}/{count}"
        for count, there in sorted(ended.items())
        for number in range(1, count + 1)
        if number not in there
    ]
