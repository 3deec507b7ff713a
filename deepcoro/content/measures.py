"""How good the classifier is, head by head: accuracy and AUROC with the numbers they rest on, and the table of confusions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deepcoro.bootstrap import auroc


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


def as_text(head: str, classes: Sequence[str], measure: HeadMeasure) -> str:
    """What a terminal shows of a head: one line of numbers, then the confusions."""
    area = "no AUROC (one class)" if measure.auroc is None else f"AUROC {measure.auroc:.3f}"
    right = "" if measure.accuracy_kept is None else f" ({measure.accuracy_kept:.1%} right)"
    lines = [
        f"{head}: accuracy {measure.accuracy:.1%} of {measure.num} films (most frequent class {measure.majority:.1%}), {area}, "
        f"confident in {measure.kept:.1%}{right}"
    ]
    width = max(6, *(len(name) for name in classes)) + 1
    lines.append(" " * (width + 2) + "".join(f"{name[:9]:>10}" for name in classes) + "   <- said")
    for name, row in zip(classes, measure.confusion, strict=True):
        lines.append(f"  {name:<{width}}" + "".join(f"{count if count else '.':>10}" for count in row))
    return "\n".join(lines)
