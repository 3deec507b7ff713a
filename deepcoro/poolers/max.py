"""The greatest of each number over a study's clips: one film that shows it is enough."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deepcoro.pooling.study import PoolerBlock, StudyPooler


class MaxPooler(StudyPooler):
    """Maximum over the real clips, number by number."""

    def pool(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study dim"]:
        return clips.masked_fill(~clip_mask[..., None], torch.finfo(clips.dtype).min).amax(dim=1)


class Config(PoolerBlock):
    """The greatest over the clips, number by number."""

    type: Literal["max"] = "max"
    """Which pooler this is."""

    def build(self, dim: int) -> MaxPooler:
        return MaxPooler(dim, self)
