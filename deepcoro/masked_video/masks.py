"""Which mask units of a clip are shown: a hash decides, so that ranks, chunks and resumed runs hide the same ones."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from deepcoro.config import ConfigError
from deepcoro.draws import mix, mixed
from deepcoro.features import MaskUnits

Masking = Literal["agnostic", "tube"]


@dataclass(frozen=True)
class Mask:
    """Unit indices in raster order, ascending, as many for each clip."""

    shown: Int[Tensor, "clip seen"]
    hidden: Int[Tensor, "clip masked"]


@dataclass(frozen=True)
class MaskRule:
    """How many units are hidden and how they are drawn."""

    units: MaskUnits
    ratio: float
    """Fraction that is hidden."""
    masking: Masking
    """`agnostic`: units anywhere; `tube`: places, hidden or shown through all frames."""

    def __post_init__(self) -> None:
        """ConfigError where nothing would be shown, or nothing hidden."""
        if 0 < self.num_drawn < self.num_places:
            return
        kind = "units" if self.masking == "agnostic" else "places (masking: tube)"
        low, high = (0.5 / self.num_places, 1 - 0.5 / self.num_places)
        left = "visible" if self.num_drawn == 0 else "masked"
        remedy = f"choose a ratio above {low:.3g} and below {high:.3g}, or larger clips"
        if self.num_places == 1:
            remedy = "a clip must have more than one: take more frames or a larger size_px"
        frames, size = self.units.frames, self.units.size_px
        raise ConfigError(
            f"mask_ratio {self.ratio} leaves no {left} unit: a clip has {self.num_places} {kind} of {frames} frames x "
            f"{size}x{size} px in a grid of {'x'.join(map(str, self.units.grid))}; {remedy}"
        )

    @property
    def num_places(self) -> int:
        """Units, or with tubes places, that are drawn from."""
        return math.prod(self.units.grid if self.masking == "agnostic" else self.units.grid[1:])

    @property
    def num_drawn(self) -> int:
        """How many of them are shown."""
        return round(self.num_places * (1 - self.ratio))

    @property
    def num_hidden(self) -> int:
        """Units that each clip hides."""
        hidden = self.num_places - self.num_drawn
        return hidden if self.masking == "agnostic" else hidden * self.units.grid[0]

    def draw(self, keys: Int[Tensor, "clip"]) -> Mask:
        """The mask of each clip, from its 32-bit key alone; no host sync."""
        place = torch.arange(self.num_places, device=keys.device, dtype=torch.int32)
        bits = mix(mix(rearrange(keys, "clip -> clip 1") ^ mixed(0x3A5C)) ^ mix(place))
        order = bits.argsort(dim=1, stable=True)
        shown, hidden = (self._through_time(part) for part in order.tensor_split([self.num_drawn], dim=1))
        return Mask(shown.sort(dim=1).values, hidden.sort(dim=1).values)

    def _through_time(self, drawn: Int[Tensor, "clip place"]) -> Int[Tensor, "clip unit"]:
        if self.masking == "agnostic":
            return drawn
        starts = torch.arange(self.units.grid[0], device=drawn.device) * self.num_places
        return rearrange(rearrange(drawn, "clip place -> clip 1 place") + starts[:, None], "c t p -> c (t p)")


def hidden_of(shown: Int[Tensor, "clip seen"], num_units: int) -> Int[Tensor, "clip masked"]:
    """The other units, ascending."""
    is_shown = torch.zeros(len(shown), num_units, dtype=torch.int8, device=shown.device).scatter(1, shown, 1)
    order = is_shown.argsort(dim=1, stable=True)
    return order[:, : num_units - shown.shape[1]]


def nearest_in_time(shown: Int[Tensor, "clip seen"], units: MaskUnits) -> Int[Tensor, "clip unit"]:
    """For each unit of the grid the shown unit at the same place that is nearest in time, the earlier of two; -1 for none."""
    frames, height, width = units.grid
    is_shown = torch.zeros(len(shown), frames * height * width, dtype=torch.bool, device=shown.device)
    is_shown = rearrange(is_shown.scatter(1, shown, True), "clip (t place) -> clip 1 t place", t=frames)
    time = torch.arange(frames, device=shown.device)
    away = rearrange((time[:, None] - time).abs(), "here there -> 1 here there 1")
    nearest = torch.where(is_shown, away, 2 * frames).min(dim=2)
    place = torch.arange(height * width, device=shown.device)
    source = torch.where(nearest.values < frames, nearest.indices * (height * width) + place, -1)
    return rearrange(source, "clip t place -> clip (t place)")
