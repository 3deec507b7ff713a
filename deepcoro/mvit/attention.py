"""Pooling attention of MViTv2: queries, keys and values are pooled after their projection, positions are relative.

The parts of the projection are read where they lie and pooled to the width that attention computes in, so that between the
two projections no token is moved twice; all tokens of a grid and the visible ones alone take the same way. Parameter names
are those of the public Kinetics-400 checkpoint, so that its state dict loads as it is.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.config import ConfigError
from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.attention_plan import AttentionPlan, plan_attention
from deepcoro.kernels.norm_linear import NormLinear, ReadNorm
from deepcoro.kernels.pool_layout import PoolLayout
from deepcoro.kernels.rel_pos_attention import rel_pos_attention
from deepcoro.kernels.residual_linear import Residual, ResidualLinear
from deepcoro.kernels.rotary import rotary_attention
from deepcoro.kernels.token_pooling import PoolFilter, PoolPart, pool_projection
from deepcoro.mvit.checkpointing import remade
from deepcoro.mvit.layout import BlockLayout, dense_layout, fill_outside
from deepcoro.mvit.shapes import BlockShape

NORM_EPS = 1e-6
POSITIONS = ("relative", "rope3d", "none")


class Way(NamedTuple):
    """How one part of the projection is pooled, written how wide, and times what."""

    layout: PoolLayout
    width: int
    scale: float = 1.0


class PoolChain(NamedTuple):
    """What is left to enter of a block's pooling: pools whose parameters are still to be had, and those already at hand."""

    waiting: tuple["TokenPool", ...]
    ways: tuple[Way, ...]
    """One a pool, of all pools."""
    ready: tuple[PoolPart, ...] = ()

    def enter(self, projected: Tensor) -> tuple[Tensor, ...]:
        """Pools all parts of the projection once every parameter is at hand: in one piece, so that its gradient is as well."""
        if self.waiting:
            return self.waiting[0](projected, self._replace(waiting=self.waiting[1:]))
        return pool_projection(projected, self.ready, eps=NORM_EPS)

    def add(self, pool_filter: PoolFilter) -> "PoolChain":
        part = PoolPart(pool_filter, *self.ways[len(self.ready)])
        return self._replace(ready=(*self.ready, part))


class HeadNorm(nn.LayerNorm):
    """The norm over each head after its filter."""

    def forward(
        self, projected: Float[Tensor, "batch token part head dim"], weight: Tensor, chain: PoolChain
    ) -> tuple[Tensor, ...]:
        return chain.add(PoolFilter(weight, self.weight, self.bias)).enter(projected)


class DepthwiseFilter(nn.Module):
    """The 3x3x3 depthwise filter, one for all heads."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Conv3d(dim, dim, 3, groups=dim, bias=False).weight.detach())

    def forward(
        self, projected: Float[Tensor, "batch token part head dim"], norm: HeadNorm, chain: PoolChain
    ) -> tuple[Tensor, ...]:
        return norm(projected, self.weight, chain)


class TokenPool(nn.Module):
    """Pools the patches of one part of the projection, passes the class token by, and normalises each head.

    The pools of a block run in one kernel, which needs the parameters of all: each module calls the next with its own in
    hand, and the kernel runs inside the last. ZeRO-3 holds a module's parameters gathered while its forward runs.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pool = DepthwiseFilter(dim)
        self.norm_act = nn.Sequential(HeadNorm(dim, eps=NORM_EPS))

    def forward(
        self, projected: Float[Tensor, "batch token part head dim"], chain: PoolChain
    ) -> tuple[Tensor, ...]:
        return self.pool(projected, self.norm_act[0], chain)


class MultiscaleAttention(nn.Module):
    """Queries, keys and values are pooled after their projection; pooled queries are added to the result."""

    def __init__(
        self, shape: BlockShape, backend: str, class_token: bool = True, positions: str = "relative"
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ConfigError(f"positions is '{positions}'; allowed: {POSITIONS}")
        self.shape, self.backend, self.positions = shape, backend, positions
        self.dense_layout = dense_layout(shape, class_token)
        self.qkv = NormLinear(shape.dim_in, 3 * shape.dim_out)
        self.project = nn.Sequential(ResidualLinear(shape.dim_out, shape.dim_out))
        self.pool_q, self.pool_k, self.pool_v = (TokenPool(shape.head_dim) for _ in range(3))
        if positions == "relative":
            for axis, queries, keys in zip("thw", shape.query_grid, shape.key_grid, strict=True):
                table = torch.empty(2 * max(queries, keys) - 1, shape.head_dim)
                self.register_parameter(
                    f"rel_pos_{axis}", nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
                )

    def forward(
        self,
        tokens: Float[Tensor, "batch token dim"],
        norm: ReadNorm,
        layout: BlockLayout | None = None,
        remakes_projection: bool = False,
        residual: Residual | None = None,
    ) -> Float[Tensor, "batch token_out dim_out"]:
        """All tokens of the block's grid in raster order, or those that `layout` names, normalised by `norm`.

        `remakes_projection`: the projection and its pooling are made again in backward; queries, keys and values are kept.
        `residual`: what the result is added to, in the format of the tokens.
        """
        layout = layout or self.dense_layout
        dim, is_relative = self.shape.head_dim, self.positions == "relative"
        plan = plan_attention(layout.attention, tokens, dim, self.backend, relative=is_relative)
        if remakes_projection:
            q, k, v, same_tokens = remade(self._heads, tokens, norm, layout, plan)
        else:
            q, k, v, same_tokens = self._heads(tokens, norm, layout, plan)
        if layout.edges is None or layout.edges.keys is None:
            attended = self._attend((q, k, v), layout.attention, plan)
        else:
            attended = self._attend_clip_by_clip((q, k, v), layout, plan)
        if residual is not None and residual.skip is None:
            residual = residual._replace(skip=same_tokens)
        return self.project[0](rearrange(attended, "b l n c -> b l (n c)"), residual, tokens.dtype)

    def class_attention(
        self, tokens: Float[Tensor, "batch token dim"], norm: ReadNorm
    ) -> Float[Tensor, "batch head key"]:
        """How the class token of whole clips divides its attention over the keys, its own first; fp32. For people to look at: the kernels
        never hold it. Its query has no positions. ConfigError without a class token, or where positions turn the keys (rope3d).
        """
        if not self.dense_layout.attention.has_class_token or self.positions == "rope3d":
            raise ConfigError(
                f"class attention needs class_token=true and positions other than rope3d (here {self.positions}); use gradients instead"
            )
        dim = self.shape.head_dim
        relative = self.positions == "relative"
        plan = plan_attention(self.dense_layout.attention, tokens, dim, "plain", relative=relative)
        q, k, *_ = self._heads(tokens, norm, self.dense_layout, plan)
        scores = einsum(q[:, 0].float(), k.float(), "b n c, b k n c -> b n k")
        return scores.softmax(-1)

    def _heads(
        self, tokens: Tensor, norm: ReadNorm, layout: BlockLayout, plan: AttentionPlan
    ) -> tuple[Tensor, ...]:
        """Pooled queries, keys and values at the plan's widths, and the tokens for the residual."""
        projected, same_tokens = norm(tokens, reader=self.qkv, hands_on=True)
        if layout.edges is not None:
            projected = fill_outside(projected, layout.edges.tokens, 0.0)
        projected = rearrange(projected, "b l (part n c) -> b l part n c", part=3, n=self.shape.heads)
        ways = (
            Way(layout.query, plan.width),
            Way(layout.key, plan.width, scale=self.shape.head_dim**-0.5),
            Way(layout.key, plan.value_width),
        )
        return *PoolChain((self.pool_q, self.pool_k, self.pool_v), ways).enter(projected), same_tokens

    def _attend(self, heads: tuple[Tensor, ...], places: AttentionLayout, plan: AttentionPlan) -> Tensor:
        """The result of each head with its queries added."""
        if self.positions == "rope3d":
            return rotary_attention(*heads, places, plan, add_queries=True)
        is_relative = self.positions == "relative"
        tables = (self.rel_pos_t, self.rel_pos_h, self.rel_pos_w) if is_relative else None
        return rel_pos_attention(*heads, tables, places, plan, add_queries=True)

    def _attend_clip_by_clip(
        self, heads: tuple[Tensor, ...], layout: BlockLayout, plan: AttentionPlan
    ) -> Tensor:
        """For grids that are no whole number of mask units: clips differ in how many of their keys lie in the picture.

        Counting them waits for the device; only blocks that halve such a grid come here.
        """
        attended, places = [], layout.attention
        for clip, inside in enumerate(layout.edges.keys):
            (rows,) = inside.nonzero(as_tuple=True)
            key_rows = F.pad(rows + 1, (1, 0)) if places.has_class_token else rows
            q, k, v = (part[clip : clip + 1] for part in heads)
            own = replace(
                places,
                query_positions=places.query_positions[clip : clip + 1],
                key_positions=places.key_positions[clip : clip + 1, rows],
            )
            # attention completes its queries in place
            attended.append(self._attend((q.clone(), k[:, key_rows], v[:, key_rows]), own, plan))
        return torch.cat(attended)
