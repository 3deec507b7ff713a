"""What heads said of each row, in the columns that earlier tools wrote.

A binary finding or a number: `HEAD_pred` (its probability, the number itself) and `HEAD_true`. Several classes: `HEAD_prob_CLASS` of
each, `HEAD_pred_class` (the most probable) and `HEAD_true_class`. A class is named by its word in `labels_map`, else by its number. What
is not assessed is an empty cell; a label that is no class of the head, which an inference does not refuse, is its number.
"""

from collections import Counter

import numpy as np
from jaxtyping import Float

from deepcoro.evaluated import Evaluated, Head

Cells = list[str | None]


def head_columns(evaluated: Evaluated) -> dict[str, Cells]:
    """Columns of every head that said something. A name that heads of two objectives have is led by its objective's."""
    times = Counter(name.rpartition("/")[2] for name in evaluated.heads)
    columns: dict[str, Cells] = {}
    for name, head in evaluated.heads.items():
        said = evaluated.rows.get(f"{name}/prediction")
        if said is None:  # its objective took no part
            continue
        own = name.rpartition("/")[2]
        title = own if times[own] == 1 else name.replace("/", "_")
        truth = head.truth(evaluated.labels.get(head.column, [None] * len(said)))
        columns |= (
            _one_number(title, said, truth) if said.shape[1] == 1 else _classes(title, head, said, truth)
        )
    return columns


def _one_number(
    title: str, said: Float[np.ndarray, "row 1"], truth: Float[np.ndarray, " row"]
) -> dict[str, Cells]:
    return {f"{title}_pred": _cells(said[:, 0]), f"{title}_true": _cells(truth)}


def _classes(
    title: str, head: Head, said: Float[np.ndarray, "row class"], truth: Float[np.ndarray, " row"]
) -> dict[str, Cells]:
    names = head.class_names()
    chances = {f"{title}_prob_{name}": _cells(said[:, place]) for place, name in enumerate(names)}
    return chances | {
        f"{title}_pred_class": [names[place] for place in said.argmax(axis=1)],
        f"{title}_true_class": [
            names[int(each)] if each in range(len(names)) else number
            for each, number in zip(truth, _cells(truth), strict=True)
        ],
    }


def _cells(values: Float[np.ndarray, " row"]) -> Cells:
    return [None if np.isnan(value) else f"{value:.6g}" for value in values]
