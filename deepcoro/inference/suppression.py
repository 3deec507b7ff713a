"""What may leave a site: no number that rests on fewer than so many cases, positives or negatives, nor on a head that is left out for it."""

import math
from collections.abc import Sequence
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


def without_small(numbers: dict[str, float], least: int) -> tuple[dict[str, float], list[str]]:
    """Without the numbers that rest on fewer than `least`: cases, positives, negatives; and the names of what was left out.

    A family is what shares a prefix. Its counts are the names that begin with `num`; a class of the family that is small takes all of
    it away, since the rest would tell it. Counts that are small by themselves (not assessed, say) are left out alone.
    """
    families = sorted({key.rpartition("/")[0] for key in numbers})
    small = [family for family in families if _is_small(family, numbers, least)]
    kept = {
        key: value
        for key, value in numbers.items()
        if math.isfinite(value) and not _below(key, small) and not (_is_count(key) and 0 < value < least)
    }
    return kept, small


def _is_small(family: str, numbers: dict[str, float], least: int) -> bool:
    total = numbers.get(f"{family}/num")
    if total == 0:  # there is nobody to tell of
        return False
    counts = [
        numbers[name] for name in (f"{family}/num_patients", f"{family}/num_queries") if name in numbers
    ]
    if total is not None:
        counts.append(total)
        for part in ("num_positive", "num_events"):
            if (with_it := numbers.get(f"{family}/{part}")) is not None:
                counts += [with_it, total - with_it]
    return any(count < least for count in counts)


def _below(key: str, families: Sequence[str]) -> bool:
    """Whether it is of one of them, or the shuffled control of one (`zero_shot/control/cto/...`)."""
    plain = key.replace("/control/", "/")
    return any(plain.startswith(f"{family}/") for family in families)


def _is_count(key: str) -> bool:
    return key.rpartition("/")[2].startswith("num")
