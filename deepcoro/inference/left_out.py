"""What a model of whole studies says when one film of a study is not seen: each film left out once (the leave-one-out of the jackknife).

The films are encoded once; only what comes after the encoder, pooler and heads, runs again. How far the answers lie apart tells how much
the study's answer hangs on single films. It is no confidence interval: films that agree may all mislead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from deepcoro.inference.prediction import WithoutOneFilm


@dataclass(frozen=True)
class LeftOut:
    """Answers of a study of two films or more, a row a film that was left out."""

    clips: Sequence[str]
    """Keyed id of the film that each row lacks."""
    films: Float[np.ndarray, "row dim"]
    """L2-normalised embeddings of the study without it."""
    numbers: dict[str, np.ndarray]
    """What heads say of it, by `objective/number`: [row, ...]."""


def cells_without(
    tokens: Float[Tensor, "clip token dim"], film_of_clip: Sequence[int], films: Sequence[int], num_slots: int
) -> dict[str, Tensor]:
    """Batch entries of as many rows as `films`: the study's encoded clips without those of one film, moved up so that no gap tells of it.

    `film_of_clip`: which film each clip shows (several clips are windows of one film); `num_slots`: cells of a row, those of the whole
    study. ValueError for a film that none of the clips shows.
    """
    shown = np.asarray(film_of_clip)
    if absent := set(films) - set(film_of_clip):
        raise ValueError(
            f"no clip shows the films {sorted(absent)}; those shown are {sorted(set(film_of_clip))}"
        )
    kept = [np.flatnonzero(shown != film) for film in films]
    counts = torch.tensor([len(each) for each in kept])
    mask: Bool[Tensor, "row clip"] = torch.arange(num_slots) < rearrange(counts, "row -> row 1")
    index = torch.from_numpy(np.concatenate(kept)).to(tokens.device)
    return {"video_features": tokens[index], "clip_mask": mask.to(tokens.device)}


def without_one_film(
    clips: Sequence[str], scores: Float[np.ndarray, "film"], is_changed: Sequence[bool] | None = None
) -> WithoutOneFilm:
    """`scores`: of the study without each of the clips; `is_changed`: whether call or class is then another, None where there is none."""
    return WithoutOneFilm(
        lowest=float(scores.min()),
        highest=float(scores.max()),
        num_changing=None if is_changed is None else sum(map(bool, is_changed)),
        scores=dict(zip(clips, map(float, scores), strict=True)),
    )
