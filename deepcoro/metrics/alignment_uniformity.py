"""Whether films lie near their reports and everything fills the sphere: alignment and uniformity (Wang and Isola 2020,
arXiv:2005.10242).

Both are losses: lower is better. A space that tells much has both low; one point for all has alignment 0 and uniformity 0.
"""

from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Float

from deepcoro.bootstrap import means_with_intervals, patient_rows, patients_counted, renumbered
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement

_ROWS_AT_ONCE = 1024


class Config(Block):
    """Alignment of films with their own reports, and uniformity of films and of distinct reports."""

    type: Literal["alignment_uniformity"] = "alignment_uniformity"
    alpha: pydantic.PositiveFloat = 2.0
    """Power of the distance between a film and its report."""
    t: pydantic.PositiveFloat = 2.0
    """Sharpness of the Gaussian potential between two films, or two reports."""
    max_rows: int = pydantic.Field(10_000, ge=2)
    """Films, and texts, whose pairs are looked at for uniformity, drawn by seed: the work grows with the square."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind the 95 % interval of alignment; 0 = no interval."""
    seed: int = 0
    """Seed of resamples and of the rows drawn."""

    def build(self) -> "AlignmentUniformity":
        return AlignmentUniformity(self)


class AlignmentUniformity(Measurement):
    """Embeddings and who belongs to whom in, flat metrics under `alignment_uniformity/` out."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """Flat metrics. Nothing, and no note, without an objective that puts films and texts into one space."""
        if not evaluated.shares_space:
            return {}, []
        known = np.flatnonzero(evaluated.text_of_film >= 0)
        numbers = {"num_pairs": float(len(known))}
        if len(known):
            films = evaluated.films[known]
            texts = evaluated.text_embeddings[evaluated.text_of_film[known]]
            patients = patient_rows(evaluated.patients, len(evaluated.clips))[known]
            numbers |= patients_counted(patients)
            numbers |= self._alignment(films, texts, renumbered(patients))
        for name, rows in (("films", evaluated.films), ("texts", evaluated.text_embeddings)):
            if len(rows) > 1:
                numbers[f"uniformity_{name}"] = uniformity(self._drawn(rows), self.config.t)
        return {f"alignment_uniformity/{key}": value for key, value in numbers.items()}, []

    def _alignment(self, films: np.ndarray, texts: np.ndarray, patients: np.ndarray) -> dict[str, float]:
        distances = _distances(films, texts, self.config.alpha)
        numbers = means_with_intervals(
            {"alignment": distances}, patients, self.config.bootstrap_samples, self.config.seed
        )
        shuffled = np.random.default_rng([self.config.seed, 4]).permutation(len(films))
        return numbers | {
            "alignment_shuffled": float(_distances(films, texts[shuffled], self.config.alpha).mean())
        }

    def _drawn(self, rows: np.ndarray) -> np.ndarray:
        order = np.random.default_rng([self.config.seed, 5]).permutation(len(rows))
        return rows[np.sort(order[: self.config.max_rows])]


def _distances(
    films: Float[np.ndarray, "pair dim"], texts: Float[np.ndarray, "pair dim"], alpha: float
) -> Float[np.ndarray, "pair"]:
    return np.linalg.norm(films.astype(np.float64) - texts, axis=1) ** alpha


def uniformity(rows: Float[np.ndarray, "row dim"], t: float) -> float:
    """Log of the mean of exp(-t d²) over all pairs of different rows; the rows are unit vectors."""
    exact = rows.astype(np.float64)
    total, count = 0.0, len(rows)
    for start in range(0, count, _ROWS_AT_ONCE):
        cosines = exact[start : start + _ROWS_AT_ONCE] @ exact.T
        total += float(np.exp(-t * np.maximum(2 - 2 * cosines, 0)).sum())
    own = float(np.exp(-t * np.maximum(2 - 2 * (exact**2).sum(axis=1), 0)).sum())
    return float(np.log((total - own) / (count * (count - 1))))
