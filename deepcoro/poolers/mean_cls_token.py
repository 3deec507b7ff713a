"""The mean of a study's clips, and beside it what a learned token sees in them: twice the width."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from deepcoro.pooling.attention import QueryAttention
from deepcoro.pooling.study import PoolerBlock, StudyPooler, check_heads, mean_of_shown


class MeanClsTokenPooler(StudyPooler):
    """First half the mean over the real clips, second half the learned token's view of them."""

    def __init__(self, dim: int, config: "Config") -> None:
        super().__init__(dim, config, pooled_dim=2 * dim)
        self.token = QueryAttention(dim, config.num_attention_heads)

    def pool(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study pooled"]:
        mean = mean_of_shown(clips, clip_mask)
        return torch.cat([mean, self.token(clips, clip_mask)[0].to(mean.dtype)], dim=1)


class Config(PoolerBlock):
    """Mean and learned token side by side."""

    type: Literal["mean_cls_token"] = "mean_cls_token"
    """Which pooler this is."""
    num_attention_heads: int = Field(8, ge=1)
    """Heads of the token's attention; a divisor of the video tower's width."""

    def build(self, dim: int) -> MeanClsTokenPooler:
        """ConfigError when the heads do not divide the width."""
        check_heads(self.type, self.num_attention_heads, dim)
        return MeanClsTokenPooler(dim, self)
