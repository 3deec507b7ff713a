"""Is a map right? Hide the cells that it names first and see whether the score falls faster than when cells are hidden at random.

The deletion curve of Petsiuk et al. 2018 (RISE, arXiv:1806.07421), with hidden cells blurred rather than black (Fong and Vedaldi 2017,
arXiv:1704.03296): black squares are a finding of their own in an X-ray film.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, UInt8
from torch import Tensor, nn
from torch.nn import functional

from deepcoro.bootstrap import mean_intervals, patient_rows
from deepcoro.explain.maps import Map
from deepcoro.explain.targets import Target

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of a film's cells that are hidden, one after another."""
_RANDOM_ORDERS = 4
_BLUR = 8


@dataclass(frozen=True)
class Deletion:
    """Scores of one row as its cells vanish."""

    whole: float
    """Of the untouched film."""
    by_map: list[float]
    """With the cells hidden that the map names first, by `SHARES`."""
    at_random: list[float]
    """Mean over random orders."""

    @property
    def gain(self) -> float:
        """How much lower the score lies than at random, mean over the shares; above 0 the map names what the score rests on."""
        return float(np.mean(self.at_random) - np.mean(self.by_map))


@torch.no_grad()
def deletion(model: nn.Module, batch: dict[str, Any], target: Target, found: Map, seed: int = 0) -> Deletion:
    """Of a batch with one row; cells of all its clips are ordered together."""
    if len(batch["clip_mask"]) != 1:
        raise ValueError(f"deletion takes one row at a time; got {len(batch['clip_mask'])}")
    shuffled = np.random.default_rng(seed)
    orders = [found.flatten().argsort(descending=True, stable=True).cpu().numpy()]
    orders += [shuffled.permutation(found.numel()) for _ in range(_RANDOM_ORDERS)]
    hidden = [_first(order, share, found) for order in orders for share in SHARES]
    blurred_film = blurred(batch["video"])
    scores = [
        target.score(model, batch | {"video": hide(batch["video"], blurred_film, cells)}) for cells in hidden
    ]
    whole, each = target.score(model, batch), torch.cat(scores)
    by_order = rearrange(each, "(order share) -> order share", share=len(SHARES)).cpu()
    return Deletion(float(whole[0]), by_order[0].tolist(), by_order[1:].mean(dim=0).tolist())


def _first(order: np.ndarray, share: float, found: Map) -> Bool[Tensor, "clip frame height width"]:
    chosen = torch.zeros(found.numel(), dtype=torch.bool, device=found.device)
    chosen[torch.from_numpy(order[: max(1, round(share * len(order)))]).to(found.device)] = True
    return chosen.reshape(found.shape)


def hide(
    video: UInt8[Tensor, "clip channel frame height width"],
    blurred_film: UInt8[Tensor, "clip channel frame height width"],
    cells: Bool[Tensor, "clip cell_frame cell_height cell_width"],
) -> UInt8[Tensor, "clip channel frame height width"]:
    """The film, blurred where a cell is hidden."""
    grid = functional.interpolate(
        rearrange(cells.float(), "clip f h w -> clip 1 f h w"), size=video.shape[2:], mode="nearest"
    )
    return torch.where(grid > 0.5, blurred_film, video)


def blurred(
    video: UInt8[Tensor, "clip channel frame height width"],
) -> UInt8[Tensor, "clip channel frame height width"]:
    """Each frame without detail: means over an eighth of its side, drawn out again."""
    height, width = video.shape[3:]
    frames = rearrange(video.float(), "clip channel frame h w -> (clip frame) channel h w")
    coarse = functional.adaptive_avg_pool2d(frames, (min(_BLUR, height), min(_BLUR, width)))
    smooth = functional.interpolate(coarse, size=(height, width), mode="bilinear")
    smooth = rearrange(smooth, "(clip frame) channel h w -> clip channel frame h w", clip=len(video))
    return smooth.round().clamp(0, 255).to(torch.uint8)


def summary(
    found: Sequence[Deletion], patients: Sequence[str | None], num_samples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """`gain` over films with an interval over patients, and the share of films in which it is above 0."""
    gains = np.array([each.gain for each in found])
    values = np.stack([gains, gains > 0], axis=1).astype(float)
    rows = np.arange(len(gains))
    bounds = mean_intervals(values, rows, patient_rows(patients, len(gains)), num_samples, seed)
    names = ("gain", "share_above_random")
    numbers = {"num_films": float(len(gains))} | dict(zip(names, values.mean(axis=0).tolist(), strict=True))
    for name, (low, high) in zip(names, bounds.tolist(), strict=True):
        numbers |= {f"{name}_ci_low": low, f"{name}_ci_high": high}
    return numbers
