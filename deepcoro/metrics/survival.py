"""Time to an event (MACE): whether those who score high have it sooner, though many are followed for a while only."""

from typing import Annotated, Literal

import numpy as np
import pydantic

from deepcoro.bootstrap import Statistic, joined, patient_rows, with_intervals
from deepcoro.config import Block, DataError
from deepcoro.evaluated import Evaluated, Followed, Measurement, numbers_of
from deepcoro.judged import BINARY, REGRESSION
from deepcoro.statistics.survival import survival_statistic

_PREFIX = "survival/"


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

    def columns(self) -> list[str]:
        return [column for each in self.config.outcomes.values() for column in (each.event, each.time)]

    def least_numbers(self) -> dict[str, float]:
        """A follow-up lasts 0 or more."""
        return dict.fromkeys(self.columns(), -np.inf) | {
            each.time: 0.0 for each in self.config.outcomes.values()
        }

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """`num`, `num_patients`, `num_events`, `num_not_assessed`, `c_index`, `auc_at_T` of each outcome."""
        num_patients = int(patient_rows(evaluated.patients, len(evaluated.clips)).max(initial=-1)) + 1
        parts: dict[str, Statistic] = {}
        numbers: dict[str, float] = {}
        missing = {name: _missing(evaluated, each) for name, each in self.config.outcomes.items()}
        notes = [f"survival/{name}: {problem}" for name, problem in missing.items() if problem]
        for name, rows in self.followed(evaluated).items():
            numbers |= {
                f"{name}/num": float(len(rows.time)),
                f"{name}/num_patients": float(len(np.unique(rows.patient))),
                f"{name}/num_events": float(rows.event.sum()),
                f"{name}/num_event_patients": float(len(np.unique(rows.patient[rows.event]))),
                f"{name}/num_event_free_patients": float(len(np.unique(rows.patient[~rows.event]))),
                f"{name}/num_not_assessed": float(len(evaluated.clips) - len(rows.time)),
            }
            horizons = self.config.outcomes[name.removeprefix(_PREFIX)].horizons
            parts[name] = survival_statistic(rows.score, rows.time, rows.event, rows.patient, horizons)
            if not rows.event.any():
                notes.append(f"{name}: no event was seen, so nothing can be said of its order")
        samples, seed = self.config.bootstrap_samples, self.config.seed
        return numbers | with_intervals(joined(parts), num_patients, samples, seed), notes

    def followed(self, evaluated: Evaluated) -> dict[str, Followed]:
        """Of the outcomes that nothing stands in the way of."""
        able = {name: each for name, each in self.config.outcomes.items() if not _missing(evaluated, each)}
        return {f"{_PREFIX}{name}": _followed(evaluated, each) for name, each in able.items()}


def _followed(evaluated: Evaluated, outcome: Outcome) -> Followed:
    times, events = (numbers_of(name, evaluated.labels[name]) for name in (outcome.time, outcome.event))
    if (times < 0).any() or np.isinf(times).any():
        raise DataError(
            f"label '{outcome.time}' is the length of a follow-up and holds {times[(times < 0) | np.isinf(times)][0]:g}; it is 0 or more, and "
            "an empty cell where there is none",
            topic="labels",
        )
    kept = np.flatnonzero(~np.isnan(times) & ~np.isnan(events))
    fixed = (evaluated.fixed or {}).get(outcome.head)
    return Followed(
        head=outcome.head,
        score=evaluated.rows[f"{outcome.head}/prediction"][kept, 0].astype(np.float64),
        time=times[kept],
        event=events[kept] >= 0.5,
        patient=patient_rows(evaluated.patients, len(evaluated.clips))[kept],
        threshold=fixed and fixed.threshold,
    )


def _missing(evaluated: Evaluated, outcome: Outcome) -> str:
    """What stands in the way, or nothing."""
    head = evaluated.heads.get(outcome.head)
    if head is None or head.task not in (BINARY, REGRESSION):
        able = sorted(name for name, head in evaluated.heads.items() if head.task in (BINARY, REGRESSION))
        return f"no head '{outcome.head}' gives a number; heads that do: {able}"
    absent = [column for column in (outcome.time, outcome.event) if column not in evaluated.labels]
    return f"the data have no label {absent}" if absent else ""
