"""Patch dropout: in training each clip shows a random part of its mask units (FLIP, Li et al. 2023, arXiv:2212.00794)."""

import torch
from jaxtyping import Int
from torch import Tensor


def draw_units(
    num_clips: int, num_units: int, dropped: float, device: torch.device
) -> Int[Tensor, "clip kept"]:
    """Units that each clip shows, ascending: all but the fraction `dropped`, at least one, the same number for each clip."""
    kept = max(round(num_units * (1 - dropped)), 1)
    order = torch.rand(num_clips, num_units, device=device).argsort(dim=1)
    return order[:, :kept].sort(dim=1).values
