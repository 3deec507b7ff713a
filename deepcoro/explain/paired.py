"""How much less a model gets when it is shown less: differences of measures, with intervals over the same resampled patients."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from deepcoro.comparison import ZERO_SHOT, compare_scored
from deepcoro.explain.metadata import Foretold
from deepcoro.judged import BINARY, CLASSES, REGRESSION
from deepcoro.report_shortcuts import Bounded, is_headline
from deepcoro.scored import Answer, ScoredRows
from deepcoro.statistics.directions import direction

_NUM_SAMPLES = 1000
_TOLD = ("auroc", "macro_auroc", "R@5", "mae")
"""Measures whose loss is told."""


def differences(one: ScoredRows, other: ScoredRows, numbers: Mapping[str, float]) -> dict[str, Bounded]:
    """By headline measure: the first less the second, and the 95 % interval of that. Those alone whose first value is the one in `numbers`,
    so that a difference never stands beside a number of other rows.
    """
    if not (one.answers.keys() & other.answers.keys() or one.searched.keys() & other.searched.keys()):
        return {}
    found = compare_scored([one], [other], "", _NUM_SAMPLES, 0).differences
    return {
        key: (each.value, each.low, each.high)
        for key, each in found.items()
        if is_headline(key)
        and each.low is not None
        and not np.isnan(each.value)
        and np.isclose(each.first, numbers.get(key, np.nan))
    }


def gaps(
    without_random: ScoredRows, without_top: ScoredRows, numbers: Mapping[str, float]
) -> dict[str, Bounded]:
    """By measure: how much worse a model is without the clip attended to most than without a random one, and the 95 % interval over the
    same resampled patients. A larger error is worse, a smaller AUROC or R@5. `numbers`: those without a random clip.
    """
    told = {}
    for key, (value, low, high) in differences(without_random, without_top, numbers).items():
        if key.rsplit("/", 1)[-1] in _TOLD:
            # makes a loss of the difference: without a random clip less without the top clip
            sign = 1.0 if direction(key) == "max" else -1.0
            told[key] = (sign * value, *sorted((sign * low, sign * high)))
    return told


def beside_metadata(
    whole: ScoredRows,
    units: Int[np.ndarray, " row"],
    label_of: Mapping[str, str],
    foretold: Sequence[Foretold],
) -> tuple[ScoredRows, ScoredRows, list[str]]:
    """Answers of a model and, to the same questions, of the columns beside its films, on the rows that both know.

    `units`: number of each row among the split's units. `label_of`: question -> label. A question is left out, and told, where the
    baseline's labels are not the evaluation's, or of another kind.
    """
    of_model: dict[str, Answer] = {}
    of_columns: dict[str, Answer] = {}
    notes = []
    for name, answer in whole.answers.items():
        own = [_pair(answer, _in_rows(each, units)) for each in foretold if each.label == label_of.get(name)]
        pair = next((each for each in own if each is not None), None)
        if pair is not None:
            of_model[name], of_columns[name] = pair
        elif own:
            notes.append(
                f"{name}: no difference from metadata, whose labels are others than the evaluation's"
            )
    model, columns = (replace(whole, answers=each, searched={}) for each in (of_model, of_columns))
    return model, columns, notes


def _in_rows(foretold: Foretold, units: Int[np.ndarray, " row"]) -> Answer:
    """Its answer on the rows of these units; NaN where it has none."""
    answer = foretold.answer
    place = {unit: row for row, unit in enumerate(foretold.units.tolist())}
    rows = np.array([place.get(unit, -1) for unit in units.tolist()], dtype=int)
    return replace(
        answer,
        said=np.where(rows[:, None] >= 0, answer.said[rows], np.nan),
        truth=np.where(rows >= 0, answer.truth[rows], np.nan),
    )


def _pair(answer: Answer, columns: Answer) -> tuple[Answer, Answer] | None:
    """Both with the truth of the first; None where they are not about the same thing."""
    known = ~np.isnan(answer.truth) & ~np.isnan(columns.truth)
    truth = np.where(known, answer.truth, np.nan)
    for said, own in _readings(answer, columns):
        # a label has passed through six digits on one of the two ways
        if known.any() and np.allclose(own[known], truth[known], rtol=1e-5):
            return replace(answer, truth=truth), replace(answer, said=said, truth=truth, threshold=None)
    return None


def _readings(
    answer: Answer, columns: Answer
) -> list[tuple[Float[np.ndarray, "row output"], Float[np.ndarray, " row"]]]:
    """What the columns may have said, and of which truth: yes and no may have changed places, classes may stand in another order."""
    if columns.task == ZERO_SHOT and answer.task in (BINARY, ZERO_SHOT):
        return [(columns.said, columns.truth), (-columns.said, 1 - columns.truth)]
    if columns.task in CLASSES and answer.task in CLASSES and set(answer.classes) == set(columns.classes):
        order = [columns.classes.index(name) for name in answer.classes]
        known = ~np.isnan(columns.truth)
        number = np.argsort(order)[np.where(known, columns.truth, 0).astype(int)]
        return [(columns.said[:, order], np.where(known, number, np.nan))]
    return [(columns.said, columns.truth)] if columns.task == answer.task == REGRESSION else []
