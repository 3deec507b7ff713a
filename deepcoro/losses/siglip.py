"""The sigmoid contrastive loss, exact over ranks, with every equal report a positive.

Zhai et al. 2023, arXiv:2303.15343; differs in that a video may have several positives.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from deepcoro.config import Block
from deepcoro.distributed import world_size
from deepcoro.pairing import EXCLUDED, Side, pair_up, positives


def siglip_loss(
    video: Float[Tensor, "video_row dim"],
    text: Float[Tensor, "text_row dim"],
    logit_scale: Float[Tensor, "1"],
    logit_bias: Float[Tensor, "1"],
    video_ids: Int[Tensor, "video_row"] | None = None,
    text_ids: Int[Tensor, "text_row"] | None = None,
) -> Float[Tensor, ""]:
    """Sum over all pairs of -log sigmoid(+-(scale * cosine + bias)) / number of videos; averaged over ranks, of the gathered batch.

    Features are L2-normalised, `logit_scale` is multiplied and `logit_bias` added. A pair with equal ids is positive, any
    other is negative; an id of -1 excludes the row; without ids row i of all videos belongs to row i of all texts. The
    number of videos is that of the rows not excluded, with or without a positive: each of them makes pairs. No video at all
    gives a zero with zero gradients. Every rank of the default process group calls it, also one with no rows.
    ValueError when only one of the ids is given.
    """
    videos, texts = pair_up(video, text, video_ids, text_ids)
    num_videos = (videos.all_ids != EXCLUDED).sum()
    return _share(videos, texts, logit_scale, logit_bias) * world_size() / num_videos.clamp(min=1)


def siglip_sum(
    video: Float[Tensor, "video_row dim"],
    text: Float[Tensor, "text_row dim"],
    logit_scale: Float[Tensor, "1"],
    logit_bias: Float[Tensor, "1"],
    video_ids: Int[Tensor, "video_row"] | None = None,
    text_ids: Int[Tensor, "text_row"] | None = None,
) -> Float[Tensor, ""]:
    """This rank's share, its videos against the texts of all ranks: sum of shares / sum of `siglip_count` is the loss."""
    return _share(*pair_up(video, text, video_ids, text_ids), logit_scale, logit_bias)


def siglip_count(video_ids: Int[Tensor, "video_row"]) -> Int[Tensor, "1"]:
    """Videos of this rank that are not excluded."""
    return (video_ids != EXCLUDED).sum().reshape(1)


def _share(videos: Side, texts: Side, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    dtype = videos.rows.dtype
    with torch.autocast(videos.rows.device.type, enabled=False):
        logits = logit_scale.to(dtype) * (videos.rows @ texts.all_rows.T) + logit_bias.to(dtype)
        sign = 1 - 2 * positives(videos.ids, texts.all_ids).to(dtype)
        takes_part = (videos.ids != EXCLUDED)[:, None] & (texts.all_ids != EXCLUDED)
        return torch.where(takes_part, functional.softplus(sign * logits), 0).sum()


class SiglipLoss:
    """Sigmoid loss as the contrastive objective calls it."""

    def __init__(self, init_logit_scale: float, init_logit_bias: float):
        self.init_logit_scale = init_logit_scale
        self.init_logit_bias = init_logit_bias

    def share(self, videos: Side, texts: Side, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
        return _share(videos, texts, logit_scale, logit_bias)

    def count(self, video_ids: Tensor) -> Tensor:
        return siglip_count(video_ids)


class Config(Block):
    """Sigmoid of every pair (SigLIP): each pair is judged alone, so batches may be small."""

    type: Literal["siglip"] = "siglip"
    """Which loss this is."""
    init_logit_scale: float = Field(10, gt=0)
    """What cosine similarities are multiplied with at the start (inverse temperature)."""
    init_logit_bias: float = -10
    """What is added to the logits at the start; negative, since most pairs are negatives."""

    def build(self) -> SiglipLoss:
        return SiglipLoss(self.init_logit_scale, self.init_logit_bias)
