"""Any timm image model as the video tower: it sees each frame alone, then attention over time makes one vector a clip."""

import logging
import math
from typing import Any, Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from deepcoro.config import Block, ConfigError
from deepcoro.exported import check_card
from deepcoro.features import VideoFeatures, encode_clips
from deepcoro.mvit.state_dicts import interpolate_positions
from deepcoro.weights import read_weights

logger = logging.getLogger(__name__)


class Config(Block):
    """A timm image model over frames with attention pooling over time; needs `pip install deepcoro[timm]`."""

    type: Literal["video_timm"] = "video_timm"
    model: str = "vit_small_patch16_224"
    """Name of a timm model (timm.list_models() shows them)."""
    weights: str | None = None
    """State dict of the image model (.pt, .pth or .safetensors in timm's layout); or a folder of tools/export_encoder.py (also
    `hf://ORGANISATION/NAME[@REVISION]`), a checkpoint or a run folder, which bring the attention over time too; null for random weights."""
    heads: int = 4
    """Heads of the attention over time; must divide the model's feature width."""
    video_freeze_ratio: float = 0.0
    """Fraction of the image model's layers that is FROZEN, from the bottom; the attention over time is never frozen."""
    activation_checkpointing: bool = False
    """Recompute the image model's stages in backward instead of keeping their activations."""

    def build(self, frames: int, size_px: int) -> "VideoTimm":
        backbone = create_backbone(self.model, size_px)
        if self.activation_checkpointing:
            backbone.set_grad_checkpointing(True)
        tower = VideoTimm(backbone, frames, self.heads, self.video_freeze_ratio)
        tower.built_as = {
            "type": "video_timm",
            "model": self.model,
            "frames": frames,
            "size_px": size_px,
            "heads": self.heads,
        }
        if self.weights is not None:
            check_card(self.weights, tower.built_as)
            load_weights(tower, self.weights)
        return tower


def create_backbone(name: str, size_px: int) -> nn.Module:
    """The image model without classifier, at random; told the picture size where its architecture depends on it."""
    timm = import_timm()
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ConfigError(
            f"towers.video.model is '{name}', which timm {timm.__version__} lacks; near: {near}"
        )
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, img_size=size_px)
    except TypeError:  # convolutional models take any size and refuse the argument
        return timm.create_model(name, pretrained=False, num_classes=0)


def import_timm() -> Any:
    """timm, or one line that says why it does not import (a torchvision of another build than torch breaks it)."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"tower 'video_timm' needs timm, which does not import here ({reason}); "
            "install timm and a torchvision of the same build as torch, or use 'video_mvit'",
            topic="missing-packages",
        ) from error
    return timm


def load_weights(tower: "VideoTimm", source: str) -> None:
    """The whole tower, or the image model alone where `source` holds one; by name. Classifiers are left out, positions in time are
    stretched to this run's frames, anything else missing is an error.
    """
    state = read_weights(source, "towers.video.")
    is_whole = any(name.startswith("backbone.") for name in state)
    target = tower if is_whole else tower.backbone
    own = target.state_dict()
    if is_whole and "pool.positions" in state:
        state["pool.positions"] = interpolate_positions(state["pool.positions"], len(own["pool.positions"]))
    wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
    if wrong:
        raise ConfigError(
            f"weights {source}: {len(wrong)} of {len(own)} tensors are missing or of another shape, the first '{wrong[0]}'",
            topic="weights-that-do-not-fit",
        )
    target.load_state_dict({name: state[name] for name in own})
    unused = sorted(state.keys() - own.keys())
    logger.info("weights %s: %d tensors used, %d unused %s", source, len(own), len(unused), unused)


class VideoTimm(nn.Module):
    """Tokens of a clip: the pooled vector first (it plays the class token), then one token a frame."""

    has_class_token = True

    def __init__(self, backbone: nn.Module, frames: int, heads: int, freeze_ratio: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.dim = (
            backbone.num_features if not hasattr(backbone, "head_hidden_size") else backbone.head_hidden_size
        )
        if self.dim % heads:
            raise ConfigError(
                f"towers.video.heads is {heads}, which does not divide the feature width {self.dim}"
            )
        self.pool = TemporalAttentionPool(self.dim, frames, heads)
        self.freeze(freeze_ratio)
        self.train()

    def forward(
        self, video: Float[Tensor, "clip channel frame height width"]
    ) -> Float[Tensor, "clip token dim"]:
        return self.encode(video)

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
        if video.shape[1] == 1:
            video = video.expand(-1, 3, -1, -1, -1)
        pictures = rearrange(video, "clip c t h w -> (clip t) c h w")
        frames = rearrange(self.backbone(pictures), "(clip t) dim -> clip t dim", clip=len(video))
        return self.pool(frames)

    def freeze(self, ratio: float) -> None:
        """From now on the bottom fraction of the image model's layers, and only these, have no gradient and stay in eval."""
        self.frozen = freeze_layers(self.backbone, ratio)
        self.train(self.training)

    def parameter_layers(self) -> dict[str, int]:
        """Layer of each parameter from the bottom, by timm's own order; the attention over time lies above the image model."""
        layers = layers_of(self.backbone)
        top = max(layers.values()) + 1
        return {
            name: layers[name.removeprefix("backbone.")] if name.startswith("backbone.") else top
            for name, _ in self.named_parameters()
        }

    def train(self, mode: bool = True) -> "VideoTimm":
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self


class TemporalAttentionPool(nn.Module):
    """A learned query attends over the frames, each with a learned position in time."""

    def __init__(self, dim: int, frames: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(frames, dim), std=0.02))
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, frames: Float[Tensor, "clip frame dim"]) -> Float[Tensor, "clip token dim"]:
        if frames.shape[1] != len(self.positions):
            raise ValueError(
                f"clips have {frames.shape[1]} frames; this tower was built for {len(self.positions)}"
            )
        tokens = self.norm(frames + self.positions)
        query = repeat(self.query, "dim -> clip 1 dim", clip=len(frames)).to(tokens.dtype)
        pooled, _ = self.attention(query, tokens, tokens, need_weights=False)
        # the mean keeps the vector informative before attention has learned anything
        pooled = pooled + tokens.mean(1, keepdim=True)
        return torch.cat((pooled, tokens), dim=1)


def freeze_layers(backbone: nn.Module, ratio: float) -> list[nn.Module]:
    """The bottom floor(ratio * layers) of the image model, by timm's own order of layers, without gradient; train() leaves them in eval."""
    if not 0 <= ratio <= 1:
        raise ConfigError(f"video_freeze_ratio is {ratio}; it is the fraction frozen, between 0 and 1")
    layers = layers_of(backbone)
    num_frozen = math.floor(ratio * (max(layers.values()) + 1) + 1e-9)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(layers[name] >= num_frozen)
    return [module for module in backbone.modules() if _is_frozen(module)]


def layers_of(backbone: nn.Module) -> dict[str, int]:
    """Layer of each parameter of a timm model by timm's own order, 0 at the bottom, no number left out."""
    from timm.models import group_parameters

    return group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
