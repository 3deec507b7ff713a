"""How many clips a CPU takes at once: few enough to stay in its cache, enough that small grids are not a call each."""

import math

import torch
from torch import Tensor

PIECE_BYTES = 2**21


def cached_pieces(tokens: Tensor, dtype: torch.dtype | None = None) -> list[slice]:
    """Slices of the first axis of about equal size, each one clip or at most `PIECE_BYTES` in `dtype` (default: the tokens'); other
    devices have no such cache and take all clips in one piece, as each call costs them a launch.
    """
    batch = len(tokens)
    clip_bytes = max(1, tokens[:1].numel()) * (dtype or tokens.dtype).itemsize
    return pieces(batch, clip_bytes, PIECE_BYTES if tokens.device.type == "cpu" else batch * clip_bytes)


def pieces(batch: int, clip_bytes: int, most_bytes: int) -> list[slice]:
    """Slices of a batch of about equal size, each one clip or at most `most_bytes`."""
    most = max(1, most_bytes // clip_bytes)
    each = math.ceil(batch / math.ceil(batch / most)) if batch else 1
    return [slice(start, min(start + each, batch)) for start in range(0, batch, each)]
