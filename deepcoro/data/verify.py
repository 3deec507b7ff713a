"""Every byte of a shard folder read again: digests, checksums, records, every frame decoded, tables against each other."""

import csv
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pydantic

from deepcoro import atomic
from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.conclude import check_splits
from deepcoro.data.film_table import FILMS, read_films
from deepcoro.data.manifest import Index, Manifest, ShardEntry
from deepcoro.ingest.workers import worker_pool
from deepcoro.sample import ClipRecord, StudyRecord

DAMAGED = "damaged.csv"
_BLOCK_BYTES = 8 << 20


class Damage(NamedTuple):
    """One line of `damaged.csv`: what is wrong where. A film that is named is lost, the others of its shard are not."""

    shard: str
    study: str
    clip: str
    reason: str


class Verified(NamedTuple):
    """What was found in one shard: its films as they are listed, and what is wrong with it."""

    films: list[tuple[str, str, int]]
    """Film, study, frames."""
    damages: list[Damage]


def verify_folder(
    folder: Path, workers: int = 1, on_progress: Callable[[int], None] = lambda films: None
) -> list[Damage]:
    """Everything that is wrong with a shard folder; also written to `damaged.csv`, which is removed when nothing is.

    A damaged shard does not count as finished any more: the command that made the folder, with --overwrite, makes it anew.
    `on_progress` is called with the number of films read so far. DataError when there is no manifest to verify against.
    """
    manifest = schema.read_manifest(folder)
    damages: list[Damage] = []
    films: list[tuple[str, str, int]] = []
    for found in _each_shard(folder, manifest.shards, workers):
        damages += found.damages
        films += found.films
        on_progress(len(films))
    damages += _verify_tables(folder, manifest, films)
    if damages:
        _write(folder, damages)
        for shard in {damage.shard for damage in damages if damage.clip or damage.shard.endswith(".tar")}:
            (folder / schema.PROGRESS / schema.record_name(shard)).unlink(missing_ok=True)
    else:
        (folder / DAMAGED).unlink(missing_ok=True)
    return damages


def _each_shard(folder: Path, shards: Sequence[ShardEntry], workers: int) -> Iterator[Verified]:
    verify = partial(verify_shard, folder)
    if workers <= 1 or len(shards) <= 1:
        yield from map(verify, shards)
        return
    with worker_pool(min(workers, len(shards))) as pool:
        yield from pool.map(verify, shards)


def verify_shard(folder: Path, shard: ShardEntry) -> Verified:
    """One tar against its index and the manifest."""

    def whole(reason: str) -> Damage:
        return Damage(shard.name, "", "", reason)

    try:
        index = schema.read_index(folder, shard)
        with (folder / shard.name).open("rb") as tar:
            damages = [whole(reason) for reason in _verify_tar(tar, shard)]
            return _verify_members(tar, shard.name, index, damages)
    except DataError as error:
        return Verified([], [whole(str(error))])
    except OSError as error:
        return Verified([], [whole(f"cannot be read: {error.strerror}")])


def _verify_tar(tar: BinaryIO, shard: ShardEntry) -> Iterator[str]:
    digest, size = hashlib.sha256(), 0
    while block := tar.read(_BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    if size != shard.bytes:
        yield f"has {size} of {shard.bytes} bytes"
    elif digest.hexdigest() != shard.sha256:
        yield "differs from the manifest's digest"


def _verify_members(tar: BinaryIO, name: str, index: Index, damages: list[Damage]) -> Verified:
    studies, clips = index.studies, index.clips
    films, records = [], []
    for row, study in enumerate(studies.key):
        payload, wrong = _read(tar, studies.offset[row], studies.size[row], studies.crc32[row])
        record, wrong = _record(payload, study, studies.patient[row]) if not wrong else (None, wrong)
        records.append(record)
        if wrong:
            damages.append(Damage(name, study, "", wrong))
    for row, (study, number) in enumerate(zip(clips.study, clips.clip, strict=True)):
        record = records[study]
        if record is None:
            continue
        if number >= len(record.clips):
            damages.append(Damage(name, record.study, "", f"its record has no film {number}"))
            continue
        clip = record.clips[number]
        films.append((clip.clip, record.study, clip.num_frames))
        payload, wrong = _read(tar, clips.offset[row], clips.size[row], clips.crc32[row])
        if wrong := wrong or _verify_frames(payload, clip):
            damages.append(Damage(name, record.study, clip.clip, wrong))
    return Verified(films, damages)


def _read(tar: BinaryIO, offset: int, size: int, crc32: int) -> tuple[bytes, str]:
    """The payload, and what is wrong with it; nothing is empty."""
    tar.seek(offset)
    payload = tar.read(size)
    if len(payload) != size:
        return payload, f"{len(payload)} of {size} bytes are there"
    return payload, "" if zlib.crc32(payload) == crc32 else "fails its checksum"


def _record(payload: bytes, study: str, patient: str | None) -> tuple[StudyRecord | None, str]:
    try:
        record = StudyRecord.model_validate_json(payload)
    except pydantic.ValidationError as error:
        return None, f"its record has {error.error_count()} bad fields"
    if (record.study, record.patient) != (study, patient):
        return None, "its record is not the one that the index names"
    return record, ""


def _verify_frames(payload: bytes, clip: ClipRecord) -> str:
    if clip.frame_offsets[0] != 0 or clip.frame_offsets[-1] != len(payload):
        return "its frame offsets do not span its member"
    decode = _decode_zstd if clip.member.endswith(".zst") else _decode_jpeg
    for number, (start, end) in enumerate(zip(clip.frame_offsets, clip.frame_offsets[1:], strict=False)):
        wrong = decode(payload[start:end], clip)
        if wrong:
            return f"frame {number} {wrong}"
    return ""


def _decode_jpeg(frame: bytes, clip: ClipRecord) -> str:
    import simplejpeg

    try:
        image = simplejpeg.decode_jpeg(frame, "GRAY" if clip.channels == 1 else "RGB")
    except ValueError:
        return "cannot be decoded"
    return (
        ""
        if image.shape == (clip.height, clip.width, clip.channels)
        else "has another size than its record says"
    )


def _decode_zstd(frame: bytes, clip: ClipRecord) -> str:
    import zstandard

    size = clip.height * clip.width * clip.channels
    try:
        pixels = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
    except zstandard.ZstdError:
        return "cannot be decoded"
    return "" if len(pixels) == size else "has another size than its record says"


def _verify_tables(
    folder: Path, manifest: Manifest, films: Sequence[tuple[str, str, int]]
) -> Iterator[Damage]:
    try:
        table = read_films(folder, ["clip", "study", "num_frames"])
        if hashlib.sha256((folder / FILMS).read_bytes()).hexdigest() != manifest.films_sha256:
            yield Damage(FILMS, "", "", "differs from the manifest's digest")
        listed = list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
        lost = set(films) - set(listed)
        if lost or (len(listed) == len(films) and listed != list(films)):
            yield Damage(
                FILMS, "", "", f"does not list the films of the shards in their order ({len(lost)} missing)"
            )
        splits = schema.read_splits(folder)
        check_splits(splits)
        strangers = {row.study for row in splits} - set(table["study"].to_pylist())
        if strangers:
            yield Damage(schema.SPLITS, "", "", f"lists {len(strangers)} studies that no shard holds")
    except DataError as error:
        yield Damage("", "", "", str(error))


def _write(folder: Path, damages: Sequence[Damage]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Damage._fields)
    writer.writerows(damages)
    atomic.write_text(folder / DAMAGED, text.getvalue())
