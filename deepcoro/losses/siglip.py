"""The sigmoid contrastive loss, exact over ranks, with every equal report a positive.

Zhai et al. 2023, arXiv:2303.15343; differs in that a video may have several positives, also by halves.
The dense form holds every logit of this rank's videos; it is the oracle of the tiled ones (`kernels/tiled_contrastive.py`).
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from deepcoro.config import Block
from deepcoro.distributed import world_size
from deepcoro.kernels.tiled_contrastive import Share, Tiling, tiled_share
from deepcoro.pairing import EXCLUDED, Pairs, PositiveWeights, in_batch_accuracy, pair_up


def siglip_loss(
    video: Float[Tensor, "video_row dim"],
    text: Float[Tensor, "text_row dim"],
    logit_scale: Float[Tensor, "1"],
    logit_bias: Float[Tensor, "1"],
    video_ids: Int[Tensor, "video_row"] | None = None,
    text_ids: Int[Tensor, "text_row"] | None = None,
    weights: PositiveWeights | None = None,
) -> Float[Tensor, ""]:
    """Sum over all pairs of -log sigmoid(+-(scale * cosine + bias)) / number of videos; averaged over ranks, of the gathered batch.

    Features are L2-normalised, `logit_scale` is multiplied and `logit_bias` added. A pair with equal ids is positive, any
    other is negative; with `weights` a pair is as much positive as it weighs and as much negative as is left to 1. An id of
    -1 excludes the row; without ids row i of all videos belongs to row i of all texts. The number of videos is that of the
    rows not excluded, with or without a positive: each of them makes pairs. No video at all gives a zero with zero gradients.
    Every rank of the default process group calls it, also one with no rows. Large batches go tile by tile, where the gradient
    can be taken once. ValueError when only one of the ids is given.
    """
    pairs = pair_up(video, text, video_ids, text_ids, weights)
    num_videos = (pairs.videos.all_ids != EXCLUDED).sum()
    return _total(pairs, logit_scale, logit_bias, Tiling()) * world_size() / num_videos.clamp(min=1)


def siglip_sum(
    video: Float[Tensor, "video_row dim"],
    text: Float[Tensor, "text_row dim"],
    logit_scale: Float[Tensor, "1"],
    logit_bias: Float[Tensor, "1"],
    video_ids: Int[Tensor, "video_row"] | None = None,
    text_ids: Int[Tensor, "text_row"] | None = None,
    weights: PositiveWeights | None = None,
) -> Float[Tensor, ""]:
    """This rank's share, its videos against the texts of all ranks: sum of shares / sum of `siglip_count` is the loss."""
    pairs = pair_up(video, text, video_ids, text_ids, weights)
    return _total(pairs, logit_scale, logit_bias, Tiling())


def siglip_count(video_ids: Int[Tensor, "video_row"]) -> Int[Tensor, "1"]:
    """Videos of this rank that are not excluded."""
    return (video_ids != EXCLUDED).sum().reshape(1)


def _total(pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor, tiling: Tiling) -> Tensor:
    if tiling.chosen_for(pairs) == "dense":
        return _dense(pairs, logit_scale, logit_bias)
    return tiled_share(pairs, logit_scale, logit_bias, tiling).sum


def _dense(pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    videos, texts = pairs.videos, pairs.texts
    with torch.autocast(videos.given.device.type, enabled=False):
        similarity = videos.rows @ texts.all_rows.T
        logits = logit_scale.to(videos.wide) * similarity + logit_bias.to(videos.wide)
        weights = pairs.of_block(videos.ids, texts.all_ids, videos.wide)
        # the sign of what is mostly positive is turned: softplus(20) - 20 has lost what softplus(-20) still has
        turned = (weights > 0.5).to(videos.wide)
        losses = functional.softplus((1 - 2 * turned) * logits) - (weights - turned) * logits
        takes_part = (videos.ids != EXCLUDED)[:, None] & (texts.all_ids != EXCLUDED)
        return torch.where(takes_part, losses, 0).sum()


class SiglipLoss:
    """Sigmoid loss as the contrastive objective calls it."""

    def __init__(self, init_logit_scale: float, init_logit_bias: float):
        self.init_logit_scale = init_logit_scale
        self.init_logit_bias = init_logit_bias

    def share(self, pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor, tiling: Tiling) -> Share:
        if tiling.chosen_for(pairs) == "dense":
            return Share(_dense(pairs, logit_scale, logit_bias), in_batch_accuracy(pairs))
        return tiled_share(pairs, logit_scale, logit_bias, tiling)

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
