"""Table 1: who is in each split. Patients by what is asked of a person, studies by what their films show; cells of few are not told."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow
from jaxtyping import Float, Int

from deepcoro.aggregates import is_small
from deepcoro.data.collection import Collection
from deepcoro.data.film_columns import VIRTUAL
from deepcoro.data.film_table import SCHEMA
from deepcoro.paper.sheets import Sheet

OF_A_PERSON = (
    "sex",
    "gender",
    "age",
    "bmi",
    "height",
    "weight",
    "diabetes",
    "hypertension",
    "smoker",
    "ethnicity",
)
"""Columns that are counted by patient, at the first of their studies; all others by study."""
_MOST_WORDS = 8
_SPLITS = ("train", "val", "test", "inference")


@dataclass(frozen=True)
class Group:
    """The films of one split."""

    name: str
    films: np.ndarray
    """Rows of the film table."""
    study: np.ndarray
    """Row of each film's study."""
    patient: np.ndarray
    """Number of each film's patient, or of its study where the data name no patients."""


def table_one(shards: Collection, fewest: int, of_a_person: Sequence[str] = OF_A_PERSON) -> Sheet:
    """One column a split and one for all. Numbers are medians [quarters], words and yes/no are n (%) of those assessed."""
    groups = _groups(shards)
    rows = [
        (
            "patients" if shards.patient_split == "verified" else "patients (not named)",
            *_patients(shards, groups, fewest),
        ),
        ("studies", *(_count(len(np.unique(group.study)), fewest) for group in groups)),
        ("films", *(_count(len(group.films), fewest) for group in groups)),
        (
            "films of a study",
            *(
                _quarters(np.unique(group.study, return_counts=True)[1].astype(float), fewest)
                for group in groups
            ),
        ),
    ]
    labels = [name for name in shards.films.names if name not in (*SCHEMA.names, *VIRTUAL)]
    for name in ("num_frames", "frame_rate_fps", "side", *labels):
        rows += _rows(name, shards.films.read([name])[name], groups, fewest, name.lower() in of_a_person)
    names = [f"{group.name}" for group in groups]
    return Sheet(
        name="table_1",
        caption="Patients, studies and films by split. Median [quarters] or n (% of those assessed)"
        + (f"; cells of fewer than {fewest} are not told" if fewest > 1 else ""),
        columns=("", *names),
        rows=rows,
    )


def _groups(shards: Collection) -> list[Group]:
    study_of_film = shards.studies.study_of_film()
    named, patient_of_study = np.unique(shards.studies.patient, return_inverse=True)
    if shards.patient_split != "verified":
        patient_of_study = np.arange(len(shards.studies))
    films_of = {}
    for split in [each for each in _SPLITS if each in shards.splits]:
        films_of[split] = shards.units(split, False, 1).film
    films_of["all"] = np.concatenate(list(films_of.values()))
    return [
        Group(name, films, study_of_film[films], patient_of_study[study_of_film[films]])
        for name, films in films_of.items()
    ]


def _patients(shards: Collection, groups: Sequence[Group], fewest: int) -> list[str]:
    if shards.patient_split != "verified":
        return ["–"] * len(groups)
    return [_count(len(np.unique(group.patient)), fewest) for group in groups]


def _rows(
    name: str, column: pyarrow.ChunkedArray, groups: Sequence[Group], fewest: int, of_a_person: bool
) -> list[tuple[str, ...]]:
    """Those of one column; none where nothing is known."""
    owner = [group.patient if of_a_person else group.study for group in groups]
    if pyarrow.types.is_string(column.type):
        words, codes = _coded(column)
        reduced = [_agreed(codes[group.films], own) for group, own in zip(groups, owner, strict=True)]
        return _word_rows(name, words, reduced, fewest)
    values = column.to_numpy().astype(float)
    reduce = np.fmin if of_a_person else np.fmax  # the age at the first study; the worst finding of a study
    reduced = [_reduced(values[group.films], own, reduce) for group, own in zip(groups, owner, strict=True)]
    known = [each[~np.isnan(each)] for each in reduced]
    if not len(known[-1]):
        return []
    missing = _missing_row(name, reduced, fewest)
    if np.isin(known[-1], (0.0, 1.0)).all():
        return [(name, *(_share(int(each.sum()), len(each), fewest) for each in known)), *missing]
    return [(name, *(_quarters(each, fewest) for each in known)), *missing]


def _word_rows(
    name: str, words: Sequence[str], reduced: Sequence[np.ndarray], fewest: int
) -> list[tuple[str, ...]]:
    known = [each[each >= 0] for each in reduced]
    counts = np.bincount(known[-1], minlength=len(words)) if len(words) else np.zeros(0)
    shown = np.argsort(-counts, kind="stable")[:_MOST_WORDS]
    rows = [
        (f"{name} = {words[code]}", *(_share(int((each == code).sum()), len(each), fewest) for each in known))
        for code in shown
    ]
    return (
        rows + _missing_row(name, [np.where(each >= 0, 0.0, np.nan) for each in reduced], fewest)
        if rows
        else []
    )


def _missing_row(name: str, reduced: Sequence[np.ndarray], fewest: int) -> list[tuple[str, ...]]:
    missing = [int(np.isnan(each).sum()) for each in reduced]
    if not any(missing):
        return []
    return [
        (
            f"{name}: not assessed",
            *(_share(count, len(each), fewest) for count, each in zip(missing, reduced, strict=True)),
        )
    ]


def _coded(column: pyarrow.ChunkedArray) -> tuple[list[str], Int[np.ndarray, " film"]]:
    """Distinct words and each film's number among them; -1 = not assessed."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)


def _agreed(codes: Int[np.ndarray, " film"], owner: Int[np.ndarray, " film"]) -> Int[np.ndarray, " owner"]:
    """The one word that the assessed films of each owner have; -1 where none is assessed or they differ."""
    _, owner = np.unique(owner, return_inverse=True)
    low, high = np.full(owner.max() + 1, np.iinfo(np.int64).max), np.full(owner.max() + 1, -1)
    known = codes >= 0
    np.minimum.at(low, owner[known], codes[known])
    np.maximum.at(high, owner[known], codes[known])
    return np.where(low == high, high, -1)


def _reduced(
    values: Float[np.ndarray, " film"], owner: Int[np.ndarray, " film"], reduce: np.ufunc
) -> Float[np.ndarray, " owner"]:
    """The least or largest known value of each owner; NaN where none is known."""
    _, owner = np.unique(owner, return_inverse=True)
    result = np.full(owner.max() + 1, np.nan)
    reduce.at(result, owner, values)
    return result


def _count(count: int, fewest: int) -> str:
    return f"< {fewest}" if is_small(count, fewest) else f"{count:,}"


def _share(count: int, total: int, fewest: int) -> str:
    """A count of few, or of all but few, is not told: the rest of the column would tell it."""
    if not total:
        return "–"
    if is_small(total, fewest):
        return f"of < {fewest}"
    if is_small(count, fewest):
        return f"< {fewest}"
    if is_small(total - count, fewest):
        return f"> {total - fewest:,}"
    return f"{count:,} ({100 * count / total:.1f} %)"


def _quarters(values: np.ndarray, fewest: int) -> str:
    if not len(values) or is_small(len(values), fewest):
        return "–"
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.4g} [{low:.4g}, {high:.4g}]"
