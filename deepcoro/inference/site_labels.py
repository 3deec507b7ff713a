"""Which label columns a run is measured by, and those of a site's rows, judged as an evaluation judges them."""

from collections.abc import Callable, Sequence

from deepcoro.build import build_metrics
from deepcoro.config import DataError
from deepcoro.embed import told_heads
from deepcoro.fields.labels import LabelsField
from deepcoro.run_config import RunConfig
from deepcoro.sample import StudyRecord

_OF_EVERY_FILM = ("side", "view", "num_films")
"""Columns that no table need have."""

Row = tuple[StudyRecord, tuple[int, ...]]
"""A study and those of its films that the row shows."""


def columns_measured(config: RunConfig) -> list[str]:
    """Label columns of the heads, of what metrics ask besides, and of groups."""
    of_heads = [head.column for head in told_heads(config).values()]
    of_metrics = [column for each in build_metrics(config) for column in each.columns()]
    asked = dict.fromkeys([*of_heads, *of_metrics, *config.evaluate.by])
    return [column for column in asked if column not in _OF_EVERY_FILM]


def conflicts(field: LabelsField | None, rows: Sequence[Row], told: Callable[[str], None]) -> dict[str, int]:
    """Rows whose films disagree, by column of the field; `told` is given a sentence on each such column.

    DataError as of an evaluation: for a value that no map knows, and for films that disagree where `conflict` is `error`.
    """
    found: dict[str, int] = {}
    for column in field.config.columns if field else ():
        disagreeing = sum(len(_numbers(field, column, row)) > 1 for row in rows)
        if not disagreeing:
            continue
        found[column] = disagreeing
        sentence = f"label '{column}': the films of {disagreeing} of {len(rows)} studies disagree"
        if field.config.conflict == "error":
            raise DataError(
                f"{sentence}, and the model was trained on labels that agree; correct the table",
                topic="labels-that-disagree",
            )
        meaning = {"max": "the highest counts", "drop": "taken as not assessed"}[field.config.conflict]
        told(f"{sentence}; {meaning}")
    return found


def _numbers(field: LabelsField, column: str, row: Row) -> set[float]:
    try:
        said = {field.config.number(column, film.known.get(column)) for film in field.films_of(*row)}
    except ValueError as error:
        raise DataError(
            f"label '{column}': {error}; write it in the table as the model knows it (--label_rules maps words)"
        ) from error
    return {number for number in said if number is not None}
