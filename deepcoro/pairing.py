"""Which text belongs to which video, over the rows of all ranks: the ids and weights that the contrastive losses share.

A row whose id is EXCLUDED takes no part: it is no query, no positive and no negative. Equal ids are positives of each other,
unless weights list the positives.
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
    """The videos, or the texts: rows of this rank as they were given, ids of all ranks."""

    given: Float[Tensor, "mine dim"]
    all_ids: Int[Tensor, "all"]
    counts: list[int]
    wide: torch.dtype

    @property
    def start(self) -> int:
        """Place of this rank's first row among those of all."""
        return sum(self.counts[: rank()])

    @property
    def ids(self) -> Int[Tensor, "mine"]:
        return self.all_ids[self.start : self.start + len(self.given)]

    @cached_property
    def rows(self) -> Float[Tensor, "mine dim"]:
        """In fp32 at least; what an excluded row holds is zeroed, so that it reaches neither loss nor gradient."""
        # a metric may be the first to ask, under no_grad, and the loss gets the same rows
        with torch.enable_grad():
            return self.given.to(self.wide).masked_fill((self.ids == EXCLUDED)[:, None], 0)

    @cached_property
    def all_rows(self) -> Float[Tensor, "all dim"]:
        """The rows of all ranks, with gradient; gathered on first use, since not every loss needs both sides."""
        with torch.enable_grad():
            return gather_rows_with_gradient(self.rows, self.counts)[0]


@dataclass(frozen=True)
class PositiveWeights:
    """How much texts are positives of videos, a pair of ids a place; what is not listed is a negative, equal ids too.

    Weights lie above 0 and up to 1. A rank lists at least the pairs of its own videos; ids that the batch does not hold are
    passed over, and of a pair listed several times the first counts.
    """

    video_ids: Int[Tensor, "pair"]
    text_ids: Int[Tensor, "pair"]
    weight: Float[Tensor, "pair"]

    def __post_init__(self) -> None:
        # on a GPU the question would wait for the device
        if self.weight.device.type == "cpu" and not ((self.weight > 0) & (self.weight <= 1)).all():
            raise ValueError(
                f"positive weights from {self.weight.min()} to {self.weight.max()}: give numbers above 0, up to 1"
            )


@dataclass(frozen=True)
class Pairs:
    """Videos and texts of all ranks, and which of them belong together."""

    videos: Side
    texts: Side
    weights: PositiveWeights | None = None

    @cached_property
    def video_totals(self) -> Float[Tensor, "mine"]:
        """Weight of all positives of each video of this rank, fp64; a video whose total is 0 is no query."""
        return self._totals(self.videos.ids, self.texts.all_ids)

    def all_text_totals(self) -> Float[Tensor, "all"]:
        """Weight of all positives of each text, fp64; a text whose total is 0 is no query."""
        return self._totals(self.texts.all_ids, self.videos.all_ids, of_texts=True)

    def videos_of_same_id(self) -> Float[Tensor, "mine"]:
        """Number of videos of all ranks with the id of each of mine, fp64; 0 for excluded ones."""
        return _sum_by_id(self.videos.ids, self.videos.all_ids, _ones(self.videos.all_ids))

    @cached_property
    def num_video_queries(self) -> Int[Tensor, ""]:
        """Of all ranks."""
        return (self._totals(self.videos.all_ids, self.texts.all_ids) > 0).sum()

    @cached_property
    def num_text_queries(self) -> Int[Tensor, ""]:
        """Of all ranks."""
        return (self.all_text_totals() > 0).sum()

    def of_block(
        self, video_ids: Int[Tensor, "video"], text_ids: Int[Tensor, "text"], dtype: torch.dtype
    ) -> Float[Tensor, "video text"]:
        """Weights of the pairs of some videos and some texts, dense."""
        if self.weights is None:
            return positives(video_ids, text_ids).to(dtype)
        if not len(video_ids) or not len(text_ids):
            return torch.zeros(len(video_ids), len(text_ids), dtype=dtype, device=video_ids.device)
        rows, of_video, is_video = _slots(video_ids, self.weights.video_ids)
        columns, of_text, is_text = _slots(text_ids, self.weights.text_ids)
        values = self.weights.weight.to(dtype).masked_fill(~(is_video & is_text), 0)
        table = values.new_zeros(len(video_ids), len(text_ids))
        table.index_put_((of_video, of_text), values, accumulate=True)
        return table[rows][:, columns]

    def _totals(self, ids: Tensor, other_ids: Tensor, of_texts: bool = False) -> Tensor:
        if self.weights is None:
            return _sum_by_id(ids, other_ids, _ones(other_ids))
        mine, theirs = self.weights.video_ids, self.weights.text_ids
        if of_texts:
            mine, theirs = theirs, mine
        num_others = _sum_by_id(theirs, other_ids, _ones(other_ids))
        return _sum_by_id(ids, mine, self.weights.weight.double() * num_others)


def pair_up(
    video: Float[Tensor, "video_row dim"],
    text: Float[Tensor, "text_row dim"],
    video_ids: Int[Tensor, "video_row"] | None,
    text_ids: Int[Tensor, "text_row"] | None,
    weights: PositiveWeights | None = None,
    text_names: Int[Tensor, "text_row"] | None = None,
) -> Pairs:
    """Videos and texts with the ids and weights of all ranks. Every rank gives weights, or none does.

    Without ids row i of all videos belongs to row i of all texts. With `text_names` all but the first of the texts with one name
    are excluded, so that a report that several ranks hold counts as in a batch on one rank: once. EXCLUDED is no name.
    """
    if (video_ids is None) != (text_ids is None):
        raise ValueError("video_ids and text_ids come together: give both, or neither for the diagonal")
    if weights is not None and video_ids is None:
        raise ValueError("positive weights name pairs of ids: give video_ids and text_ids with them")
    wide = torch.promote_types(torch.promote_types(video.dtype, text.dtype), torch.float32)
    counts = counts_of_ranks(len(video), len(text), 0 if weights is None else len(weights.weight))
    video_counts, text_counts, weight_counts = ([row[side] for row in counts] for side in range(3))
    all_video_ids = _all_ids(video, video_ids, video_counts)
    all_text_ids = _all_ids(text, text_ids, text_counts)
    if text_names is not None:
        is_first = _first_of_each(gather_rows(text_names, text_counts)) != EXCLUDED
        all_text_ids = all_text_ids.where(is_first, EXCLUDED)
    return Pairs(
        Side(video, all_video_ids, video_counts, wide),
        Side(text, all_text_ids, text_counts, wide),
        None if weights is None else _weights_of_ranks(weights, weight_counts),
    )


def positives(row_ids: Int[Tensor, "row"], column_ids: Int[Tensor, "column"]) -> Bool[Tensor, "row column"]:
    return (row_ids[:, None] == column_ids) & (row_ids != EXCLUDED)[:, None]


@torch.no_grad()
def in_batch_accuracy(pairs: Pairs) -> Float[Tensor, "1"]:
    """Fraction of this rank's videos whose nearest text of the global batch is theirs; ties share; 0 when no video has one."""
    videos, texts = pairs.videos, pairs.texts
    similarity = videos.rows @ texts.all_rows.T
    similarity = similarity.masked_fill(texts.all_ids == EXCLUDED, -2)  # below every cosine
    nearest = similarity == similarity.amax(dim=1, keepdim=True)
    is_positive = pairs.of_block(videos.ids, texts.all_ids, similarity.dtype) > 0
    return shared_hits((nearest & is_positive).sum(dim=1), nearest.sum(dim=1), pairs)


def shared_hits(
    hits: Float[Tensor, "mine"] | Int[Tensor, "mine"],
    ties: Float[Tensor, "mine"] | Int[Tensor, "mine"],
    pairs: Pairs,
) -> Float[Tensor, "1"]:
    """Mean of hits / ties over this rank's videos that have a positive."""
    queries = pairs.video_totals > 0
    shares = torch.where(queries, hits.float() / ties.float(), 0)
    return (shares.sum() / queries.sum().clamp(min=1)).reshape(1)


def _all_ids(rows: Tensor, ids: Tensor | None, counts: list[int]) -> Tensor:
    return torch.arange(sum(counts), device=rows.device) if ids is None else gather_rows(ids, counts)


def _weights_of_ranks(weights: PositiveWeights, counts: list[int]) -> PositiveWeights:
    """Of all ranks; a pair that was listed before, or names an excluded row, gets an id that no row has."""
    video_ids, text_ids, weight = (
        gather_rows(each, counts) for each in (weights.video_ids, weights.text_ids, weights.weight)
    )
    order = text_ids.argsort(stable=True)
    order = order[video_ids[order].argsort(stable=True)]
    ordered = torch.stack([video_ids[order], text_ids[order]])
    dropped = (video_ids == EXCLUDED) | (text_ids == EXCLUDED)
    dropped[order[1:]] |= (ordered[:, 1:] == ordered[:, :-1]).all(dim=0)
    nobody = torch.iinfo(torch.int64).min
    listed = (video_ids.masked_fill(dropped, nobody), text_ids.masked_fill(dropped, nobody))
    return PositiveWeights(*listed, weight)


def _slots(ids: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slot of each id, slot of each key, and whether the key is one of the ids; equal ids share a slot. Needs an id."""
    ordered = ids.sort().values
    found = torch.searchsorted(ordered, keys).clamp(max=len(ids) - 1)
    return torch.searchsorted(ordered, ids), found, ordered[found] == keys


def _sum_by_id(ids: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """For each id the sum of the values whose key it is; excluded ids get 0."""
    if not len(ids):
        return values.new_zeros(0)
    slots, of_keys, is_known = _slots(ids, keys)
    sums = values.new_zeros(len(ids)).index_add_(0, of_keys, values.masked_fill(~is_known, 0))
    return sums[slots].masked_fill(ids == EXCLUDED, 0)


def _ones(ids: Tensor) -> Tensor:
    return torch.ones_like(ids, dtype=torch.float64).masked_fill(ids == EXCLUDED, 0)


def _first_of_each(ids: Tensor) -> Tensor:
    ordered, order = ids.sort(stable=True)
    repeated = torch.zeros_like(ids, dtype=torch.bool)
    repeated[order[1:]] = ordered[1:] == ordered[:-1]
    return ids.masked_fill(repeated, EXCLUDED)
