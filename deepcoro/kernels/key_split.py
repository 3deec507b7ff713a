"""Attention over parts of the keys, merged by log-sum-exp: heads that would be too wide for a fast kernel fit again.

A part of the keys spans few frames and so needs few columns for them: MViTv2's 14x14 key grids of 8 frames take
96 + 14 + 14 + 8 = 132 columns, in two parts of four frames 128. Forward merges the parts' results; backward runs each part
with the merged result and log-sum-exp, which gives the gradients of the whole (Liu et al. 2023, ring attention,
arXiv:2310.01889).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from deepcoro.kernels.attention_kernels import Attended, AttentionKernel


@dataclass(frozen=True)
class KeySplit:
    """Parts of `frames_per_part` key frames. The queries' columns of time, one a frame of the part, start at `first_column`."""

    frames_per_part: int
    num_frames: int
    first_column: int
    num_class_tokens: int

    @property
    def num_parts(self) -> int:
        return -(-self.num_frames // self.frames_per_part)

    def parts(self, num_keys: int) -> Iterator[tuple[slice, slice, slice]]:
        """For each part its keys, its frames, and the columns of its frames; the class token goes with the first."""
        keys_per_frame = (num_keys - self.num_class_tokens) // self.num_frames
        for first in range(0, self.num_frames, self.frames_per_part):
            last = min(first + self.frames_per_part, self.num_frames)
            start = self.num_class_tokens + first * keys_per_frame if first else 0
            keys = slice(start, self.num_class_tokens + last * keys_per_frame)
            yield keys, slice(first, last), slice(self.first_column, self.first_column + last - first)


class SplitInputs(NamedTuple):
    """Queries without their columns of time, these columns for all frames, keys with one-hots of (frame modulo part), values."""

    q: Float[Tensor, "batch query head width"]
    by_frame: Float[Tensor, "batch query head frame"]
    k: Float[Tensor, "batch key head width"]
    v: Float[Tensor, "batch key head value"]


def split_forward(kernel: AttentionKernel, split: KeySplit, inputs: SplitInputs) -> Attended:
    """Attention where the score of query i and a key of frame f gets `by_frame[i, f]` besides the product of q and k.

    The columns of time of q are written anew for each part, here and in backward.
    """
    parts = parts_forward(kernel, split, inputs)
    logsumexp = torch.logsumexp(torch.stack([part.logsumexp for part in parts]), dim=0)
    # the result comes first: the sum takes its layout, not the log-sum-exp's
    merged = sum(part.out * _share(part.logsumexp - logsumexp) for part in parts)
    return Attended(merged.to(inputs.q.dtype), logsumexp, tuple(part.extras for part in parts))


def parts_forward(kernel: AttentionKernel, split: KeySplit, inputs: SplitInputs) -> list[Attended]:
    """Attention over each part of the keys by itself."""
    q, by_frame, k, v = inputs
    parts = []
    for keys, frames, columns in split.parts(k.shape[1]):
        q[..., columns] = by_frame[..., frames]
        parts.append(kernel.forward(q, k[:, keys], v[:, keys]))
    return parts


def split_backward(
    kernel: AttentionKernel, split: KeySplit, by_out: Tensor, inputs: SplitInputs, attended: Attended
) -> SplitInputs:
    """The gradients; in that of q the columns of time mean nothing."""
    q, _, k, v = inputs
    by_q = torch.zeros_like(q, dtype=torch.promote_types(q.dtype, torch.float32))
    by_k, by_v, of_frames = torch.empty_like(k), torch.empty_like(v), []
    places = split.parts(k.shape[1])
    parts = parts_backward(kernel, split, by_out, inputs, attended)
    for (keys, _, columns), part in zip(places, parts, strict=True):
        of_part, by_k[:, keys], by_v[:, keys] = part
        of_frames.append(of_part[..., columns])
        by_q += of_part
    return SplitInputs(by_q.to(q.dtype), torch.cat(of_frames, dim=-1), by_k, by_v)


def parts_backward(
    kernel: AttentionKernel, split: KeySplit, by_out: Tensor, inputs: SplitInputs, attended: Attended
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each part the gradients of q, whose columns of time are those of its frames, and of its keys and values."""
    q, by_frame, k, v = inputs
    for (keys, frames, columns), extras in zip(split.parts(k.shape[1]), attended.extras, strict=True):
        q[..., columns] = by_frame[..., frames]
        part = Attended(attended.out, attended.logsumexp, extras)
        yield kernel.backward(by_out, q, k[:, keys], v[:, keys], part)


def _share(logarithm: Tensor) -> Tensor:
    return rearrange(logarithm.exp(), "b n q -> b q n 1")
