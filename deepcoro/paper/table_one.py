"""Table 1: who is in each split. Patients by what is asked of a person, studies by what their films show; cells of few are not told, nor
those from which they would follow (`deepcoro.small_cells`)."""

from collections.abc import Sequence

import numpy as np

from deepcoro.aggregates import is_small
from deepcoro.data.collection import Collection
from deepcoro.data.film_columns import VIRTUAL
from deepcoro.data.film_table import SCHEMA
from deepcoro.paper.sheets import Sheet
from deepcoro.paper.variables import Group, Row, quarters, variable_rows
from deepcoro.small_cells import WORD, told_units

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
_SPLITS = ("train", "val", "test", "inference")


def table_one(shards: Collection, fewest: int, of_a_person: Sequence[str] = OF_A_PERSON) -> Sheet:
    """One column a split and one for all. Numbers are medians [quarters], words and yes/no are n (%) of those assessed.

    A split of few people has no number and no part in the column of all, from which it would follow.
    """
    groups = _groups(shards)
    few = [group.name for group in groups if is_small(group.persons, fewest)]
    shown = [group for group in groups if group.name not in few]
    rows = _rows(shards, shown, fewest, of_a_person) if shown else []
    return Sheet(
        name="table_1",
        caption="Patients, studies and films by split. Median [quarters] or n (% of those assessed)"
        + (f"; {WORD}: of fewer than {fewest} patients, or would tell such a cell" if fewest > 1 else ""),
        columns=("", *(group.name for group in groups), f"all but {', '.join(few)}" if few else "all"),
        rows=[*_sizes(shards, groups, few, fewest), *(_with_few(row, groups, few) for row in rows)],
    )


def _groups(shards: Collection) -> list[Group]:
    study_of_film = shards.studies.study_of_film()
    _, patient_of_study = np.unique(shards.studies.patient, return_inverse=True)
    if shards.patient_split != "verified":
        patient_of_study = np.arange(len(shards.studies))
    films_of = {split: shards.units(split, False, 1).film for split in _SPLITS if split in shards.splits}
    return [
        Group(name, films, study_of_film[films], patient_of_study[study_of_film[films]])
        for name, films in films_of.items()
    ]


def _sizes(shards: Collection, groups: Sequence[Group], few: Sequence[str], fewest: int) -> list[Row]:
    """Patients, studies and films."""
    named = shards.patient_split == "verified"
    counts = [
        {
            "patients": group.persons if named else None,
            "studies": len(np.unique(group.study)),
            "films": len(group.films),
        }
        for group in groups
    ]
    of_shown = [each for each, group in zip(counts, groups, strict=True) if group.name not in few]
    units = [told_units(each, fewest) for each in counts]
    return [
        (
            name if named or name != "patients" else "patients (not named)",
            *("–" if each[name] is None else str(each[name]) for each in units),
            (
                f"{sum(each[name] for each in of_shown):,}"
                if of_shown and of_shown[0][name] is not None
                else "–"
            ),
        )
        for name in ("patients", "studies", "films")
    ]


def _rows(shards: Collection, groups: Sequence[Group], fewest: int, of_a_person: Sequence[str]) -> list[Row]:
    """Those of all variables; a cell a group and one of all."""
    films = [np.unique(group.study, return_counts=True)[1].astype(float) for group in groups]
    rows: list[Row] = [("films of a study", *map(quarters, (*films, np.concatenate(films))))]
    labels = [name for name in shards.films.names if name not in (*SCHEMA.names, *VIRTUAL)]
    for name in ("num_frames", "frame_rate_fps", "side", *labels):
        column = shards.films.read([name])[name]
        rows += variable_rows(name, column, groups, fewest, name.lower() in of_a_person)
    return rows


def _with_few(row: Row, groups: Sequence[Group], few: Sequence[str]) -> Row:
    """The row with the cells of splits of few people, which say nothing."""
    name, *cells = row
    own = iter(cells)
    return (name, *(WORD if group.name in few else next(own) for group in groups), next(own))
