"""Two studies of one patient: how much has the model's answer changed, and does that follow what the readers say has changed?

`predictions/{data}_{split}_serial_change.csv` holds the change of each pair, also of those whose change nobody has read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Bool, Float

from deepcoro.bootstrap import patients_counted, sum_intervals
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement, numbers_of
from deepcoro.statistics.ranking import auroc, auroc_interval


class Config(Block):
    """Change between consecutive studies of a patient, tree by tree where the side of films is known."""

    type: Literal["serial_change"] = "serial_change"
    """Which metric this is."""
    label: str
    """Numeric label that changes, such as max_stenosis; of a study's films the largest counts."""
    time: str = "days_since_first"
    """Numeric label that orders the studies of a patient, the same for all films of a study; bring it in with data.tables."""
    score: str | None = None
    """What is compared with it: OBJECTIVE/HEAD/prediction of the evaluation (its first output). Unset: only how far apart the two
    studies' embeddings lie."""
    min_change: float = pydantic.Field(20.0, gt=0)
    """From here on, up or down, the label counts as changed."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def build(self) -> "SerialChange":
        return SerialChange(self)


@dataclass(frozen=True)
class Pairs:
    """Consecutive studies, later minus earlier. Columns, one entry a pair."""

    patient: np.ndarray
    """Number of the patient."""
    distance: Float[np.ndarray, " pair"]
    """1 - cosine of the mean embeddings: the change score without a direction, 0 to 2."""
    truth: Float[np.ndarray, " pair"]
    score: Float[np.ndarray, " pair"]
    """NaN without a score."""


class SerialChange(Measurement):
    """Reads embeddings, labels and predictions of a split; runs no model."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def columns(self) -> list[str]:
        return [self.config.label, self.config.time]

    def least_numbers(self) -> dict[str, float]:
        return dict.fromkeys(self.columns(), -np.inf)

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """`serial_change/...`: AUROC of the distance for a changed label; Pearson correlation of the changes where there is a score."""
        problem = self._problem(evaluated)
        if problem:
            return {}, [f"serial_change: {problem}"]
        pairs = self.pairs(evaluated)
        changed = np.abs(pairs.truth) >= self.config.min_change
        numbers = {
            "serial_change/num": float(len(pairs.truth)),
            "serial_change/num_positive": float(changed.sum()),
        }
        numbers |= {
            f"serial_change/{key}": value for key, value in patients_counted(pairs.patient, changed).items()
        }
        if self.config.score is not None and len(pairs.truth):
            numbers |= self._correlation(pairs)
        if changed.all() or not changed.any():
            return numbers, [f"serial_change: {int(changed.sum())} of {len(changed)} pairs changed; no AUROC"]
        return numbers | self._distance(pairs, changed), []

    def tables(self, evaluated: Evaluated) -> dict[str, list[dict[str, object]]]:
        """`serial_change`: a row a pair of consecutive studies of a patient (and tree) whose times are known, the label read or not. Of a
        study's rows the highest score and the largest label count.
        """
        if self.config.time not in evaluated.labels or not self._gives_score(evaluated):
            return {}
        count = len(evaluated.clips)
        labels, scores = evaluated.labels, self._scores(evaluated)
        time, truth = (
            numbers_of(name, labels.get(name, [None] * count))
            for name in (self.config.time, self.config.label)
        )
        return {
            "serial_change": [
                {"patient": patient, "side": side}
                | {f"{when}_study": evaluated.studies[rows[0]] for when, rows in both.items()}
                | _before_and_after(self.config.time, *(time[rows[:1]] for rows in both.values()))
                | {"distance": _cell(_distance(evaluated.films, *both.values()))}
                | _before_and_after("score", *(scores[rows] for rows in both.values()))
                | _before_and_after(f"label_{self.config.label}", *(truth[rows] for rows in both.values()))
                for patient, side, both in self._consecutive(evaluated, ~np.isnan(time))
            ]
        }

    def pairs(self, evaluated: Evaluated) -> Pairs:
        """Studies of a patient and tree, in time, each with the next; those without time or label are left out."""
        scores = self._scores(evaluated)
        labels = evaluated.labels
        truth, time = (numbers_of(name, labels[name]) for name in (self.config.label, self.config.time))
        found, names = [], {}
        for patient, _, both in self._consecutive(evaluated, ~np.isnan(truth) & ~np.isnan(time)):
            earlier, later = both.values()
            found.append(
                (
                    names.setdefault(patient, len(names)),
                    _distance(evaluated.films, earlier, later),
                    truth[later].max() - truth[earlier].max(),
                    scores[later].max() - scores[earlier].max(),
                )
            )
        columns = np.array(found, dtype=float).reshape(-1, 4).T
        return Pairs(columns[0].astype(int), *columns[1:])

    def _consecutive(
        self, evaluated: Evaluated, known: Bool[np.ndarray, " film"]
    ) -> Iterator[tuple[str, str | None, dict[str, list[int]]]]:
        """Patient, tree and the rows of the `earlier` and of the `later` study, of those rows alone that are known."""
        time = numbers_of(self.config.time, evaluated.labels[self.config.time])
        sides = evaluated.labels.get("side", [None] * len(evaluated.clips))
        exams: dict[tuple, dict[str, list[int]]] = {}
        for row, (patient, side, study) in enumerate(
            zip(evaluated.patients, sides, evaluated.studies, strict=True)
        ):
            if patient is not None and known[row]:
                exams.setdefault((patient, side), {}).setdefault(study, []).append(row)
        for (patient, side), studies in exams.items():
            ordered = sorted(studies.values(), key=lambda rows: (time[rows[0]], rows[0]))
            for earlier, later in zip(ordered, ordered[1:], strict=False):
                yield patient, side, {"earlier": earlier, "later": later}

    def _problem(self, evaluated: Evaluated) -> str | None:
        missing = [name for name in (self.config.label, self.config.time) if name not in evaluated.labels]
        if missing:
            return f"the data have no label {missing}; bring it in with data.tables"
        if not self._gives_score(evaluated):
            return f"nothing gives '{self.config.score}'; there are {sorted(evaluated.rows)}"
        return None

    def _gives_score(self, evaluated: Evaluated) -> bool:
        return self.config.score is None or self.config.score in evaluated.rows

    def _scores(self, evaluated: Evaluated) -> Float[np.ndarray, " film"]:
        if self.config.score is None:
            return np.full(len(evaluated.clips), np.nan)
        return evaluated.rows[self.config.score].reshape(len(evaluated.clips), -1)[:, 0].astype(float)

    def _distance(self, pairs: Pairs, changed: np.ndarray) -> dict[str, float]:
        key = "serial_change/distance/auroc"
        numbers = {key: auroc(pairs.distance, changed)}
        bounds = auroc_interval(
            pairs.distance, changed, pairs.patient, self.config.bootstrap_samples, self.config.seed
        )
        return numbers | ({} if bounds is None else {f"{key}_ci_low": bounds[0], f"{key}_ci_high": bounds[1]})

    def _correlation(self, pairs: Pairs) -> dict[str, float]:
        x, y = pairs.score, pairs.truth
        counts = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
        numbers = {
            f"serial_change/{key}": float(each[0]) for key, each in _pearson(counts.sum(0)[None]).items()
        }
        if not self.config.bootstrap_samples or np.isnan(numbers["serial_change/pearson"]):
            return {key: value for key, value in numbers.items() if not np.isnan(value)}
        bounds = sum_intervals(
            counts, pairs.patient, _pearson, self.config.bootstrap_samples, self.config.seed
        )
        for key, (low, high) in bounds.items():
            numbers |= {f"serial_change/{key}_ci_low": low, f"serial_change/{key}_ci_high": high}
        return numbers


def _pearson(sums: Float[np.ndarray, "sample 6"]) -> dict[str, Float[np.ndarray, " sample"]]:
    """From n and the sums of x, y, x^2, y^2, xy; NaN where one of them does not vary."""
    n, x, y, xx, yy, xy = sums.T
    spread = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"pearson": np.where(spread > 1e-12, (n * xy - x * y) / np.sqrt(spread), np.nan)}


def _distance(films: Float[np.ndarray, "film dim"], earlier: list[int], later: list[int]) -> float:
    one, other = films[earlier].mean(axis=0), films[later].mean(axis=0)
    return float(1 - one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))


def _before_and_after(name: str, earlier: np.ndarray, later: np.ndarray) -> dict[str, object]:
    """The largest of either study's rows, and the later less the earlier; empty where it is not known."""
    before, after = (_largest(each) for each in (earlier, later))
    values = {f"earlier_{name}": before, f"later_{name}": after, f"{name}_change": after - before}
    return {key: _cell(value) for key, value in values.items()}


def _largest(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else np.nan


def _cell(value: float) -> str | None:
    return None if np.isnan(value) else f"{value:.6g}"
