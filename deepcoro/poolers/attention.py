"""Gated attention over a study's clips: a learned weight a clip, so that the films that show the finding count more."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from deepcoro.config import Block


class AttentionPooler(nn.Module):
    """Weighted mean over the real clips; zeros for a study without one. Ilse et al. 2018, arXiv:1802.04712, equation 9.

    Starts as the plain mean (scores are zero) and learns from there. Scores and softmax are fp32 at least.
    """

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.content = nn.Linear(dim, hidden_dim)
        self.gate = nn.Linear(dim, hidden_dim)
        self.score = nn.Linear(hidden_dim, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study dim"]:
        real = clips.masked_fill(~clip_mask[..., None], 0)
        weights = self.weights(real, clip_mask)
        return (weights[..., None].to(real.dtype) * real).sum(dim=1)

    def weights(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study clip"]:
        """Sum to 1 over the real clips of a study, 0 on padding; what a report shows as the films that mattered."""
        hidden = self.content(clips).tanh() * self.gate(clips).sigmoid()
        scores = self.score(hidden).squeeze(-1)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        # the lowest number, not -inf: a study without a clip would have NaN weights and gradients
        scores = scores.masked_fill(~clip_mask, torch.finfo(scores.dtype).min)
        return scores.softmax(dim=1) * clip_mask


class Config(Block):
    """Clips are weighed by what they show."""

    type: Literal["attention"] = "attention"
    """Which pooler this is."""
    hidden_dim: int = Field(128, gt=0)
    """Width of the layer that scores a clip."""

    def build(self, dim: int) -> AttentionPooler:
        return AttentionPooler(dim, self.hidden_dim)
