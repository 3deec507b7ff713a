"""What is known of the rows that an evaluation or a site compares a model with: whose text is which, and their labels. No model, no shards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from deepcoro.sample import ClipRecord, StudyRecord, text_id

Labels = dict[str, float | str | None]
Agreed = Callable[[StudyRecord, tuple[int, ...]], Labels]
"""The labels of a row by a rule of its own (that of the field `labels`)."""


@dataclass(frozen=True)
class Facts:
    """Of rows, in one order."""

    texts: list[str]
    """Distinct texts, in the order in which they are met."""
    text_of_row: Int[np.ndarray, "row"]
    """Whose text each row has; -1 = none."""
    labels: dict[str, list]
    """Column -> value of each row; None = not assessed."""


def facts_of(texts: Sequence[str | None], labels: Sequence[Labels]) -> Facts:
    """From the text and the labels of each row. Texts that differ in case or white space alone are one."""
    rows: dict[int, int] = {}
    distinct: list[str] = []
    own = np.full(len(texts), -1, np.int64)
    for place, text in enumerate(texts):
        if text is None:
            continue
        own[place] = rows.setdefault(text_id(text), len(distinct))
        if own[place] == len(distinct):
            distinct.append(text)
    return Facts(distinct, own, label_columns(labels))


def label_columns(labels: Sequence[Labels]) -> dict[str, list]:
    """By name, from one dictionary a row; None where a row has no such label."""
    names = sorted({name for each in labels for name in each})
    return {name: [each.get(name) for each in labels] for name in names}


def labels_of_row(
    study: StudyRecord, clips: tuple[int, ...], is_study: bool, agreed: Agreed | None
) -> Labels:
    """What its films agree on, with `agreed` over it. A row that is a study speaks of all films of the study, shown or not, and has
    `num_films`, how many these are.
    """
    films = study.films if is_study else [study.clips[clip] for clip in clips]
    known = merged_labels(films) | (agreed(study, clips) if agreed else {})
    return known | ({"num_films": float(len(films))} if is_study else {})


def merged_labels(clips: Sequence[ClipRecord]) -> Labels:
    """Labels of a sample, side and view among them: a value that its films agree on; where they disagree it is not assessed."""
    films = [clip.known for clip in clips]
    merged: Labels = {}
    for name in {name for film in films for name in film}:
        values = {film.get(name) for film in films} - {None}
        merged[name] = values.pop() if len(values) == 1 else None
    return merged
