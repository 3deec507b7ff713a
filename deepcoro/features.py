"""What a video tower hands on: tokens of every clip of every study, and the views of them that poolers and heads read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from deepcoro.pretended import is_pretended


@dataclass(frozen=True)
class VideoFeatures:
    """Tokens of one encoder pass; a cell of the grid that holds no clip has zero tokens and a False mask."""

    tokens: Float[Tensor, "study clip token dim"]
    clip_mask: Bool[Tensor, "study clip"]
    has_class_token: bool

    def per_video(self) -> Float[Tensor, "study clip dim"]:
        """One vector a clip: its class token where the encoder has one, else the mean of its tokens."""
        if self.has_class_token:
            return self.tokens[:, :, 0]
        return reduce(self.tokens, "study clip token dim -> study clip dim", "mean")

    def aggregate(self) -> Float[Tensor, "study dim"]:
        """Mean over the real clips of a study; zeros for a study without any."""
        clips = self.per_video()
        weight = rearrange(self.clip_mask, "study clip -> study clip 1").to(clips.dtype)
        return (clips * weight).sum(1) / weight.sum(1).clamp(min=1)

    def patches(self) -> Float[Tensor, "study patch dim"]:
        """All tokens of all clips in one row (class tokens included); tokens of padded clips are zero."""
        return rearrange(self.tokens, "study clip token dim -> study (clip token) dim")


@dataclass(frozen=True)
class Features:
    """What one forward of the model gives its objectives; None where no objective of the run reads it."""

    study: Float[Tensor, "row dim"] | None = None
    """The pooled clips of each row."""
    clips: VideoFeatures | None = None
    """Tokens of every clip, not pooled."""
    text: Float[Tensor, "text text_dim"] | None = None
    """A row a distinct text of this rank's batch."""
    video: Float[Tensor, "real channel frame height width"] | None = None
    """The normalised (and in training augmented) films that were encoded, on the flat axis of real clips."""
    shown: Int[Tensor, "real unit"] | None = None
    """Mask units that the sparse pass saw of each film of `video`."""
    visible: VideoFeatures | None = None
    """Tokens of these units alone."""


@dataclass(frozen=True)
class Surroundings:
    """What an objective is built beside."""

    video_dim: int
    """Width of the video tower's tokens."""
    text_dim: int | None
    """Width of the text tower's features; None in a run without one."""
    tokenizer: Any
    """The text tower's, with the Hugging Face call convention; None in a run without one."""
    frames: int
    """Frames of a clip."""
    size_px: int
    """Height and width of a frame."""
    video_tower: nn.Module | None = None
    """The encoder of films, to ask or to copy, never to keep: it belongs to the model."""
    clips_per_chunk: int | None = None
    """Clips that an encoder takes at a time; None = all."""
    caption_tokens: int | None = None
    """Longest sequence of the field `caption`; None where the run has no such field."""
    label_counts: Mapping[str, Mapping[float, int]] = field(default_factory=dict)
    """Label column -> value -> rows of the training split that have it (for class weights); empty outside of training."""
    pooled_dim: int | None = None
    """Width of the pooled study, where it is not that of a token."""

    @property
    def study_dim(self) -> int:
        """Width of the pooled study."""
        return self.pooled_dim or self.video_dim


@dataclass(frozen=True)
class MaskUnits:
    """What a clip can be masked by: the cells of its encoder's last grid."""

    grid: tuple[int, int, int]
    """Units along time, height and width; a unit's index runs over them in raster order."""
    frames: int
    """Frames of a unit."""
    size_px: int
    """Height and width of a unit. Where these do not divide the clip, the last units lie partly outside of it."""


Encoder = Callable[..., Tensor]
"""Films [clip, channel, frame, height, width] (and the mask units to encode of each) to tokens [clip, token, dim]."""


def encode_clips(
    encode: Encoder,
    video: Float[Tensor, "clip channel frame height width"],
    clip_mask: Bool[Tensor, "study clips"],
    has_class_token: bool,
    clips_per_chunk: int | None = None,
    visible: Int[Tensor, "clip unit"] | None = None,
) -> VideoFeatures:
    """Encode only the real clips (the flat axis of `video`, row-major order of `clip_mask`) and lay them out by study.

    With `visible` only those mask units of each clip: every clip then has as many tokens as it shows units.

    The number of encoder calls follows from the shape of `clip_mask` alone, so that every rank makes the same number
    (the collectives of ZeRO-3 sit inside): a chunk without clips encodes one zero film, connected to the result with weight 0.
    """
    _check_counts(video, clip_mask)
    per_chunk = clips_per_chunk or clip_mask.numel()
    encoded, idle = [], []
    for start in range(0, clip_mask.numel(), per_chunk):
        chunk = video[start : start + per_chunk]
        shown = () if visible is None else (visible[start : start + per_chunk],)
        if len(chunk):
            encoded.append(encode(chunk, *shown))
        else:
            first = () if visible is None else (visible[:1],)
            idle.append(encode(torch.zeros_like(video[:1]), *first).sum() * 0)
    tokens = torch.cat(encoded) if len(encoded) > 1 else encoded[0]
    if idle:
        tokens = tokens + torch.stack(idle).sum()
    return VideoFeatures(scatter_clips(tokens, clip_mask), clip_mask, has_class_token)


def scatter_clips(
    tokens: Float[Tensor, "clip token dim"], clip_mask: Bool[Tensor, "study clips"]
) -> Float[Tensor, "study clips token dim"]:
    """Rows of the flat axis into their cells, zeros elsewhere; no host sync (a boolean index would be one)."""
    index = row_of_cell(clip_mask).clamp(max=len(tokens) - 1)
    grid = rearrange(
        tokens[index.flatten()], "(study clips) token dim -> study clips token dim", clips=clip_mask.shape[1]
    )
    real = rearrange(clip_mask, "study clips -> study clips 1 1")
    return torch.where(real, grid, torch.zeros((), dtype=grid.dtype, device=grid.device))


def gather_clips(
    cells: Float[Tensor, "study clips token dim"], clip_mask: Bool[Tensor, "study clips"], num_clips: int
) -> Float[Tensor, "clip token dim"]:
    """The inverse of `scatter_clips`: the real cells as rows of the flat axis; no host sync. A film that stands in for none has zeros."""
    ends = clip_mask.flatten().long().cumsum(0)
    wanted = torch.arange(1, num_clips + 1, device=ends.device)
    cell = torch.searchsorted(ends, wanted).clamp(max=len(ends) - 1)
    return rearrange(cells, "study clips token dim -> (study clips) token dim")[cell]


def row_of_cell(clip_mask: Bool[Tensor, "study clips"]) -> Int[Tensor, "study clips"]:
    """Row of the flat axis that fills each cell; 0 for cells before the first real clip (they are masked)."""
    index = clip_mask.flatten().long().cumsum(0) - 1
    return rearrange(index.clamp(min=0), "(study clips) -> study clips", clips=clip_mask.shape[1])


def flatten_studies(
    video: Float[Tensor, "study clip channel frame height width"],
    clip_mask: Bool[Tensor, "study clip"] | None,
) -> tuple[Float[Tensor, "real channel frame height width"], Bool[Tensor, "study clip"]]:
    """The flat axis of real clips from a padded grid (for callers that hold one); keeps one film when none is real."""
    flat = rearrange(
        video, "study clip channel frame height width -> (study clip) channel frame height width"
    )
    if clip_mask is None:
        return flat, repeat(
            flat.new_ones((), dtype=torch.bool), "-> study clip", study=len(video), clip=video.shape[1]
        )
    real = flat[clip_mask.flatten()]
    return (real if len(real) else torch.zeros_like(flat[:1])), clip_mask


def _check_counts(video: Tensor, clip_mask: Tensor) -> None:
    if clip_mask.is_cuda or is_pretended():  # counting would wait for the device, or find no numbers
        return
    num_real = max(int(clip_mask.sum()), 1)
    if len(video) != num_real:
        raise ValueError(
            f"video holds {len(video)} clips but clip_mask marks {num_real} as real; "
            "the flat axis lists exactly the real clips (one zero film when there are none)"
        )
