"""Strips of films of a shard folder, for pages that people look at."""

from functools import partial

import numpy as np
from einops import rearrange
from jaxtyping import UInt8

from deepcoro.data.collection import Collection
from deepcoro.fields import video
from deepcoro.report_examples import film_strip

_STRIP_FRAMES, _STRIP_PX = 6, 160


def strip_of(shards: Collection, study_row: int, film: int) -> bytes:
    """JPEG of frames of one film, first to last. DataError when it cannot be read."""
    field = video.Config(frames=_STRIP_FRAMES, size_px=_STRIP_PX).build()
    frames = field.decode(shards.study(study_row), (film,), partial(shards.read_clip, study_row), None)[0]
    return film_strip(_for_the_eye(frames.numpy()))


def _for_the_eye(frames: UInt8[np.ndarray, "channel frame height width"]) -> UInt8[np.ndarray, "frame ..."]:
    """Grey [frame height width] or colour [frame height width 3]."""
    shown = rearrange(frames, "channel frame height width -> frame height width channel")
    return shown[..., 0] if shown.shape[-1] == 1 else shown
