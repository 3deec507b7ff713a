"""A learned token that looks at a study's clips."""

from typing import Literal

from pydantic import Field

from deepcoro.pooling.attention import QueryAttention
from deepcoro.pooling.study import HierarchicalBlock, check_heads
from deepcoro.pooling.weighing import WeighingPooler


class ClsTokenPooler(WeighingPooler):
    """Attention of one learned token over the real clips, and where it is hierarchical of another over the tokens of each clip before."""

    def __init__(self, dim: int, config: "Config") -> None:
        super().__init__(dim, config, lambda: QueryAttention(dim, config.num_attention_heads))


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
