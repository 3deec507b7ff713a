"""Numbers that heads were trained for (a stenosis, an ejection fraction), against the truth and against saying its median of everyone."""

from typing import Literal

import pydantic

from deepcoro.bootstrap import with_intervals
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement
from deepcoro.judged import REGRESSION, counts_of, families_of, judged, with_means
from deepcoro.statistics.agreement import agreement_statistic

_UNITLESS = ("mae_ratio_to_median", "pearson_r", "icc")
"""What may be averaged over heads of different units."""
_IN_UNITS = ("mae", "rmse", "mae_of_median", "bias")


class Config(Block):
    """MAE, RMSE, Pearson's r, ICC(2,1), bias and limits of agreement of every regression head, with patient intervals."""

    type: Literal["regression"] = "regression"
    """Which metric this is."""
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
        """Per head `num`, `num_patients`, `num_not_assessed` and the measures of `agreement_statistic`; under `{objective}/macro` the
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
            return numbers, []
        families = families_of(list(parts), self.config.families)
        for family in families:
            counts = counts_of([each for each in heads if each.name in family.heads])
            # binary heads have their counts under the same macro
            numbers |= {f"{family.prefix('macro')}/{key}_of_numbers": value for key, value in counts.items()}
        keys = [(family, _UNITLESS + (_IN_UNITS if family.name else ())) for family in families]
        statistic = with_means(parts, keys)
        return (
            numbers
            | with_intervals(statistic, num_patients, self.config.bootstrap_samples, self.config.seed),
            [],
        )
