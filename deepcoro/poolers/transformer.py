"""Clips that look at each other before a learned token sums them up: for findings that no single film shows."""

from typing import Literal

import torch
from einops import repeat
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from deepcoro.pooling.set_block import SetBlock
from deepcoro.pooling.study import PoolerBlock, StudyPooler, check_heads


class TransformerPooler(StudyPooler):
    """Pre-norm blocks over the real clips and one learned token, which is what comes out. Without positions: a study is a set."""

    def __init__(self, dim: int, config: "Config") -> None:
        super().__init__(dim, config)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))
        self.blocks = nn.ModuleList(
            SetBlock(dim, config.num_attention_heads, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim)

    def pool(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study dim"]:
        token = repeat(self.token.to(clips.dtype), "dim -> study 1 dim", study=len(clips))
        members = torch.cat([token, clips], dim=1)
        mask = functional.pad(clip_mask, (1, 0), value=True)
        for block in self.blocks:
            members = block(members, mask)
        return self.norm(members[:, 0])


class Config(PoolerBlock):
    """A small transformer over the clips."""

    type: Literal["transformer"] = "transformer"
    """Which pooler this is."""
    layers: int = Field(1, ge=1)
    """Blocks."""
    num_attention_heads: int = Field(8, ge=1)
    """Heads of each block; a divisor of the video tower's width."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of what each block adds."""

    def build(self, dim: int) -> TransformerPooler:
        """ConfigError when the heads do not divide the width."""
        check_heads(self.type, self.num_attention_heads, dim)
        return TransformerPooler(dim, self)
