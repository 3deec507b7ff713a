"""Two studies of one patient: how much has the model's answer changed, and does that follow what the readers say has changed?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Float

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
        if not len(pairs.truth) or changed.all() or not changed.any():
            return numbers, [f"serial_change: {int(changed.sum())} of {len(changed)} pairs changed; no AUROC"]
        numbers |= self._distance(pairs, changed)
        if self.config.score is not None:
            numbers |= self._correlation(pairs)
        return numbers, []

    def pairs(self, evaluated: Evaluated) -> Pairs:
        """Studies of a patient and tree, in time, each with the next; those without time or label are left out."""
        labels, scores = evaluated.labels, self._scores(evaluated)
        truth, time = (numbers_of(name, labels[name]) for name in (self.config.label, self.config.time))
        sides = labels.get("side", [None] * len(evaluated.clips))
        exams: dict[tuple, dict[str, list[int]]] = {}
        for row, (patient, side, study) in enumerate(
            zip(evaluated.patients, sides, evaluated.studies, strict=True)
        ):
            if patient is not None and not np.isnan(truth[row]) and not np.isnan(time[row]):
                exams.setdefault((patient, side), {}).setdefault(study, []).append(row)
        found, names = [], {}
        for (patient, _), studies in exams.items():
            ordered = sorted(studies.values(), key=lambda rows: (time[rows[0]], rows[0]))
            for earlier, later in zip(ordered, ordered[1:], strict=False):
                number = names.setdefault(patient, len(names))
                found.append(
                    (
                        number,
                        _distance(evaluated.films, earlier, later),
                        truth[later].max() - truth[earlier].max(),
                        scores[later].max() - scores[earlier].max(),
                    )
                )
        columns = np.array(found, dtype=float).reshape(-1, 4).T
        return Pairs(columns[0].astype(int), *columns[1:])

    def _problem(self, evaluated: Evaluated) -> str | None:
        missing = [name for name in (self.config.label, self.config.time) if name not in evaluated.labels]
        if missing:
            return f"the data have no label {missing}; bring it in with data.tables"
        if self.config.score is not None and self.config.score not in evaluated.rows:
            return f"nothing gives '{self.config.score}'; there are {sorted(evaluated.rows)}"
        return None

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
        if not self.config.bootstrap_samples:
            return numbers
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
