"""Clips that look at each other before a learned token sums them up: for findings that no single film shows."""

from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

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


class SetBlock(nn.Module):
    """Attention among the members of each set, then an MLP four times as wide, each after its norm."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.project = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, members: Float[Tensor, "set member dim"], mask: Bool[Tensor, "set member"]
    ) -> Float[Tensor, "set member dim"]:
        q, k, v = rearrange(
            self.qkv(self.norm1(members)),
            "set m (of head part) -> of set head m part",
            of=3,
            head=self.num_heads,
        )
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        members = members + self.dropout(
            self.project(rearrange(seen, "set head m part -> set m (head part)"))
        )
        return members + self.dropout(self.mlp(self.norm2(members)))


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
