"""Models whose eyes are known: a score is a weighted sum of pixels."""

from typing import Any

import torch
from torch import Tensor, nn

from deepcoro.explain.targets import Target
from deepcoro.normalisation import PixelNormalisation

MEAN, STD = 100.0, 50.0


class Planted(nn.Module):
    """Score of a row: mean over its films of the normalised pixels times `weight` [frame height width]."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.normalisation = PixelNormalisation(MEAN, STD)
        self.weight = nn.Parameter(weight)

    def forward(self, batch: dict[str, Any], task: str, active: tuple[str, ...]) -> dict[str, Tensor]:
        film = self.normalisation(batch["video"])
        scores = (film[:, 0] * self.weight).sum(dim=(1, 2, 3))
        return {"video": scores[None].mean(dim=1, keepdim=True)}


TARGET = Target("planted", lambda said: said["video"][:, 0])


def batch_of(video: Tensor) -> dict[str, Tensor]:
    """One row with all films of `video` uint8 [clip channel frame height width]."""
    return {"video": video, "clip_mask": torch.ones(1, len(video), dtype=torch.bool)}


def noisy_film(clips: int = 1, frames: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (clips, 1, frames, size, size), generator=draw, dtype=torch.uint8)
