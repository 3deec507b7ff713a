"""What a run has to do: the shards of its table, seen against what lies in the folder. No film is opened here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydantic

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.append import admitted, check_same_kind
from deepcoro.data.batches import Batch, publish_next, read_batches
from deepcoro.data.film_table import film_table
from deepcoro.data.manifest import PROGRESS
from deepcoro.data.sharding import Plan, Settings, digest_of, plan_shards
from deepcoro.data.tar import ShardRecord
from deepcoro.ingest.film import Rejection, StudySource


@dataclass(frozen=True)
class Work:
    """What a run has to do: the shards of its table, and what other tables gave before."""

    output: Path
    settings: Settings
    plans: list[Plan]
    rejections: list[Rejection]
    splits: dict[str, str]
    """Study -> split, of this table."""
    table: Sequence[StudySource]
    """All studies of this table."""
    others: list[Batch]
    """What other tables gave."""
    place: int
    """This table's place among them."""
    is_complete: bool
    """A data set lies in the folder."""
    is_known: bool
    """This table is part of it."""

    @property
    def is_locked(self) -> bool:
        """The folder is complete and this table neither adds to it nor is part of it."""
        return self.is_complete and not self.is_known and not self.settings.append


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
    manifest = schema.read_manifest(output) if is_complete else schema.read_set_aside(output)
    digest = table_digest(studies, settings) if manifest else ""
    known = [entry.digest for entry in manifest.tables] if manifest else []
    place = known.index(digest) if digest in known else len(known)
    others: list[Batch] = []
    if manifest and (digest in known or (settings.append and is_complete)):
        check_same_kind(manifest, settings)
        others = read_batches(output, manifest)
        del others[place : place + 1]
    elif settings.append and any(output.glob("shard-*")):
        raise DataError(f"{output} holds an unfinished data set; finish it without --append, then append")
    table = studies
    studies, known_films = admitted(studies, others, settings)
    first = sum(batch.numbers for batch in others[:place])
    return Work(
        output=output,
        settings=settings,
        plans=plan_shards(studies, settings, first),
        rejections=[*rejections, *known_films],
        splits={study.study: study.split for study in studies},
        table=table,
        others=others,
        place=min(place, len(others)),
        is_complete=is_complete,
        is_known=digest in known,
    )


def table_digest(studies: Sequence[StudySource], settings: Settings) -> str:
    """Which table it is, in any order of its rows; another packing into shards makes it another."""
    films = digest_of(sorted(studies, key=lambda study: study.study), settings)
    return schema.sha256(f"{films} {settings.clips_per_shard}".encode())


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
