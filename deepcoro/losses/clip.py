"""The softmax contrastive loss, exact over ranks, with every equal report a positive.

Radford et al. 2021, arXiv:2103.00020; differs in that a query may have several positives (uniform targets) and in that
ranks compare their own rows with gathered columns, so that averaging over ranks gives the gradient of one process.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from deepcoro.config import Block
from deepcoro.distributed import world_size
from deepcoro.pairing import EXCLUDED, Side, is_query, pair_up, positives


def clip_loss(
    video: Float[Tensor, "video_row dim"],
    text: Float[Tensor, "text_row dim"],
    logit_scale: Float[Tensor, "1"],
    video_ids: Int[Tensor, "video_row"] | None = None,
    text_ids: Int[Tensor, "text_row"] | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of video-to-text and text-to-video; averaged over ranks it is the loss of the gathered batch.

    Features are L2-normalised, `logit_scale` is multiplied. A text is a positive of every video with its id; an id of -1
    excludes the row; without ids row i of all videos belongs to row i of all texts. A row without a positive is no query
    and is not counted, yet stays a negative of the others. No query at all gives a zero with zero gradients. Every rank of
    the default process group calls it, also one with no rows. ValueError when only one of the ids is given.
    """
    videos, texts = pair_up(video, text, video_ids, text_ids)
    num_queries = is_query(videos.all_ids, texts.all_ids).sum()
    return _share(videos, texts, logit_scale) * world_size() / num_queries.clamp(min=1)


def clip_sum(
    video: Float[Tensor, "video_row dim"],
    text: Float[Tensor, "text_row dim"],
    logit_scale: Float[Tensor, "1"],
    video_ids: Int[Tensor, "video_row"] | None = None,
    text_ids: Int[Tensor, "text_row"] | None = None,
) -> Float[Tensor, ""]:
    """This rank's share: over ranks the shares sum to the loss of the gathered batch times its number of video queries.

    Over several micro-batches, sum of shares / sum of counts weighs each by its video queries.
    """
    return _share(*pair_up(video, text, video_ids, text_ids), logit_scale)


def clip_count(video_ids: Int[Tensor, "video_row"]) -> Int[Tensor, "1"]:
    """Video queries of this rank: rows that are not excluded, given that the batch holds the text of each of them."""
    return (video_ids != EXCLUDED).sum().reshape(1)


def _share(videos: Side, texts: Side, logit_scale: Tensor) -> Tensor:
    with torch.autocast(videos.rows.device.type, enabled=False):
        video_to_text = _cross_entropy_sum(videos, texts, logit_scale)
        text_to_video = _cross_entropy_sum(texts, videos, logit_scale)
    num_videos = is_query(videos.all_ids, texts.all_ids).sum()
    num_texts = is_query(texts.all_ids, videos.all_ids).sum()
    # multiplied first: a quotient of two counts would be fp32 in an fp64 loss
    return (video_to_text + text_to_video * num_videos / num_texts.clamp(min=1)) / 2


def _cross_entropy_sum(queries: Side, candidates: Side, logit_scale: Tensor) -> Tensor:
    """Over this rank's queries against the candidates of all ranks."""
    logits = logit_scale.to(queries.rows.dtype) * (queries.rows @ candidates.all_rows.T)
    positive = positives(queries.ids, candidates.all_ids)
    num_positives = positive.sum(dim=1)
    # the lowest number, not -inf: a row of -inf alone has a NaN gradient
    lowest = torch.finfo(logits.dtype).min
    normaliser = logits.masked_fill(candidates.all_ids == EXCLUDED, lowest).logsumexp(dim=1)
    mean_positive = (logits * positive).sum(dim=1) / num_positives.clamp(min=1)
    return torch.where(num_positives > 0, normaliser - mean_positive, 0).sum()


class ClipLoss:
    """Softmax loss as the contrastive objective calls it; it has no bias."""

    def __init__(self, init_logit_scale: float):
        self.init_logit_scale = init_logit_scale
        self.init_logit_bias = None

    def share(self, videos: Side, texts: Side, logit_scale: Tensor, logit_bias: Tensor | None) -> Tensor:
        return _share(videos, texts, logit_scale)

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
