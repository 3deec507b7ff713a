"""A study pooled as DeepCORO_CLIP's contrastive encoder pooled it, for weights that come from there.

For new runs take `transformer`, to which the order of films means nothing. Films there had places: the first of a study was told from
the second. Absent films are masked (there they were films of mean grey, W20).
"""

from typing import Literal

import torch
from einops import einsum, reduce
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from deepcoro.config import ConfigError
from deepcoro.features import VideoFeatures
from deepcoro.pooling.attention import masked_softmax
from deepcoro.pooling.imported import LearnedToken, TokenProjection
from deepcoro.pooling.set_block import SetBlock
from deepcoro.pooling.study import PoolerBlock, StudyPooler, check_heads


class AggregatorPooler(StudyPooler):
    """Projected tokens to a vector a clip; a table of places; blocks over the clips; a weighted mean of what comes out."""

    def __init__(self, dim: int, config: "Config") -> None:
        width = config.embed_dim
        super().__init__(width, config)
        self.projection = TokenProjection(dim, width)
        self.query_of_tokens, self.attention_of_tokens = None, None
        if config.token_pooling == "attention":
            self.query_of_tokens = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
            self.attention_of_tokens = LearnedToken(width, config.token_heads, sees_itself=False)
        self.places = nn.Parameter(nn.init.trunc_normal_(torch.empty(config.max_clips, width), std=0.02))
        self.blocks = nn.ModuleList(
            SetBlock(width, config.num_attention_heads, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))

    def summarise(self, features: VideoFeatures) -> Float[Tensor, "study clip dim"]:
        tokens = self.projection(features.tokens)
        if self.attention_of_tokens is not None:
            return self.attention_of_tokens(self.query_of_tokens, tokens)[0]
        return reduce(tokens, "study clip token dim -> study clip dim", "mean")

    def pool(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study dim"]:
        if clips.shape[1] > len(self.places):
            raise ConfigError(
                f"a study has {clips.shape[1]} clips, the aggregator places for {len(self.places)}; lower data.num_videos"
            )
        clips = clips + self.places[: clips.shape[1]].to(clips.dtype)
        # a study without a film looks at all of its cells: attention over nothing is NaN
        seen = clip_mask | ~clip_mask.any(dim=1, keepdim=True)
        for block in self.blocks:
            clips = block(clips, seen)
        clips = self.norm(clips)
        scores = einsum(clips, self.query.to(clips.dtype), "study clip dim, dim -> study clip")
        weights = masked_softmax(scores, clip_mask).to(clips.dtype)
        return einsum(weights, clips, "study clip, study clip dim -> study dim")


class Config(PoolerBlock):
    """DeepCORO_CLIP's aggregator; `tools/import_checkpoint.py --run_dir` writes it."""

    type: Literal["aggregator"] = "aggregator"
    """Which pooler this is."""
    token_pooling: Literal["mean", "attention"] = "mean"
    """How the tokens of a clip become one vector: their mean, or what a learned query sees (video_pooling_mode)."""
    token_heads: int = Field(8, ge=1)
    """Heads of that query."""
    embed_dim: int = Field(512, gt=0)
    """Width of the projected tokens."""
    layers: int = Field(2, ge=0)
    """Blocks (aggregator_depth)."""
    num_attention_heads: int = Field(4, ge=1)
    """Heads of each block (num_heads)."""
    max_clips: int = Field(1024, ge=1)
    """Places in the table: the most clips of a study."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of what each block adds."""

    @property
    def reads_tokens(self) -> bool:
        return True

    def build(self, dim: int) -> AggregatorPooler:
        """ConfigError when the heads do not divide the projected width."""
        for heads in (self.num_attention_heads, self.token_heads):
            check_heads(self.type, heads, self.embed_dim)
        return AggregatorPooler(dim, self)
