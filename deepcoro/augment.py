"""Random changes of training clips, in one batched pass on the device: bytes in, bytes out, before normalisation.

What a clip gets is a hash of (seed, position of its row, slot in the row), computed on the device: it depends on no generator, and so
on no rank, worker, chunk or neighbour in the batch. One draw a clip, the same for all its frames: what moves is the heart.
Black that stays black through a clip (bars, collimator, what rotation brings in) stays black, since padding is not data.
"""

import math
from collections.abc import Sequence

import pydantic
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from deepcoro.config import Block
from deepcoro.draws import clip_keys, mix, mixed, uniform

# One column of draws each. An older run's clips hang on the order: append only.
DRAWS = (
    "crop_scale",
    "crop_x",
    "crop_y",
    "rotation",
    "flip",
    "brightness",
    "contrast",
    "gamma",
    "noise",
    "blur",
    "cutout_area",
    "cutout_x",
    "cutout_y",
)


class Config(Block):
    """Random changes of training films on the device, one draw a film; all off by default, and evaluation does none."""

    crop_min_scale: float = pydantic.Field(1.0, gt=0, le=1)
    """Smallest fraction of the frame's area that a random crop shows, enlarged to the full frame; 1 = whole frames. Mild: 0.7."""
    rotation_deg: float = pydantic.Field(0.0, ge=0, le=180)
    """Rotation about the crop's centre, up to so many degrees either way. Mild: 10."""
    flip_probability: float = pydantic.Field(0.0, ge=0, le=1)
    """Chance of a left-right mirror image. Off on purpose: left and right are findings, and a mirrored heart is another heart."""
    brightness: float = pydantic.Field(0.0, ge=0, lt=1)
    """Grey levels are multiplied by 1 - this to 1 + this. Mild: 0.1."""
    contrast: float = pydantic.Field(0.0, ge=0, lt=1)
    """Distances from the film's mean are multiplied by 1 - this to 1 + this. Mild: 0.2."""
    gamma: float = pydantic.Field(0.0, ge=0)
    """Grey levels (0 to 1) are raised to 1 / (1 + this) to 1 + this. Mild: 0.2."""
    noise_std: float = pydantic.Field(0.0, ge=0)
    """Noise of each pixel of each frame; its standard deviation, in grey levels of 255, is drawn from 0 to this. Mild: 3."""
    blur_sigma_px: float = pydantic.Field(0.0, ge=0, le=8)
    """Gaussian blur, its sigma drawn from 0 to this many pixels of the clip. Mild: 0.5."""
    cutout_max_area: float = pydantic.Field(0.0, ge=0, lt=1)
    """A black square, the same in all frames, drawn from 0 to this fraction of the frame. It may hide the lesion. Mild: 0.05."""

    def build(self, seed: int) -> "Augment":
        return Augment(self, seed)


class Augment:
    """Called with the clips of a micro-batch; hands them back untouched when every change is off."""

    def __init__(self, config: Config, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._is_off = config == Config()

    @torch.no_grad()
    def __call__(
        self,
        video: UInt8[Tensor, "clip channel frame height width"],
        clip_mask: Bool[Tensor, "row slot"],
        position: Int[Tensor, "row"],
    ) -> UInt8[Tensor, "clip channel frame height width"]:
        """`position` is that of the row in the endless order of training (deepcoro.data.plan)."""
        if self._is_off:
            return video
        config, key = self._config, clip_keys(self._seed, len(video), clip_mask, position)
        draw = {
            name: rearrange(uniform(mix(key ^ mixed(1 + n))), "clip -> clip 1 1 1 1")
            for n, name in enumerate(DRAWS)
        }
        pixels = video.to(torch.float32)
        mean = _mean(pixels)
        if config.crop_min_scale < 1 or config.rotation_deg or config.flip_probability:
            pixels = _warped(pixels, draw, config)
        shown = pixels.amax(dim=(1, 2), keepdim=True) > 0
        if config.blur_sigma_px:
            pixels = _blurred(pixels, draw["blur"] * config.blur_sigma_px, config.blur_sigma_px)
        if config.brightness or config.contrast or config.gamma:
            pixels = _toned(pixels, mean, draw, config)
        if config.noise_std:
            pixels = pixels + draw["noise"] * config.noise_std * _noise(key, pixels.shape[2:])
        if config.cutout_max_area:
            shown = shown & ~_cutout(draw, config.cutout_max_area, shown.shape[3:])
        return (pixels.round().clamp(0, 255) * shown).to(torch.uint8)


def _either_way(u: Tensor) -> Tensor:
    return 2 * u - 1


def _warped(
    pixels: Float[Tensor, "clip channel frame height width"], draw: dict[str, Tensor], config: Config
) -> Float[Tensor, "clip channel frame height width"]:
    """Crop, rotation and flip as one bilinear sampling, black outside; all frames of a clip by one grid."""
    height, width = pixels.shape[3:]
    side = (1 - draw["crop_scale"] * (1 - config.crop_min_scale)).sqrt()
    angle = _either_way(draw["rotation"]) * math.radians(config.rotation_deg)
    mirror = torch.where(draw["flip"] < config.flip_probability, -1.0, 1.0)
    across = rearrange(_centres(width, pixels.device), "width -> 1 1 1 1 width") * mirror * side
    down = rearrange(_centres(height, pixels.device), "height -> 1 1 1 height 1") * side
    # written out, not a matrix product: a product may round differently in another batch
    column = across * angle.cos() - down * angle.sin() + _either_way(draw["crop_x"]) * (1 - side)
    row = across * angle.sin() + down * angle.cos() + _either_way(draw["crop_y"]) * (1 - side)
    grid = rearrange([column, row], "xy clip 1 1 height width -> clip height width xy")
    flat = rearrange(pixels, "clip channel frame height width -> clip (channel frame) height width")
    warped = functional.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return rearrange(
        warped,
        "clip (channel frame) height width -> clip channel frame height width",
        channel=pixels.shape[1],
    )


def _centres(size: int, device: torch.device) -> Float[Tensor, " size"]:
    """Pixel centres between -1 and 1."""
    return (2 * torch.arange(size, device=device, dtype=torch.float32) + 1) / size - 1


def _blurred(
    pixels: Float[Tensor, "clip channel frame height width"],
    sigma: Float[Tensor, "clip 1 1 1 1"],
    most: float,
) -> Float[Tensor, "clip channel frame height width"]:
    """Gaussian of each clip's own sigma, borders repeated; sums of shifted copies, since a convolution's rounding hangs on the batch."""
    reach = math.ceil(3 * most)
    weights = [torch.exp(-0.5 * (shift / sigma.clamp(min=1e-3)) ** 2) for shift in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis in (3, 4):
        size = pixels.shape[axis]
        place = torch.arange(size, device=pixels.device)
        blurred = pixels * (weights[0] / total)
        for shift in range(1, reach + 1):
            for sign in (-shift, shift):
                blurred += pixels.index_select(axis, (place + sign).clamp(0, size - 1)) * (
                    weights[shift] / total
                )
        pixels = blurred
    return pixels


def _mean(pixels: Float[Tensor, "clip channel frame height width"]) -> Float[Tensor, "clip 1 1 1 1"]:
    """Mean grey level of whole numbers, exact in any order of summation: rows in float32, their sums in float64."""
    total = pixels.sum(dim=4, keepdim=True).double().sum(dim=(1, 2, 3), keepdim=True)
    return (total / pixels[0].numel()).float()


def _toned(
    pixels: Float[Tensor, "clip channel frame height width"],
    mean: Float[Tensor, "clip 1 1 1 1"],
    draw: dict[str, Tensor],
    config: Config,
) -> Float[Tensor, "clip channel frame height width"]:
    gain = 1 + config.brightness * _either_way(draw["brightness"])
    stretch = 1 + config.contrast * _either_way(draw["contrast"])
    pixels = pixels * (gain * stretch) + mean * gain * (1 - stretch)
    if config.gamma:
        exponent = (math.log1p(config.gamma) * _either_way(draw["gamma"])).exp()
        pixels = 255 * (pixels.clamp(0, 255) / 255) ** exponent
    return pixels


def _noise(key: Int[Tensor, "clip"], shape: Sequence[int]) -> Float[Tensor, "clip 1 frame height width"]:
    """Mean 0, variance 1: the sum of a hash's four bytes, which is near to normal and stays within 3.5. Equal in all channels."""
    pixel = mix(torch.arange(math.prod(shape), device=key.device, dtype=torch.int32)).reshape(shape)
    bits = mix(rearrange(mix(~key), "clip -> clip 1 1 1 1") ^ pixel)
    total = (bits & 0xFF) + ((bits >> 8) & 0xFF) + ((bits >> 16) & 0xFF) + ((bits >> 24) & 0xFF)
    return (total - 510).to(torch.float32) / math.sqrt((256**2 - 1) / 3)


def _cutout(
    draw: dict[str, Tensor], max_area: float, shape: Sequence[int]
) -> Bool[Tensor, "clip 1 1 height width"]:
    height, width = shape
    side = (draw["cutout_area"] * max_area).sqrt()
    inside = []
    for name, size, axis in (("cutout_y", height, "1 1 1 size 1"), ("cutout_x", width, "1 1 1 1 size")):
        place = rearrange((_centres(size, side.device) + 1) / 2, f"size -> {axis}")
        start = draw[name] * (1 - side)
        inside.append((place >= start) & (place < start + side))
    return inside[0] & inside[1]
