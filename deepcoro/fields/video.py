"""Frames of a film, sampled over its length, as uint8 squares: only the wanted frames are decoded, at the scale that is needed."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import pydantic
import torch
from einops import rearrange
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.nn import functional

from deepcoro.config import Block, DataError
from deepcoro.sample import ClipRecord, StudyRecord


class Config(Block):
    """Films, as frames."""

    type: Literal["video"] = "video"
    """Which field this is."""
    frames: int = pydantic.Field(16, ge=1)
    """Frames per clip. A shorter film shows frames more than once."""
    size_px: int = pydantic.Field(224, ge=1)
    """Height and width of a frame."""
    sampling: Literal["uniform", "window"] = "uniform"
    """`uniform`: one frame from each of `frames` equal parts of the film (its centre; in training anywhere in it), so that filling
    and washout are seen; `window`: frames `stride_s` apart (around the film's centre; in training anywhere)."""
    stride_s: float | None = pydantic.Field(None, gt=0)
    """Seconds between frames for `window`; needs films whose frame rate is known. None for `uniform`."""
    fit: Literal["letterbox", "crop"] = "letterbox"
    """How a film that is not square keeps its aspect: black bars, or its central square."""
    random_resized_crop_min_scale: float = pydantic.Field(1.0, gt=0, le=1)
    """Smallest fraction of the frame's area that a training crop may show, one crop per film; 1 = whole frames. Never mirrored:
    left and right are findings."""

    @pydantic.model_validator(mode="after")
    def _stride_belongs_to_window(self) -> "Config":
        if (self.sampling == "window") != (self.stride_s is not None):
            raise ValueError(
                f"sampling '{self.sampling}' with stride_s {self.stride_s}: set it for 'window' and only there"
            )
        return self

    def build(self, tokenizer: Any = None) -> "VideoField":
        return VideoField(self)


class VideoField:
    """Batch entries `video` uint8 [clip channel frame height width], the real clips only, and `clip_mask` [row, num_videos]."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def decode(
        self,
        study: StudyRecord,
        clip_indices: tuple[int, ...],
        read_clip: Callable[[int], bytes],
        draw: np.random.Generator | None,
    ) -> list[UInt8[Tensor, "channel frame height width"]]:
        """One film per clip index; `draw` None = evaluation. DataError when one cannot be decoded."""
        return [self._film(study, study.clips[index], read_clip(index), draw) for index in clip_indices]

    def collate(
        self, values: list[list[UInt8[Tensor, "_ frame height width"]] | None], num_videos: int
    ) -> dict[str, UInt8[Tensor, "clip channel frame height width"] | Bool[Tensor, "study num_videos"]]:
        """Grey films become colour (three equal channels) only beside a colour film; one black film stands in for none at all."""
        size_px, frames = self._config.size_px, self._config.frames
        films = [film for value in values for film in value or []]
        channels = max((film.shape[0] for film in films), default=1)
        if not films:
            films = [torch.zeros(1, frames, size_px, size_px, dtype=torch.uint8)]
        num_clips = torch.tensor([len(value or []) for value in values])
        return {
            "video": torch.stack([film.expand(channels, -1, -1, -1) for film in films]),
            "clip_mask": torch.arange(num_videos) < rearrange(num_clips, "study -> study 1"),
        }

    def _film(
        self, study: StudyRecord, clip: ClipRecord, payload: bytes, draw: np.random.Generator | None
    ) -> UInt8[Tensor, "channel frame height width"]:
        config = self._config
        try:
            wanted = frame_indices(config, clip, draw)
            box = crop_box(clip.height, clip.width, config, draw)
            numbers, repeats = np.unique(wanted, return_inverse=True)
            frames = decode_frames(clip, payload, numbers, scale_factor(clip, box, config))
        except ValueError as error:
            raise DataError(f"film {clip.clip} of study {study.study}: {error}") from error
        scaled = fitted(frames, clip, box, config)
        if len(numbers) < len(wanted):
            scaled = scaled[torch.from_numpy(repeats)]
        return rearrange(scaled, "frame channel height width -> channel frame height width")


def frame_indices(config: Config, clip: ClipRecord, draw: np.random.Generator | None) -> np.ndarray:
    """Which frames of a film are shown, ascending. ValueError when a window is asked of a film without a frame rate."""
    num_frames, wanted = clip.num_frames, config.frames
    if config.sampling == "uniform":
        inside = 0.5 if draw is None else draw.random(wanted)
        place = (np.arange(wanted) + inside) * num_frames / wanted
        return np.minimum(place.astype(np.int64), num_frames - 1)
    if not clip.frame_rate_fps:
        raise ValueError("frame rate unknown, so 'sampling: window' cannot space its frames; use 'uniform'")
    step = config.stride_s * clip.frame_rate_fps
    room = num_frames - 1 - step * (wanted - 1)
    start = room * (0.5 if draw is None or room < 0 else draw.random())
    return np.clip(np.rint(start + step * np.arange(wanted)), 0, num_frames - 1).astype(np.int64)


class Box(NamedTuple):
    """Part of a frame, as fractions of its height and width."""

    top: float
    left: float
    height: float
    width: float


def crop_box(height: int, width: int, config: Config, draw: np.random.Generator | None) -> Box:
    """The part of the frames that is shown; keeps the frame's aspect, or is square in pixels for `crop`."""
    square = min(height, width)
    tall, wide = (square / height, square / width) if config.fit == "crop" else (1.0, 1.0)
    if draw is None or config.random_resized_crop_min_scale == 1:
        return Box((1 - tall) / 2, (1 - wide) / 2, tall, wide)
    side = np.sqrt(draw.uniform(config.random_resized_crop_min_scale, 1))
    top, left = draw.random(2)
    return Box(top * (1 - side * tall), left * (1 - side * wide), side * tall, side * wide)


def scale_factor(clip: ClipRecord, box: Box, config: Config) -> int:
    """How much smaller (1, 2, 4 or 8 times) frames may be decoded with the box's longer side still at `size_px` or more."""
    longer = max(box.height * clip.height, box.width * clip.width)
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or longer >= factor * config.size_px)


def decode_frames(
    clip: ClipRecord, payload: bytes, numbers: np.ndarray, factor: int = 1
) -> UInt8[Tensor, "frame channel height width"]:
    """The numbered frames of a member, JPEG reduced by `factor` while decoding. ValueError on broken bytes."""
    parts = [payload[clip.frame_offsets[number] : clip.frame_offsets[number + 1]] for number in numbers]
    frames = _decode_zstd(clip, parts) if clip.member.endswith("zst") else _decode_jpeg(clip, parts, factor)
    return rearrange(torch.from_numpy(frames), "frame height width channel -> frame channel height width")


def _decode_jpeg(clip: ClipRecord, parts: list[bytes], factor: int) -> np.ndarray:
    import simplejpeg

    # Only powers of two: the scales between them have no fast inverse transform. The exact transform costs no more than the
    # rough one (9.9 against 13.7 ms for 16 frames of 512 px at 1/2, best of 25 on AVX2).
    size = {
        "min_height": -(-clip.height // factor),
        "min_width": -(-clip.width // factor),
        "min_factor": factor,
    }
    colorspace = "GRAY" if clip.channels == 1 else "RGB"
    return np.stack(
        [simplejpeg.decode_jpeg(part, colorspace=colorspace, fastdct=False, **size) for part in parts]
    )


def _decode_zstd(clip: ClipRecord, parts: list[bytes]) -> np.ndarray:
    import zstandard

    decompressor, shape = zstandard.ZstdDecompressor(), (clip.height, clip.width, clip.channels)
    try:
        frames = [decompressor.decompress(part, max_output_size=int(np.prod(shape))) for part in parts]
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    return np.stack([np.frombuffer(frame, np.uint8).reshape(shape) for frame in frames])


def fitted(
    frames: UInt8[Tensor, "frame channel height width"], clip: ClipRecord, box: Box, config: Config
) -> UInt8[Tensor, "frame channel size_px size_px"]:
    """The box of each frame, resized with antialiasing so that its longer side is `size_px`, black around it."""
    rows, columns = frames.shape[2:]
    top, left = round(box.top * rows), round(box.left * columns)
    shown = frames[
        :, :, top : top + max(1, round(box.height * rows)), left : left + max(1, round(box.width * columns))
    ]
    longer = max(box.height * clip.height, box.width * clip.width)
    height = max(1, round(box.height * clip.height / longer * config.size_px))
    width = max(1, round(box.width * clip.width / longer * config.size_px))
    if shown.shape[2:] != (height, width):
        shown = _resized(shown, height, width)
    above, before = (config.size_px - height) // 2, (config.size_px - width) // 2
    below, after = config.size_px - height - above, config.size_px - width - before
    return (
        functional.pad(shown, (before, after, above, below)) if above or before or below or after else shown
    )


def _resized(
    frames: UInt8[Tensor, "frame channel _ _"], height: int, width: int
) -> UInt8[Tensor, "frame channel {height} {width}"]:
    # torch's vector code for bytes wants three or four interleaved channels: grey frames pass as channels, four at a time (2x).
    if frames.shape[1] == 1 and len(frames) % 4 == 0:
        fours = rearrange(frames, "(group four) 1 height width -> group four height width", four=4)
        fours = fours.contiguous(memory_format=torch.channels_last)
        fours = functional.interpolate(fours, size=(height, width), mode="bilinear", antialias=True)
        return rearrange(fours, "group four height width -> (group four) 1 height width")
    return functional.interpolate(frames, size=(height, width), mode="bilinear", antialias=True)
