"""A shard folder of millions of films without the films: indexes, splits, manifest and columns are real, the tars are holes.

For measuring what grows with the number of films: opening a folder, planning an epoch, joining a table.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from deepcoro.data import manifest as schema
from deepcoro.data.collection import Collection
from deepcoro.data.config import Data
from deepcoro.data.film_table import SCHEMA, write_films
from deepcoro.data.plan import Plan, rows_from
from deepcoro.data.training_order import training_order

BATCH_SIZE = 16

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
        split_rule="given",
        key_check=None,
        label_columns=["cto"],
        counts=counts,
        tables=[],
        duplicates=None,
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
        with (folder / name).open("wb") as tar:
            tar.truncate(films * _CLIP_BYTES)  # a hole: it takes no room
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


@dataclass(frozen=True)
class Cost:
    """What a call took in a process of its own."""

    wall_s: float
    cpu_s: float
    memory_mb: float
    """Peak of resident memory over what the imports had left."""
    result: Any


def cost_of(function: Callable[..., Any], *arguments: Any) -> Cost:
    """Runs a module-level function in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_measured, function, *arguments).result()


def _measured(function: Callable[..., Any], *arguments: Any) -> Cost:
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of the imports
    before, wall, cpu = _memory_mb("VmRSS"), time.perf_counter(), time.process_time()
    result = function(*arguments)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(wall, cpu, _memory_mb("VmHWM") - before, result)


def _memory_mb(which: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [each for each in lines if each.startswith(f"{which}:")]
    return int(line.split()[1]) / 1024


def start_rank(folder: Path, rank: int, ranks: int, keys: dict[str, Any]) -> dict[str, float]:
    """What a rank does before its first step, but for the model: open the folder, order an epoch, take the rows of a micro-step."""
    data = Data(shards=folder, **keys)
    shards = Collection.open(data)
    units = shards.units("train", data.multi_video, data.num_videos)
    plan = Plan(
        training_order(shards, units, data, 0, BATCH_SIZE * ranks), BATCH_SIZE, rank=rank, world_size=ranks
    )
    rows = rows_from(plan, 0, 0)
    return {
        "units": len(units),
        "steps_per_epoch": plan.num_units / plan.rows_per_step,
        "rows": [row.unit for row in rows],
    }


def join_table(folder: Path, table: Path) -> dict[str, Any]:
    """Joins and digests a table as a run does."""
    shards = Collection.open(Data(shards=folder, tables=[table]))
    return shards.record() | {"values": shards.films.read(["grade"])["grade"].to_pylist()}


def write_label_table(path: Path, size: Size) -> None:
    """A label, a split and a report for every film, in another order than they are stored."""
    clips = np.random.default_rng(2).permutation(size.films)
    lines = [
        f"{clip},{number % 7},Report {number % 5000} of a film.\n"
        for clip, number in zip(keyed("c", clips), clips.tolist(), strict=True)
    ]
    path.write_text("clip,grade,Report\n" + "".join(lines))


def device() -> str:
    """What figures are measured on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].split(':')[1].strip() if names else 'unknown processor'}, {os.cpu_count()} cores"
