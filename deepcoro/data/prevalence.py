"""How often a label is positive in each split, with how many films were assessed: what a random split by patient gave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow

from deepcoro.angiography.vocabulary import severity_floor

_SEVERE_PERCENT = severity_floor("severe")
"""From here on a stenosis in per cent counts as positive."""
_UNEVEN = 4.0
"""Standard errors between a split and the other films of known value that are told."""
_MOST_WORDS = 6


@dataclass(frozen=True)
class Share:
    """Positive films of one split."""

    positive: int
    assessed: int
    films: int

    @property
    def share(self) -> float:
        return self.positive / self.assessed if self.assessed else float("nan")


@dataclass(frozen=True)
class Prevalence:
    """One question about a film that has the answers yes, no and not assessed."""

    name: str
    """The label, or `label = word`, or `label >= 70`."""
    total: Share
    splits: dict[str, Share]
    uneven: tuple[str, ...]
    """Splits whose share differs from that of the other films by more than chance would have it."""


def prevalences(films: pyarrow.Table, split_of: Mapping[str, str], labels: Sequence[str]) -> list[Prevalence]:
    """One entry a yes/no label, one for each frequent word of a label of words, one for a label in per cent; other numbers have none."""
    splits = np.array([split_of.get(study, "") for study in films["study"].to_pylist()])
    names = [name for name in dict.fromkeys(("train", "val", "test", "inference")) if (splits == name).any()]
    return [
        _prevalence(name, positive, assessed, splits, names)
        for label in labels
        for name, positive, assessed in _questions(label, films[label])
    ]


def _questions(label: str, column: pyarrow.ChunkedArray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    assessed = np.asarray(column.is_valid())
    if not assessed.any():
        return [(label, assessed, assessed)]
    if pyarrow.types.is_string(column.type):
        words = np.array([word or "" for word in column.to_pylist()])
        known, counts = np.unique(words[assessed], return_counts=True)
        frequent = known[np.argsort(-counts, kind="stable")][:_MOST_WORDS]
        return [(f"{label} = {word}", (words == word) & assessed, assessed) for word in frequent.tolist()]
    values = column.to_numpy()
    known = values[assessed]
    is_percent = label.endswith("stenosis") and not (known == 1.0).any()
    if np.isin(known, (0.0, 1.0)).all() and not is_percent:
        return [(label, assessed & (np.nan_to_num(values) == 1.0), assessed)]
    if is_percent:
        positive = assessed & (np.nan_to_num(values) >= _SEVERE_PERCENT)
        return [(f"{label} >= {_SEVERE_PERCENT:g}", positive, assessed)]
    return []


def _prevalence(
    name: str, positive: np.ndarray, assessed: np.ndarray, splits: np.ndarray, names: Sequence[str]
) -> Prevalence:
    def share(inside: np.ndarray) -> Share:
        return Share(int((positive & inside).sum()), int((assessed & inside).sum()), int(inside.sum()))

    by_split = {split: share(splits == split) for split in names}
    uneven = tuple(
        split for split, one in by_split.items() if _is_uneven(one, share((splits != split) & (splits != "")))
    )
    return Prevalence(name, share(np.ones(len(splits), bool)), by_split, uneven)


def _is_uneven(one: Share, other: Share) -> bool:
    """Two proportions compared with the variance of both together; films of one patient go together, hence a wide margin."""
    if not one.assessed or not other.assessed:
        return False
    together = (one.positive + other.positive) / (one.assessed + other.assessed)
    error = (together * (1 - together) * (1 / one.assessed + 1 / other.assessed)) ** 0.5
    return abs(one.share - other.share) > _UNEVEN * error > 0
