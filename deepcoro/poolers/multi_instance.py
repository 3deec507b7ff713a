"""A study pooled as DeepCORO_CLIP pooled it for its heads (multi-instance linear probing), for weights that come from there.

For new runs `attention_cls_token` does the same with less in its way: no GELU between encoder and heads, clips and tokens each with a
gate of their own. The one difference from the original is padding: there an absent film was a film of mean grey and had its share of
the attention (W20); here it is masked, unless `absent_films` says that it counts.
"""

from typing import Literal

import torch
from einops import reduce
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from deepcoro.features import VideoFeatures
from deepcoro.pooling.attention import GatedAttention
from deepcoro.pooling.imported import LearnedToken, TokenProjection
from deepcoro.pooling.study import PoolerBlock, StudyPooler, check_heads, mean_of_shown


class MultiInstancePooler(StudyPooler):
    """Tokens are projected; then come the halves that `pooling_mode` names, side by side. Each makes one vector of the tokens of a clip,
    and one of the clips.
    """

    def __init__(self, dim: int, config: "Config") -> None:
        width = config.embed_dim
        halves = {name: _HALVES[name](config) for name in config.pooling_mode.split("+")}
        super().__init__(width * len(halves), config)
        self.projection = TokenProjection(dim, width)
        self.halves = nn.ModuleDict(halves)
        self.weighs_tokens = config.weighs_tokens
        counts = config.absent_films == "counted"
        self.register_buffer("absent", torch.zeros(self.dim) if counts else None)

    def summarise(self, features: VideoFeatures) -> Float[Tensor, "study clip dim"]:
        tokens = self.projection(features.tokens)
        if self.weighs_tokens:
            return torch.cat([half.of_tokens(tokens) for half in self.halves.values()], dim=-1)
        clips = reduce(tokens, "study clip token dim -> study clip dim", "mean")
        return torch.cat([clips] * len(self.halves), dim=-1)

    def pool(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study pooled"]:
        pooled = [seen for seen, _ in self._joined(clips, clip_mask)]
        return torch.cat([each.to(clips.dtype) for each in pooled], dim=-1)

    def weigh(
        self, clips: Float[Tensor, "study clip dim"], clip_mask: Bool[Tensor, "study clip"]
    ) -> Float[Tensor, "study clip"]:
        """The mean of what the halves give, of the films that are there."""
        shares = torch.stack([weights.float() for _, weights in self._joined(clips, clip_mask)])
        shares = shares.mean(dim=0) * clip_mask
        return shares / shares.sum(dim=1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)

    def _joined(self, clips: Tensor, clip_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What each half makes of the clips, and how much of each it took."""
        if self.absent is not None:
            clips = torch.where(clip_mask[..., None], clips, self.absent.to(clips.dtype))
            clip_mask = torch.ones_like(clip_mask)
        shares = clips.chunk(len(self.halves), dim=-1)
        return [half(share, clip_mask) for half, share in zip(self.halves.values(), shares, strict=True)]

    @torch.no_grad()
    def learn_absent(self, tokens: Float[Tensor, "token dim"]) -> None:
        """`tokens`: the encoder's of a clip of zeros, which is what stood for an absent film."""
        features = VideoFeatures(tokens[None, None], tokens.new_ones(1, 1, dtype=torch.bool), True)
        self.absent.copy_(self.summarise(features)[0, 0])


Joined = tuple[Float[Tensor, "study dim"], Float[Tensor, "study clip"]]


class Mean(nn.Module):
    """Over clips; tokens are never weighed."""

    def forward(self, clips: Float[Tensor, "study clip dim"], mask: Bool[Tensor, "study clip"]) -> Joined:
        return mean_of_shown(clips, mask), mask / mask.sum(dim=1, keepdim=True).clamp(min=1)


class Max(nn.Module):
    """The largest of each number over clips, all of which count the same."""

    def forward(self, clips: Float[Tensor, "study clip dim"], mask: Bool[Tensor, "study clip"]) -> Joined:
        largest = clips.masked_fill(~mask[..., None], torch.finfo(clips.dtype).min).amax(dim=1)
        return largest, mask / mask.sum(dim=1, keepdim=True).clamp(min=1)


class Gated(nn.Module):
    """Gated attention; the same gate for tokens and for clips."""

    def __init__(self, config: "Config") -> None:
        super().__init__()
        self.gate = GatedAttention(config.embed_dim, config.hidden_dim)

    def of_tokens(self, tokens: Float[Tensor, "study clip token dim"]) -> Float[Tensor, "study clip dim"]:
        return self.gate(tokens)[0]

    def forward(self, clips: Float[Tensor, "study clip dim"], mask: Bool[Tensor, "study clip"]) -> Joined:
        return self.gate(clips, mask)


class ClassToken(nn.Module):
    """One learned token with an attention over tokens and another over clips."""

    def __init__(self, config: "Config") -> None:
        super().__init__()
        width, heads = config.embed_dim, config.num_attention_heads
        self.token = nn.Parameter(torch.randn(width))
        self.across = LearnedToken(width, heads, sees_itself=True)
        self.within = LearnedToken(width, heads, sees_itself=True) if config.weighs_tokens else None

    def of_tokens(self, tokens: Float[Tensor, "study clip token dim"]) -> Float[Tensor, "study clip dim"]:
        return self.within(self.token, tokens)[0]

    def forward(self, clips: Float[Tensor, "study clip dim"], mask: Bool[Tensor, "study clip"]) -> Joined:
        return self.across(self.token, clips, mask)


_HALVES = {"mean": lambda _: Mean(), "max": lambda _: Max(), "attention": Gated, "cls_token": ClassToken}


class Config(PoolerBlock):
    """DeepCORO_CLIP's pooling for heads; `tools/import_checkpoint.py --run_dir` writes it."""

    type: Literal["multi_instance"] = "multi_instance"
    """Which pooler this is."""
    pooling_mode: Literal[
        "mean", "max", "attention", "cls_token", "mean+cls_token", "attention+cls_token"
    ] = "attention+cls_token"
    """As there: one way of joining tokens and clips, or two side by side, which doubles the width."""
    hierarchical: bool = True
    """Whether attention joins the tokens of a clip too, before the clips; else a clip is the mean of its tokens. `mean` and `max` always
    take the mean."""
    embed_dim: int = Field(512, gt=0)
    """Width of the projected tokens."""
    hidden_dim: int = Field(128, gt=0)
    """Width of the layer that scores a member (attention_hidden)."""
    num_attention_heads: int = Field(8, ge=1)
    """Heads of the class token; there always 8, whatever the config said (W31)."""
    absent_films: Literal["masked", "counted"] = "masked"
    """`masked`: a study is the films it has. `counted`: a study of fewer than data.num_videos films is filled up with films of mean grey,
    as there (W20), for the scores that these weights gave there."""

    @property
    def weighs_tokens(self) -> bool:
        return self.hierarchical and not {"mean", "max"} & set(self.pooling_mode.split("+"))

    @property
    def reads_tokens(self) -> bool:
        return True

    def build(self, dim: int) -> MultiInstancePooler:
        """ConfigError when the heads do not divide the projected width."""
        check_heads(self.type, self.num_attention_heads, self.embed_dim)
        return MultiInstancePooler(dim, self)
