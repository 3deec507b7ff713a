"""Attention with decomposed relative positions (Li et al. 2022, MViTv2, arXiv:2112.01526, eq. 3-4) that runs on fused kernels.

The bias of query i and key j is q_i . (R_t[i_t, j_t] + R_h[i_h, j_h] + R_w[i_w, j_w]), of the unscaled query. Written as
q' = [q, q R_h, q R_w, q R_t], k' = [s k, onehot(j_h), onehot(j_w), onehot(j_t)] it is plain attention of scale 1 in a wider
head, exactly (FlashBias, arXiv:2505.12044). The class token, if any, comes first and has no bias.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from deepcoro.kernels.attention_kernels import Attended
from deepcoro.kernels.attention_layout import AttentionLayout, write_one_hots
from deepcoro.kernels.attention_plan import AttentionPlan
from deepcoro.kernels.key_split import (
    SplitInputs,
    parts_backward,
    parts_forward,
    split_backward,
    split_forward,
)
from deepcoro.kernels.plain_attention import plain_attention
from deepcoro.kernels.position_terms import Tables, query_terms, query_terms_backward
from deepcoro.kernels.precision import autocast_dtype
from deepcoro.kernels.tiled_attention import TILED
from deepcoro.kernels.triton_use import takes_triton


def rel_pos_attention(
    q: Float[Tensor, "batch query head width"],
    k: Float[Tensor, "batch key head width"],
    v: Float[Tensor, "batch key head value_width"],
    tables: Tables | None,
    layout: AttentionLayout,
    plan: AttentionPlan,
    *,
    add_queries: bool = False,
) -> Float[Tensor, "batch query head dim"]:
    """softmax(q k^T + bias) v for heads written at the plan's widths: `dim` channels, then zeros; k comes times dim ** -0.5.

    The columns after `dim` of q and k are filled in here, in place: they belong to this function, and their gradients mean
    nothing. `tables` are the parameters R_t, R_h, R_w with 2 * max(queries, keys on the axis) - 1 rows each; None for
    attention without positions. `add_queries` adds each query to its own result, the class token's excepted: the residual
    of MViTv2 at no cost. What stays for backward are q, k, v and, for kernels of libraries, their result.
    """
    _check(q, k, v, plan)
    if plan.kernel is None:
        out = plain_attention(q, k, v, tables, layout)
        return _with_queries(out, q, layout) if add_queries else out
    return _attend(q, k, v, tables or (), layout, plan, add_queries)


@torch.compiler.disable
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: tuple[Tensor, ...],
    layout: AttentionLayout,
    plan: AttentionPlan,
    add_queries: bool,
) -> Tensor:
    out_dtype = autocast_dtype(q)
    heads = [each.to(plan.dtype) for each in (q, k, v)]
    form = _AttentionInFewPasses if _runs_in_triton(*heads[:2], plan) else _Attention
    if form is _Attention:
        tables = (table.to(plan.dtype) for table in tables)
    with torch.autocast(q.device.type, enabled=False):
        return form.apply(*heads, layout, plan, add_queries, *tables).to(out_dtype)


def _runs_in_triton(q: Tensor, k: Tensor, plan: AttentionPlan) -> bool:
    """Whether what surrounds the kernel runs in a few kernels of this project's own: on CUDA, around a library's kernel."""
    is_ours = takes_triton(q) and plan.kernel is not TILED
    is_written = q.stride(-1) == k.stride(-1) == 1
    return is_ours and is_written and (plan.split is None or plan.split.num_parts <= 2)


def _check(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan) -> None:
    widths = (q.shape[-1], k.shape[-1], v.shape[-1])
    expected = (plan.width, plan.width, plan.value_width)
    if widths != expected:
        raise ValueError(f"q, k, v are {widths} columns wide; the plan of this attention asks for {expected}")


def _with_queries(out: Tensor, q: Tensor, layout: AttentionLayout) -> Tensor:
    first = int(layout.has_class_token)
    added = out[:, first:] + q[:, first:, :, : out.shape[-1]]
    return torch.cat((out[:, :first], added), dim=1)


class _Attention(torch.autograd.Function):
    """Completes q and k in place, and keeps them: q' serves the tables' gradients too, without a copy of q."""

    @staticmethod
    def forward(ctx, q, k, v, layout, plan, add_queries, *tables):
        inputs = _fold(SplitInputs(q, None, k, v), tables, layout, plan)
        if plan.split is None:
            attended = plan.kernel.forward(q, k, v)
        else:
            attended = split_forward(plan.kernel, plan.split, inputs)
        out = attended.out[..., : plan.dim]
        keeps_out = attended.logsumexp is not None
        ctx.save_for_backward(*inputs, *(attended[:2] if keeps_out else (None, None)), *tables)
        ctx.extras, ctx.layout, ctx.plan, ctx.add_queries = attended.extras, layout, plan, add_queries
        if not add_queries:
            return out
        out = out.clone() if keeps_out else out
        layout.query_patches(out).add_(layout.query_patches(q)[..., : plan.dim])
        return out

    @staticmethod
    def backward(ctx, by_out):
        q, by_frame, k, v, out, logsumexp, *tables = ctx.saved_tensors
        plan, layout = ctx.plan, ctx.layout
        attended = Attended(out, logsumexp, ctx.extras)
        missing = v.shape[-1] - plan.dim
        wide = F.pad(by_out, (0, missing)) if missing else by_out  # padding by nothing is a copy
        if plan.split is None:
            by_q, by_k, by_v = plan.kernel.backward(wide, q, k, v, attended)
            gradients = SplitInputs(by_q, None, by_k, by_v)
        else:
            inputs = SplitInputs(q, by_frame, k, v)
            # the columns of time are written anew for each part: not a change that autograd has to object to
            with torch.autograd._unsafe_preserve_version_counter(q):
                gradients = split_backward(plan.kernel, plan.split, wide, inputs, attended)
        by_queries = layout.query_patches(gradients.q)[..., : plan.dim]
        by_tables = ()
        if tables:
            queries = layout.query_patches(q)[..., : plan.dim]
            by_terms = _gradients_of_terms(gradients, layout, plan)
            by_tables = query_terms_backward(by_terms, queries, tuple(tables), layout, by_queries)
        if ctx.add_queries:
            by_queries += layout.query_patches(by_out)
        return gradients.q, gradients.k, gradients.v, None, None, None, *by_tables


class _AttentionInFewPasses(torch.autograd.Function):
    """The same on CUDA: one kernel completes q and k, one adds the residual, two make the gradients of q and of the tables.

    The kernels write in place below autograd's version counters; tables come in their own format and get gradients in fp32.
    """

    @staticmethod
    def forward(ctx, q, k, v, layout, plan, add_queries, *tables):
        from deepcoro.kernels import triton_position_terms, triton_residual

        rows = torch.cat(tables).to(q.dtype) if tables else None
        by_frame = None if rows is None else triton_position_terms.complete(q, k, rows, layout, plan)
        if plan.split is None:
            parts = [plan.kernel.forward(q, k, v)]
        else:
            parts = parts_forward(plan.kernel, plan.split, SplitInputs(q, by_frame, k, v))
        attended, out = triton_residual.with_queries(parts, q, layout, plan.dim, add_queries)
        ctx.save_for_backward(q, by_frame, k, v, *attended[:2], rows)
        ctx.extras, ctx.layout, ctx.plan, ctx.add_queries = attended.extras, layout, plan, add_queries
        ctx.table_sizes = [len(table) for table in tables]
        return out

    @staticmethod
    def backward(ctx, by_out):
        from deepcoro.kernels import triton_position_terms

        q, by_frame, k, v, out, logsumexp, rows = ctx.saved_tensors
        plan, layout = ctx.plan, ctx.layout
        attended = Attended(out, logsumexp, ctx.extras)
        missing = v.shape[-1] - plan.dim
        wide = F.pad(by_out, (0, missing)) if missing else by_out
        if plan.split is None:
            of_queries, by_k, by_v = plan.kernel.backward(wide, q, k, v, attended)
            of_queries = [of_queries]
        else:
            inputs = SplitInputs(q, by_frame, k, v)
            with torch.autograd._unsafe_preserve_version_counter(q):
                parts = list(parts_backward(plan.kernel, plan.split, wide, inputs, attended))
            of_queries, by_k, by_v = zip(*parts, strict=True)
            by_k, by_v = torch.cat(by_k, dim=1), torch.cat(by_v, dim=1)
        by_tables = [None] * len(ctx.table_sizes)
        if any(ctx.needs_input_grad[6:]):
            by_rows = triton_position_terms.by_tables(q, of_queries, layout, plan)
            by_tables = by_rows.split(ctx.table_sizes)
        residual = by_out if ctx.add_queries else None
        by_q = triton_position_terms.by_queries(of_queries, residual, rows, layout, plan)
        return by_q, by_k, by_v, None, None, None, *by_tables


def _fold(
    inputs: SplitInputs, tables: tuple[Tensor, ...], layout: AttentionLayout, plan: AttentionPlan
) -> SplitInputs:
    """Writes the columns of height, width and time behind the channels; with a key split those of time stay apart."""
    if not tables:
        return inputs
    q, _, k, _ = inputs
    frames, height, width = layout.key_grid
    queries = layout.query_patches(q)
    by_frame, by_row, by_column = query_terms(queries[..., : plan.dim], tables, layout)
    time = plan.dim + height + width
    queries[..., plan.dim : plan.dim + height] = by_row
    queries[..., plan.dim + height : time] = by_column
    if plan.split is None:
        queries[..., time : time + frames] = by_frame
        write_one_hots(k[..., plan.dim : time + frames], layout, frames)
        return inputs
    per_part = plan.split.frames_per_part
    write_one_hots(k[..., plan.dim : time + per_part], layout, per_part)
    apart = F.pad(by_frame, (0, 0, 0, 0, q.shape[1] - queries.shape[1], 0))
    return inputs._replace(by_frame=apart)


def _gradients_of_terms(
    gradients: SplitInputs, layout: AttentionLayout, plan: AttentionPlan
) -> tuple[Tensor, Tensor, Tensor]:
    frames, height, width = layout.key_grid
    queries = layout.query_patches(gradients.q)[..., plan.dim :]
    if plan.split is None:
        by_frame = queries[..., height + width : height + width + frames]
    else:
        by_frame = layout.query_patches(gradients.by_frame)
    return by_frame, queries[..., :height], queries[..., height : height + width]
