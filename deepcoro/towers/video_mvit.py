"""MViTv2 as the video tower: clips in, tokens out, with the public Kinetics-400 weights as a start."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from deepcoro.config import Block, ConfigError
from deepcoro.features import VideoFeatures, encode_clips, flatten_studies
from deepcoro.mvit.attention import NORM_EPS
from deepcoro.mvit.block import MultiscaleBlock
from deepcoro.mvit.checkpointing import residual_stream
from deepcoro.mvit.embedding import ClassToken, PatchEmbedding
from deepcoro.mvit.shapes import VARIANTS, Grid, Variant, strided
from deepcoro.mvit.state_dicts import fit_tensor
from deepcoro.weights import read_weights

logger = logging.getLogger(__name__)


class Config(Block):
    """MViTv2 over the clip's frames; frames and size are those of the video field."""

    type: Literal["video_mvit"] = "video_mvit"
    variant: Literal["mvit_v2_s", "mvit_v2_b", "demo", "tiny"] = "mvit_v2_s"
    """Size of the encoder: mvit_v2_s (34.5 M parameters), mvit_v2_b (51 M), demo (learns on a CPU), tiny (tests)."""
    weights: str | None = None
    """Weights to start from: a file (.pt, .pth, .safetensors; torchvision's mvit_v2_s or our own), a checkpoint folder or a run folder; null for random ones. Relative positions are interpolated to this run's frames and size."""
    video_freeze_ratio: float = 0.0
    """Fraction of the encoder that is FROZEN, from the bottom: floor(ratio * (1 embedding + blocks)) of these; 1 also freezes the last norm."""
    activation_checkpointing: bool = False
    """Recompute each block in backward instead of keeping its activations: about a third of the memory for about a third more time."""
    drop_path_rate: float | None = None
    """Probability of dropping a residual branch in the last block, rising linearly from 0; null for the variant's own."""
    attention: Literal["auto", "fused", "plain", "flash_attn"] = "auto"
    """How attention is computed: fused runs scaled_dot_product_attention, plain holds the whole map (slow, for checks), flash_attn uses that package on CUDA where it imports."""

    def build(self, frames: int, size_px: int) -> "VideoMViT":
        checkpointing = "blocks" if self.activation_checkpointing else "none"
        settings = EncoderSettings(
            self.drop_path_rate, 0.0, self.attention, checkpointing, self.video_freeze_ratio
        )
        tower = VideoMViT.from_variant(self.variant, frames=frames, size_px=size_px, settings=settings)
        if self.weights is not None:
            tower.load_weights(read_weights(Path(self.weights), "towers.video."), source=self.weights)
        return tower


@dataclass(frozen=True)
class EncoderSettings:
    """What changes how an encoder runs and trains, but not which function it computes in evaluation."""

    drop_path_rate: float | None = None
    head_dropout: float = 0.5
    attention: str = "auto"
    activation_checkpointing: str = "none"
    video_freeze_ratio: float = 0.0
    residual: str = "fp32"


class VideoMViT(nn.Module):
    """MViTv2 with a class token. Parameters live in submodules that are reached through their own forward (ZeRO-3)."""

    has_class_token = True

    def __init__(
        self, variant: Variant, grid: Grid, num_classes: int | None, settings: EncoderSettings
    ) -> None:
        super().__init__()
        self.settings = settings
        self.aggregate, self.per_video_pool = True, False
        shapes = variant.block_shapes(grid)
        self.dim = shapes[-1].dim_out
        rate = variant.drop_path_rate if settings.drop_path_rate is None else settings.drop_path_rate
        rates = torch.linspace(0, rate, len(shapes)).tolist()
        self.conv_proj = PatchEmbedding(variant.dim, grid)
        self.pos_encoding = ClassToken(variant.dim)
        self.blocks = nn.ModuleList(
            MultiscaleBlock(shape, rate, settings.attention, settings.activation_checkpointing)
            for shape, rate in zip(shapes, rates, strict=True)
        )
        self.norm = nn.LayerNorm(self.dim, eps=NORM_EPS)
        self.head = None
        if num_classes is not None:
            self.head = nn.Sequential(nn.Dropout(settings.head_dropout), nn.Linear(self.dim, num_classes))
        self.apply(_initialise)
        self.frozen = self._freeze(settings.video_freeze_ratio)

    @classmethod
    def from_variant(
        cls,
        name: str,
        num_classes: int | None = None,
        aggregate: bool = True,
        per_video_pool: bool = False,
        frames: int = 16,
        size_px: int = 224,
        settings: EncoderSettings = EncoderSettings(),  # noqa: B008 - frozen
    ) -> "VideoMViT":
        if name not in VARIANTS:
            raise ConfigError(f"video_mvit variant is '{name}'; allowed: {sorted(VARIANTS)}")
        if frames < 1 or size_px < 32:
            raise ConfigError(f"video_mvit got {frames} frames of {size_px} px; it needs at least 1 of 32")
        grid = strided(((frames - 1) // 2 + 1, size_px, size_px), 4)
        tower = cls(VARIANTS[name], grid, num_classes, settings)
        tower.aggregate, tower.per_video_pool = aggregate, per_video_pool
        return tower

    def forward(
        self,
        video: (
            Float[Tensor, "batch channel frame height width"]
            | Float[Tensor, "batch clip channel frame height width"]
        ),
        clip_mask: Bool[Tensor, "batch clip"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        """Study embedding [batch, dim] (`aggregate`), clip embeddings [batch, clip, dim] (`per_video_pool`) or all tokens
        [batch, clip*token, dim]; with a head, class logits instead of dim. A 5-D video is one clip a study.
        """
        if video.ndim == 5:
            video = rearrange(video, "b c t h w -> b 1 c t h w")
        features = self.features(*flatten_studies(video, clip_mask))
        view = self._view(features)
        return view if self.head is None else self.head(view)

    def _view(self, features: VideoFeatures) -> Tensor:
        if self.aggregate:
            return features.aggregate()
        return features.per_video() if self.per_video_pool else features.patches()

    def features(
        self,
        video: Float[Tensor, "clip channel frame height width"],
        clip_mask: Bool[Tensor, "study clips"],
        clips_per_chunk: int | None = None,
    ) -> VideoFeatures:
        """Tokens of the flat axis of real clips, laid out by study."""
        return encode_clips(self.encode, video, clip_mask, self.has_class_token, clips_per_chunk)

    def encode(
        self, video: Float[Tensor, "clip channel frame height width"]
    ) -> Float[Tensor, "clip token dim"]:
        """Tokens of each clip, its class token first. Grey films may have one channel."""
        tokens = residual_stream(self.pos_encoding(self.conv_proj(video)), self.settings.residual)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def _freeze(self, ratio: float) -> list[nn.Module]:
        """The bottom floor(ratio * (embedding + blocks)) parts, without gradient; returned so that train() leaves them in eval."""
        if not 0 <= ratio <= 1:
            raise ConfigError(f"video_freeze_ratio is {ratio}; it is the fraction frozen, between 0 and 1")
        parts = [[self.conv_proj, self.pos_encoding], *([block] for block in self.blocks)]
        count = math.floor(ratio * len(parts) + 1e-9)
        frozen = [module for part in parts[:count] for module in part]
        if count == len(parts):
            frozen.append(self.norm)
        for module in frozen:
            module.requires_grad_(False).eval()
        return frozen

    def train(self, mode: bool = True) -> "VideoMViT":
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def load_kinetics_state_dict(self, state: dict[str, Tensor]) -> None:
        """torchvision's `mvit_v2_s` weights; afterwards the two models are the same function in evaluation."""
        self.load_weights(state, source="state dict")

    def load_weights(self, state: dict[str, Tensor], source: str) -> None:
        """Loads every tensor of the encoder, interpolating relative positions; logs what was used and what was not."""
        own = self.state_dict()
        missing = sorted(own.keys() - state.keys())
        if missing:
            raise ConfigError(
                f"weights {source} lack {len(missing)} of {len(own)} tensors, the first '{missing[0]}'"
            )
        fitted = {name: fit_tensor(name, state[name], own[name], source) for name in own}
        self.load_state_dict(fitted)
        unused = sorted(state.keys() - own.keys())
        logger.info("weights %s: %d tensors used, %d unused %s", source, len(own), len(unused), unused)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
