"""Labels read off the training reports that are nearest to a film, as EchoPrime interprets a study: is the mean of their labels right?"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Float

from deepcoro.answers import absolute_error
from deepcoro.bootstrap import mean_of_known, patient_rows, patients_counted, renumbered
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement
from deepcoro.kernels.tied_ranks import nearest
from deepcoro.label_means import numeric_labels
from deepcoro.statistics.ranking import auroc, auroc_interval


class Config(Block):
    """AUROC of labels of 0 and 1, mean absolute error of others, of the mean over a film's nearest training reports."""

    type: Literal["nearest_reports"] = "nearest_reports"
    neighbours: int = pydantic.Field(default=50, ge=1)
    """Nearest distinct reports whose labels are averaged; those without the label are left out."""
    labels: list[str] = ["side", "dominance", "cto", "calcification", "max_stenosis", "lvef"]
    """Label columns; one that the data lack is passed over. A label in words is asked word by word (`dominance=left`)."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def build(self) -> "NearestReports":
        return NearestReports(self)


class NearestReports(Measurement):
    """Vukadinovic et al. 2024 (EchoPrime, arXiv:2410.09704) average the labels of the 50 nearest; here of distinct reports, drawn from the
    train split alone (`evaluate.training_reports` of its samples)."""

    reads_training_reports = "always"

    def __init__(self, config: Config) -> None:
        self.config = config

    def film_scores(self, evaluated: Evaluated) -> dict[str, np.ndarray]:
        """What the neighbours say of each film, NaN where none knows; of the train split itself nothing, since its own report answers."""
        training = evaluated.training
        if training is None or not evaluated.shares_space or evaluated.split == "train":
            return {}
        places, _ = nearest(evaluated.films, training.embeddings, self.config.neighbours)
        return {
            f"nearest_reports_{name}": mean_of_known(values[places], axis=1)
            for name, values in training.labels.items()
            if name.partition("=")[0] in self.config.labels
        }

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """Nothing without a shared space, or without reports in the train split."""
        said = self.film_scores(evaluated)
        truth = numeric_labels(evaluated.labels)
        numbers: dict[str, float] = {}
        for column, values in said.items():
            name = column.removeprefix("nearest_reports_")
            if name in truth:
                found = self.compare(values, truth[name], evaluated.patients)
                numbers |= {f"nearest_reports/{name}/{key}": value for key, value in found.items()}
        return numbers, []

    def compare(
        self,
        said: Float[np.ndarray, " film"],
        truth: Float[np.ndarray, " film"],
        patients: Sequence[str | None],
    ) -> dict[str, float]:
        """`auroc` where the truth is 0 and 1, else `mae` with `mae_chance` (the median of the same films); with intervals and counts."""
        kept = ~np.isnan(truth) & ~np.isnan(said)
        counts = {"num": float(kept.sum()), "num_not_assessed": float(np.isnan(truth).sum())}
        patient = renumbered(patient_rows(patients, len(said))[kept])
        said, truth = said[kept], truth[kept]
        if set(np.unique(truth)) <= {0.0, 1.0}:
            return counts | self._auroc(said, truth == 1, patient)
        counts |= patients_counted(patient)
        return counts | absolute_error(said, truth, patient, self.config.bootstrap_samples, self.config.seed)

    def _auroc(self, said: np.ndarray, positive: np.ndarray, patient: np.ndarray) -> dict[str, float]:
        found = {"num_positive": float(positive.sum()), **patients_counted(patient, positive)}
        if positive.all() or not positive.any():
            return found
        found["auroc"] = auroc(said, positive)
        bounds = auroc_interval(said, positive, patient, self.config.bootstrap_samples, self.config.seed)
        if bounds is not None:
            found["auroc_ci_low"], found["auroc_ci_high"] = bounds
        return found
