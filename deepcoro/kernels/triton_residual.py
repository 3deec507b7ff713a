"""The residual of MViTv2's attention on CUDA in one pass over the result, which merges the parts of a key split as well.

Runs on CPU under TRITON_INTERPRET=1.
"""

from collections.abc import Sequence
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepcoro.kernels.attention_kernels import Attended
from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.triton_attention_rows import counts_of, find_rows

ROWS, WARPS = 32, 4


class Shape(NamedTuple):
    """What the kernel is compiled for; it reads it by number, in this order."""

    class_tokens: int
    heads: int
    dim: int
    columns: int
    value_width: int
    parts: int
    with_queries: int


@triton.jit
@no_type_check
def _residual_kernel(pointers, strides, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Merges two parts by their log-sum-exp where there are two, and adds to each patch's result its query."""
    HEADS: tl.constexpr = SHAPE[1]
    DIM: tl.constexpr = SHAPE[2]
    VALUE_WIDTH: tl.constexpr = SHAPE[4]
    one, other, one_sum, other_sum, q, merged, merged_sum, out = pointers
    clip, token, head, valid = find_rows(tl.program_id(0) * ROWS, counts, SHAPE, ROWS)
    columns = tl.arange(0, SHAPE[3])[None, :]
    row = (clip * counts[1] + token) * HEADS + head
    one += (clip * strides[0] + token * strides[1] + head * strides[2])[:, None]
    if SHAPE[5] == 2:
        other += (clip * strides[3] + token * strides[4] + head * strides[5])[:, None]
        of_sums = (clip * HEADS + head) * counts[1] + token
        first = tl.load(one_sum + of_sums, mask=valid, other=0.0)
        second = tl.load(other_sum + of_sums, mask=valid, other=0.0)
        largest = tl.maximum(first, second)
        both = largest + tl.log(tl.exp(first - largest) + tl.exp(second - largest))
        tl.store(merged_sum + of_sums, both, mask=valid)
        mask = valid[:, None] & (columns < VALUE_WIDTH)
        attended = tl.load(one + columns, mask=mask, other=0.0).to(tl.float32) * tl.exp(first - both)[:, None]
        of_other = tl.load(other + columns, mask=mask, other=0.0).to(tl.float32)
        attended = (attended + of_other * tl.exp(second - both)[:, None]).to(merged.dtype.element_ty)
        tl.store(merged + row[:, None] * VALUE_WIDTH + columns, attended, mask=mask)
    else:
        attended = tl.load(one + columns, mask=valid[:, None] & (columns < DIM), other=0.0)
    if SHAPE[6]:
        q += (clip * strides[6] + token * strides[7] + head * strides[8])[:, None]
        is_patch = valid & (token >= SHAPE[0])
        queries = tl.load(q + columns, mask=is_patch[:, None] & (columns < DIM), other=0.0)
        total = (attended.to(tl.float32) + queries.to(tl.float32)).to(out.dtype.element_ty)
        tl.store(out + row[:, None] * DIM + columns, total, mask=valid[:, None] & (columns < DIM))


def with_queries(
    parts: Sequence[Attended], q: Tensor, layout: AttentionLayout, dim: int, add: bool
) -> tuple[Attended, Tensor]:
    """One or two parts as one, and the result of each query, plus the query itself if `add`, the class token's excepted."""
    one, other = parts[0], parts[-1]
    if len(parts) == 1 and not add:
        return one, one.out[..., :dim]
    merged = one
    if len(parts) == 2:
        empty = (torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in one[:2])
        merged = Attended(*empty, tuple(part.extras for part in parts))
    out = q.new_empty(*q.shape[:3], dim) if add else merged.out
    value_width = one.out.shape[-1]
    columns = max(16, triton.next_power_of_2(max(dim, value_width)))
    shape = Shape(int(layout.has_class_token), q.shape[2], dim, columns, value_width, len(parts), int(add))
    sums = (one.logsumexp.contiguous(), other.logsumexp.contiguous())
    with torch.cuda.device_of(q):
        _residual_kernel[(triton.cdiv(q.shape[:3].numel(), ROWS),)](
            (one.out, other.out, *sums, q, merged.out, merged.logsumexp, out),
            (*one.out.stride()[:3], *other.out.stride()[:3], *q.stride()[:3]),
            *(counts_of(q), shape, ROWS),
            num_warps=WARPS,
        )
    return merged, out[..., :dim]
