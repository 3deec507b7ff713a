"""The mean of a study's clips."""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from deepcoro.pooling.study import PoolerBlock, StudyPooler, mean_of_shown


class MeanPooler(StudyPooler):
    """Mean over the real clips."""

    def pool(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study dim"]:
        return mean_of_shown(clips, clip_mask)


class Config(PoolerBlock):
    """Every clip of the study counts the same."""

    type: Literal["mean"] = "mean"
    """Which pooler this is."""

    def build(self, dim: int) -> MeanPooler:
        return MeanPooler(dim, self)
