"""MViTv2 as the video tower: clips in, tokens out, with the public Kinetics-400 weights as a start."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from einops import rearrange
from jaxtyping import Bool, Float, Int
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from deepcoro.config import Block, ConfigError
from deepcoro.exported import check_card
from deepcoro.features import MaskUnits, VideoFeatures, encode_clips, flatten_studies
from deepcoro.kernels.attention_plan import ATTENTION_BACKENDS
from deepcoro.kernels.grid import Grid, strided
from deepcoro.mvit.attention import NORM_EPS
from deepcoro.mvit.block import MultiscaleBlock
from deepcoro.mvit.checkpointing import residual_stream
from deepcoro.mvit.compilation import compile_blocks
from deepcoro.mvit.embedding import ClassToken, PatchEmbedding
from deepcoro.mvit.layout import BlockLayout, VisibleUnits, sparse_layouts, unit_sides, visible_units
from deepcoro.mvit.patch_dropout import draw_units
from deepcoro.mvit.shapes import VARIANTS, Variant
from deepcoro.mvit.state_dicts import adapt
from deepcoro.weights import read_weights


class Config(Block):
    """MViTv2 over the clip's frames; frames and size are those of the video field."""

    type: Literal["video_mvit"] = "video_mvit"
    variant: Literal["mvit_v2_s", "mvit_v2_b", "mvit_v2_l", "demo", "tiny"] = "mvit_v2_s"
    """Size of the encoder: mvit_v2_s (34.5 M parameters), mvit_v2_b (51 M), mvit_v2_l (213 M), demo (learns on a CPU), tiny (tests)."""
    weights: str | None = None
    """Weights to start from: a file (.pt, .pth, .pyth, .safetensors; torchvision's mvit_v2_s, SlowFast's MViTv2 or our own), a
    folder of tools/export_encoder.py (`hf://ORGANISATION/NAME[@REVISION]` on the Hugging Face hub), a checkpoint folder or a run
    folder; null for random ones. Relative positions are interpolated to this run's frames and size."""
    video_freeze_ratio: float = 0.0
    """Fraction of the encoder that is FROZEN, from the bottom: floor(ratio * (1 embedding + blocks)) of these; 1 also freezes the last norm."""
    activation_checkpointing: Literal["none", "blocks", "selective"] = "none"
    """What backward makes again instead of keeping: nothing dear (none), the wide MLP activation and what is cheap beside its size
    (selective: less memory, little time), or each half block (blocks, also `true`: least memory, about a third more time)."""
    residual: Literal["fp32", "bf16"] = "fp32"
    """Format of the tokens between blocks under precision=bf16: bf16 halves what the residual stream keeps and moves, and rounds
    it once a block; sums and norms stay fp32. No effect under precision=fp32."""
    drop_path_rate: float | None = None
    """Probability of dropping a residual branch in the last block, rising linearly from 0; null for the variant's own."""
    kv_grid: Literal["full", "fast"] = "full"
    """fast: the three blocks that halve the grid pool keys and values as far as all others (7x7 in place of 14x14 at 224 px): a third
    less attention, 8 % less in all. Another function: public weights load and want fine-tuning."""
    compile: bool = False
    """Run each block through torch.compile. What is not already one kernel is fused; the first steps of training and of evaluation
    wait for the compiler (half a minute to minutes, a C++ compiler is needed on CPU). Not under ZeRO-3."""
    attention: Literal[ATTENTION_BACKENDS] = "auto"
    """Kernel of attention; they agree to rounding. auto and fused choose by shape and device, plain holds the whole map (slow, for
    checks); the others are named in docs/video_encoder.md. What was chosen is logged."""
    positions: Literal["relative", "rope3d", "none"] = "relative"
    """How attention knows where tokens stand: learned relative tables, as in the public weights; rope3d turns queries and keys by
    frame, row and column, without tables and with narrower heads; none leaves it to the pooling filters. Public weights load under
    all three; other than relative they want fine-tuning."""
    class_token: bool = True
    """Whether a learned token stands before the patches and speaks for the clip, as in the public weights; without one the mean of the clip's tokens does."""
    patch_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the mask units (2 frames x 32x32 px) that each clip hides in training, drawn anew each step: 0.5 saves about half of the
    time and memory of the encoder; evaluation sees all. Finish a run without it (FLIP, arXiv:2212.00794)."""

    cache_features: bool = False
    """For a tower that is frozen altogether (video_freeze_ratio 1, data.fields.video.jitter false, no augment): each film goes through
    it once, before the first step, and training then reads what it said; a probe's epoch takes seconds."""
    features_folder: Path | None = None
    """Where these are kept, by weights, films and frames; runs that name the same folder share them. On several nodes, one that all
    of them see. Unset = run_dir/video_features."""

    @field_validator("activation_checkpointing", mode="before")
    @classmethod
    def _as_switch(cls, value: Any) -> Any:
        """`true` and `false`, as other towers have it."""
        return {True: "blocks", False: "none"}.get(value, value) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _cached_features_stay_true(self) -> "Config":
        if self.cache_features and (self.video_freeze_ratio < 1 or self.patch_dropout):
            raise ValueError(
                f"cache_features needs video_freeze_ratio 1 and patch_dropout 0, they are {self.video_freeze_ratio} and "
                f"{self.patch_dropout}: what changes from step to step cannot be kept"
            )
        if self.features_folder is not None and not self.cache_features:
            raise ValueError("features_folder is for cache_features=true")
        return self

    def build(self, frames: int, size_px: int) -> "VideoMViT":
        settings = EncoderSettings(
            drop_path_rate=self.drop_path_rate,
            attention=self.attention,
            activation_checkpointing=self.activation_checkpointing,
            video_freeze_ratio=self.video_freeze_ratio,
            residual=self.residual,
            kv_grid=self.kv_grid,
            class_token=self.class_token,
            positions=self.positions,
            patch_dropout=self.patch_dropout,
            compile=self.compile,
        )
        tower = VideoMViT.from_variant(self.variant, frames=frames, size_px=size_px, settings=settings)
        if self.weights is not None:
            check_card(self.weights, tower.built_as)
            tower.load_weights(read_weights(self.weights, "towers.video."), source=self.weights)
        return tower


@dataclass(frozen=True)
class EncoderSettings:
    """How an encoder runs and trains, and where it departs from its published variant."""

    drop_path_rate: float | None = None
    head_dropout: float = 0.5
    attention: str = "auto"
    activation_checkpointing: str = "none"
    video_freeze_ratio: float = 0.0
    residual: str = "fp32"
    kv_grid: str = "full"
    class_token: bool = True
    positions: str = "relative"
    patch_dropout: float = 0.0
    compile: bool = False


class VideoMViT(nn.Module):
    """MViTv2, by default with a class token. Parameters live in submodules that are reached through their own forward (ZeRO-3)."""

    def __init__(
        self, variant: Variant, grid: Grid, num_classes: int | None, settings: EncoderSettings
    ) -> None:
        super().__init__()
        self.settings = settings
        self.aggregate, self.per_video_pool = True, False
        shapes = variant.block_shapes(grid, settings.kv_grid)
        self.dim = shapes[-1].dim_out
        rate = variant.drop_path_rate if settings.drop_path_rate is None else settings.drop_path_rate
        rates = [rate * number / max(len(shapes) - 1, 1) for number in range(len(shapes))]
        self.conv_proj = PatchEmbedding(variant.dim, grid)
        self.has_class_token = settings.class_token
        self.pos_encoding = ClassToken(variant.dim) if settings.class_token else nn.Identity()
        self.blocks = nn.ModuleList(
            MultiscaleBlock(
                shape,
                rate,
                settings.attention,
                settings.activation_checkpointing,
                settings.class_token,
                settings.positions,
            )
            for shape, rate in zip(shapes, rates, strict=True)
        )
        self.norm = nn.LayerNorm(self.dim, eps=NORM_EPS)
        self.head = None
        if num_classes is not None:
            self.head = nn.Sequential(nn.Dropout(settings.head_dropout), nn.Linear(self.dim, num_classes))
        self.apply(_initialise)
        self.freeze(settings.video_freeze_ratio)
        if settings.compile:
            compile_blocks(self.blocks)

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
        tower.built_as = {
            "type": "video_mvit",
            "variant": name,
            "frames": frames,
            "size_px": size_px,
            "kv_grid": settings.kv_grid,
            "positions": settings.positions,
            "class_token": settings.class_token,
        }
        return tower

    def forward(
        self,
        video: (
            Float[Tensor, "batch channel frame height width"]
            | Float[Tensor, "batch clip channel frame height width"]
        ),
        clip_mask: Bool[Tensor, "batch clip"] | None = None,
        visible: Int[Tensor, "real unit"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        """Study embedding [batch, dim] (`aggregate`), clip embeddings [batch, clip, dim] (`per_video_pool`) or all tokens
        [batch, clip*token, dim]; with a head, class logits instead of dim. A 5-D video is one clip a study. `visible` lists
        the mask units to encode of each real clip (see `encode`).
        """
        if video.ndim == 5:
            video = rearrange(video, "b c t h w -> b 1 c t h w")
        features = self.features(*flatten_studies(video, clip_mask), visible=visible)
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
        visible: Int[Tensor, "clip unit"] | None = None,
    ) -> VideoFeatures:
        """Tokens of the flat axis of real clips, laid out by study; of their `visible` units alone when given. In training, patch
        dropout draws the visible units where none are given.
        """
        if visible is None and self.training and self.settings.patch_dropout:
            num_units = math.prod(self.blocks[-1].shape.query_grid)
            visible = draw_units(len(video), num_units, self.settings.patch_dropout, video.device)
        return encode_clips(self.encode, video, clip_mask, self.has_class_token, clips_per_chunk, visible)

    def encode(
        self,
        video: Float[Tensor, "clip channel frame height width"],
        visible: Int[Tensor, "_ unit"] | None = None,
    ) -> Float[Tensor, "clip token dim"]:
        """Tokens of each clip, its class token (if any) first. Grey films may have one channel.

        With `visible`, ascending indices of mask units (cells of the last grid: 2 frames, 32x32 px), as many for each clip,
        only these are encoded, one token each: hidden pixels are never read. Raises ValueError when it lists no such units.
        """
        units = None if visible is None else self._units(video, visible)
        tokens = residual_stream(self.pos_encoding(self.conv_proj(video, units)), self.settings.residual)
        for block, layout in zip(self.blocks, self._layouts(units), strict=True):
            tokens = block(tokens, layout)
        return self.norm(tokens)

    @property
    def mask_units(self) -> MaskUnits:
        """What `visible` counts: cells of the last grid. ValueError where this encoder's keys are coarser than those."""
        shapes = [block.shape for block in self.blocks]
        return MaskUnits(shapes[-1].query_grid, frames=2, size_px=4 * unit_sides(shapes)[0])

    def _units(self, video: Tensor, visible: Tensor) -> VisibleUnits:
        if len(visible) != len(video):
            raise ValueError(f"visible lists units of {len(visible)} clips, video holds {len(video)}")
        return visible_units([block.shape for block in self.blocks], visible)

    def _layouts(self, units: VisibleUnits | None) -> list[BlockLayout | None]:
        if units is None:
            return [None] * len(self.blocks)
        return sparse_layouts([block.shape for block in self.blocks], units, self.has_class_token)

    def freeze(self, ratio: float) -> None:
        """From now on the bottom floor(ratio * (embedding + blocks)) parts, and only these, have no gradient and stay in eval."""
        if not 0 <= ratio <= 1:
            raise ConfigError(f"video_freeze_ratio is {ratio}; it is the fraction frozen, between 0 and 1")
        parts = self._parts()[:-1]
        count = math.floor(ratio * len(parts) + 1e-9)
        self.frozen = [module for part in parts[:count] for module in part]
        if count == len(parts):
            self.frozen.append(self.norm)
        self.requires_grad_(True)
        for module in self.frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def _parts(self) -> list[list[nn.Module]]:
        """From the bottom: the embedding, each block, the last norm."""
        return [[self.conv_proj, self.pos_encoding], *([block] for block in self.blocks), [self.norm]]

    def parameter_layers(self) -> dict[str, int]:
        """Layer of each parameter from the bottom: 0 the embedding, then the blocks, at the top the last norm and the head."""
        parts = self._parts()
        layer_of = {
            id(each): number
            for number, part in enumerate(parts)
            for module in part
            for each in module.parameters()
        }
        return {name: layer_of.get(id(each), len(parts) - 1) for name, each in self.named_parameters()}

    def train(self, mode: bool = True) -> "VideoMViT":
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def load_kinetics_state_dict(self, state: dict[str, Tensor]) -> None:
        """torchvision's `mvit_v2_s` weights; afterwards the two models are the same function in evaluation."""
        self.load_weights(state, source="state dict")

    def load_weights(self, state: dict[str, Tensor], source: str) -> None:
        """Loads every tensor of the encoder, in torchvision's names or SlowFast's, positions stretched to this grid."""
        self.load_state_dict(adapt(state, self.state_dict(), source))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
