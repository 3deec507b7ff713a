"""Depthwise 3x3x3 pooling of token grids, the slow part of an MViT outside its matrix products.

A token-major grid with its heads side by side is a channels-last picture of `head * dim` channels, so nothing is transposed.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from deepcoro.kernels.precision import autocast_dtype

POOLING_BACKENDS = ("auto", "frames", "conv3d")


def depthwise_pool(
    grid: Float[Tensor, "batch frame height width channel"],
    weight: Float[Tensor, "dim 1 3 3 3"],
    stride: int,
    backend: str = "auto",
) -> Float[Tensor, "batch frame height_out width_out channel"]:
    """Depthwise convolution (zero padding 1, temporal stride 1, spatial `stride`), channel `head * dim + i` under filter i.

    `frames` writes it as three 2-D channels-last convolutions: one of them takes a CPU 8 ms forward + backward where the
    3-D one takes 402 (fp32, Zen 3, [2, 8, 56, 56, 96]; docs/benchmarks). `conv3d` is the oracle and the choice on CUDA.
    """
    if backend not in POOLING_BACKENDS:
        raise ValueError(f"pooling backend is '{backend}'; allowed: {POOLING_BACKENDS}")
    heads = grid.shape[-1] // weight.shape[0]
    weight = repeat(weight, "dim one t h w -> (head dim) one t h w", head=heads)
    grid = grid.to(autocast_dtype(grid))
    with torch.autocast(grid.device.type, enabled=False):
        if backend == "frames" or (backend == "auto" and not grid.is_cuda):
            # CPUs are fast at this in fp32, with bfloat16 hardware or without; what is kept for backward stays half
            weight = weight.to(torch.promote_types(grid.dtype, torch.float32))
            return _FramePool.apply(grid.contiguous(), weight, stride)
        return _pool_conv3d(grid, weight.to(grid.dtype), stride)


def _pool_conv3d(grid: Tensor, weight: Tensor, stride: int) -> Tensor:
    # contiguous: CUDA's own depthwise kernel; a channels-last input would be sent to cuDNN
    film = rearrange(grid, "b t h w c -> b c t h w").contiguous()
    pooled = F.conv3d(film, weight, stride=(1, stride, stride), padding=1, groups=len(weight))
    return rearrange(pooled, "b c t h w -> b t h w c")


class _FramePool(torch.autograd.Function):
    """Frame t of the result is the sum of 2-D convolutions of frames t-1, t, t+1 under the three temporal taps."""

    @staticmethod
    def forward(ctx, grid: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(grid, weight)
        ctx.stride = stride
        frames = _as_pictures(grid.to(weight.dtype))
        before, here, after = (
            _as_grid(F.conv2d(frames, tap, stride=stride, padding=1, groups=len(weight)), len(grid))
            for tap in _taps(weight)
        )
        here[:, 1:] += before[:, :-1]
        here[:, :-1] += after[:, 1:]
        return here.to(grid.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grid, weight = ctx.saved_tensors
        frames = _as_pictures(grid.to(weight.dtype))
        gradient = gradient.to(weight.dtype).contiguous()
        needs = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        by_grid, by_tap = None, []
        for tap, lead in zip(_taps(weight), (1, 0, -1), strict=True):
            shifted = _as_pictures(_shift_frames(gradient, lead))
            of_frames, of_tap, _ = torch.ops.aten.convolution_backward(
                *(
                    shifted,
                    frames,
                    tap,
                    None,
                    [ctx.stride] * 2,
                    [1, 1],
                    [1, 1],
                    False,
                    [0, 0],
                    len(weight),
                    needs,
                )
            )
            by_tap.append(of_tap)
            if needs[0]:
                by_grid = of_frames if by_grid is None else by_grid.add_(of_frames)
        by_weight = torch.stack(by_tap, dim=2) if needs[1] else None
        if by_grid is not None:
            by_grid = _as_grid(by_grid, len(grid)).to(grid.dtype)
        return by_grid, by_weight, None


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


def max_pool_frames(
    grid: Float[Tensor, "batch frame height width channel"], stride: int
) -> Float[Tensor, "batch frame height_out width_out channel"]:
    """Spatial 3x3 maximum with `stride`, frame by frame: the skip path of a block that halves its grid."""
    pooled = F.max_pool2d(
        _as_pictures(grid), kernel_size=stride + 1, stride=stride, padding=(stride + 1) // 2
    )
    return _as_grid(pooled, len(grid))
