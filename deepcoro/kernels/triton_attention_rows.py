"""What the Triton kernels around a library's attention kernel share: rows of (clip, token, head), and whose columns are whose."""

from functools import cache
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Int16
from torch import Tensor

from deepcoro.kernels.attention_layout import AttentionLayout, relative_index
from deepcoro.kernels.attention_plan import AttentionPlan
from deepcoro.kernels.grid import Grid


class Shape(NamedTuple):
    """What a kernel is compiled for; the kernels read it by number, in this order."""

    class_tokens: int
    heads: int
    dim: int
    columns: int
    """`dim` up to a power of two."""
    frames: int
    height: int
    width: int
    key_frames: int
    key_height: int
    key_width: int
    room: int
    """Columns that a program handles after the first `dim`: a power of two."""
    in_queries: int
    """Columns after the first `dim` that are written into the queries."""
    frames_per_part: int
    time_rows: int
    height_rows: int
    table_rows: int
    """Of the three tables; zero without positions."""
    block: int
    sparse_keys: int
    space_slots: int
    """Key rows and columns up to a power of two, at least 16; so the next for the rows of time of the tables."""
    time_slots: int
    part_room: int
    """`in_queries` up to a power of two, at least 16."""


@triton.jit
@no_type_check
def find_rows(first, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    """Clip, token and head of each row, and whether there is one."""
    HEADS: tl.constexpr = SHAPE[1]
    num_rows, num_tokens = counts
    rows = first + tl.arange(0, ROWS)
    token = rows // HEADS % num_tokens
    clip = (rows // (HEADS * num_tokens)).to(tl.int64)
    return clip, token, rows % HEADS, rows < num_rows


@triton.jit
@no_type_check
def write_one_hots(pointers, strides, first, counts, SHAPE: tl.constexpr, ROWS: tl.constexpr):
    CLASS_TOKENS: tl.constexpr = SHAPE[0]
    KEY_HEIGHT: tl.constexpr = SHAPE[8]
    KEY_WIDTH: tl.constexpr = SHAPE[9]
    FRAMES_PER_PART: tl.constexpr = SHAPE[12]
    k, positions = pointers
    clip, token, head, valid = find_rows(first, counts, SHAPE, ROWS)
    is_patch = valid & (token >= CLASS_TOKENS)
    place = token - CLASS_TOKENS
    if SHAPE[17]:
        positions += clip * (counts[1] - CLASS_TOKENS) + place
        place = tl.load(positions, mask=is_patch, other=0).to(tl.int32)
    row = place // KEY_WIDTH % KEY_HEIGHT
    column = KEY_HEIGHT + place % KEY_WIDTH
    frame = KEY_HEIGHT + KEY_WIDTH + place // (KEY_HEIGHT * KEY_WIDTH) % FRAMES_PER_PART
    term = tl.arange(0, SHAPE[10])[None, :]
    hot = (term == row[:, None]) | (term == column[:, None]) | (term == frame[:, None])
    hot = (hot & is_patch[:, None]).to(k.dtype.element_ty)
    k += (clip * strides[0] + token * strides[1] + head * strides[2])[:, None]
    in_keys = term < KEY_HEIGHT + KEY_WIDTH + FRAMES_PER_PART
    tl.store(k + SHAPE[2] + term, hot, mask=valid[:, None] & in_keys)


def shape_of(
    q: Tensor, layout: AttentionLayout, plan: AttentionPlan, max_block: int, has_tables: bool = True
) -> Shape:
    heads, dim = q.shape[2], plan.dim
    frames, height, width = layout.key_grid
    per_part = frames if plan.split is None else plan.split.frames_per_part
    rows = [2 * max(pair) - 1 for pair in zip(layout.query_grid, layout.key_grid, strict=True)]
    in_queries = plan.width - dim if plan.split is None else height + width + per_part
    return Shape(
        *(int(layout.has_class_token), heads, dim, slots(dim)),
        *(*layout.query_grid, *layout.key_grid),
        *(slots(max(frames + height + width, plan.width - dim)), in_queries, per_part),
        *(*rows[:2], sum(rows) if has_tables else 0),
        min(max_block, slots(sum(rows))),
        int(layout.key_positions is not None),
        *(slots(height + width), slots(rows[0]), slots(in_queries)),
    )


def slots(count: int) -> int:
    """Room for so many in a tile: a power of two that tensor cores take."""
    return max(16, triton.next_power_of_2(count))


def counts_of(tokens: Tensor) -> tuple[int, int]:
    return tokens.shape[:3].numel(), tokens.shape[1]


@cache
def maps(
    queries: Grid, keys: Grid, room: int, block: int, device: torch.device
) -> tuple[Int16[Tensor, "place term"], Int16[Tensor, "place row"]]:
    """For each frame, row and column of the queries: the tables' row behind each column, and the column behind each row; -1: none.

    The columns are those of height, width and time, the rows those of time, height and width.
    """
    num_rows = [2 * max(pair) - 1 for pair in zip(queries, keys, strict=True)]
    starts_of_terms = (keys[1] + keys[2], 0, keys[1])
    with torch.inference_mode(False):
        rows_of_terms = torch.full((sum(queries), room), -1, dtype=torch.int16)
        terms_of_rows = torch.full((sum(queries), -(-sum(num_rows) // block) * block), -1, dtype=torch.int16)
        for axis in range(3):
            row = sum(num_rows[:axis]) + relative_index(queries[axis], keys[axis])
            place = sum(queries[:axis]) + torch.arange(queries[axis])[:, None].expand_as(row)
            term = starts_of_terms[axis] + torch.arange(keys[axis])[None].expand_as(row)
            rows_of_terms[place, term] = row.to(torch.int16)
            terms_of_rows[place, row] = term.to(torch.int16)
        return rows_of_terms.to(device), terms_of_rows.to(device)
