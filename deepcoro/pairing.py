"""Which text belongs to which video, over the rows of all ranks: the ids that the contrastive losses share.

A row whose id is EXCLUDED takes no part: it is no query, no positive and no negative. Equal ids are positives of each other.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deepcoro.distributed import counts_of_ranks, gather_rows, gather_rows_with_gradient, rank

EXCLUDED = -1


@dataclass(frozen=True)
class Side:
    """The videos, or the texts: rows of this rank, ids of this rank and of all."""

    rows: Float[Tensor, "mine dim"]
    ids: Int[Tensor, "mine"]
    all_ids: Int[Tensor, "all"]
    counts: list[int]

    @cached_property
    def all_rows(self) -> Float[Tensor, "all dim"]:
        """The rows of all ranks, with gradient; gathered on first use, since not every loss needs both sides."""
        # a metric may be the first to ask, under no_grad, and the loss gets the same rows
        with torch.enable_grad():
            return gather_rows_with_gradient(self.rows, self.counts)[0]


def pair_up(
    video: Float[Tensor, "video_row dim"],
    text: Float[Tensor, "text_row dim"],
    video_ids: Int[Tensor, "video_row"] | None,
    text_ids: Int[Tensor, "text_row"] | None,
    distinct_texts: bool = False,
) -> tuple[Side, Side]:
    """Videos and texts with the ids of all ranks; features in fp32 at least, those of excluded rows zero.

    Without ids row i of all videos belongs to row i of all texts. `distinct_texts` excludes all but the first of the texts
    with one id, so that a report that several ranks hold counts as in a batch on one rank: once.
    """
    if (video_ids is None) != (text_ids is None):
        raise ValueError("video_ids and text_ids come together: give both, or neither for the diagonal")
    wide = torch.promote_types(torch.promote_types(video.dtype, text.dtype), torch.float32)
    counts = counts_of_ranks(len(video), len(text))
    video_counts, text_counts = ([row[side] for row in counts] for side in (0, 1))
    all_video_ids = _all_ids(video, video_ids, video_counts)
    all_text_ids = _all_ids(text, text_ids, text_counts)
    if distinct_texts:
        all_text_ids = _first_of_each(all_text_ids)
    return _side(video.to(wide), all_video_ids, video_counts), _side(text.to(wide), all_text_ids, text_counts)


def positives(row_ids: Int[Tensor, "row"], column_ids: Int[Tensor, "column"]) -> Bool[Tensor, "row column"]:
    return (row_ids[:, None] == column_ids) & (row_ids != EXCLUDED)[:, None]


def is_query(row_ids: Int[Tensor, "row"], column_ids: Int[Tensor, "column"]) -> Bool[Tensor, "row"]:
    """Rows that have a positive among the columns."""
    return torch.isin(row_ids, column_ids) & (row_ids != EXCLUDED)


def _all_ids(rows: Tensor, ids: Tensor | None, counts: list[int]) -> Tensor:
    return torch.arange(sum(counts), device=rows.device) if ids is None else gather_rows(ids, counts)


def _side(rows: Tensor, all_ids: Tensor, counts: list[int]) -> Side:
    start = sum(counts[: rank()])
    ids = all_ids[start : start + len(rows)]
    # masked here once, so that whatever an excluded row holds reaches neither loss nor gradient
    return Side(rows.masked_fill((ids == EXCLUDED)[:, None], 0), ids, all_ids, counts)


def _first_of_each(ids: Tensor) -> Tensor:
    ordered, order = ids.sort(stable=True)
    repeated = torch.zeros_like(ids, dtype=torch.bool)
    repeated[order[1:]] = ordered[1:] == ordered[:-1]
    return ids.masked_fill(repeated, EXCLUDED)
