"""Embeddings as Parquet, a row a clip and a row a study, in the order of the split: the same on any number of ranks.

`{name}_clips.parquet`: `clip` (`study.000`), `window` (number of the clip within its film; 0 unless `sampling: multi_window`), `study`,
`patient`, `split`, `weight` (what the pooler weighs the clip with among those of its sample; null where it weighs none) and
`embedding`, the clip as if it were its study's only one. `{name}_studies.parquet`: `study`, `patient`, `split`, `num_clips`, `embedding`.
Ids are keyed. The file's metadata say under `deepcoro`, as JSON, which checkpoint wrote it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Float, Int

from deepcoro import atomic
from deepcoro.data.units import Units
from deepcoro.evaluated import Evaluated

METADATA = b"deepcoro"
UNIT_SPACE = "contrastive, unit length"
Slots = Sequence[tuple[str, int]]
"""Film and window of every clip that a row of the model shows."""


def write_embeddings(
    folder: Path, name: str, evaluated: Evaluated, slots: Sequence[Slots], about: Mapping[str, Any]
) -> list[Path]:
    """Both tables of a split that was embedded with `each_clip`. `about`: plain values for the metadata."""
    about = {
        **about,
        "space": UNIT_SPACE if evaluated.shares_space else "pooled video features",
    }
    tables = {"clips": clip_table(evaluated, slots), "studies": study_table(evaluated)}
    paths = {kind: folder / f"{name}_{kind}.parquet" for kind in tables}
    for kind, table in tables.items():
        write_table(paths[kind], table, about)
    return list(paths.values())


def slots_of_rows(
    units: Units, seen: Iterable[int], windows_of: Callable[[int, int], int] | None = None
) -> list[Slots]:
    """What the model was shown of each unit. `windows_of`: (row of the study, film) -> clips that the film gives; None = one each."""
    return [
        [
            (f"{units.study_id(unit)}.{film:03d}", window)
            for film in units.shown_clips(unit, None)
            for window in range(windows_of(int(units.study_row[unit]), film) if windows_of else 1)
        ]
        for unit in seen
    ]


def clip_table(evaluated: Evaluated, slots: Sequence[Slots]) -> pyarrow.Table:
    """ValueError when the slots are not those that the model saw."""
    mask = evaluated.rows["clip_mask"].astype(bool)
    counts = [len(each) for each in slots]
    if mask.sum(axis=1).tolist() != counts:
        raise ValueError(f"the model saw {mask.sum()} clips, the slots name {sum(counts)}")
    rows = np.repeat(np.arange(len(mask)), counts)
    weight = evaluated.rows.get("clip_weight")
    return pyarrow.table(
        {
            "clip": [film for each in slots for film, _ in each],
            "window": pyarrow.array([window for each in slots for _, window in each], pyarrow.int32()),
            "study": [evaluated.studies[row] for row in rows],
            "patient": pyarrow.array([evaluated.patients[row] for row in rows], pyarrow.string()),
            "split": [evaluated.split] * len(rows),
            "weight": pyarrow.array(
                [None] * len(rows) if weight is None else weight[mask], pyarrow.float32()
            ),
            "embedding": vectors(evaluated.rows["clip_embedding"][mask]),
        }
    )


def study_table(evaluated: Evaluated) -> pyarrow.Table:
    """Where a sample is a film, a study is the mean of its films (of unit length where they are)."""
    studies, first, study_of_row = np.unique(evaluated.studies, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[study_of_row.reshape(-1)]  # studies in the order of the split
    num_clips = np.bincount(place, evaluated.rows["clip_mask"].astype(bool).sum(axis=1)).astype(np.int32)
    order = np.sort(first)
    return pyarrow.table(
        {
            "study": [evaluated.studies[row] for row in order],
            "patient": pyarrow.array([evaluated.patients[row] for row in order], pyarrow.string()),
            "split": [evaluated.split] * len(studies),
            "num_clips": num_clips,
            "embedding": vectors(_means(evaluated.films, place, evaluated.shares_space)),
        }
    )


def _means(
    films: Float[np.ndarray, "film dim"], study_of_film: Int[np.ndarray, " film"], of_unit_length: bool
) -> Float[np.ndarray, "study dim"]:
    if len(np.unique(study_of_film)) == len(films):
        return films
    sums = np.zeros((study_of_film.max() + 1, films.shape[1]))
    np.add.at(sums, study_of_film, films)
    if of_unit_length:
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return sums / np.bincount(study_of_film)[:, None]


def vectors(rows: Float[np.ndarray, "row dim"]) -> pyarrow.FixedSizeListArray:
    """A column of float32 vectors."""
    flat = pyarrow.array(np.ascontiguousarray(rows, np.float32).reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def matrix(column: pyarrow.ChunkedArray) -> Float[np.ndarray, "row dim"]:
    """A column of vectors back as float32."""
    array = column.combine_chunks()
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)


def write_table(path: Path, table: pyarrow.Table, about: Mapping[str, Any]) -> None:
    """The same rows give the same bytes."""
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table.replace_schema_metadata({METADATA: json.dumps(about)}), sink)
    atomic.write_bytes(path, sink.getvalue().to_pybytes())
