"""The softmax contrastive loss, exact over ranks, with every equal report a positive.

Radford et al. 2021, arXiv:2103.00020; differs in that a query may have several positives (uniform targets, or weighed ones) and
in that averaging over ranks gives the gradient of one process. The dense form compares this rank's rows with gathered columns
and holds every logit; it is the oracle of the tiled ones (`kernels/tiled_contrastive.py`).
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from deepcoro.config import Block
from deepcoro.distributed import world_size
from deepcoro.kernels.tiled_contrastive import Share, Tiling, tiled_share
from deepcoro.pairing import EXCLUDED, Pairs, PositiveWeights, Side, in_batch_accuracy, pair_up


def clip_loss(
    video: Float[Tensor, "video_row dim"],
    text: Float[Tensor, "text_row dim"],
    logit_scale: Float[Tensor, "1"],
    video_ids: Int[Tensor, "video_row"] | None = None,
    text_ids: Int[Tensor, "text_row"] | None = None,
    weights: PositiveWeights | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of video-to-text and text-to-video; averaged over ranks it is the loss of the gathered batch.

    Features are L2-normalised, `logit_scale` is multiplied. A text is a positive of every video with its id, uniformly, or of
    the videos that `weights` pairs it with, in proportion to them; an id of -1 excludes the row; without ids row i of all
    videos belongs to row i of all texts. A row without a positive is no query and is not counted, yet stays a negative of the
    others. No query at all gives a zero with zero gradients. Every rank of the default process group calls it, also one with
    no rows. Large batches go tile by tile, where the gradient can be taken once. ValueError when only one of the ids is given.
    """
    pairs = pair_up(video, text, video_ids, text_ids, weights)
    total = _total(pairs, logit_scale, Tiling())
    return total * world_size() / pairs.num_video_queries.clamp(min=1)


def clip_sum(
    video: Float[Tensor, "video_row dim"],
    text: Float[Tensor, "text_row dim"],
    logit_scale: Float[Tensor, "1"],
    video_ids: Int[Tensor, "video_row"] | None = None,
    text_ids: Int[Tensor, "text_row"] | None = None,
    weights: PositiveWeights | None = None,
) -> Float[Tensor, ""]:
    """This rank's share: over ranks the shares sum to the loss of the gathered batch times its number of video queries.

    Over several micro-batches, sum of shares / sum of counts weighs each by its video queries.
    """
    return _total(pair_up(video, text, video_ids, text_ids, weights), logit_scale, Tiling())


def clip_count(video_ids: Int[Tensor, "video_row"]) -> Int[Tensor, "1"]:
    """Video queries of this rank: rows that are not excluded, given that the batch holds the text of each of them."""
    return (video_ids != EXCLUDED).sum().reshape(1)


def _total(pairs: Pairs, logit_scale: Tensor, tiling: Tiling) -> Tensor:
    if tiling.chosen_for(pairs) == "dense":
        return _dense(pairs, logit_scale)
    return tiled_share(pairs, logit_scale, None, tiling).sum


def _dense(pairs: Pairs, logit_scale: Tensor) -> Tensor:
    videos, texts = pairs.videos, pairs.texts
    with torch.autocast(videos.given.device.type, enabled=False):
        weights = pairs.of_block(videos.ids, texts.all_ids, videos.wide)
        video_to_text = _cross_entropy_sum(videos, texts, weights, logit_scale)
        weights = pairs.of_block(videos.all_ids, texts.ids, videos.wide).T
        text_to_video = _cross_entropy_sum(texts, videos, weights, logit_scale)
    # multiplied first: a quotient of two counts would be fp32 in an fp64 loss
    return (video_to_text + text_to_video * pairs.num_video_queries / pairs.num_text_queries.clamp(min=1)) / 2


def _cross_entropy_sum(queries: Side, candidates: Side, weights: Tensor, logit_scale: Tensor) -> Tensor:
    """Over this rank's queries against the candidates of all ranks."""
    logits = logit_scale.to(queries.wide) * (queries.rows @ candidates.all_rows.T)
    total = weights.sum(dim=1)
    # the lowest number, not -inf: a row of -inf alone has a NaN gradient
    lowest = torch.finfo(logits.dtype).min
    normaliser = logits.masked_fill(candidates.all_ids == EXCLUDED, lowest).logsumexp(dim=1)
    mean_positive = (logits * weights).sum(dim=1) / torch.where(total > 0, total, 1)
    return torch.where(total > 0, normaliser - mean_positive, 0).sum()


class ClipLoss:
    """Softmax loss as the contrastive objective calls it; it has no bias."""

    def __init__(self, init_logit_scale: float):
        self.init_logit_scale = init_logit_scale
        self.init_logit_bias = None

    def share(self, pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor | None, tiling: Tiling) -> Share:
        if tiling.chosen_for(pairs) == "dense":
            return Share(_dense(pairs, logit_scale), in_batch_accuracy(pairs))
        return tiled_share(pairs, logit_scale, None, tiling)

    def count(self, video_ids: Tensor) -> Tensor:
        return clip_count(video_ids)


class Config(Block):
    """Softmax over the batch (CLIP): every text of the batch competes for a video, and the other way round."""

    type: Literal["clip"] = "clip"
    """Which loss this is."""
    init_logit_scale: float = Field(1 / 0.07, gt=0)
    """What cosine similarities are multiplied with at the start (inverse temperature)."""

    def build(self) -> ClipLoss:
        return ClipLoss(self.init_logit_scale)
