"""Predictions of heads beside their labels: the rows that were assessed, and what metrics of heads have in common."""

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from deepcoro.bootstrap import Statistic, joined, mean_of_known, patient_rows, patients_counted
from deepcoro.config import DataError
from deepcoro.evaluated import Evaluated, Head
from deepcoro.statistics.findings import class_part

BINARY, REGRESSION = "binary_classification", "regression"
CLASSES = ("multiclass_classification", "ordinal_classification")


@dataclass(frozen=True)
class Judged:
    """One head on the rows whose label is known."""

    name: str
    """`objective/head`, the prefix of its numbers."""
    head: Head
    said: Float[np.ndarray, "row output"]
    """Probability of the finding, of each class, or the number itself."""
    truth: Float[np.ndarray, "row"]
    rows: Int[np.ndarray, "row"]
    """Their rows in the split."""
    patients: Int[np.ndarray, "row"]
    """Number of each row's patient among all of the split."""
    num_not_assessed: int
    """Rows of the split without the label."""

    @property
    def score(self) -> Float[np.ndarray, "row"]:
        """Of a head with one output."""
        return self.said[:, 0]

    @property
    def positive(self) -> Bool[np.ndarray, "row"]:
        """Of a binary head."""
        return self.truth >= 0.5

    @property
    def classes(self) -> Int[np.ndarray, "row"]:
        """True class of each row."""
        return self.truth.astype(np.int64)

    @property
    def has_both(self) -> bool:
        """Whether a binary head has rows with the finding and without it."""
        return bool(self.positive.any() and not self.positive.all())

    def counts(self) -> dict[str, float]:
        """What every number of the head rests on; of a head of several classes also what those of each class rest on."""
        numbers = counts_of([self])
        for name, is_of_class in self.of_classes().items():
            found = {"num": float(len(is_of_class))} | _positives(is_of_class, self.patients)
            numbers |= {f"{name}/{key}": value for key, value in found.items()}
        return {f"{self.name}/{key}": value for key, value in numbers.items()}

    def of_classes(self) -> dict[str, Bool[np.ndarray, "row"]]:
        """`class=NAME` -> whether each row is of it; of a head of several classes that some row was assessed for."""
        if self.head.task not in CLASSES or not len(self.truth):
            return {}
        names = self.head.class_names()
        return {f"class={class_part(name)}": self.classes == number for number, name in enumerate(names)}


def counts_of(heads: Sequence[Judged]) -> dict[str, float]:
    """What numbers over these heads rest on, all their rows in one heap; of binary ones also how many are positive."""
    patients = np.concatenate([each.patients for each in heads])
    numbers = {
        "num": float(len(patients)),
        **patients_counted(patients),
        "num_not_assessed": float(sum(each.num_not_assessed for each in heads)),
    }
    if len(patients) and all(each.head.task == BINARY for each in heads):
        numbers |= _positives(np.concatenate([each.positive for each in heads]), patients)
    return numbers


def _positives(positive: Bool[np.ndarray, "row"], patients: Int[np.ndarray, "row"]) -> dict[str, float]:
    """Of those who have it and who have it not, in rows and in patients."""
    counts = {"num_positive": float(positive.sum()), "prevalence": float(positive.mean())}
    return counts | patients_counted(patients, positive)


def judged(evaluated: Evaluated, tasks: Collection[str]) -> tuple[list[Judged], int]:
    """The heads of these tasks that said something, and the number of patients of the split.

    DataError when a label has a class that the head does not know; ValueError when a prediction is NaN.
    """
    num_rows = len(evaluated.clips)
    patients = patient_rows(evaluated.patients, num_rows)
    found = []
    for name, head in evaluated.heads.items():
        said = evaluated.rows.get(f"{name}/prediction")
        if head.task not in tasks or said is None:
            continue
        truth = head.truth(evaluated.labels.get(head.column, [None] * num_rows))
        rows = np.flatnonzero(~np.isnan(truth))
        _refuse(name, head, truth[rows], said[rows])
        found.append(
            Judged(
                name,
                head,
                said[rows].astype(np.float64),
                truth[rows],
                rows,
                patients[rows],
                num_rows - len(rows),
            )
        )
    return found, int(patients.max(initial=-1)) + 1


def _refuse(name: str, head: Head, truth: np.ndarray, said: np.ndarray) -> None:
    if np.isnan(said).any():
        raise ValueError(f"{name}: {np.isnan(said).any(axis=1).sum()} of {len(said)} predictions are NaN")
    allowed = {BINARY: [0, 1], REGRESSION: truth}.get(head.task, range(head.num_classes))
    foreign = np.setdiff1d(truth, allowed)
    if len(foreign):
        raise DataError(
            f"{name}: label '{head.column}' has the values {foreign[:5].tolist()}, and the head knows 0 to "
            f"{head.num_classes - 1}; map them with labels_map",
            topic="labels",
        )


@dataclass(frozen=True)
class Family:
    """Heads that a mean is taken over."""

    objective: str
    name: str | None
    """None = all heads of the objective."""
    heads: list[str]

    def prefix(self, kind: str) -> str:
        """`objective/macro`, or `objective/macro=name`."""
        return f"{self.objective}/{kind}" + (f"={self.name}" if self.name else "")


def families_of(names: Sequence[str], patterns: Mapping[str, str]) -> list[Family]:
    """All heads of each objective, and of each pattern (as of file names) those whose name it fits. One head alone needs no mean."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for name in names:
        objective, _, head = name.rpartition("/")
        fits = [family for family, pattern in patterns.items() if fnmatch.fnmatchcase(head, pattern)]
        for family in (None, *fits):
            found.setdefault((objective, family), []).append(name)
    return [Family(*key, heads) for key, heads in found.items() if len(heads) > 1]


def with_means(parts: Mapping[str, Statistic], means: Sequence[tuple[Family, Collection[str]]]) -> Statistic:
    """Every head's values, and under `macro` of each family the means over its heads of the values named.

    A head whose value does not exist in a resample is not in that resample's mean.
    """
    of_heads = joined(parts)

    def values(weights: Float[np.ndarray, "sample patient"]) -> dict[str, Float[np.ndarray, "sample"]]:
        found = of_heads(weights)
        for family, keys in means:
            for key in keys:
                each = [found[f"{head}/{key}"] for head in family.heads if f"{head}/{key}" in found]
                if each:
                    found[f"{family.prefix('macro')}/{key}"] = mean_of_known(np.stack(each), axis=0)
        return found

    return values


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names for a note, not all of ninety."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
