"""How many clips a CPU takes at once: few enough to stay in its cache, enough that small grids are not a call each."""

import math

import torch
from torch import Tensor

PIECE_BYTES = 2**21


def cached_pieces(tokens: Tensor, dtype: torch.dtype | None = None) -> list[slice]:
    """Slices of the first axis of about equal size, each one clip or at most `PIECE_BYTES` in `dtype` (default: the tokens')."""
    batch = len(tokens)
    clip_bytes = max(1, tokens[:1].numel()) * (dtype or tokens.dtype).itemsize
    most = max(1, PIECE_BYTES // clip_bytes)
    each = math.ceil(batch / math.ceil(batch / most)) if batch else 1
    return [slice(start, min(start + each, batch)) for start in range(0, batch, each)]
