"""How well hidden parts of films are guessed, beside guesses that need no model."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pydantic

from deepcoro.bootstrap import means_with_intervals, patient_rows, patients_counted, renumbered
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement

_MODEL = "error"
_BASELINES = ("unit_mean", "nearest_visible")


class Config(Block):
    """Error of an objective `masked_modeling` on hidden units, and of two baselines, with patient intervals."""

    type: Literal["reconstruction"] = "reconstruction"
    objective: str = "masked_modeling"
    """The objective's key in `objectives`; it is the prefix of the numbers."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def build(self) -> "Reconstruction":
        return Reconstruction(self)


class Reconstruction(Measurement):
    """Rows that the objective's `evaluate` left behind -> flat metrics."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """Means over films of `error`, of each `error_of_BASELINE` and of `advantage_over_BASELINE`, the difference in each film;
        the same `..._on_vessels` where the evaluation knew which pixels those are. Nothing in a run without the objective.
        """
        return self.compute(evaluated.rows, evaluated.patients)

    def compute(
        self, rows: Mapping[str, np.ndarray], patients: Sequence[str | None]
    ) -> tuple[dict[str, float], list[str]]:
        """The same from what the objective said of each film, by `objective/number`, and the films' patients."""
        name = self.config.objective
        if f"{name}/{_MODEL}" not in rows:
            return {}, []
        numbers: dict[str, float] = {}
        notes: list[str] = []
        for suffix in ("", "_on_vessels"):
            columns = self._columns(rows, suffix)
            if columns:
                found, note = self._means(columns, suffix, patients)
                numbers |= found
                notes += note
        return numbers, notes

    def _columns(self, rows: Mapping[str, np.ndarray], suffix: str) -> dict[str, np.ndarray]:
        names = (_MODEL, *(f"{_MODEL}_of_{baseline}" for baseline in _BASELINES))
        keys = {name: f"{self.config.objective}/{name}{suffix}" for name in names}
        if keys[_MODEL] not in rows:
            return {}
        columns = {name: rows[key].astype(np.float64) for name, key in keys.items()}
        for baseline in _BASELINES:
            columns[f"advantage_over_{baseline}"] = columns[f"{_MODEL}_of_{baseline}"] - columns[_MODEL]
        return columns

    def _means(
        self, columns: dict[str, np.ndarray], suffix: str, patients: Sequence[str | None]
    ) -> tuple[dict[str, float], list[str]]:
        values = np.stack(list(columns.values()), axis=1)
        kept = np.isfinite(values).all(axis=1)
        prefix = self.config.objective
        numbers = {f"{prefix}/num{suffix}": float(kept.sum())}
        if not kept.any():
            return numbers, [f"reconstruction: no film has hidden units to guess ({prefix}{suffix})"]
        told = {f"{prefix}/{name}{suffix}": column[kept] for name, column in columns.items()}
        patient = renumbered(patient_rows(patients, len(kept))[kept])
        numbers[f"{prefix}/num_patients{suffix}"] = patients_counted(patient)["num_patients"]
        numbers |= means_with_intervals(told, patient, self.config.bootstrap_samples, self.config.seed)
        return numbers, []
