"""From films to tokens: overlapping space-time patches, and the class token before them."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.kernels.precision import kernel_dtype
from deepcoro.mvit.shapes import Grid


class PatchEmbedding(nn.Conv3d):
    """3x7x7 patches, stride 2x4x4, as tokens. A grey film uses the filters summed over colour: the same result for a third."""

    def __init__(self, dim: int, grid: Grid) -> None:
        super().__init__(3, dim, kernel_size=(3, 7, 7), stride=(2, 4, 4), padding=(1, 3, 3))
        self.grid = grid

    def forward(
        self, video: Float[Tensor, "clip channel frame height width"]
    ) -> Float[Tensor, "clip patch dim"]:
        dtype = kernel_dtype(video)
        weight = self.weight if video.shape[1] == 3 else self.weight.sum(1, keepdim=True)
        with torch.autocast(video.device.type, enabled=False):
            video, weight, bias = video.to(dtype), weight.to(dtype), self.bias.to(dtype)
            patches = F.conv3d(video, weight, bias, self.stride, self.padding)
        if tuple(patches.shape[2:]) != self.grid:
            raise ValueError(
                f"clips of {video.shape[2]} frames, {video.shape[3]}x{video.shape[4]} px give a grid {tuple(patches.shape[2:])}; "
                f"this encoder was built for {self.grid}: set the tower's frames and size_px as the video field's"
            )
        return rearrange(patches, "b c t h w -> b (t h w) c")


class ClassToken(nn.Module):
    """Puts the learned class token before the patches; positions are relative, inside attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))

    def forward(self, patches: Float[Tensor, "batch patch dim"]) -> Float[Tensor, "batch token dim"]:
        first = repeat(self.class_token.to(patches.dtype), "dim -> batch 1 dim", batch=len(patches))
        return torch.cat((first, patches), dim=1)
