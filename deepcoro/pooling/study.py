"""The clips of a study -> one vector. A pooler says how clip vectors become one; what all of them do alike stands here."""

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from deepcoro.config import Block, ConfigError
from deepcoro.features import VideoFeatures
from deepcoro.pooling.views import ViewEmbedding


class PoolerBlock(Block):
    """Keys that every pooler has."""

    view_embedding: bool = False
    """Add what the C-arm's two angles say to the vector of each clip (0 at first, learned); reads the field `view`, where a
    film without angles has the usual ones of its view word. A train split without either is an error."""
    view_dropout: float = Field(0.0, ge=0, lt=1)
    """Chance that a clip is left out of its study in training, one at least stays: studies come with views missing."""

    def needed_fields(self) -> dict[str, dict]:
        """Fields of the batch that the pooler reads."""
        return {"view": {}} if self.view_embedding else {}

    @property
    def reads_tokens(self) -> bool:
        """Whether more of a clip is read than its one vector (`VideoFeatures.per_video`)."""
        return False


class HierarchicalBlock(PoolerBlock):
    """Keys of poolers that can also join the tokens of a clip."""

    hierarchical: bool = False
    """Whether the tokens of a clip (places and moments) are weighed too, before the clips; else a clip is its class token or mean."""

    @property
    def reads_tokens(self) -> bool:
        return self.hierarchical


class StudyPooler(nn.Module):
    """A set of clips in, one vector out: their order does not count, padding changes nothing, a study without clips gives zeros.

    A pooler overrides `pool`, and `summarise` where it reads more of a clip than its one vector. One that weighs clips also has
    `weigh`, which `clip_weights` shows.
    """

    def __init__(self, dim: int, config: PoolerBlock, pooled_dim: int | None = None) -> None:
        super().__init__()
        self.dim = pooled_dim or dim
        self.view_dropout = config.view_dropout
        self.views = ViewEmbedding(dim) if config.view_embedding else None

    def forward(
        self, features: VideoFeatures, views: Float[Tensor, "study clip 2"] | None = None
    ) -> Float[Tensor, "study pooled"]:
        """`views`: primary and secondary angle of each clip in degrees, NaN = not known; read where the pooler embeds views."""
        mask = self._shown(features.clip_mask)
        pooled = self.pool(self._clips(features, views), mask)
        return pooled.masked_fill(~mask.any(dim=1, keepdim=True), 0)

    def pool(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study pooled"]:
        """What is given for a study without clips has to be finite and is not used."""
        raise NotImplementedError

    def weigh(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study clip"]:
        """Sum to 1 over the clips of a study, 0 outside of the mask."""
        raise NotImplementedError

    def summarise(self, features: VideoFeatures) -> Float[Tensor, "study clip dim"]:
        """One vector a clip."""
        return features.per_video()

    @property
    def weighs_clips(self) -> bool:
        """Whether `clip_weights` can be asked."""
        return type(self).weigh is not StudyPooler.weigh

    @torch.no_grad()
    def clip_weights(
        self, features: VideoFeatures, views: Float[Tensor, "study clip 2"] | None = None
    ) -> Float[Tensor, "study clip"]:
        """How much each clip counts, all of them shown: the films that mattered. Sum to 1; all 0 for a study without clips."""
        weights = self.weigh(self._clips(features, views), features.clip_mask)
        return weights * features.clip_mask.any(dim=1, keepdim=True)

    def _clips(self, features: VideoFeatures, views: Tensor | None) -> Float[Tensor, "study clip dim"]:
        clips = self.summarise(features)
        if self.views is not None:
            if views is None:
                raise ValueError(
                    "pooler.view_embedding reads 'views' [study, clip, 2], which the batch lacks: the C-arm's angles in degrees, NaN "
                    "where they are not known (the field `view`, which comes with view_embedding, gives them in every batch of films)"
                )
            clips = clips + self.views(views).to(clips.dtype)
        return clips.masked_fill(~features.clip_mask[..., None], 0)

    def _shown(self, clip_mask: Bool[Tensor, "study clip"]) -> Bool[Tensor, "study clip"]:
        if not self.training or not self.view_dropout:
            return clip_mask
        draw = torch.rand(clip_mask.shape, device=clip_mask.device).masked_fill(~clip_mask, -1)
        return clip_mask & ((draw >= self.view_dropout) | (draw == draw.amax(dim=1, keepdim=True)))


def mean_of_shown(
    clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
) -> Float[Tensor, "study dim"]:
    """Zeros for a study without clips."""
    shown = clips.masked_fill(~clip_mask[..., None], 0)
    return shown.sum(dim=1) / clip_mask.sum(dim=1, keepdim=True).clamp(min=1)


def check_heads(pooler: str, num_heads: int, dim: int) -> None:
    """ConfigError when the heads do not divide the width of the video tower."""
    if dim % num_heads:
        raise ConfigError(
            f"pooler.num_attention_heads {num_heads} does not divide the {dim} numbers of the video tower; "
            f"choose a divisor for the pooler {pooler}"
        )
