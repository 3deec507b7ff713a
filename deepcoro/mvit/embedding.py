"""From films to tokens: overlapping space-time patches, and the class token before them."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.kernels.grid import Grid, strided
from deepcoro.kernels.patch_embedding import KERNEL, PADDING, STRIDE, ShownUnits, embed_patches
from deepcoro.kernels.precision import kernel_dtype
from deepcoro.kernels.triton_use import takes_triton
from deepcoro.mvit.layout import VisibleUnits


class PatchEmbedding(nn.Conv3d):
    """3x7x7 patches, stride 2x4x4, as tokens. A grey film uses the filters summed over colour: the same result for a third."""

    def __init__(self, dim: int, grid: Grid) -> None:
        super().__init__(3, dim, kernel_size=KERNEL, stride=STRIDE, padding=PADDING)
        self.grid = grid

    def forward(
        self, video: Float[Tensor, "clip channel frame height width"], units: VisibleUnits | None = None
    ) -> Float[Tensor, "clip patch dim"]:
        """All patches in raster order; or those of `units` alone, unit by unit, where pixels of hidden units count as zero."""
        self._check_grid(video)
        dtype = kernel_dtype(video)
        weight = self.weight if video.shape[1] == 3 else self.weight.sum(1, keepdim=True)
        with torch.autocast(video.device.type, enabled=False):
            video, weight, bias = video.to(dtype), weight.to(dtype), self.bias.to(dtype)
            if takes_triton(video) and not (video.requires_grad and torch.is_grad_enabled()):
                shown = None if units is None else ShownUnits(units.visible, units.shown(), units.side)
                return embed_patches(video, weight, bias, self.grid, shown)
            if units is None:
                patches = F.conv3d(video, weight, bias, self.stride, self.padding)
                return rearrange(patches, "b c t h w -> b (t h w) c")
            return _embed_windows(unit_windows(video, units), weight, bias, num_clips=len(video))

    def _check_grid(self, video: Tensor) -> None:
        frames, height, width = video.shape[2:]
        grid = strided(((frames - 1) // 2 + 1, height, width), 4)
        if grid != self.grid:
            raise ValueError(
                f"clips of {frames} frames, {height}x{width} px give a grid {grid}; "
                f"this encoder was built for {self.grid}: set the tower's frames and size_px as the video field's"
            )


def unit_windows(
    video: Float[Tensor, "clip channel frame height width"], units: VisibleUnits
) -> Float[Tensor, "clip_unit channel 3 rows columns"]:
    """The pixels that the patches of each visible unit read, hidden ones as zeros: the unit and a border before it, which the
    filters reach into (1 frame, 3 rows, 3 columns)."""
    frames, height, width = video.shape[2:]
    side_px = STRIDE[1] * units.side
    shown = repeat(units.shown(), "b t h w -> b 1 (t f) (h y) (w x)", f=STRIDE[0], y=side_px, x=side_px)
    video = torch.where(shown[:, :, :frames, :height, :width], video, 0)
    border = zip(PADDING, shown.shape[2:], video.shape[2:], strict=True)
    padded = F.pad(
        video, [side for before, whole, size in reversed(list(border)) for side in (before, whole - size)]
    )
    windows = padded.unfold(2, KERNEL[0], STRIDE[0])
    for axis in (3, 4):
        windows = windows.unfold(axis, side_px + PADDING[1], side_px)
    clips = rearrange(torch.arange(len(video), device=video.device), "b -> b 1")
    return windows[clips, :, *units.cells].flatten(0, 1)


def _embed_windows(windows: Tensor, weight: Tensor, bias: Tensor, num_clips: int) -> Tensor:
    """As a matrix product: its rows come out token by token, and CUDA has no fast convolution of so many small films."""
    patches = windows.unfold(3, KERNEL[1], STRIDE[1]).unfold(4, KERNEL[2], STRIDE[2])
    patches = rearrange(patches, "(b u) c f h w y x -> b (u h w) (c f y x)", b=num_clips)
    return F.linear(patches, weight.flatten(1), bias)


class ClassToken(nn.Module):
    """Puts the learned class token before the patches; positions are relative, inside attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))

    def forward(self, patches: Float[Tensor, "batch patch dim"]) -> Float[Tensor, "batch token dim"]:
        first = repeat(self.class_token.to(patches.dtype), "dim -> batch 1 dim", batch=len(patches))
        return torch.cat((first, patches), dim=1)
