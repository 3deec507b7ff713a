"""Gated attention over a study's clips: a learned weight a clip, so that the films that show the finding count more."""

from typing import Literal

from pydantic import Field

from deepcoro.pooling.attention import GatedAttention
from deepcoro.pooling.study import HierarchicalBlock
from deepcoro.pooling.weighing import WeighingPooler


class AttentionPooler(WeighingPooler):
    """Weighted mean over the real clips, and where it is hierarchical over the tokens of each clip before."""

    def __init__(self, dim: int, config: "Config") -> None:
        super().__init__(dim, config, lambda: GatedAttention(dim, config.hidden_dim))


class Config(HierarchicalBlock):
    """Clips are weighed by what they show."""

    type: Literal["attention"] = "attention"
    """Which pooler this is."""
    hidden_dim: int = Field(128, gt=0)
    """Width of the layer that scores a clip."""

    def build(self, dim: int) -> AttentionPooler:
        return AttentionPooler(dim, self)
