"""Depthwise 3x3x3 convolution (zero padding 1, stride 1 in time) of token-major films, the ways a CPU takes it fast.

Films are [frame, clip, height, width, channel], any view in any number format: with time first, a step in time is a step of
whole pictures for all clips at once. Weights are [channel, 1, 3, 3, 3] in the format to compute in. Callers give as many clips
as stay in cache, and below the 32 MB from which glibc maps fresh pages for every tensor, which cost more than the arithmetic.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

TEMPORAL_TAPS = (-1, 0, 1)


class FrameConvolution:
    """Three 2-D channels-last convolutions, one a temporal tap, added up over neighbouring frames."""

    def __init__(self, weight: Tensor, stride: int) -> None:
        self.stride = stride
        self.taps = _temporal_taps(weight)
        # what a tap takes from frame t + 1 to t goes back from t to t + 1, mirrored
        self.mirrored = [_channels_last(tap.flip(2, 3)) for tap in reversed(self.taps)]

    def forward(self, film: Tensor) -> Tensor:
        clips = film.shape[1]
        return _as_film(_convolve(_as_pictures(film, self.taps), self.taps, clips, (self.stride, 1)), clips)

    def backward(self, gradient: Tensor, film: Tensor, into: Tensor | None) -> Tensor:
        """Gradient by weight; that by film is written to `into`, unless None."""
        clips = film.shape[1]
        by_pictures, pictures = _as_pictures(gradient, self.taps), _as_pictures(film, self.taps)
        half = by_pictures.dtype.itemsize == 2
        transposed = into is not None and self.stride > 1 and not half
        steps = (self.stride, 1)
        by_weight, by_film = _gradients(by_pictures, pictures, self.taps, clips, steps, transposed)
        if into is None:
            return by_weight
        if not transposed:
            if self.stride > 1:
                # zeros between: oneDNN has no fast transposed strided convolution in bfloat16 (20 times slower)
                spread = gradient.new_zeros(film.shape, dtype=by_pictures.dtype)
                spread[:, :, :: self.stride, :: self.stride] = gradient
                by_pictures = _as_pictures(spread, self.taps)
            by_film = _convolve(by_pictures, self.mirrored, clips, (1, 1))
        into.copy_(_as_film(by_film, clips))
        return by_weight


class SpacedConvolution:
    """For strides of 3 and more, whose filters do not overlap in space.

    The cells that are read are moved together to a film on which the stride is 3; the others are never touched.
    """

    def __init__(self, weight: Tensor, stride: int) -> None:
        if stride < 3:
            raise ValueError(f"filters overlap at stride {stride}; moving cells together needs 3 or more")
        self.stride = stride
        self.taps = _temporal_taps(weight)
        precise = torch.promote_types(weight.dtype, torch.float32)
        self.filters = rearrange(weight.to(precise), "c 1 t h w -> h w t c").contiguous()

    def forward(self, film: Tensor) -> Tensor:
        clips = film.shape[1]
        return _as_film(_convolve(self._together(film), self.taps, clips, (3, 0)), clips)

    def backward(self, gradient: Tensor, film: Tensor, into: Tensor | None) -> Tensor:
        """Gradient by weight; that by film is written to `into`, unless None."""
        by_pictures = _as_pictures(gradient, self.taps)
        together, clips = self._together(film), film.shape[1]
        by_weight, _ = _gradients(by_pictures, together, self.taps, clips, (3, 0), needs_pictures=False)
        if into is not None:
            into.zero_()
            gradient = gradient.to(self.filters.dtype)
            for (tap_h, tap_w), cells, outputs in touched(into, gradient.shape[2:4], self.stride):
                before, here, after = self.filters[tap_h, tap_w]
                by_cells = gradient * here
                by_cells[:-1].addcmul_(gradient[1:], before)
                by_cells[1:].addcmul_(gradient[:-1], after)
                cells.copy_(by_cells[outputs])
        return by_weight

    def _together(self, film: Tensor) -> Tensor:
        """Pictures of three rows and columns an output, zeros where a filter reads padding."""
        frames, clips, height, width, channels = film.shape
        size = ((height - 1) // self.stride + 1, (width - 1) // self.stride + 1)
        moved = self.taps[0].new_zeros(frames, clips, size[0], 3, size[1], 3, channels)
        for (tap_h, tap_w), cells, outputs in touched(film, size, self.stride):
            moved[:, :, :, tap_h, :, tap_w][outputs] = cells
        return rearrange(moved, "t b h three_h w three_w c -> (t b) c (h three_h) (w three_w)")


def touched(
    film: Float[Tensor, "*film height width channel"], size: tuple[int, int], stride: int
) -> Iterator[tuple[tuple[int, int], Tensor, tuple]]:
    """For each spatial tap the cells it reads and the outputs (of a grid of `size`) that read one; at the rim some read padding."""
    height, width = film.shape[-3:-1]
    for tap_h in range(3):
        rows, outputs_h = _axis_slices(height, size[0], stride, tap_h - 1)
        for tap_w in range(3):
            columns, outputs_w = _axis_slices(width, size[1], stride, tap_w - 1)
            yield (tap_h, tap_w), film[..., rows, columns, :], (..., outputs_h, outputs_w, slice(None))


def _axis_slices(size: int, size_out: int, stride: int, shift: int) -> tuple[slice, slice]:
    first = 1 if shift < 0 else 0
    last = size_out if (size_out - 1) * stride + shift < size else size_out - 1
    if last <= first:
        return slice(0, 0), slice(0, 0)
    return slice(first * stride + shift, (last - 1) * stride + shift + 1, stride), slice(first, last)


def _convolve(pictures: Tensor, taps: list[Tensor], clips: int, steps: tuple[int, int]) -> Tensor:
    """Frame t of the result is the sum of 2-D convolutions (stride, padding) of frames t-1, t, t+1 under the three taps."""
    stride, padding = steps
    total = F.conv2d(pictures, taps[1], stride=stride, padding=padding, groups=len(taps[1]))
    for shift in (-1, 1):
        inputs, outputs = _pictures_under(shift * clips, len(pictures))
        if len(pictures[inputs]):
            _add_convolution(total[outputs], pictures[inputs], taps[1 + shift], steps)
    return total


def _add_convolution(total: Tensor, pictures: Tensor, tap: Tensor, steps: tuple[int, int]) -> None:
    """`total` += convolution; on CPU within oneDNN's kernel, for a third of the time of a sum afterwards."""
    stride, padding = steps
    if total.device.type == "cpu" and total.dtype in (torch.float32, torch.bfloat16):
        torch.ops.mkldnn._convolution_pointwise_.binary(
            *(total, pictures, tap, None, [padding] * 2, [stride] * 2, [1, 1], len(tap)),
            *("add", 1.0, None, [], None),
        )
    else:
        total += F.conv2d(pictures, tap, stride=stride, padding=padding, groups=len(tap))


def _gradients(
    by_pictures: Tensor,
    pictures: Tensor,
    taps: list[Tensor],
    clips: int,
    steps: tuple[int, int],
    needs_pictures: bool,
) -> tuple[Tensor, Tensor | None]:
    """Gradient by weight, and by the pictures if asked for."""
    stride, padding = steps
    by_weight, by_inputs = pictures.new_zeros(len(taps[0]), 1, 3, 3, 3), None
    for number in (1, 0, 2):  # the middle tap reads every frame
        inputs, outputs = _pictures_under(TEMPORAL_TAPS[number] * clips, len(pictures))
        if not len(pictures[inputs]):
            continue
        of_inputs, by_weight[:, :, number], _ = torch.ops.aten.convolution_backward(
            *(by_pictures[outputs], pictures[inputs], taps[number], None),
            *([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(taps[number])),
            [needs_pictures, True, False],
        )
        if by_inputs is None:
            by_inputs = of_inputs
        elif needs_pictures:
            by_inputs[inputs] += of_inputs
    return by_weight, by_inputs


def _pictures_under(shift: int, pictures: int) -> tuple[slice, slice]:
    """Input pictures p + shift and output pictures p, where both exist; a frame is one picture a clip."""
    inputs = slice(max(shift, 0), max(pictures + min(shift, 0), 0))
    return inputs, slice(max(-shift, 0), max(pictures + min(-shift, 0), 0))


def _temporal_taps(weight: Tensor) -> list[Tensor]:
    return [_channels_last(weight[:, :, number]) for number in range(3)]


def _channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _as_pictures(film: Tensor, taps: list[Tensor]) -> Tensor:
    """Channels-last pictures [frame clip, c, h, w] in the format of the filters; a copy only of what is no such picture yet."""
    return rearrange(film.to(taps[0].dtype).contiguous(), "t b h w c -> (t b) c h w")


def _as_film(pictures: Tensor, clips: int) -> Tensor:
    return rearrange(pictures, "(t b) c h w -> t b h w c", b=clips)
