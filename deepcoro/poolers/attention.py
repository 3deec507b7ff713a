"""Gated attention over a study's clips: a learned weight a clip, so that the films that show the finding count more."""

from typing import Literal

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from deepcoro.features import VideoFeatures
from deepcoro.pooling.attention import GatedAttention
from deepcoro.pooling.study import HierarchicalBlock, StudyPooler


class AttentionPooler(StudyPooler):
    """Weighted mean over the real clips, and where it is hierarchical over the tokens of each clip before."""

    def __init__(self, dim: int, config: "Config") -> None:
        super().__init__(dim, config)
        self.within = GatedAttention(dim, config.hidden_dim) if config.hierarchical else None
        self.across = GatedAttention(dim, config.hidden_dim)

    def summarise(self, features: VideoFeatures) -> Float[Tensor, "study clip dim"]:
        if self.within is None:
            return features.per_video()
        return self.within(features.tokens)[0]

    def pool(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study dim"]:
        return self.across(clips, clip_mask)[0]

    def weigh(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study clip"]:
        return self.across(clips, clip_mask)[1]


class Config(HierarchicalBlock):
    """Clips are weighed by what they show."""

    type: Literal["attention"] = "attention"
    """Which pooler this is."""
    hidden_dim: int = Field(128, gt=0)
    """Width of the layer that scores a clip."""

    def build(self, dim: int) -> AttentionPooler:
        return AttentionPooler(dim, self)
