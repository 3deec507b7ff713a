"""The end of sharding: tables and manifest over all shards of the folder, of this run and of earlier ones, and the checks that need them all."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.batches import Batch, next_folder, publish_next, refused_rows
from deepcoro.data.duplicates import check_duplicates, count_duplicates
from deepcoro.data.film_table import SCHEMA, joined, write_films
from deepcoro.data.manifest import Counts, Manifest, RefusedRow, SplitCounts, SplitRow
from deepcoro.data.notices import windows_paths
from deepcoro.data.sharding import Settings

_MOST_SHOWN = 3


def conclude(
    batches: Sequence[Batch], output: Path, settings: Settings, rows_of_films: Mapping[str, int]
) -> Manifest:
    """Writes films, splits, refused rows and manifest together. DataError when no film is left, or on what must not be in a data set.

    `rows_of_films` names the row of each film of this run, for what is said about films.
    """
    refused = refused_rows(batches)
    films = joined([batch.films for batch in batches])
    if not films.num_rows:
        schema.write_rejected(output, refused)
        raise DataError(
            f"no film could be used ({_counted(refused)}); see {schema.REJECTED} in the output folder",
            topic="no-usable-film",
        )
    rows = [row for batch in batches for row in batch.split_rows()]
    check_splits(rows)
    split_of = {row.study: row.split for row in rows}
    film_splits = np.array([split_of.get(study, "") for study in films["study"].to_pylist()])
    shards = [shard for batch in batches for shard in batch.shards]
    mean, deviation = _pixel_statistics(films.filter(pyarrow.array(film_splits == "train")))
    folder = next_folder(output)
    schema.write_rejected(folder, refused)
    tables = [batch.entry for batch in batches]
    manifest = Manifest(
        version=schema.next_version(output, tables),
        encoding=settings.encoding,
        pixel_mean=mean,
        pixel_std=deviation,
        patient_split="unverifiable" if films["patient"].null_count else "verified",
        report_scope=settings.report_scope,
        split_rule=settings.split_rule,
        key_check=settings.key_check,
        label_columns=films.column_names[len(SCHEMA.names) :],
        counts=_count(films, film_splits, len(refused)),
        tables=tables,
        duplicates=check_duplicates(films, film_splits, rows_of_films, settings.accept_duplicates),
        shards=shards,
        splits_sha256=schema.write_splits(folder, rows),
        films_sha256=write_films(folder, films),
        fingerprint=schema.fingerprint(shards),
    )
    schema.write_block(folder / schema.MANIFEST, manifest, indent=2)
    publish_next(output)
    (output / schema.PROGRESS / schema.SET_ASIDE).unlink(missing_ok=True)
    return manifest


def _counted(refused: Sequence[RefusedRow]) -> str:
    """Reasons and how often; a hint where it is the paths of the table that are wrong."""
    words = Counter(row.reason.split(":")[0] for row in refused)
    counts = ", ".join(f"{count} x {word}" for word, count in words.most_common())
    hints = list(windows_paths(row.reason for row in refused))
    if not hints and set(words) == {"missing_file"}:
        hints = ["paths are relative to the table's folder, or absolute on this machine"]
    return "; ".join([counts, *hints])


def check_splits(rows: Sequence[SplitRow], row_of_study: Mapping[str, int] = MappingProxyType({})) -> None:
    """DataError when a study key occurs twice or a patient is in two splits; names the splits, not the patient.

    `row_of_study`: the first row in the user's table of the studies that come from it; the first few that contradict each other are named.
    """
    if len({row.study for row in rows}) != len(rows):
        raise DataError("two studies share one key; give each study its own id", topic="ids-twice")
    first: dict[str, SplitRow] = {}
    crossing: dict[str, tuple[SplitRow, SplitRow]] = {}
    for row in rows:
        if row.patient is None:
            continue
        earlier = first.setdefault(row.patient, row)
        if earlier.split != row.split:
            crossing.setdefault(row.patient, (earlier, row))
    if crossing:
        counts = Counter("/".join(sorted((one.split, other.split))) for one, other in crossing.values())
        pairs = ", ".join(f"{pair}: {count} patient(s)" for pair, count in sorted(counts.items()))
        raise DataError(
            f"patients are in two splits ({pairs}){_named_rows(list(crossing.values()), row_of_study)};"
            " give every row of a patient the same split, or drop the split column",
            topic="patients-in-two-splits",
        )


def _named_rows(crossing: Sequence[tuple[SplitRow, SplitRow]], row_of_study: Mapping[str, int]) -> str:
    """A pair of rows for each of the first patients; a study of an earlier table has no row in this one."""
    if not row_of_study:
        return ""
    shown = [" and ".join(_place(row, row_of_study) for row in pair) for pair in crossing[:_MOST_SHOWN]]
    more = ", ..." if len(crossing) > _MOST_SHOWN else ""
    return f": {', '.join(shown)}{more} (row 1 is the first under the header)"


def _place(row: SplitRow, row_of_study: Mapping[str, int]) -> str:
    number = row_of_study.get(row.study)
    return f"an earlier table ({row.split})" if number is None else f"row {number} ({row.split})"


def _pixel_statistics(films: pyarrow.Table) -> tuple[float | None, float | None]:
    """Mean and standard deviation over the stored pixels of these films; exact integers, a sum of squares may exceed 64 bits."""
    names = ("num_frames", "height", "width", "channels")
    pixels = np.prod([films[name].to_numpy().astype(np.int64) for name in names], axis=0)
    total = sum(pixels.tolist())
    if not total:
        return None, None
    mean = sum(films["pixel_sum"].to_pylist()) / total
    variance = sum(films["pixel_square_sum"].to_pylist()) / total - mean**2
    return round(mean, 4), round(max(variance, 0.0) ** 0.5, 4)


def _count(films: pyarrow.Table, film_splits: np.ndarray, rejected: int) -> Counts:
    splits = {}
    for split in schema.SPLIT_NAMES:
        inside = films.filter(pyarrow.array(film_splits == split))
        if inside.num_rows:
            splits[split] = SplitCounts(**_sizes(inside))
    frames = sum(films["num_frames"].to_pylist())
    return Counts(**_sizes(films), frames=frames, rejected_clips=rejected, splits=splits)


def _sizes(films: pyarrow.Table) -> dict[str, int]:
    distinct = {name: pyarrow.compute.count_distinct(films[name]).as_py() for name in ("study", "patient")}
    return {"clips": films.num_rows, "studies": distinct["study"], "patients": distinct["patient"]}


def totals(
    films: pyarrow.Table, split_of: dict[str, str], num_refused: int, with_duplicates: bool
) -> dict[str, Any]:
    """The entries of the manifest that follow from the films, their splits and the number of refused rows."""
    film_splits = np.array([split_of.get(study, "") for study in films["study"].to_pylist()])
    mean, deviation = _pixel_statistics(films.filter(pyarrow.array(film_splits == "train")))
    return {
        "pixel_mean": mean,
        "pixel_std": deviation,
        "patient_split": "unverifiable" if films["patient"].null_count else "verified",
        "counts": _count(films, film_splits, num_refused),
        "duplicates": count_duplicates(films, film_splits) if with_duplicates else None,
    }
