"""A shard folder of millions of films without the films: indexes, splits, manifest and columns are real, the tars are not there.

For measuring what grows with the number of films: opening a folder, planning an epoch, joining a table.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow

from deepcoro.data import manifest as schema
from deepcoro.data.film_table import SCHEMA, write_films

_CLIP_BYTES = 750_000


@dataclass(frozen=True)
class Size:
    """How large the folder is."""

    films: int = 2_000_000
    films_per_study: int = 10
    films_per_shard: int = 2_000

    @property
    def studies(self) -> int:
        return self.films // self.films_per_study

    @property
    def studies_per_shard(self) -> int:
        return self.films_per_shard // self.films_per_study


def keyed(kind: str, numbers: Sequence[int] | np.ndarray) -> list[str]:
    """Ids of the form that shards hold, in ascending order."""
    return [f"{kind}{number:015x}" for number in numbers]


def simulate_folder(folder: Path, size: Size, with_films: bool = True) -> None:
    """Writes the folder; 80 % of the studies train, 10 % val, 10 % test, a patient each two studies."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = list(_write_shards(folder, size))
    studies, patients = keyed("a", range(size.studies)), keyed("b", np.arange(size.studies) // 2)
    splits = [("train", "val", "test")[max(number // 2 % 10 - 7, 0)] for number in range(size.studies)]
    rows = [schema.SplitRow(*row) for row in zip(studies, patients, splits, strict=True)]
    counts = schema.Counts(
        studies=size.studies,
        clips=size.films,
        frames=size.films * 60,
        patients=len(set(patients)),
        rejected_clips=0,
        splits={name: _split_counts(splits, name, size) for name in ("train", "val", "test")},
    )
    manifest = schema.Manifest(
        encoding=schema.Encoding(),
        pixel_mean=100.0,
        pixel_std=40.0,
        patient_split="verified",
        label_columns=["cto"],
        counts=counts,
        shards=entries,
        splits_sha256=schema.write_splits(folder, rows),
        films_sha256=write_films(folder, _films(size, studies, patients)) if with_films else "",
        fingerprint=schema.fingerprint(entries),
    )
    schema.write_block(folder / schema.MANIFEST, manifest)


def _split_counts(splits: list[str], name: str, size: Size) -> schema.SplitCounts:
    count = splits.count(name)
    return schema.SplitCounts(studies=count, clips=count * size.films_per_study, patients=count // 2)


def _write_shards(folder: Path, size: Size) -> Iterator[schema.ShardEntry]:
    draw = np.random.default_rng(0)
    for number in range(-(-size.studies // size.studies_per_shard)):
        first = number * size.studies_per_shard
        studies = range(first, min(first + size.studies_per_shard, size.studies))
        films = len(studies) * size.films_per_study
        index = schema.Index(
            studies=schema.StudyColumns(
                key=keyed("a", studies),
                patient=keyed("b", np.array(studies) // 2),
                offset=list(range(512, 512 + 4096 * len(studies), 4096)),
                size=[3000] * len(studies),
                crc32=draw.integers(2**32, size=len(studies)).tolist(),
            ),
            clips=schema.ClipColumns(
                study=np.repeat(np.arange(len(studies)), size.films_per_study).tolist(),
                clip=np.tile(np.arange(size.films_per_study), len(studies)).tolist(),
                offset=np.cumsum(draw.integers(_CLIP_BYTES, size=films)).tolist(),
                size=draw.integers(_CLIP_BYTES, size=films).tolist(),
                crc32=draw.integers(2**32, size=films).tolist(),
            ),
        )
        name = schema.shard_name(number)
        digest = schema.write_block(folder / schema.index_name(name), index)
        yield schema.ShardEntry(
            name=name,
            studies=len(studies),
            clips=films,
            bytes=films * _CLIP_BYTES,
            sha256=schema.sha256(name.encode()),
            index_sha256=digest,
        )


def _films(size: Size, studies: list[str], patients: list[str]) -> pyarrow.Table:
    study = np.repeat(np.arange(size.studies), size.films_per_study)
    constant = {
        "num_frames": 60,
        "height": 512,
        "width": 512,
        "channels": 1,
        "frame_rate_fps": 15.0,
        "side": "left",
        "view": "RAO_CAU",
        "text_id": 7,
    }
    columns = {
        "clip": pyarrow.array(keyed("c", range(len(study)))),
        "study": pyarrow.array(studies).take(pyarrow.array(study)),
        "patient": pyarrow.array(patients).take(pyarrow.array(study)),
    }
    for name in SCHEMA.names:
        if name not in columns:
            value = pyarrow.scalar(constant.get(name), SCHEMA.field(name).type)
            columns[name] = pyarrow.repeat(value, len(study))
    table = pyarrow.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
    cto = np.random.default_rng(1).integers(0, 2, len(study)).astype(float)
    return table.append_column("cto", pyarrow.array(cto, mask=np.arange(len(study)) % 20 == 0))


def peak_memory_mb() -> float:
    """The largest resident memory this process has had (VmHWM), which an exec resets."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [each for each in lines if each.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def device() -> str:
    """What the figures were measured on."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{model[0].split(':')[1].strip() if model else 'unknown'}, {os.cpu_count()} cores"
