"""Heads of a site that too few patients have a class of: they are left out before anything is measured, so that means over heads rest on
the others. What may leave of the numbers then is said by `deepcoro.aggregates`."""

from dataclasses import replace

import numpy as np

from deepcoro.bootstrap import patient_rows
from deepcoro.evaluated import Evaluated, Head, Measurement
from deepcoro.judged import BINARY, REGRESSION


class OfEnough(Measurement):
    """A metric of heads, asked about those alone that have enough patients of every class, in the split as in each of its groups: a mean
    over heads would tell of one that is left out."""

    def __init__(self, metric: Measurement, least: int) -> None:
        self._metric, self._least = metric, least

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        few = heads_of_few(evaluated, self._least)
        heads = {name: head for name, head in evaluated.heads.items() if name not in few}
        return self._metric.measure(replace(evaluated, heads=heads))


def heads_of_few(evaluated: Evaluated, least: int) -> list[str]:
    """Heads whose label fewer than `least` patients have, or one of whose classes; not those that nobody was assessed for."""
    patients = patient_rows(evaluated.patients, len(evaluated.clips))
    return [name for name, head in evaluated.heads.items() if _has_few(head, evaluated, patients, least)]


def _has_few(head: Head, evaluated: Evaluated, patients: np.ndarray, least: int) -> bool:
    truth = head.truth(evaluated.labels.get(head.column, [None] * len(patients)))
    known = ~np.isnan(truth)
    if not known.any():
        return False
    if head.task == REGRESSION:
        return _count(patients[known]) < least
    counts = [_count(patients[truth == number]) for number in range(head.num_classes)]
    # that a finding is in everybody, or in nobody, tells of everybody; a further class may be absent
    return any(count < least for count in counts if count or head.task == BINARY)


def _count(patients: np.ndarray) -> int:
    return len(np.unique(patients))
