"""Masked clips the slow way: every token of the grid is computed, hidden ones are zeros for each filter, minus infinity for
the maximum and for attention. Plain torch operations, block by block, on the parameters of an encoder."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat

from deepcoro.kernels.attention_layout import relative_index


def encode(tower, video, visible):
    """What `tower.encode(video, visible)` must give."""
    last = tower.blocks[-1].shape.query_grid
    shown = torch.zeros(len(video), last[0] * last[1] * last[2], dtype=torch.bool)
    shown = rearrange(shown.scatter(1, visible, True), "b (t h w) -> b t h w", t=last[0], h=last[1])
    side = 1
    for block in tower.blocks:
        side *= block.shape.query_stride
    grid = _embed(tower.conv_proj, video, _spread(shown, 4 * side, video.shape[3:], frames=video.shape[2]))
    first = None
    if tower.has_class_token:
        first = repeat(tower.pos_encoding.class_token, "c -> b 1 c", b=len(video))
    for block in tower.blocks:
        first, grid = _block(block, first, grid, shown, side)
        side //= block.shape.query_stride
    tokens = rearrange(grid, "b t h w c -> b (t h w) c")
    kept = tokens.gather(1, repeat(visible, "b u -> b u c", c=tokens.shape[-1]))
    return _norm(tower.norm, kept if first is None else torch.cat((first, kept), dim=1))


def _embed(embedding, video, shown):
    video = torch.where(shown[:, None], video, 0)
    return rearrange(
        F.conv3d(video, embedding.weight, embedding.bias, (2, 4, 4), (1, 3, 3)), "b c t h w -> b t h w c"
    )


def _spread(shown, side, size, frames=None):
    """The mask of units on a grid of `size`, whose units have `side` cells a side (and 2 frames, if those are pixels)."""
    large = repeat(shown, "b t h w -> b (t f) (h y) (w x)", f=1 if frames is None else 2, y=side, x=side)
    return large[:, :frames, : size[0], : size[1]]


def _block(block, first, grid, shown, side):
    shape = block.shape
    here = _spread(shown, side, grid.shape[2:4])
    there = _spread(shown, side // shape.query_stride, shape.query_grid[1:])
    normed_first, normed = first if first is None else _norm(block.norm1, first), _norm(block.norm1, grid)
    skip_first, skip = first, grid
    if block.project is not None:
        skip = block.project(normed)
        skip_first = first if first is None else block.project(normed_first)
    if shape.query_stride > 1:
        skip = _max_pool(skip.masked_fill(~here[..., None], -torch.inf), shape.query_stride)
    attended_first, attended = _attention(block.attn, normed_first, normed, shown, side)
    grid = _feed_forward(block, torch.where(there[..., None], skip + attended, 0))
    if first is not None:
        first = _feed_forward(block, skip_first + attended_first)
    return first, grid


def _feed_forward(block, tokens):
    wide, narrow = (getattr(block.mlp, name) for name in ("0", "3"))
    hidden = F.linear(_norm(block.norm2, tokens), wide.weight, wide.bias)
    return tokens + F.linear(F.gelu(hidden), narrow.weight, narrow.bias)


def _norm(norm, tokens):
    return F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _max_pool(grid, stride):
    frames = rearrange(grid, "b t h w c -> (b t) c h w")
    pooled = F.max_pool2d(frames, 3, stride, padding=1)
    return rearrange(pooled, "(b t) c h w -> b t h w c", b=len(grid))


def _attention(attention, first, grid, shown, side):
    shape = attention.shape
    here = _spread(shown, side, grid.shape[2:4])
    key_grid = _spread(shown, side // shape.key_stride, shape.key_grid[1:])
    parts = []
    pools = (attention.pool_q, attention.pool_k, attention.pool_v)
    firsts = (None,) * 3 if first is None else attention.qkv(first).chunk(3, -1)
    strides = (shape.query_stride, shape.key_stride, shape.key_stride)
    for pool, part, part_first, stride in zip(
        pools, attention.qkv(grid).chunk(3, -1), firsts, strides, strict=True
    ):
        parts.append(_pool(pool, part_first, torch.where(here[..., None], part, 0), stride))
    q, k, v = parts
    num_first = 0 if first is None else 1
    scores = einsum(q, k, "b n q c, b n k c -> b n q k") * q.shape[-1] ** -0.5
    bias = _bias(attention, q[:, :, num_first:])
    scores = scores + F.pad(bias, (num_first, 0, num_first, 0))
    keys = F.pad(rearrange(key_grid, "b t h w -> b (t h w)"), (num_first, 0), value=True)
    weights = scores.masked_fill(~keys[:, None, None], -torch.inf).softmax(-1)
    residual = torch.cat((torch.zeros_like(q[:, :, :num_first]), q[:, :, num_first:]), dim=2)
    out = attention.project(rearrange(weights @ v + residual, "b n q c -> b q (n c)"))
    frames, height, _ = shape.query_grid
    patches = rearrange(out[:, num_first:], "b (t h w) c -> b t h w c", t=frames, h=height)
    return (out[:, :1] if num_first else None), patches


def _pool(pool, first, grid, stride):
    """A 3x3x3 filter over each head's picture, then its norm; [b, head, token, dim]."""
    weight = pool.pool.weight
    heads = rearrange(grid, "b t h w (n c) -> (b n) c t h w", c=len(weight))
    pooled = F.conv3d(heads, weight, stride=(1, stride, stride), padding=1, groups=len(weight))
    tokens = rearrange(pooled, "(b n) c t h w -> b n (t h w) c", b=len(grid))
    if first is not None:
        tokens = torch.cat((rearrange(first, "b 1 (n c) -> b n 1 c", c=len(weight)), tokens), dim=2)
    return _norm(pool.norm_act[0], tokens)


def _bias(attention, q):
    queries, keys = attention.shape.query_grid, attention.shape.key_grid
    grid = rearrange(q, "b n (t h w) c -> b n t h w c", t=queries[0], h=queries[1])
    tables = (
        table[relative_index(num_queries, num_keys)]
        for table, num_queries, num_keys in zip(
            (attention.rel_pos_t, attention.rel_pos_h, attention.rel_pos_w), queries, keys, strict=True
        )
    )
    by_t, by_h, by_w = (
        einsum(grid, table, f"b n t h w c, {axis} k c -> b n t h w k")
        for axis, table in zip("thw", tables, strict=True)
    )
    bias = by_t[..., :, None, None] + by_h[..., None, :, None] + by_w[..., None, None, :]
    return rearrange(bias, "b n t h w i j k -> b n (t h w) (i j k)")
