"""From where each film of a row was taken: the angles of the C-arm, for poolers and heads that should know.

Exports of video files have a word such as `RAO_CAU` in place of angles. It is read as the usual angles of that projection, here alone:
the record, tables and groups keep the angles as measured.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deepcoro.angiography.vocabulary import projection_of
from deepcoro.config import Block
from deepcoro.sample import ClipRecord, StudyRecord

Slots = Callable[[StudyRecord, Sequence[int]], list[int]]
"""Which film of the study each slot of a row shows; a film that is shown in several windows has as many."""


class Config(Block):
    """Angles of the C-arm."""

    type: Literal["view"] = "view"
    """Which field this is."""

    def build(self, tokenizer: Any = None) -> "ViewField":
        return ViewField()


class ViewField:
    """Batch entry `views` float32 [row, slot, 2] in degrees: primary angle (LAO positive), secondary angle (cranial positive), those
    of a film's first frame; of a film without any angle the usual ones of its view word. NaN = not known, and every slot that shows no
    film. Slots are those of `clip_mask`.
    """

    def __init__(self) -> None:
        self.slots: Slots = lambda study, clip_indices: list(clip_indices)
        """Set to those of the field `video`, where there is one."""
        self.slots_per_film = 1
        """The most slots that one film takes."""

    def decode(
        self,
        study: StudyRecord,
        clip_indices: tuple[int, ...],
        read_clip: Callable[[int], bytes],
        draw: np.random.Generator | None,
    ) -> list[list[float]]:
        films = (study.clips[index] for index in self.slots(study, clip_indices))
        return [[math.nan if each is None else each for each in _angles(film)] for film in films]

    def collate(
        self, values: list[list[list[float]] | None], num_videos: int
    ) -> dict[str, Float[Tensor, "row slot angle"]]:
        views = torch.full((len(values), num_videos * self.slots_per_film, 2), math.nan)
        for row, angles in enumerate(values):
            if angles:
                views[row, : len(angles)] = torch.tensor(angles)
        return {"views": views}


def _angles(film: ClipRecord) -> tuple[float | None, float | None]:
    angles = film.primary_angle_deg, film.secondary_angle_deg
    usual = projection_of(film.view) if film.view and angles == (None, None) else None
    return (usual.primary_deg, usual.secondary_deg) if usual else angles
