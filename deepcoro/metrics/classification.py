"""Findings that heads were trained for: how well scores tell those who have one, and what decisions at a threshold fixed on val are worth."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import pydantic

from deepcoro.bootstrap import Statistic, joined, together, with_intervals
from deepcoro.calibrated import Fixed
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement
from deepcoro.judged import (
    BINARY,
    CLASSES,
    Family,
    Judged,
    counts_of,
    families_of,
    judged,
    listed,
    with_means,
)
from deepcoro.statistics.calibration import fit_recalibration, recalibration_of
from deepcoro.statistics.confusion import Rule, choose_threshold
from deepcoro.statistics.findings import (
    BY_ORDER,
    DECISIONS,
    classes_statistic,
    finding_statistic,
)
from deepcoro.statistics.ranking import at_specificity
from deepcoro.statistics.selective import certainty_of, choose_certainty, selective_statistic


class Config(Block):
    """AUROC, AUPRC and decisions of every classification head, with patient intervals and means over heads."""

    type: Literal["classification"] = "classification"
    """Which metric this is."""
    threshold: Rule = "youden"
    """How val chooses each head's threshold: the best sensitivity + specificity (youden) or the best F1 (f1)."""
    selective_error: Annotated[float, pydantic.Field(ge=0, lt=1)] | None = None
    """Largest share of wrong calls, of those that are made on val, by which val chooses each binary head's least certainty: below it no call
    is made, which `selective/...` measures and inference keeps to. Unset = a call on every row."""
    specificities: list[Annotated[float, pydantic.Field(gt=0, lt=1)]] = [0.9]
    """Sensitivity is read off the ROC curve at each of these specificities."""
    families: dict[str, str] = {}
    """Name -> pattern of heads (`cto: "*_cto"`) of which macro and micro means are taken, besides those of all binary heads."""
    few: pydantic.NonNegativeInt = 10
    """Heads with fewer patients than this with the finding, or without it, are named in the notes: their intervals say too little."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def build(self) -> "Classification":
        return Classification(self)


class Classification(Measurement):
    """Everything under `{objective}/{head}/`; nothing in a run without such heads."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """Per head `num`, `num_patients`, `num_positive`, `prevalence`, `num_not_assessed` and its measures with `_ci_low` and
        `_ci_high`; under `{objective}/macro` and `micro` those over its binary heads that have both classes, with the counts of their
        rows together; under `{head}/class={name}` those of a class against the others; under `{head}/selective`, where val chose a
        certainty, it, what `selective_statistic` gives, and `num`, `num_patients` and `num_abstained_patients` of calls made and not.
        """
        heads, num_patients = judged(evaluated, (BINARY, *CLASSES))
        if not heads:
            return {}, []
        numbers = {key: value for each in heads for key, value in each.counts().items()}
        scored = [each for each in heads if len(each.truth) and (each.head.task != BINARY or each.has_both)]
        numbers |= self._fixed_numbers(scored, evaluated.fixed)
        numbers |= _selective_counts(scored, evaluated.fixed)
        for family in self._families(scored):
            counts = counts_of([each for each in scored if each.name in family.heads])
            for kind in ("macro", "micro"):
                numbers |= {f"{family.prefix(kind)}/{key}": value for key, value in counts.items()}
        statistic = self._statistic(scored, num_patients, evaluated.fixed)
        numbers |= with_intervals(statistic, num_patients, self.config.bootstrap_samples, self.config.seed)
        return numbers, self._notes(heads, evaluated)

    def fix(self, evaluated: Evaluated) -> dict[str, Fixed]:
        """Threshold and recalibration of each binary head that has both classes here."""
        found = {}
        for each in judged(evaluated, (BINARY,))[0]:
            threshold = choose_threshold(each.score, each.positive, self.config.threshold)
            if threshold is None:
                continue
            fit = fit_recalibration(each.score, each.positive)
            fixed = Fixed(
                threshold=threshold,
                rule=self.config.threshold,
                slope=fit and fit.slope,
                intercept=fit and fit.intercept,
                selective_error=self.config.selective_error,
                num=len(each.truth),
                num_positive=int(each.positive.sum()),
            )
            found[each.name] = _with_certainty(fixed, each)
        return found

    def _statistic(
        self, heads: Sequence[Judged], num_patients: int, fixed: Mapping[str, Fixed] | None
    ) -> Statistic:
        binary = {each.name: each for each in heads if each.head.task == BINARY}
        parts = {name: self._of_binary([each], num_patients, fixed) for name, each in binary.items()}
        for each, found, least in _selective(heads, fixed):
            certainty, wrong = _calls(each, found)
            parts[f"{each.name}/selective"] = selective_statistic(
                certainty, wrong, least, each.patients, num_patients
            )
        for each in heads:
            if each.head.task != BINARY:
                is_ordered = each.head.task == "ordinal_classification"
                parts[each.name] = classes_statistic(
                    each.said,
                    each.classes,
                    each.head.class_names(),
                    each.patients,
                    num_patients,
                    is_ordered,
                )
        families = self._families(heads)
        keys = [*BY_ORDER, *map(at_specificity, self.config.specificities), *DECISIONS]
        means = with_means(parts, [(family, keys) for family in families])
        heaps = joined(
            {
                family.prefix("micro"): self._of_binary(
                    [binary[name] for name in family.heads], num_patients, fixed
                )
                for family in families
            }
        )
        return together(means, heaps)

    def _families(self, heads: Sequence[Judged]) -> list[Family]:
        return families_of([each.name for each in heads if each.head.task == BINARY], self.config.families)

    def _of_binary(
        self, heads: Sequence[Judged], num_patients: int, fixed: Mapping[str, Fixed] | None
    ) -> Statistic:
        """Of the rows of one head, or of several in one heap; decisions where all of them have a threshold."""
        called = None
        if fixed is not None and all(each.name in fixed for each in heads):
            called = np.concatenate([each.score >= fixed[each.name].threshold for each in heads])
        return finding_statistic(
            np.concatenate([each.score for each in heads]),
            called,
            np.concatenate([each.positive for each in heads]),
            np.concatenate([each.patients for each in heads]),
            num_patients,
            self.config.specificities,
        )

    def _fixed_numbers(self, heads: Sequence[Judged], fixed: Mapping[str, Fixed] | None) -> dict[str, float]:
        return {
            f"{each.name}/threshold": fixed[each.name].threshold
            for each in heads
            if fixed is not None and each.name in fixed
        }

    def _notes(self, heads: Sequence[Judged], evaluated: Evaluated) -> list[str]:
        binary = [each for each in heads if each.head.task == BINARY]
        alone = [each.name for each in binary if not each.has_both]
        few = [name for name, count in _rarer(heads) if 0 < count < self.config.few]
        notes = _doubts(heads, evaluated)
        if alone:
            notes.append(f"no AUROC and no decisions where one class only was assessed: {listed(alone)}")
        if few:
            notes.append(
                f"fewer than {self.config.few} patients with the finding, or without it: {listed(few)}; their intervals say too little"
            )
        if evaluated.fixed is None and binary:
            notes.append(
                "no sensitivity, specificity, F1, PPV and NPV: this checkpoint has no thresholds; run_mode=val chooses them"
            )
        elif evaluated.fixed is not None:
            without = [each.name for each in binary if each.has_both and each.name not in evaluated.fixed]
            if without:
                notes.append(
                    f"no decisions where val, which chooses thresholds, had one class only: {listed(without)}"
                )
        if evaluated.fixed and evaluated.chose_fixed:
            notes.append("thresholds were chosen on this split: sensitivity to F1 are somewhat too good here")
            if any(found.certainty is not None for found in evaluated.fixed.values()):
                notes.append(
                    "certainties were chosen on this split too: selective errors are somewhat too low here"
                )
        return notes + self._selective_notes([each for each in binary if each.has_both], evaluated.fixed)

    def _selective_notes(self, heads: Sequence[Judged], fixed: Mapping[str, Fixed] | None) -> list[str]:
        known = {each.name: fixed[each.name] for each in heads if fixed is not None and each.name in fixed}
        unasked = [name for name, found in known.items() if found.selective_error is None]
        not_reached = [name for name, found in known.items() if found.not_reached]
        called = {
            each.name: each.patients[_calls(each, found)[0] >= least]
            for each, found, least in _selective(heads, fixed)
        }
        few = [name for name, patients in called.items() if len(np.unique(patients)) < self.config.few]
        notes = []
        if self.config.selective_error is not None and unasked:
            notes.append(
                f"no selective error where val was not asked for it, run_mode=val chooses certainties: {listed(unasked)}"
            )
        if not_reached:
            notes.append(
                f"no selective error where no certainty made val's calls as safe as selective_error asks, a call is always made: {listed(not_reached)}"
            )
        if few:
            notes.append(
                f"calls are made on fewer than {self.config.few} patients at val's certainty: {listed(few)}; their selective error says too little"
            )
        return notes


def _with_certainty(fixed: Fixed, each: Judged) -> Fixed:
    if fixed.selective_error is None:
        return fixed
    return fixed.model_copy(
        update={"certainty": choose_certainty(*_calls(each, fixed), fixed.selective_error)}
    )


def _calls(each: Judged, fixed: Fixed) -> tuple[np.ndarray, np.ndarray]:
    """Of each row, how sure its call is, and whether it is wrong."""
    fit = recalibration_of(fixed)
    sure = certainty_of(each.score if fit is None else fit.apply(each.score))
    return sure, (each.score >= fixed.threshold) != each.positive


def _selective(
    heads: Sequence[Judged], fixed: Mapping[str, Fixed] | None
) -> Iterator[tuple[Judged, Fixed, float]]:
    """Heads for which val chose a certainty, with it."""
    for each in heads:
        found = None if fixed is None else fixed.get(each.name)
        if found is not None and found.certainty is not None:
            yield each, found, found.certainty


def _selective_counts(heads: Sequence[Judged], fixed: Mapping[str, Fixed] | None) -> dict[str, float]:
    """The abstained are counted too: what is true of a few of them would follow from the calls made and all rows."""
    numbers = {}
    for each, found, least in _selective(heads, fixed):
        called = _calls(each, found)[0] >= least
        counts = {
            "certainty": least,
            "num": float(called.sum()),
            "num_patients": float(len(np.unique(each.patients[called]))),
            "num_abstained_patients": float(len(np.unique(each.patients[~called]))),
        }
        numbers |= {f"{each.name}/selective/{key}": value for key, value in counts.items()}
    return numbers


def _doubts(heads: Sequence[Judged], evaluated: Evaluated) -> list[str]:
    labels = {each.name: evaluated.labels.get(each.head.column, ()) for each in heads}
    counts = {each.name: each.head.num_doubted(labels[each.name]) for each in heads}
    doubted = [f"{name} ({count})" for name, count in counts.items() if count]
    if not doubted:
        return []
    return [
        "labels between 0 and 1, a reader's doubt, count as the finding above 0.5, as none below and as not assessed at 0.5: "
        + listed(doubted)
    ]


def _rarer(heads: Sequence[Judged]) -> Iterator[tuple[str, int]]:
    """Each finding, and each class of several, with its patients or those without it, whichever are fewer."""
    for each in heads:
        found = {each.name: each.positive} if each.head.task == BINARY else {}
        found |= {f"{each.name}/{name}": rows for name, rows in each.of_classes().items()}
        for name, positive in found.items():
            yield name, min(len(np.unique(each.patients[kind])) for kind in (positive, ~positive))
