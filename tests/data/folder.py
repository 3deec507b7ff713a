"""A shard folder written by the letter of `shards/README.md`, apart from the writer: what the reader must be able to open."""

import io
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepcoro.data import manifest as schema
from deepcoro.data.film_table import film_table, write_films
from deepcoro.data.member import encode
from deepcoro.sample import ClipRecord, Report, StudyRecord


def moving_film(
    number: int, num_frames: int = 6, size: tuple[int, int] = (32, 32), channels: int = 1
) -> np.ndarray:
    """[frame height width channel]: a flat frame that brightens over time, its first value telling the film."""
    frames = np.zeros((num_frames, *size, channels), np.uint8)
    for frame in range(num_frames):
        frames[frame] = 3 * number + 10 * frame
    return frames


def study_with(
    key: str,
    films: Sequence[np.ndarray],
    encoding: schema.Encoding,
    patient: str | None = None,
    **fields: object,
) -> tuple[StudyRecord, list[bytes]]:
    """Record and payloads of a study with these films, each [frame height width channel]."""
    clips, payloads = [], []
    for number, film in enumerate(films):
        member = encode(list(film.squeeze(3) if film.shape[3] == 1 else film), encoding)
        clips.append(
            ClipRecord(
                clip=f"{key}-film{number}",
                member=f"{number:03d}.{encoding.extension}",
                frame_offsets=member.frame_offsets,
                height=member.height,
                width=member.width,
                channels=member.channels,
                frame_rate_fps=15.0,
                frame_rate_source="test",
                side="left",
            )
        )
        payloads.append(member.payload)
    reports = [Report(scope="study", text=f"Report of {key}.")]
    return StudyRecord(study=key, patient=patient, clips=clips, **{"reports": reports, **fields}), payloads


def write_folder(
    folder: Path,
    studies: Sequence[tuple[StudyRecord, list[bytes]]],
    studies_per_shard: int = 2,
    splits: dict[str, str] | None = None,
    encoding: schema.Encoding = schema.Encoding(),  # noqa: B008 - frozen
) -> Path:
    """Writes tars, indexes, splits (all `train` unless told) and manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, start in enumerate(range(0, len(studies), studies_per_shard)):
        entries.append(
            _write_shard(folder, schema.shard_name(number), studies[start : start + studies_per_shard])
        )
    labels = [name for record, _ in studies for clip in record.clips for name in clip.labels]
    label_columns = list(dict.fromkeys(labels))
    rows = [
        schema.SplitRow(record.study, record.patient, (splits or {}).get(record.study, "train"))
        for record, _ in studies
    ]
    counts = schema.Counts(
        studies=len(studies),
        clips=sum(len(payloads) for _, payloads in studies),
        frames=0,
        patients=0,
        rejected_clips=0,
        splits=_split_counts(studies, splits or {}),
    )
    manifest = schema.Manifest(
        encoding=encoding,
        pixel_mean=100.0,
        pixel_std=30.0,
        patient_split="unverifiable",
        split_rule="given",
        key_check=None,
        tables=[],
        duplicates=None,
        label_columns=label_columns,
        counts=counts,
        shards=entries,
        splits_sha256=schema.write_splits(folder, rows),
        films_sha256=write_films(folder, film_table([record for record, _ in studies], label_columns)),
        fingerprint=schema.fingerprint(entries),
    )
    schema.write_block(folder / schema.MANIFEST, manifest)
    return folder


def _split_counts(
    studies: Sequence[tuple[StudyRecord, list[bytes]]], splits: dict[str, str]
) -> dict[str, schema.SplitCounts]:
    counts = {}
    for name in schema.SPLIT_NAMES:
        own = [record for record, _ in studies if splits.get(record.study, "train") == name]
        patients = {record.patient for record in own} - {None}
        clips = sum(len(record.clips) for record in own)
        counts[name] = schema.SplitCounts(studies=len(own), clips=clips, patients=len(patients))
    return {name: count for name, count in counts.items() if count.studies}


def _write_shard(
    folder: Path, name: str, studies: Sequence[tuple[StudyRecord, list[bytes]]]
) -> schema.ShardEntry:
    payloads = {}
    for record, films in studies:
        payloads[f"{record.study}.json"] = record.model_dump_json().encode()
        payloads |= {
            f"{record.study}.{clip.member}": film for clip, film in zip(record.clips, films, strict=True)
        }
    with tarfile.open(folder / name, "w") as tar:
        for member, payload in payloads.items():
            header = tarfile.TarInfo(member)
            header.size = len(payload)
            tar.addfile(header, io.BytesIO(payload))
    with tarfile.open(folder / name) as tar:
        place = {member.name: (member.offset_data, member.size) for member in tar}
    index = schema.Index(
        studies=schema.StudyColumns(
            key=[record.study for record, _ in studies],
            patient=[record.patient for record, _ in studies],
            **_columns([f"{record.study}.json" for record, _ in studies], place, payloads),
        ),
        clips=schema.ClipColumns(
            study=[row for row, (record, _) in enumerate(studies) for _ in record.clips],
            clip=[clip for record, _ in studies for clip in range(len(record.clips))],
            **_columns(
                [f"{record.study}.{clip.member}" for record, _ in studies for clip in record.clips],
                place,
                payloads,
            ),
        ),
    )
    digest = schema.write_block(folder / schema.index_name(name), index)
    tar_bytes = (folder / name).read_bytes()
    return schema.ShardEntry(
        name=name,
        studies=len(studies),
        clips=len(index.clips.study),
        bytes=len(tar_bytes),
        sha256=schema.sha256(tar_bytes),
        index_sha256=digest,
    )


def _columns(members: list[str], place: dict, payloads: dict[str, bytes]) -> dict[str, list[int]]:
    return {
        "offset": [place[member][0] for member in members],
        "size": [place[member][1] for member in members],
        "crc32": [zlib.crc32(payloads[member]) for member in members],
    }
