"""What generated reports are held against: the reports that say the most common thing, the nearest one, and those of others.

A measure here is a function of sums over films (hits, words, errors), so that an interval over patients needs no second look at
a text: a resample weighs the patients' sums.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from deepcoro.bootstrap import means_with_intervals, patient_rows, renumbered, sum_intervals
from deepcoro.evaluated import Evaluated, label_word
from deepcoro.kernels.tied_ranks import nearest

Measures = Callable[[Float[np.ndarray, "sample count"]], dict[str, Float[np.ndarray, "sample"]]]
"""Sums of counts, a row a resample, to named values; NaN where a value does not exist."""


@dataclass(frozen=True)
class Answers:
    """The films that have a report and a caption, in the order of the split."""

    films: Int[np.ndarray, "answer"]
    """Row of each in the split."""
    references: Sequence[str]
    """Its report."""
    captions: Sequence[str]
    """What the model says of it."""
    patients: Int[np.ndarray, "answer"]
    """Number of its patient, from 0."""

    def only(self, rows: Int[np.ndarray, "kept"]) -> "Answers":
        """These rows, patients numbered anew."""
        return Answers(
            self.films[rows],
            [self.references[row] for row in rows],
            [self.captions[row] for row in rows],
            renumbered(self.patients[rows]),
        )


def answers_of(evaluated: Evaluated) -> Answers:
    """Films without a report are unknown, not wrong: they are left out."""
    films = np.flatnonzero(evaluated.text_of_film >= 0)
    everyone = Answers(
        np.arange(len(evaluated.clips)),
        [evaluated.texts[own] if own >= 0 else "" for own in evaluated.text_of_film],
        evaluated.captions,
        patient_rows(evaluated.patients, len(evaluated.clips)),
    )
    return everyone.only(films)


def control_captions(
    evaluated: Evaluated, answers: Answers, num_shuffles: int, seed: int
) -> dict[str, list[list[str]]]:
    """Control -> what it would have said of each answer, once or several times.

    `modal`: the most common training report of films of the same side (of all, where that side has none). `nearest`: the
    training report whose embedding is nearest to the film's. `shuffled`: the model's own captions dealt out to films at random.
    The first two need training reports, the second an objective that puts films and texts into one space.
    """
    found: dict[str, list[list[str]]] = {}
    training = evaluated.training
    if training is not None and training.texts:
        sides = [label_word(side) for side in evaluated.labels.get("side", [None] * len(evaluated.clips))]
        found["modal"] = [[training.modal_of(sides[film]) for film in answers.films]]
        if evaluated.shares_space:
            places, _ = nearest(evaluated.films[answers.films], training.embeddings, 1)
            found["nearest"] = [[training.texts[place] for place in places[:, 0]]]
    generator = np.random.default_rng([seed, 2])
    orders = [generator.permutation(len(answers.films)) for _ in range(num_shuffles)]
    found["shuffled"] = [[answers.captions[row] for row in order] for order in orders]
    return found


def measured(
    own: Float[np.ndarray, "answer count"],
    controls: Mapping[str, Sequence[Float[np.ndarray, "answer count"]]],
    measures: Measures,
    patients: Int[np.ndarray, "answer"],
    num_samples: int,
    seed: int,
) -> dict[str, float]:
    """Each measure with `_ci_low`, `_ci_high` (where `num_samples`) and `_modal`, `_nearest`, `_shuffled`; without what is NaN."""
    values = measures(own.sum(axis=0, keepdims=True))
    numbers = {key: float(value[0]) for key, value in values.items()}
    if num_samples:
        for key, (low, high) in sum_intervals(own, patients, measures, num_samples, seed).items():
            numbers |= {f"{key}_ci_low": low, f"{key}_ci_high": high}
    for control, counts in controls.items():
        totals = np.stack([each.sum(axis=0) for each in counts])
        numbers |= {f"{key}_{control}": _mean(value) for key, value in measures(totals).items()}
    return {key: value for key, value in numbers.items() if not np.isnan(value)}


def advantages(
    own: Float[np.ndarray, "answer count"],
    controls: Mapping[str, Sequence[Float[np.ndarray, "answer count"]]],
    measure: Callable[[Float[np.ndarray, "sample count"]], Float[np.ndarray, "sample"]],
    patients: Int[np.ndarray, "answer"],
    num_samples: int,
    seed: int,
) -> dict[str, float]:
    """`above_modal`, `above_nearest`, ... (not of `shuffled`): the measure less that of the control, with intervals. Both are taken over the same patients in
    each resample: two intervals that overlap may hide a difference that every resample shows.
    """
    numbers, width = {}, own.shape[1]
    for control in controls:
        if control == "shuffled":
            continue
        both = np.concatenate([own, controls[control][0]], axis=1)

        def difference(sums: np.ndarray) -> dict[str, np.ndarray]:
            return {"": measure(sums[:, :width]) - measure(sums[:, width:])}

        numbers[f"above_{control}"] = float(difference(both.sum(axis=0, keepdims=True))[""][0])
        if num_samples:
            for low, high in sum_intervals(both, patients, difference, num_samples, seed).values():
                numbers |= {f"above_{control}_ci_low": low, f"above_{control}_ci_high": high}
    return {key: value for key, value in numbers.items() if not np.isnan(value)}


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where there is no whole."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def absolute_error(
    said: Float[np.ndarray, "row"],
    truth: Float[np.ndarray, "row"],
    patients: Int[np.ndarray, "row"],
    num_samples: int,
    seed: int,
) -> dict[str, float]:
    """`mae` with its interval over patients (numbered without gaps), and `mae_chance`, what the median of the same rows would have."""
    found = means_with_intervals({"mae": np.abs(said - truth)}, patients, num_samples, seed)
    return found | {"mae_chance": float(np.abs(truth - np.median(truth)).mean())}
