"""Pooling attention of MViTv2: queries, keys and values are pooled after their projection, positions are relative.

Parameter names are those of the public Kinetics-400 checkpoint, so that its state dict loads as it is.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.attention_plan import plan_attention
from deepcoro.kernels.pooling import depthwise_pool
from deepcoro.kernels.rel_pos_attention import rel_pos_attention
from deepcoro.mvit.shapes import BlockShape

NORM_EPS = 1e-6


class DepthwisePool(nn.Module):
    """The 3x3x3 depthwise filter, one for all heads."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(nn.Conv3d(dim, dim, 3, groups=dim, bias=False).weight.detach())

    def forward(
        self, grid: Float[Tensor, "batch frame height width channel"]
    ) -> Float[Tensor, "batch frame height_out width_out channel"]:
        return depthwise_pool(grid, self.weight, self.stride)


class TokenPool(nn.Module):
    """Pools the grid, passes the class token by, and normalises each head."""

    def __init__(self, dim: int, heads: int, stride: int) -> None:
        super().__init__()
        self.heads = heads
        self.pool = DepthwisePool(dim, stride)
        self.norm_act = nn.Sequential(nn.LayerNorm(dim, eps=NORM_EPS))

    def forward(
        self,
        class_token: Float[Tensor, "batch 1 channel"],
        grid: Float[Tensor, "batch frame height width channel"],
    ) -> Float[Tensor, "batch token head dim"]:
        pooled = rearrange(self.pool(grid), "b t h w (n c) -> b (t h w) n c", n=self.heads)
        class_token = rearrange(class_token, "b one (n c) -> b one n c", n=self.heads)
        return self.norm_act(torch.cat((class_token, pooled), dim=1))


class MultiscaleAttention(nn.Module):
    """Queries, keys and values are pooled after their projection; pooled queries are added to the result."""

    def __init__(self, shape: BlockShape, backend: str) -> None:
        super().__init__()
        self.shape, self.backend = shape, backend
        self.qkv = nn.Linear(shape.dim_in, 3 * shape.dim_out)
        self.project = nn.Sequential(nn.Linear(shape.dim_out, shape.dim_out))
        self.pool_q = TokenPool(shape.head_dim, shape.heads, shape.query_stride)
        self.pool_k = TokenPool(shape.head_dim, shape.heads, shape.key_stride)
        self.pool_v = TokenPool(shape.head_dim, shape.heads, shape.key_stride)
        for axis, queries, keys in zip("thw", shape.query_grid, shape.key_grid, strict=True):
            table = torch.empty(2 * max(queries, keys) - 1, shape.head_dim)
            self.register_parameter(f"rel_pos_{axis}", nn.Parameter(nn.init.trunc_normal_(table, std=0.02)))
        self.layout = AttentionLayout(shape.query_grid, shape.key_grid)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token_out dim_out"]:
        frames, height, width = self.shape.grid
        class_token, patches = self.qkv(tokens).split((1, frames * height * width), dim=1)
        grid = rearrange(patches, "b (t h w) c -> b t h w c", t=frames, h=height)
        pools = (self.pool_q, self.pool_k, self.pool_v)
        q, k, v = (
            pool(*parts)
            for pool, *parts in zip(pools, class_token.chunk(3, -1), grid.chunk(3, -1), strict=True)
        )
        plan = plan_attention(self.layout, q, self.shape.head_dim, self.backend)
        k = k * self.shape.head_dim**-0.5
        q, k = (F.pad(part, (0, plan.width - self.shape.head_dim)) for part in (q, k))
        v = F.pad(v, (0, plan.value_width - self.shape.head_dim))
        tables = (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w)
        attended = rel_pos_attention(q, k, v, tables, self.layout, plan, add_queries=True)
        return self.project(rearrange(attended, "b l n c -> b l (n c)"))
