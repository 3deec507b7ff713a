"""Depthwise 3x3x3 convolution (zero padding 1, stride 1 in time) of a token-major grid, the ways a CPU takes it fast.

Grids are [batch, frame, height, width, channel], weights [channel, 1, 3, 3, 3] in the number format to compute in. An
object holds what forward and backward share, so that a backward that makes the pooled values again reads its input once.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


class FrameConvolution:
    """Three 2-D channels-last convolutions, one a temporal tap, summed over neighbouring frames."""

    def __init__(self, grid: Tensor, weight: Tensor, stride: int) -> None:
        self.grid = grid.to(weight.dtype).contiguous()
        self.weight, self.stride = weight, stride

    def forward(self) -> Tensor:
        frames = _as_pictures(self.grid)
        before, here, after = (
            _as_grid(F.conv2d(frames, tap, stride=self.stride, padding=1, groups=len(tap)), len(self.grid))
            for tap in _taps(self.weight)
        )
        here[:, 1:] += before[:, :-1]
        here[:, :-1] += after[:, 1:]
        return here

    def backward(self, gradient: Tensor, needs_grid: bool) -> tuple[Tensor | None, Tensor]:
        """Gradients by grid (None when not needed) and by weight."""
        frames = _as_pictures(self.grid)
        by_grid, by_tap = None, []
        for tap, lead in zip(_taps(self.weight), (1, 0, -1), strict=True):
            of_frames, of_tap, _ = torch.ops.aten.convolution_backward(
                *(_as_pictures(_shift_frames(gradient, lead)), frames, tap, None),
                *([self.stride] * 2, [1, 1], [1, 1], False, [0, 0], len(tap), [needs_grid, True, False]),
            )
            by_tap.append(of_tap)
            if needs_grid:
                by_grid = of_frames if by_grid is None else by_grid.add_(of_frames)
        if by_grid is not None:
            by_grid = _as_grid(by_grid, len(gradient))
        return by_grid, torch.stack(by_tap, dim=2)


class SliceConvolution:
    """For strides of 3 and more, whose filters do not overlap in space: nine strided slices hold every cell that is read.

    The grid may be any view in any number format; the rest of it is never touched.
    """

    def __init__(self, grid: Tensor, weight: Tensor, stride: int) -> None:
        if stride < 3:
            raise ValueError(f"filters overlap at stride {stride}; slices need 3 or more")
        self.grid_shape, self.weight, self.stride = grid.shape, weight, stride
        self.patches = _read_patches(grid, stride, weight.dtype)

    def forward(self) -> Tensor:
        before, here, after = (
            (self.patches * rearrange(self.weight[:, :, tap], "c one h w -> (one h w) c")).sum(dim=-2)
            for tap in range(3)
        )
        here[:, 1:] += before[:, :-1]
        here[:, :-1] += after[:, 1:]
        return here

    def backward(self, gradient: Tensor, needs_grid: bool) -> tuple[Tensor | None, Tensor]:
        """Gradients by grid (None when not needed) and by weight."""
        shifted = [_shift_frames(gradient, lead)[..., None, :] for lead in (1, 0, -1)]
        by_tap = torch.stack([(self.patches * each).sum(dim=(0, 1, 2, 3)) for each in shifted])
        by_weight = rearrange(by_tap, "t (h w) (c one) -> c one t h w", h=3, one=1)
        if not needs_grid:
            return None, by_weight
        filters = rearrange(self.weight, "c one t h w -> t (h w) (one c)")
        by_patches = shifted[0] * filters[0]
        by_patches.addcmul_(shifted[1], filters[1]).addcmul_(shifted[2], filters[2])
        by_grid = gradient.new_zeros(self.grid_shape)
        for number, (cells, outputs) in enumerate(_slices(by_grid, by_patches, self.stride)):
            cells.copy_(outputs[..., number, :])
        return by_grid, by_weight


def _read_patches(grid: Tensor, stride: int, dtype: torch.dtype) -> Tensor:
    """Cells under the nine spatial taps, zero outside: [batch, frame, height_out, width_out, 9, channel]."""
    batch, frames, height, width, channels = grid.shape
    size = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    patches = torch.zeros(batch, frames, *size, 9, channels, dtype=dtype, device=grid.device)
    for number, (cells, inputs) in enumerate(_slices(grid, patches, stride)):
        inputs[..., number, :] = cells
    return patches


def _slices(grid: Tensor, patches: Tensor, stride: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each spatial tap the cells it reads, and the outputs that read one (at the rim some read padding)."""
    for tap_h in (-1, 0, 1):
        rows, outputs_h = _axis_slice(grid.shape[2], patches.shape[2], stride, tap_h)
        for tap_w in (-1, 0, 1):
            columns, outputs_w = _axis_slice(grid.shape[3], patches.shape[3], stride, tap_w)
            yield grid[:, :, rows, columns], patches[:, :, outputs_h, outputs_w]


def _axis_slice(size: int, size_out: int, stride: int, tap: int) -> tuple[slice, slice]:
    first = 1 if tap < 0 else 0
    last = size_out if (size_out - 1) * stride + tap < size else size_out - 1
    if last <= first:
        return slice(0, 0), slice(0, 0)
    return slice(first * stride + tap, (last - 1) * stride + tap + 1, stride), slice(first, last)


def _taps(weight: Tensor) -> list[Tensor]:
    return [weight[:, :, tap].contiguous(memory_format=torch.channels_last) for tap in range(3)]


def _as_pictures(grid: Tensor) -> Tensor:
    """[b, t, h, w, c] as channels-last pictures [b t, c, h, w], without a copy."""
    return rearrange(grid, "b t h w c -> (b t) c h w")


def _as_grid(pictures: Tensor, batch: int) -> Tensor:
    return rearrange(pictures, "(b t) c h w -> b t h w c", b=batch)


def _shift_frames(gradient: Tensor, lead: int) -> Tensor:
    """Frame t of the result is frame t + lead, zero past either end."""
    if lead == 0:
        return gradient
    shifted = torch.zeros_like(gradient)
    if lead > 0:
        shifted[:, :-1] = gradient[:, 1:]
    else:
        shifted[:, 1:] = gradient[:, :-1]
    return shifted
