"""Clips cut into mask units, and each unit's grey levels freed of its own mean and contrast: what has to be guessed."""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from deepcoro.features import MaskUnits

FLAT = 0.02
"""Deviations (in those of all films) under which a unit is flat: about one grey level of 255, where there is noise of coding at most."""


def cut(
    video: Float[Tensor, "clip channel frame height width"], units: MaskUnits
) -> Float[Tensor, "clip unit pixel"]:
    """Grey pixels of each unit in raster order, fp32 at least; colour by the mean of its channels; zeros outside of the clip."""
    grey = reduce(video.to(torch.promote_types(video.dtype, torch.float32)), "b c t h w -> b t h w", "mean")
    frames, height, width = units.grid
    whole = (frames * units.frames, height * units.size_px, width * units.size_px)
    missing = [wanted - size for wanted, size in zip(whole, grey.shape[1:], strict=True)]
    padding = [edge for size in reversed(missing) for edge in (0, size)]
    return rearrange(
        functional.pad(grey, padding) if any(missing) else grey,
        "b (t f) (h y) (w x) -> b (t h w) (f y x)",
        t=frames,
        h=height,
        w=width,
    )


def put_together(
    pixels: Float[Tensor, "clip unit pixel"], units: MaskUnits, frames: int, size_px: int
) -> Float[Tensor, "clip frame height width"]:
    """The inverse of `cut`."""
    whole = rearrange(
        pixels,
        "b (t h w) (f y x) -> b (t f) (h y) (w x)",
        t=units.grid[0],
        h=units.grid[1],
        f=units.frames,
        y=units.size_px,
    )
    return whole[:, :frames, :size_px, :size_px]


def inside(units: MaskUnits, frames: int, size_px: int) -> Bool[Tensor, "unit pixel"]:
    """Which pixels of the units lie in the clip."""
    return cut(torch.ones(1, 1, frames, size_px, size_px), units)[0] > 0


@dataclass(frozen=True)
class UnitPixels:
    """Grey pixels of units and what they are without their own mean and contrast."""

    normalised: Float[Tensor, "clip unit pixel"]
    """Mean 0 and variance 1 in each unit, less where it is flat."""
    mean: Float[Tensor, "clip unit 1"]
    std: Float[Tensor, "clip unit 1"]
    """At least FLAT."""
    is_flat: Bool[Tensor, "clip unit 1"]


def normalise(
    pixels: Float[Tensor, "clip unit pixel"], weight: Float[Tensor, "... unit pixel"]
) -> UnitPixels:
    """Over the pixels inside of the clip (`weight` 1; the others are 0 and stay so)."""
    num = weight.sum(-1, keepdim=True).clamp(min=1)
    mean = (pixels * weight).sum(-1, keepdim=True) / num
    centred = (pixels - mean) * weight
    std = (centred.square().sum(-1, keepdim=True) / num).sqrt()
    floored = std.clamp(min=FLAT)
    return UnitPixels(centred / floored, mean, floored, std < FLAT)
