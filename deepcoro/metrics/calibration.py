"""Whether the probabilities of heads come true as often as they say; of binary ones also after the correction that val fixed."""

from typing import Annotated, Literal

import numpy as np
import pydantic

from deepcoro.bootstrap import Statistic, joined, with_intervals
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement
from deepcoro.judged import BINARY, CLASSES, Judged, judged
from deepcoro.statistics.calibration import (
    calibration_statistic,
    class_calibration_statistic,
    recalibration_of,
    without_intervals_of_errors,
)


class Config(Block):
    """Brier score and expected calibration error of every head of two classes or more; of binary ones slope and intercept, too."""

    type: Literal["calibration"] = "calibration"
    """Which metric this is."""
    bins: Annotated[int, pydantic.Field(ge=2)] = 10
    """Bins of equal width of the expected calibration error."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def build(self) -> "Calibration":
        return Calibration(self)


class Calibration(Measurement):
    """Everything under `{objective}/{head}/`; nothing in a run without heads of classes."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """The values of `calibration_statistic` with `_ci_low` and `_ci_high`, and `brier_recalibrated` and `ece_recalibrated`, of
        probabilities corrected as val said, on every other split; of heads of several classes those of `class_calibration_statistic`.

        The calibration error has no interval: noise of a resample adds to every bin's gap, so that its resamples lie above it.
        """
        heads, num_patients = judged(evaluated, (BINARY, *CLASSES))
        parts = {
            each.name: (
                self._of_binary(each, num_patients, evaluated)
                if each.head.task == BINARY
                else class_calibration_statistic(
                    each.said, each.classes, each.patients, num_patients, self.config.bins
                )
            )
            for each in heads
            if len(each.truth) and (each.head.task != BINARY or each.has_both)
        }
        numbers = with_intervals(joined(parts), num_patients, self.config.bootstrap_samples, self.config.seed)
        return without_intervals_of_errors(numbers), []

    def _of_binary(self, each: Judged, num_patients: int, evaluated: Evaluated) -> Statistic:
        def of(probabilities: np.ndarray) -> Statistic:
            return calibration_statistic(
                probabilities, each.positive, each.patients, num_patients, self.config.bins
            )

        said, fit = of(each.score), recalibration_of((evaluated.fixed or {}).get(each.name))
        if fit is None or evaluated.chose_fixed:
            return said
        corrected = of(fit.apply(each.score))

        def values(weights: np.ndarray) -> dict[str, np.ndarray]:
            after = corrected(weights)
            return said(weights) | {f"{key}_recalibrated": after[key] for key in ("brier", "ece")}

        return values
