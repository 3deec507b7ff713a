"""The oracle of attention with relative positions: scores, bias and softmax held in full, gradients by autograd."""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.position_terms import Tables


def plain_attention(
    q: Float[Tensor, "batch query head dim"],
    k: Float[Tensor, "batch key head dim"],
    v: Float[Tensor, "batch key head value"],
    tables: Tables | None,
    layout: AttentionLayout,
) -> Float[Tensor, "batch query head value"]:
    """softmax(q k^T + bias) v, in fp32 or better; the bias of query i and key j is q_i . (R_t + R_h + R_w)[i, j].

    `k` comes scaled, the bias is of the unscaled query (Li et al. 2022, arXiv:2112.01526, eq. 3-4). No tables: no bias.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores = einsum(q.to(dtype), k.to(dtype), "b q n c, b k n c -> b n q k")
    if tables is not None:
        first = int(layout.has_class_token)
        bias = _bias(q[:, first:].to(dtype), tables, layout)
        scores = scores + torch.nn.functional.pad(bias, (first, 0, first, 0))
    return einsum(scores.softmax(-1), v.to(dtype), "b n q k, b k n c -> b q n c").to(q.dtype)


def _bias(q: Tensor, tables: Tables, layout: AttentionLayout) -> Tensor:
    """Each pair's relative positions looked up one by one: [batch, head, query patch, key patch]."""
    queries, keys = layout.query_cells(q.device), layout.key_cells(q.device)
    bias = 0.0
    for axis, (table, index) in enumerate(zip(tables, layout.relative_indices(q.device), strict=True)):
        products = einsum(q, table.to(q.dtype), "b q n c, row c -> b n q row")
        rows = index[
            rearrange(queries[..., axis], "b q -> b q 1"), rearrange(keys[..., axis], "b k -> b 1 k")
        ]
        rows = rearrange(rows, "b q k -> b 1 q k").expand(*products.shape[:3], -1)
        bias = bias + products.gather(-1, rows)
    return bias
