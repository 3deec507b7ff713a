"""The same metrics within groups of films: wires, balloons and stents give answers away, so a mean over all films flatters.

A group is searched and scored as if the split held nothing else, so its numbers are those of an evaluation with `data.where`.
"""

import bisect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated

import numpy as np
import pydantic

from deepcoro.bootstrap import patient_rows, patients_counted
from deepcoro.evaluated import Evaluated, Measurement, label_word

LEAKS = ("status", "stent_presence")
"""What gives answers away."""
USUAL = (*LEAKS, "sex", "age", "vendor", "dominance", "num_films")
"""Columns that data need not have: where they are absent nothing is said."""
_MOST_GROUPS = 20


def _ascending(edges: list[float]) -> list[float]:
    if not edges or sorted(set(edges)) != edges:
        raise ValueError(f"edges are {edges}; give one or more numbers, each above the one before")
    return edges


Edges = Annotated[list[float], pydantic.AfterValidator(_ascending)]
"""Where groups of a column of numbers begin and end."""
_CHOSEN = ("/threshold", "/interval_half_width", "/interval_level")
_NO_VALUE = (*_CHOSEN, "/prevalence", "_ci_low", "_ci_high", "_chance", "_modal", "_nearest", "_shuffled")


def measure_groups(
    metrics: Sequence[Measurement],
    evaluated: Evaluated,
    columns: Sequence[str],
    min_patients: int,
    bins: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> tuple[dict[str, float], list[str]]:
    """Flat numbers under `by/{column}={value}/`, and a sentence for a column that cannot be used.

    `num_films` and `num_patients` come for every group; metrics for those of `min_patients` or more (a film without a
    patient counts as one). Beside every value, `_n` is what it rests on: searches, assessed films, else the group's films.
    Films not assessed are in no group; `by/{column}/num_not_assessed` counts them, beside `num_films` and `num_patients` of
    all, against which is seen whom the groups leave out. A column with one value for all films would repeat the overall
    numbers and gives none. Numbers of a column in `bins` are grouped between its edges.
    """
    numbers: dict[str, float] = {}
    notes: list[str] = []
    for column in columns:
        if column not in evaluated.labels:
            if column not in USUAL:
                notes.append(f"by {column}: the data have no label '{column}'")
            continue
        edges = bins.get(column, ())
        words = [_group(value, edges) for value in evaluated.labels[column]]
        names = _bin_names(edges) if edges else sorted({word for word in words if word is not None})
        names = [name for name in names if name in words]
        if len(names) > _MOST_GROUPS:
            notes.append(
                f"by {column}: {len(names)} values are too many to be groups (at most {_MOST_GROUPS}); bin it first"
            )
            continue
        missing = sum(word is None for word in words)
        if not names or (len(names) == 1 and not missing):
            continue
        whole = {"num_films": float(len(evaluated.clips)), "num_not_assessed": float(missing)}
        whole |= patients_counted(patient_rows(evaluated.patients, len(evaluated.clips)))
        numbers |= {f"by/{column}/{each}": value for each, value in whole.items()}
        for name in names:
            films = np.array([word == name for word in words])
            found = _measure(metrics, evaluated.only(films), min_patients)
            key = f"by/{column}={name.replace('/', '_')}"
            numbers |= {f"{key}/{each}": value for each, value in found.items()}
    return numbers, notes


def _group(value: object, edges: Sequence[float]) -> str | None:
    """Name of the bin, or the label itself; a word in a column of bins is not assessed."""
    word = label_word(value)
    if word is None or not edges:
        return word
    try:
        number = float(word)
    except ValueError:
        return None
    return _bin_names(edges)[bisect.bisect_right(edges, number)]


def _bin_names(edges: Sequence[float]) -> list[str]:
    """`under 50`, `50 to 65` (65 not included), `65 or more`."""
    between = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return [f"under {edges[0]:g}", *between, f"{edges[-1]:g} or more"]


def _measure(metrics: Sequence[Measurement], group: Evaluated, min_patients: int) -> dict[str, float]:
    num_patients = len(np.unique(patient_rows(group.patients, len(group.clips))))
    counts = {"num_films": float(len(group.clips)), "num_patients": float(num_patients)}
    if num_patients < min_patients:
        return counts
    found: dict[str, float] = {}
    for metric in metrics:
        # what a group lacks (a class of a finding, say) is no fault of the data: the report shows a dash there
        found |= metric.measure(group)[0]
    # the shuffled control tests the metric, not the group
    found = {key: value for key, value in found.items() if "/control/" not in key}
    return (
        counts
        | found
        | {f"{key}_n": _basis(found, key, counts["num_films"]) for key in found if _is_value(key)}
    )


def _is_value(key: str) -> bool:
    return not key.endswith(_NO_VALUE) and not key.rsplit("/", 1)[-1].startswith("num")


def _basis(found: dict[str, float], key: str, num_films: float) -> float:
    parent = key.rsplit("/", 1)[0]
    return found.get(f"{parent}/num_queries", found.get(f"{parent}/num", num_films))
