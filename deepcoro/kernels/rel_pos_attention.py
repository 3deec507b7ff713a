"""Attention with decomposed relative positions (Li et al. 2022, MViTv2, arXiv:2112.01526, eq. 3-4) that runs on fused kernels.

The bias of query i and key j is q_i . (R_t[i_t, j_t] + R_h[i_h, j_h] + R_w[i_w, j_w]), of the unscaled query. Written as
q' = [s q, q R_t, q R_h, q R_w], k' = [k, onehot(j_t), onehot(j_h), onehot(j_w)] it is plain attention of scale 1 in a wider
head, exactly (FlashBias, arXiv:2505.12044). The class token, if any, comes first and has no bias.
"""

import functools

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from deepcoro.kernels.precision import autocast_dtype, kernel_dtype

ATTENTION_BACKENDS = ("auto", "fused", "plain", "flash_attn")

Tables = tuple[Float[Tensor, "_ _ dim"], Float[Tensor, "_ _ dim"], Float[Tensor, "_ _ dim"]]


def rel_pos_attention(
    q: Float[Tensor, "batch head query dim"],
    k: Float[Tensor, "batch head key dim"],
    v: Float[Tensor, "batch head key value"],
    tables: Tables,
    key_axes: Float[Tensor, "key axes"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "batch head query value"]:
    """Softmax attention with the bias of `tables` (R_t, R_h, R_w, each [query, key, dim] along its axis).

    Tokens run (frame height width) with at most one class token before them; `key_axes` is `key_one_hots(...)`, made here
    when not given. `auto` is the fused form: on CPU it won or tied at every shape of MViTv2-S but for blocks with few
    queries (fp32 forward + backward, Zen 3, against attention without any bias: 258/348 ms in block 0, 622/659 in block 1,
    74/67 in blocks 4-13), and it never holds the attention map. Differs from `plain` by rounding only.
    """
    if backend not in ATTENTION_BACKENDS:
        raise ValueError(f"attention backend is '{backend}'; allowed: {ATTENTION_BACKENDS}")
    dtype, out_dtype = kernel_dtype(q), autocast_dtype(q)
    if backend == "plain":
        dtype = torch.promote_types(q.dtype, torch.float32)
    q, k, v = (tensor.to(dtype) for tensor in (q, k, v))
    tables = tuple(table.to(dtype) for table in tables)
    with torch.autocast(q.device.type, enabled=False):
        if backend == "plain":
            return _plain(q, k, v, tables).to(out_dtype)
        if key_axes is None:
            key_axes = key_one_hots(*(table.shape[1] for table in tables), num_keys=k.shape[2]).to(q.device)
        return _folded(q, k, v, tables, key_axes, backend).to(out_dtype)


def relative_index(num_queries: int, num_keys: int) -> Int[Tensor, "query key"]:
    """Row of a table of 2 * max(queries, keys) - 1 relative positions for each pair, the coarser axis stretched over the finer."""
    query_step = max(num_keys / num_queries, 1.0)
    key_step = max(num_queries / num_keys, 1.0)
    query = torch.arange(num_queries)[:, None] * query_step
    key = (num_keys - 1 - torch.arange(num_keys))[None] * key_step
    return (query + key).long()


def key_one_hots(frames: int, height: int, width: int, num_keys: int) -> Float[Tensor, "key axes"]:
    """Per key its frame, row and column as three one-hots side by side; zeros for the class token."""
    grid = torch.cartesian_prod(torch.arange(frames), torch.arange(height), torch.arange(width))
    hots = [F.one_hot(grid[:, axis], size) for axis, size in enumerate((frames, height, width))]
    axes = torch.cat(hots, dim=1).float()
    return F.pad(axes, (0, 0, num_keys - len(axes), 0))


def _plain(q: Tensor, k: Tensor, v: Tensor, tables: Tables) -> Tensor:
    """The oracle: scores, the bias and their softmax held in full."""
    scores = einsum(q, k, "b n q c, b n k c -> b n q k") * q.shape[-1] ** -0.5
    by_frame, by_row, by_column = _query_terms(_patches(q, tables), tables)
    bias = (
        rearrange(by_frame, "b n t h w k -> b n t h w k 1 1")
        + rearrange(by_row, "b n t h w k -> b n t h w 1 k 1")
        + rearrange(by_column, "b n t h w k -> b n t h w 1 1 k")
    )
    bias = rearrange(bias, "b n t h w kt kh kw -> b n (t h w) (kt kh kw)")
    missing = (scores.shape[3] - bias.shape[3], scores.shape[2] - bias.shape[2])
    weights = (scores + F.pad(bias, (missing[0], 0, missing[1], 0))).softmax(dim=-1)
    return weights @ v


def _folded(q: Tensor, k: Tensor, v: Tensor, tables: Tables, key_axes: Tensor, backend: str) -> Tensor:
    width = q.shape[-1] + key_axes.shape[1]
    padding = -width % 8  # fused kernels read rows of 16 bytes
    folded_q = _FoldQuery.apply(q, *tables, padding)
    axes = F.pad(key_axes.to(k.dtype), (0, padding)).expand(*k.shape[:2], -1, -1)
    folded_k = torch.cat((k, axes), dim=-1)
    num_values = v.shape[-1]
    # fused kernels want values as wide as keys; the columns of zeros are cut off again
    wide_v = F.pad(v, (0, folded_k.shape[-1] - num_values))
    if backend == "flash_attn":
        return _flash_attn(folded_q, folded_k, wide_v)[..., :num_values]
    return F.scaled_dot_product_attention(folded_q, folded_k, wide_v, scale=1.0)[..., :num_values]


class _FoldQuery(torch.autograd.Function):
    """q -> [s q, q R_t, q R_h, q R_w, 0]. Keeps its result, which attention keeps anyway, instead of q and three copies of it."""

    @staticmethod
    def forward(ctx, q: Tensor, table_t: Tensor, table_h: Tensor, table_w: Tensor, padding: int) -> Tensor:
        tables = (table_t, table_h, table_w)
        dim, num_extra = q.shape[-1], sum(table.shape[1] for table in tables)
        folded = q.new_zeros(*q.shape[:-1], dim + num_extra + padding)
        torch.mul(q, dim**-0.5, out=folded[..., :dim])
        start = dim
        for term in _query_terms(_patches(q, tables), tables):
            _patches(folded, tables)[..., start : start + term.shape[-1]] = term
            start += term.shape[-1]
        ctx.save_for_backward(folded, *tables)
        return folded

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        folded, *saved = ctx.saved_tensors
        tables = tuple(saved)
        dim = tables[0].shape[-1]
        scale = dim**-0.5
        by_q = gradient[..., :dim] * scale
        scaled_patches, by_patches = _patches(folded, tables)[..., :dim], _patches(by_q, tables)
        by_tables, start = [], dim
        for axis, table in zip("thw", tables, strict=True):
            by_term = _patches(gradient, tables)[..., start : start + table.shape[1]]
            by_patches += einsum(by_term, table, f"b n t h w k, {axis} k c -> b n t h w c")
            by_tables.append(
                einsum(by_term, scaled_patches, f"b n t h w k, b n t h w c -> {axis} k c") / scale
            )
            start += table.shape[1]
        return by_q, *by_tables, None


def _patches(tokens: Tensor, tables: Tables) -> Tensor:
    """The grid [b, n, t, h, w, c] of the tokens without the class token, as a view."""
    frames, height, width = (table.shape[0] for table in tables)
    grid = tokens[:, :, tokens.shape[2] - frames * height * width :]
    return rearrange(grid, "b n (t h w) c -> b n t h w c", t=frames, h=height)


def _query_terms(patches: Tensor, tables: Tables) -> list[Tensor]:
    """q . R along each axis: [b, n, t, h, w, key position on that axis]."""
    return [
        einsum(patches, table, f"b n t h w c, {axis} k c -> b n t h w k")
        for axis, table in zip("thw", tables, strict=True)
    ]


@functools.cache
def flash_attn_available() -> bool:
    """Whether the optional package flash-attn imports here (it needs CUDA; torch's own kernels serve without it)."""
    if not torch.cuda.is_available():
        return False
    try:
        import flash_attn  # noqa: F401
    except ImportError:
        return False
    return True


def _flash_attn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if not (q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and flash_attn_available()):
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)
    from flash_attn import flash_attn_func

    rows = (rearrange(tensor, "b n l c -> b l n c") for tensor in (q, k, v))
    return rearrange(flash_attn_func(*rows, softmax_scale=1.0), "b l n c -> b n l c")
