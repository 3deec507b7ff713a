"""Numbers that heads were trained for (a stenosis, an ejection fraction), against the truth and against saying its median of everyone."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import pydantic

from deepcoro.bootstrap import Statistic, joined, together, with_intervals
from deepcoro.calibrated import FixedInterval
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement
from deepcoro.judged import REGRESSION, Judged, counts_of, families_of, judged, listed, with_means
from deepcoro.statistics.agreement import agreement_statistic
from deepcoro.statistics.conformal import coverage_statistic, half_width, patients_needed, worst_errors

_UNITLESS = ("mae_ratio_to_median", "pearson_r", "icc")
"""What may be averaged over heads of different units."""
_IN_UNITS = ("mae", "rmse", "mae_of_median", "bias")


class Config(Block):
    """MAE, RMSE, Pearson's r, ICC(2,1), bias and limits of agreement of every regression head, with patient intervals; and its prediction interval."""

    type: Literal["regression"] = "regression"
    """Which metric this is."""
    coverage: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.9
    """By which val chooses each head's prediction interval: least share of patients like those of val who have all their rows inside, on
    average. It takes 9 assessed patients for 0.9, 19 for 0.95."""
    families: dict[str, str] = {}
    """Name -> pattern of heads in the same unit (`stenosis: "*_stenosis"`) of which means are taken."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def build(self) -> "Regression":
        return Regression(self)


class Regression(Measurement):
    """Everything under `{objective}/{head}/`, in the label's unit; nothing in a run without such heads."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """Per head `num`, `num_patients`, `num_not_assessed`, the measures of `agreement_statistic` and, where val chose an interval,
        `interval_half_width`, `interval_level` and those of `coverage_statistic`; under `{objective}/macro` the
        means over all heads of those without unit, under `macro={family}` of all, with `num_of_numbers` and so on, their rows together.
        """
        heads, num_patients = judged(evaluated, (REGRESSION,))
        numbers = {key: value for each in heads for key, value in each.counts().items()}
        parts = {
            each.name: agreement_statistic(each.score, each.truth, each.patients, num_patients)
            for each in heads
            if len(each.truth)
        }
        if not parts:
            return numbers, self._notes(heads, evaluated)
        families = families_of(list(parts), self.config.families)
        for family in families:
            counts = counts_of([each for each in heads if each.name in family.heads])
            # binary heads have their counts under the same macro
            numbers |= {f"{family.prefix('macro')}/{key}_of_numbers": value for key, value in counts.items()}
        keys = [(family, _UNITLESS + (_IN_UNITS if family.name else ())) for family in families]
        numbers |= _chosen(heads, evaluated.intervals or {})
        covered = _coverage(heads, num_patients, evaluated.intervals or {})
        statistic = together(with_means(parts, keys), covered)
        numbers |= with_intervals(statistic, num_patients, self.config.bootstrap_samples, self.config.seed)
        return numbers, self._notes(heads, evaluated)

    def fix_intervals(self, evaluated: Evaluated) -> dict[str, FixedInterval]:
        """That of each head with enough assessed patients here."""
        found = {}
        for each in judged(evaluated, (REGRESSION,))[0]:
            worst = worst_errors(each.score - each.truth, each.patients)
            width = half_width(worst, self.config.coverage)
            if width is not None and np.isfinite(width):
                found[each.name] = FixedInterval(
                    half_width=width, level=self.config.coverage, num_patients=len(worst)
                )
        return found

    def _notes(self, heads: Sequence[Judged], evaluated: Evaluated) -> list[str]:
        needed = f"{patients_needed(self.config.coverage)} assessed patients"
        level = f"{100 * self.config.coverage:g} % prediction interval"
        if not heads:
            return []
        if evaluated.intervals is None:
            return [
                f"no {level} of numbers: this checkpoint has none; run_mode=val chooses them on {needed} or more"
            ]
        notes = []
        without = [each.name for each in heads if each.name not in evaluated.intervals]
        if without:
            notes.append(f"no {level} where val had fewer than {needed}: {listed(without)}")
        if evaluated.intervals and evaluated.chose_fixed:
            notes.append(
                "prediction intervals were chosen on this split: their coverage here is what was asked for, no test of it"
            )
        return notes


def _chosen(heads: Sequence[Judged], intervals: Mapping[str, FixedInterval]) -> dict[str, float]:
    """What val chose for heads that have assessed rows here."""
    numbers = {}
    for each in heads:
        if len(each.truth) and (found := intervals.get(each.name)):
            numbers[f"{each.name}/interval_half_width"] = found.half_width
            numbers[f"{each.name}/interval_level"] = found.level
    return numbers


def _coverage(
    heads: Sequence[Judged], num_patients: int, intervals: Mapping[str, FixedInterval]
) -> Statistic:
    return joined(
        {
            each.name: coverage_statistic(
                np.abs(each.score - each.truth) <= intervals[each.name].half_width,
                each.patients,
                num_patients,
            )
            for each in heads
            if len(each.truth) and each.name in intervals
        }
    )
