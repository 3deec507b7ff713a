"""Attention in tiles of queries by plain matrix products: the kernel of CPUs in half precision, and the last resort anywhere.

A tile holds its scores against all keys for a moment; backward makes them again, so that only q, k and v are kept: neither
the result nor its log-sum-exp. Processors multiply bfloat16 far faster than torch's own fused CPU kernel does
(docs/benchmarks/2026-11-25-attention.md).
"""

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor

from deepcoro.kernels.attention_kernels import Attended, AttentionKernel, half

TILE_BYTES = 1 << 21
"""Scores of a head in a tile. Smaller tiles make thinner products: a quarter of it took 1.2 times as long where there are
1,569 keys (AMD Zen 4, bfloat16)."""

CENTRE_STEP = 4
"""Every fourth key is looked at for the largest score."""


def tiled_forward(q: Tensor, k: Tensor, v: Tensor) -> Attended:
    """softmax(q k^T) v; in half precision the last column of q and k is used to centre the scores (`_centre`)."""
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    centred = half(q.dtype)
    if centred:
        k[..., -1] = 1
    for clip in range(len(q)):
        keys, values = _by_head(k[clip]), _by_head(v[clip])
        for rows, scores in _tiles(q, k):
            queries = _by_head(q[clip, rows])
            if centred:
                _centre(queries, keys)
            weights = _softmax(torch.bmm(queries, keys.mT, out=scores))
            out[clip, rows] = rearrange(torch.bmm(weights, values), "n q c -> q n c")
    return Attended(out, None)


def tiled_backward(
    by_out: Tensor, q: Tensor, k: Tensor, v: Tensor, _: Attended
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; those of k and v are summed over tiles in fp32 or better."""
    exact = torch.promote_types(q.dtype, torch.float32)
    by_q = torch.empty_like(q)
    by_k = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    by_v = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    for clip in range(len(q)):
        keys, values = _by_head(k[clip]), _by_head(v[clip])
        by_keys, by_values = torch.zeros_like(keys, dtype=exact), torch.zeros_like(values, dtype=exact)
        for rows, scores in _tiles(q, k):
            queries, by_rows = _by_head(q[clip, rows]), _by_head(by_out[clip, rows])
            weights = _softmax(torch.bmm(queries, keys.mT, out=scores))
            by_values += torch.bmm(weights.mT, by_rows)
            by_scores = _softmax_backward(torch.bmm(by_rows, values.mT), weights)
            by_keys += torch.bmm(by_scores.mT, queries)
            by_q[clip, rows] = rearrange(torch.bmm(by_scores, keys), "n q c -> q n c")
        by_k[clip], by_v[clip] = rearrange(by_keys, "n k c -> k n c"), rearrange(by_values, "n k c -> k n c")
    return by_q, by_k, by_v


def _by_head(tokens: Tensor) -> Tensor:
    return rearrange(tokens, "l n c -> n l c")


def _tiles(q: Tensor, k: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of queries and a buffer [head, row, key] for their scores, which all tiles share."""
    (num_queries, num_heads), num_keys = q.shape[1:3], k.shape[1]
    size = max(TILE_BYTES // (num_keys * q.element_size()) // 32 * 32, 32)
    buffer = q.new_empty(num_heads * min(size, num_queries) * num_keys)
    for start in range(0, num_queries, size):
        count = min(size, num_queries - start)
        scores = buffer[: num_heads * count * num_keys].view(num_heads, count, num_keys)
        yield slice(start, start + count), scores


def _centre(queries: Tensor, keys: Tensor) -> None:
    """Writes minus nearly the largest score into the last column of the queries, against a column of ones in the keys.

    A softmax does not change when all scores of a row move, but scores near zero are rounded less: products in half
    precision are rounded to it, and the largest weights had most of the error.
    """
    queries[..., -1] = 0
    queries[..., -1] = -torch.bmm(queries, keys[:, ::CENTRE_STEP].mT).amax(-1)


def _softmax(scores: Tensor) -> Tensor:
    return torch.ops.aten._softmax.out(scores, -1, False, out=scores)


def _softmax_backward(by_weights: Tensor, weights: Tensor) -> Tensor:
    return torch.ops.aten._softmax_backward_data.out(
        by_weights, weights, -1, weights.dtype, grad_input=by_weights
    )


TILED = AttentionKernel(
    name="tiled",
    forward=tiled_forward,
    backward=tiled_backward,
    refusal=lambda problem: None,
    needs_wide_values=False,
    num_spare=1,
    max_width=1 << 16,
)
