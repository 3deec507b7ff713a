"""The classifier: seven convolutions over one picture of a film, and one linear head a question."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

_WIDTHS = ((24, 2), (32, 2), (48, 1), (64, 2), (96, 1), (112, 2), (112, 1))
"""Channels and stride of each convolution: 0.31 M weights."""


class ContentNetwork(nn.Module):
    """Pictures in, logits of every head out."""

    def __init__(self, classes: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, stride in _WIDTHS:
            layers += [
                nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            before = width
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict(
            {head: nn.Linear(2 * before, len(names)) for head, names in classes.items()}
        )

    def forward(self, pictures: UInt8[Tensor, "film 3 height width"]) -> dict[str, Float[Tensor, "film _"]]:
        # channels last: a third less time on CPUs
        grid = self.trunk(standardised(pictures).contiguous(memory_format=torch.channels_last))
        # the mean tells how much of a thing there is, the maximum that it is anywhere at all: wires and stents are small
        pooled = torch.cat([grid.mean((2, 3)), grid.amax((2, 3))], dim=1)
        return {head: linear(pooled) for head, linear in self.heads.items()}


def standardised(pictures: UInt8[Tensor, "film 3 height width"]) -> Float[Tensor, "film 3 height width"]:
    """Zero mean and unit deviation per film, all three frames alike: vendors differ in brightness, not in content."""
    values = pictures.float()
    return (values - values.mean((1, 2, 3), keepdim=True)) / (values.std((1, 2, 3), keepdim=True) + 1.0)


def jittered(
    pictures: UInt8[Tensor, "film 3 height width"], draw: torch.Generator
) -> UInt8[Tensor, "film 3 height width"]:
    """Training copies: shifted by up to 8 %, scaled and turned a little, other gain and grain. Never mirrored: left is not right."""
    count = len(pictures)
    uniform = torch.rand(5, count, generator=draw) * 2 - 1
    scale, turn = 1 + 0.10 * uniform[0], 0.10 * uniform[1]
    across, down = 0.16 * uniform[2], 0.16 * uniform[3]
    rows = torch.stack(
        [
            torch.stack([scale * turn.cos(), -scale * turn.sin(), across], 1),
            torch.stack([scale * turn.sin(), scale * turn.cos(), down], 1),
        ],
        1,
    )
    grid = functional.affine_grid(rows, list(pictures.shape), align_corners=False)
    moved = functional.grid_sample(pictures.float(), grid, padding_mode="zeros", align_corners=False)
    gain = (1 + 0.25 * uniform[4])[:, None, None, None]
    noise = 3.0 * torch.randn(moved.shape, generator=draw)
    return (moved * gain + noise).clamp(0, 255).round().to(torch.uint8)
