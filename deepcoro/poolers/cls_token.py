"""A learned token that looks at a study's clips."""

from typing import Literal

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from deepcoro.features import VideoFeatures
from deepcoro.pooling.attention import QueryAttention
from deepcoro.pooling.study import HierarchicalBlock, StudyPooler, check_heads


class ClsTokenPooler(StudyPooler):
    """Attention of one learned token over the real clips, and where it is hierarchical of another over the tokens of each clip before."""

    def __init__(self, dim: int, config: "Config") -> None:
        super().__init__(dim, config)
        self.within = QueryAttention(dim, config.num_attention_heads) if config.hierarchical else None
        self.across = QueryAttention(dim, config.num_attention_heads)

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
    """A learned token looks at the clips."""

    type: Literal["cls_token"] = "cls_token"
    """Which pooler this is."""
    num_attention_heads: int = Field(8, ge=1)
    """Heads of its attention; a divisor of the video tower's width."""

    def build(self, dim: int) -> ClsTokenPooler:
        """ConfigError when the heads do not divide the width."""
        check_heads(self.type, self.num_attention_heads, dim)
        return ClsTokenPooler(dim, self)
