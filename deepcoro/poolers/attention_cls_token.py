"""Gated attention over a study's clips, and beside it what a learned token sees in them: twice the width."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from deepcoro.pooling.attention import GatedAttention, QueryAttention
from deepcoro.pooling.study import HierarchicalBlock, check_heads
from deepcoro.pooling.weighing import WeighingPooler


class AttentionClsTokenPooler(WeighingPooler):
    """First half the gated mean over the real clips, second half the learned token's view of them. Hierarchical: the tokens of a clip
    are joined by gated attention before.
    """

    def __init__(self, dim: int, config: "Config") -> None:
        super().__init__(dim, config, lambda: GatedAttention(dim, config.hidden_dim), pooled_dim=2 * dim)
        self.token = QueryAttention(dim, config.num_attention_heads)

    def pool(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study pooled"]:
        weighed = super().pool(clips, clip_mask)
        return torch.cat([weighed, self.token(clips, clip_mask)[0].to(weighed.dtype)], dim=1)

    def weigh(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study clip"]:
        """The mean of what both halves give."""
        return (super().weigh(clips, clip_mask) + self.token(clips, clip_mask)[1]) / 2


class Config(HierarchicalBlock):
    """Gated attention and learned token side by side."""

    type: Literal["attention_cls_token"] = "attention_cls_token"
    """Which pooler this is."""
    hidden_dim: int = Field(128, gt=0)
    """Width of the layer that scores a clip."""
    num_attention_heads: int = Field(8, ge=1)
    """Heads of the token's attention; a divisor of the video tower's width."""

    def build(self, dim: int) -> AttentionClsTokenPooler:
        """ConfigError when the heads do not divide the width."""
        check_heads(self.type, self.num_attention_heads, dim)
        return AttentionClsTokenPooler(dim, self)
