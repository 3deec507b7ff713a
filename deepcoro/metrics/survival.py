"""Time to an event (MACE): whether those who score high have it sooner, though many are followed for a while only."""

from typing import Annotated, Literal

import numpy as np
import pydantic

from deepcoro.bootstrap import Statistic, joined, patient_rows, with_intervals
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Head, Measurement
from deepcoro.judged import BINARY, REGRESSION
from deepcoro.statistics.survival import survival_statistic


class Outcome(Block):
    """One event, and what is to foretell it."""

    head: str
    """`objective/head`: its probability of the event, or a number that is higher the sooner it comes."""
    event: str
    """Label column: 1 = the follow-up ended with the event, 0 = without."""
    time: str
    """Label column: length of the follow-up."""
    horizons: list[Annotated[float, pydantic.Field(gt=0)]] = []
    """Times at which an AUC is asked, in the unit of `time`."""


class Config(Block):
    """Harrell's C and cumulative/dynamic AUC at given times, with patient intervals."""

    type: Literal["survival"] = "survival"
    """Which metric this is."""
    outcomes: dict[str, Outcome] = {}
    """Events by name; the name goes into the metric (`survival/mace/c_index`)."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def build(self) -> "Survival":
        return Survival(self)


class Survival(Measurement):
    """Everything under `survival/{outcome}/`; nothing where no outcome is named."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """`num`, `num_patients`, `num_events`, `num_not_assessed`, `c_index`, `auc_at_T` of each outcome."""
        patients = patient_rows(evaluated.patients, len(evaluated.clips))
        num_patients = int(patients.max(initial=-1)) + 1
        parts: dict[str, Statistic] = {}
        numbers: dict[str, float] = {}
        notes: list[str] = []
        for name, outcome in self.config.outcomes.items():
            missing = _missing(evaluated, outcome)
            if missing:
                notes.append(f"survival/{name}: {missing}")
                continue
            times, events = (_column(evaluated, column) for column in (outcome.time, outcome.event))
            kept = np.flatnonzero(~np.isnan(times) & ~np.isnan(events))
            events = events[kept] >= 0.5
            numbers |= {
                f"survival/{name}/num": float(len(kept)),
                f"survival/{name}/num_patients": float(len(np.unique(patients[kept]))),
                f"survival/{name}/num_events": float(events.sum()),
                f"survival/{name}/num_not_assessed": float(len(times) - len(kept)),
            }
            score = evaluated.rows[f"{outcome.head}/prediction"][kept, 0].astype(np.float64)
            parts[f"survival/{name}"] = survival_statistic(
                score, times[kept], events, patients[kept], outcome.horizons
            )
            if not events.any():
                notes.append(f"survival/{name}: no event was seen, so nothing can be said of its order")
        samples, seed = self.config.bootstrap_samples, self.config.seed
        return numbers | with_intervals(joined(parts), num_patients, samples, seed), notes


def _missing(evaluated: Evaluated, outcome: Outcome) -> str:
    """What stands in the way, or nothing."""
    head = evaluated.heads.get(outcome.head)
    if head is None or head.task not in (BINARY, REGRESSION):
        able = sorted(name for name, head in evaluated.heads.items() if head.task in (BINARY, REGRESSION))
        return f"no head '{outcome.head}' gives a number; heads that do: {able}"
    absent = [column for column in (outcome.time, outcome.event) if column not in evaluated.labels]
    return f"the data have no label {absent}" if absent else ""


def _column(evaluated: Evaluated, name: str) -> np.ndarray:
    return Head(REGRESSION, name, 0).truth(evaluated.labels[name])
