"""The mean of a study's clips."""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from deepcoro.config import Block


class MeanPooler(nn.Module):
    """Mean over the real clips; zeros for a study without one."""

    def forward(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study dim"]:
        real = clips.masked_fill(~clip_mask[..., None], 0)
        return real.sum(dim=1) / clip_mask.sum(dim=1, keepdim=True).clamp(min=1)


class Config(Block):
    """Every clip of the study counts the same."""

    type: Literal["mean"] = "mean"
    """Which pooler this is."""

    def build(self, dim: int) -> MeanPooler:
        return MeanPooler()
