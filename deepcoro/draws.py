"""Random numbers that are a hash of what they are for, computed on the device: they hang on no generator, rank, worker or neighbour."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def clip_keys(
    seed: int, num_clips: int, clip_mask: Bool[Tensor, "row slot"], position: Int[Tensor, "row"]
) -> Int[Tensor, "clip"]:
    """A 32-bit number for each clip of the flat axis, from (seed, position, slot). No host sync; rows fill their slots from the left."""
    ends = clip_mask.sum(dim=1).cumsum(dim=0)
    row = row_of_clip(num_clips, clip_mask)
    clip = torch.arange(num_clips, device=position.device)
    slot = clip - torch.where(row > 0, ends[row - 1], 0)
    key = mix((position[row] & 0xFFFFFFFF).int() ^ mixed(seed & 0xFFFFFFFF))
    key = mix(key ^ (position[row] >> 32).int() ^ mixed(seed >> 32))
    return mix(key ^ slot.int())


def row_of_clip(num_clips: int, clip_mask: Bool[Tensor, "row slot"]) -> Int[Tensor, "clip"]:
    """Row of each clip of the flat axis; the last row for a film that stands in for none."""
    ends = clip_mask.sum(dim=1).cumsum(dim=0)
    clip = torch.arange(num_clips, device=clip_mask.device)
    return torch.searchsorted(ends, clip, right=True).clamp(max=len(ends) - 1)


def mix(x: Int[Tensor, "..."] | int) -> Int[Tensor, "..."] | int:
    """A bijection of 32 bits in which every bit of the input stirs every bit of the output (C. Wellons' lowbias32; int32 wraps, and of
    Python's integers the lower 32 bits count).
    """
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)


def mixed(number: int) -> int:
    """`mix` of one number, as a signed 32-bit integer. In integers of Python: a tensor may be a pretended one, without a value."""
    stirred = mix(number) & 0xFFFFFFFF
    return stirred - ((stirred >> 31) << 32)


def uniform(bits: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """0 <= u < 1, from the upper 24 bits: as many as a float32 holds."""
    return ((bits >> 8) & 0xFFFFFF).to(torch.float32) / (1 << 24)
