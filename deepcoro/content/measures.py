"""How good the classifier is, head by head: accuracy and AUROC with the numbers they rest on, and the table of confusions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deepcoro.statistics.ranking import auroc


@dataclass(frozen=True)
class HeadMeasure:
    """One head on one split. Films that are not assessed are in none of the numbers."""

    num: int
    """Films assessed."""
    accuracy: float
    """Share of them whose most probable class is right."""
    majority: float
    """Share that the most frequent class alone would get."""
    auroc: float | None
    """Of the second class where there are two, else the mean of one class against the rest; None = one class only."""
    num_classes_scored: int
    """Classes that the AUROC covers."""
    kept: float
    """Share of the films whose answer is confident enough to be written."""
    accuracy_kept: float | None
    """Share of those that is right."""
    confusion: Int[np.ndarray, "truth said"]
    """Films by true and by most probable class."""


def measure_head(
    probabilities: Float[np.ndarray, "film class"], truth: Int[np.ndarray, " film"], min_confidence: float
) -> HeadMeasure | None:
    """`truth` is negative for a film that is not assessed. None when none is."""
    known = truth >= 0
    if not known.any():
        return None
    probabilities, truth = probabilities[known], truth[known]
    said, num_classes = probabilities.argmax(axis=1), probabilities.shape[1]
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (truth, said), 1)
    areas = _aurocs(probabilities, truth)
    sure = probabilities.max(axis=1) >= min_confidence
    return HeadMeasure(
        num=len(truth),
        accuracy=float((said == truth).mean()),
        majority=float(np.bincount(truth).max() / len(truth)),
        auroc=float(np.mean(areas)) if areas else None,
        num_classes_scored=2 if num_classes == 2 and areas else len(areas),
        kept=float(sure.mean()),
        accuracy_kept=float((said == truth)[sure].mean()) if sure.any() else None,
        confusion=confusion,
    )


def _aurocs(probabilities: np.ndarray, truth: np.ndarray) -> list[float]:
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    scored = [each for each in classes if 0 < (truth == each).sum() < len(truth)]
    return [auroc(probabilities[:, each], truth == each) for each in scored]


def lowest_confidence(confidence: Float[np.ndarray, " film"], right: np.ndarray, wanted: float) -> float:
    """The lowest confidence such that, of the films at it or above, the wanted share is right; 1 when there is none."""
    order = np.argsort(-confidence, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    # films of equal confidence stand or fall together
    ends = np.append(np.diff(confidence[order]) != 0, True)
    good = np.flatnonzero(ends & (share >= wanted))
    return float(confidence[order][good[-1]]) if len(good) else 1.0


def flat(head: str, measure: HeadMeasure) -> dict[str, float]:
    """The numbers of a head by name."""
    names = ("num", "accuracy", "majority", "auroc", "kept", "accuracy_kept")
    values = {f"{head}/{name}": getattr(measure, name) for name in names}
    return {name: float(value) for name, value in values.items() if value is not None}


_WORTH_HAVING = 0.3
"""Of the errors of always saying the most frequent class, the share that a head must avoid to be believed."""


def hardly_sees(head: str, measured: Mapping[str, float]) -> str | None:
    """A warning when a head is hardly better than no head at all, from the numbers of `flat`."""
    accuracy, majority = measured.get(f"{head}/accuracy"), measured.get(f"{head}/majority")
    if accuracy is None or majority is None or 1 - accuracy <= (1 - _WORTH_HAVING) * (1 - majority):
        return None
    return (
        f"{head} is HARDLY SEEN: on val right in {accuracy:.0%}, where the most frequent class alone is right in {majority:.0%};"
        " do not choose or group films by it"
    )


def as_text(head: str, classes: Sequence[str], measure: HeadMeasure) -> str:
    """What a terminal shows of a head: one line of numbers, then the confusions."""
    area = "no AUROC (one class)" if measure.auroc is None else f"AUROC {measure.auroc:.3f}"
    right = "" if measure.accuracy_kept is None else f" ({measure.accuracy_kept:.1%} right)"
    lines = [
        f"{head}: accuracy {measure.accuracy:.1%} of {measure.num} films (most frequent class {measure.majority:.1%}), {area}, "
        f"confident in {measure.kept:.1%}{right}"
    ]
    never = [
        f"{name} ({row.sum()} films)"
        for name, row, said in zip(classes, measure.confusion, measure.confusion.sum(axis=0), strict=True)
        if row.sum() and not said
    ]
    lines += [f"  never said: {', '.join(never)}"] if never else []
    lines += [f"  {warning}"] if (warning := hardly_sees(head, flat(head, measure))) else []
    width = max(6, *(len(name) for name in classes)) + 1
    lines.append(" " * (width + 2) + "".join(f"{name[:9]:>10}" for name in classes) + "   <- said")
    for name, row in zip(classes, measure.confusion, strict=True):
        lines.append(f"  {name:<{width}}" + "".join(f"{count if count else '.':>10}" for count in row))
    return "\n".join(lines)
