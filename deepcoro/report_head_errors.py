"""Where heads were most wrong, to look at: the surest wrong calls and the farthest numbers, each with a strip of its film."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Head
from deepcoro.numerals import fraction, significant


class HeadError(Block):
    """A row and what a head got wrong about it."""

    head: str
    """`objective/head`."""
    title: str
    """Keyed id of the row."""
    strip: str | None = None
    """JPEG of the film's frames (of a study, its first film), base64."""
    said: str
    """What the head says."""
    truth: str
    """What the label says."""


@dataclass(frozen=True)
class Wrong:
    """An error in row numbers, before any film was read."""

    head: str
    row: int
    size: float
    """To be compared over heads: the probability that the truth was denied, or the error of a number over the range of its labels."""


def choose_errors(evaluated: Evaluated, num_examples: int) -> list[Wrong]:
    """The worst error of each head, the largest of these first, then the second ones and so on; a row is shown once."""
    errors = {name: _errors(evaluated, name, head) for name, head in evaluated.heads.items()}
    chosen: dict[int, Wrong] = {}
    while len(chosen) < num_examples:
        worst = [_next(each, chosen) for each in errors.values()]
        found = sorted((each for each in worst if each is not None), key=lambda each: -each.size)
        if not found:
            break
        for each in found[: num_examples - len(chosen)]:
            chosen.setdefault(each.row, each)
    return list(chosen.values())


def _next(errors: Iterator[Wrong], chosen: Mapping[int, Wrong]) -> Wrong | None:
    """The next error of a head on a row that is not shown yet."""
    return next((each for each in errors if each.row not in chosen), None)


def _errors(evaluated: Evaluated, name: str, head: Head) -> Iterator[Wrong]:
    """From the largest on; none where the head took no part or is never wrong."""
    said = evaluated.rows.get(f"{name}/prediction")
    if said is None or head.column not in evaluated.labels:
        return iter(())
    truth = head.truth(evaluated.labels[head.column])
    sizes = _sizes(head, said.astype(np.float64), truth, _threshold(evaluated, name))
    order = np.argsort(-sizes, kind="stable")
    return (Wrong(name, int(row), float(sizes[row])) for row in order if sizes[row] > 0)


def _sizes(
    head: Head, said: Float[np.ndarray, "row output"], truth: Float[np.ndarray, " row"], threshold: float
) -> Float[np.ndarray, " row"]:
    """0 where the head is right or nobody knows."""
    known = ~np.isnan(truth)
    sizes = np.zeros(len(truth))
    if head.num_classes == 0:
        span = np.ptp(truth[known]) if known.any() else 0.0
        sizes[known] = np.abs(said[known, 0] - truth[known]) / (span or 1.0)
        return sizes
    if said.shape[1] == 1:
        positive, called = truth >= 0.5, said[:, 0] >= threshold
        denied = np.where(positive, 1 - said[:, 0], said[:, 0])
        return np.where(known & (positive != called), denied, 0.0)
    rows, classes = np.flatnonzero(known), truth[known].astype(int)
    denied = 1 - said[rows, classes]
    sizes[rows] = np.where(said[rows].argmax(axis=1) == classes, 0.0, denied)
    return sizes


def _threshold(evaluated: Evaluated, name: str) -> float:
    """That of val; a half where there is none."""
    fixed = (evaluated.fixed or {}).get(name)
    return 0.5 if fixed is None else fixed.threshold


def show_errors(
    chosen: Sequence[Wrong], evaluated: Evaluated, strips: Mapping[int, bytes]
) -> list[HeadError]:
    """The chosen errors in words, with the strips there are (JPEG, by row)."""
    return [_show(each, evaluated, strips.get(each.row)) for each in chosen]


def _show(wrong: Wrong, evaluated: Evaluated, strip: bytes | None) -> HeadError:
    head = evaluated.heads[wrong.head]
    said = evaluated.rows[f"{wrong.head}/prediction"][wrong.row].astype(np.float64)
    truth = float(head.truth([evaluated.labels[head.column][wrong.row]])[0])
    return HeadError(
        head=wrong.head,
        title=evaluated.clips[wrong.row],
        strip=None if strip is None else base64.b64encode(strip).decode(),
        said=_words_said(head, said, _threshold(evaluated, wrong.head)),
        truth=_words_true(head, truth),
    )


def _words_said(head: Head, said: Float[np.ndarray, " output"], threshold: float) -> str:
    if head.num_classes == 0:
        return significant(said[0], 3)
    if len(said) == 1:
        called = _words_true(head, float(said[0] >= threshold))
        return f"{called} (probability {fraction(said[0])}, threshold {fraction(threshold)})"
    likeliest = int(said.argmax())
    return f"{head.class_names()[likeliest]} (probability {fraction(said[likeliest])})"


def _words_true(head: Head, truth: float) -> str:
    if head.num_classes == 0:
        return significant(truth, 3)
    place = int(truth >= 0.5) if head.num_classes == 2 else int(truth)
    return head.class_names()[place] if head.words or head.num_classes > 2 else ("no", "yes")[place]
