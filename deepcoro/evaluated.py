"""What metrics, predictions and report read: one split after the model has seen it. Numbers only, on one rank, no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Evaluated:
    """Films (or studies, where a sample is a study) of a split and the distinct texts they were compared with."""

    split: str
    units: np.ndarray
    """Index of each film among the split's units; unreadable ones are left out."""
    clips: Sequence[str]
    """Keyed name of each film."""
    studies: Sequence[str]
    """Keyed id of each film's study."""
    patients: Sequence[str | None]
    """Keyed id of each film's patient; None = not named by the source."""
    films: np.ndarray
    """L2-normalised embeddings [film, dim], float32."""
    texts: Sequence[str]
    """Distinct texts."""
    text_embeddings: np.ndarray
    """L2-normalised embeddings [text, dim], float32."""
    text_of_film: np.ndarray
    """Row of each film's own text; -1 = none."""
    labels: Mapping[str, Sequence]
    """Label column -> value of each film; None = not assessed."""
    prompts: Mapping[str, np.ndarray]
    """L2-normalised embedding [dim] of every sentence that a metric asked for."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Key of each sample of the split that could not be read -> shard and reason."""
