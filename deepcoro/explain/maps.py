"""Maps over a film's frames of what a score rests on. All are [clip frame height width], not negative, in the film's own grid of cells.

- `tokens`: gradient times activation of the tokens that enter the last stage, where they still stand in a fine grid (element-wise
  Grad-CAM, "HiResCAM", Draelos and Carin 2020, arXiv:2011.08891).
- `attention`: how the class token of the last block divides its attention; says where the model looks, for no score in particular.
- `pixels`: size of the gradient at each pixel, averaged over noisy copies (SmoothGrad, Smilkov et al. 2017, arXiv:1706.03825).

A map is a guess about the model until `deletion` has checked it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from deepcoro.config import ConfigError
from deepcoro.explain.targets import Target

METHODS = ("tokens", "attention", "pixels")
_NOISY_COPIES, _NOISE = 8, 0.15
_PIXEL_CELL = 8
"""Pixels of a cell's side in a map of pixel gradients: single pixels say little."""

Map = Float[Tensor, "clip frame height width"]


def map_of(method: str, model: nn.Module, batch: dict[str, Any], target: Target) -> Map:
    """The map of each real clip of the batch. ConfigError when the encoder cannot give this kind. The model must be in eval mode."""
    if method not in METHODS:
        raise ConfigError(f"map '{method}' is not known; allowed: {METHODS}")
    return {"tokens": token_map, "attention": attention_map, "pixels": pixel_map}[method](
        model, batch, target
    )


def token_map(model: nn.Module, batch: dict[str, Any], target: Target) -> Map:
    """Only the last stage is computed with gradients, so frozen and large encoders cost little more than a forward pass."""
    module, grid, first = _entrance_of_last_stage(model.towers["video"], batch["video"].shape[2])
    with _cut_loose(module) as tokens:
        _score(model, batch, target).backward()
    given = torch.cat([(each * each.grad).sum(-1)[:, first:] for each in tokens])
    frames, height, width = grid
    return rearrange(given.clamp(min=0), "clip (f h w) -> clip f h w", f=frames, h=height, w=width).detach()


def attention_map(model: nn.Module, batch: dict[str, Any], target: Target) -> Map:
    """Mean over the heads of the last block; the target plays no part."""
    blocks = getattr(model.towers["video"], "blocks", None)
    if blocks is None or not hasattr(blocks[-1].attn, "class_attention"):
        raise ConfigError(
            "this encoder has no class token whose attention could be shown; use tokens or pixels"
        )
    found: list[Tensor] = []

    def look(block: nn.Module, given: tuple) -> None:
        found.append(block.attn.class_attention(given[0], block.norm1))

    handle = blocks[-1].register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            _score(model, batch, target)
    finally:
        handle.remove()
    frames, height, width = blocks[-1].shape.key_grid
    weights = reduce(torch.cat(found), "clip head key -> clip key", "mean")[:, 1:]
    return rearrange(weights, "clip (f h w) -> clip f h w", f=frames, h=height, w=width)


def pixel_map(model: nn.Module, batch: dict[str, Any], target: Target, seed: int = 0) -> Map:
    """Mean size of the gradient in cells of 8 x 8 px."""
    draw = torch.Generator(batch["video"].device).manual_seed(seed)
    film = batch["video"].float()
    span = film.amax(dim=(1, 2, 3, 4), keepdim=True) - film.amin(dim=(1, 2, 3, 4), keepdim=True)
    total = torch.zeros_like(film)
    for _ in range(_NOISY_COPIES):
        noise = torch.randn(film.shape, generator=draw, device=film.device) * _NOISE * span
        noisy = (film + noise).round().clamp(0, 255).to(torch.uint8)
        with _cut_loose(model.normalisation, of_output=True) as pixels:
            _score(model, batch | {"video": noisy}, target).backward()
        total += pixels[0].grad.abs()
    sizes = reduce(total, "clip channel frame height width -> clip frame height width", "mean")
    return functional.avg_pool2d(sizes, _PIXEL_CELL, ceil_mode=True) / _NOISY_COPIES


def _score(model: nn.Module, batch: dict[str, Any], target: Target) -> Float[Tensor, ""]:
    """Sum over the rows, which do not know of each other."""
    model.zero_grad(set_to_none=True)
    return target.score(model, batch).sum()


def _entrance_of_last_stage(tower: nn.Module, frames: int) -> tuple[nn.Module, tuple[int, int, int], int]:
    """The module whose input tokens are watched, the grid on which they stand, and how many come before it."""
    if hasattr(tower, "blocks"):
        stages = [block for block in tower.blocks if block.shape.query_stride > 1]
        block = stages[-1] if stages else tower.blocks[-1]
        return block, block.shape.grid, int(tower.has_class_token)
    if hasattr(tower, "pool"):
        return tower.pool, (frames, 1, 1), 0
    raise ConfigError(f"{type(tower).__name__} has no place known here where its tokens could be watched")


@contextlib.contextmanager
def _cut_loose(module: nn.Module, of_output: bool = False) -> Iterator[list[Tensor]]:
    """Inside, what enters (or leaves) the module is a leaf of the graph, so gradients end there; the list holds it, call by call."""
    seen: list[Tensor] = []

    def before(_: nn.Module, given: tuple) -> tuple:
        seen.append(given[0].detach().requires_grad_())
        return (seen[-1], *given[1:])

    def after(_: nn.Module, __: tuple, result: Tensor) -> Tensor:
        seen.append(result.detach().requires_grad_())
        return seen[-1]

    handle = module.register_forward_hook(after) if of_output else module.register_forward_pre_hook(before)
    try:
        yield seen
    finally:
        handle.remove()


def over_frames(
    found: Map, frames: int, height: int, width: int
) -> Float[Tensor, "clip {frames} {height} {width}"]:
    """The map at the film's own size, each film's highest value 1 (a map without any stays 0)."""
    shown = functional.interpolate(
        rearrange(found, "clip f h w -> clip 1 f h w"), size=(frames, height, width), mode="trilinear"
    )[:, 0]
    highest = shown.amax(dim=(1, 2, 3), keepdim=True)
    return shown / torch.where(highest > 0, highest, torch.ones_like(highest))
