"""Clips of a film, sampled over its length, as uint8 squares: only the wanted frames are decoded, at the scale that is needed."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pydantic
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from deepcoro.config import Block, DataError
from deepcoro.sample import ClipRecord, StudyRecord
from deepcoro.stored_features import StoredFeatures

PRESETS = {"predecessor": {"sampling": "first_to_last", "fit": "stretch"}}


class Config(Block):
    """Films, as frames."""

    type: Literal["video"] = "video"
    """Which field this is."""
    frames: int = pydantic.Field(16, ge=1)
    """Frames per clip. A shorter film shows frames more than once."""
    size_px: int = pydantic.Field(224, ge=1)
    """Height and width of a frame."""
    preset: Literal["predecessor"] | None = None
    """`predecessor`: films as DeepCORO_CLIP showed them, for its weights: sampling first_to_last, fit stretch. Its mean and deviation
    are of one channel, and those of its checkpoint (normalisation.pixel_mean, pixel_std)."""
    sampling: Literal["uniform", "window", "multi_window", "first_to_last"] = "uniform"
    """`uniform`: one frame from each of `frames` equal parts of the film (its centre; in training anywhere in it), so that filling
    and washout are seen; `window`: frames `stride_s` apart (around the film's centre; in training anywhere); `multi_window`:
    `windows` of them from the film's beginning to its end (in training each anywhere in its share), each a clip of its own;
    `first_to_last`: frames evenly from the first to the last, always the same; a shorter film ends in copies of its last frame."""
    stride_s: float | None = pydantic.Field(None, gt=0)
    """Seconds between frames for `window` and `multi_window`, whatever the film's frame rate. None for the others."""
    windows: int | None = pydantic.Field(None, ge=2)
    """Clips that `multi_window` takes of a film; the pooler joins them. A film no longer than one window gives one."""
    default_frame_rate_fps: float | None = pydantic.Field(None, gt=0)
    """Frame rate of films that name none, for windows. null: such a film is a bad sample, since a rate is never guessed."""
    jitter: bool = True
    """Training shows other frames of a film each time, as `sampling` says; false: those of evaluation, always."""
    fit: Literal["letterbox", "crop", "stretch"] = "letterbox"
    """How a film that is not square keeps its aspect: black bars, or its central square. `stretch`: it does not, and is decoded whole."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _preset_fills_in(cls, value: Any) -> Any:
        if not isinstance(value, dict) or str(value.get("preset")) not in PRESETS:
            return value
        meant = PRESETS[value["preset"]]
        others = {key: value[key] for key, ours in meant.items() if value.get(key, ours) != ours}
        if others:
            raise ValueError(
                f"preset '{value['preset']}' means {meant}, and {others} is given; leave one out"
            )
        return value | meant

    @pydantic.model_validator(mode="after")
    def _strides_and_windows_have_their_sampling(self) -> "Config":
        if (self.sampling in ("uniform", "first_to_last")) != (self.stride_s is None):
            raise ValueError(
                f"sampling '{self.sampling}' with stride_s {self.stride_s}: set it for 'window' and 'multi_window' and only there"
            )
        if (self.sampling == "multi_window") != (self.windows is not None):
            raise ValueError(
                f"sampling '{self.sampling}' with windows {self.windows}: set it for 'multi_window' and only there"
            )
        return self

    @property
    def clips_per_film(self) -> int:
        """The most clips that one film gives."""
        return self.windows or 1

    def build(self, tokenizer: Any = None) -> "VideoField":
        return VideoField(self)


class VideoField:
    """Batch entries `video` uint8 [clip channel frame height width], the real clips only, and `clip_mask` [row, slot].

    A row has `num_videos` slots, times `windows` for `multi_window`: the windows of a film follow each other. With `stored` features
    no film is read, and in the place of `video` stands `video_features` [clip token dim].
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.stored: StoredFeatures | None = None
        """What a frozen tower made of the clips that evaluation shows, once it has."""

    def decode(
        self,
        study: StudyRecord,
        clip_indices: tuple[int, ...],
        read_clip: Callable[[int], bytes],
        draw: np.random.Generator | None,
    ) -> list[UInt8[Tensor, "channel frame height width"] | Float[Tensor, "token dim"]]:
        """The clips of each film in turn; `draw` None = evaluation. DataError when one cannot be decoded."""
        if self.stored is not None:
            return [clip for index in clip_indices for clip in self.stored.of(study.clips[index].clip)]
        draw = draw if self._config.jitter else None
        return [
            clip
            for index in clip_indices
            for clip in self._clips(study, study.clips[index], read_clip(index), draw)
        ]

    def collate(self, values: list[list[Tensor] | None], num_videos: int) -> dict[str, Tensor]:
        clips = [clip for value in values for clip in value or []]
        num_clips = torch.tensor([len(value or []) for value in values])
        slots = torch.arange(num_videos * self._config.clips_per_film)
        joined = self._joined(clips) if self.stored is None else self._features(clips)
        return joined | {"clip_mask": slots < rearrange(num_clips, "study -> study 1")}

    def _features(
        self, clips: list[Float[Tensor, "token dim"]]
    ) -> dict[str, Float[Tensor, "clip token dim"]]:
        return {"video_features": torch.stack(clips) if clips else self.stored.no_clip()}

    def _joined(
        self, films: list[UInt8[Tensor, "_ frame height width"]]
    ) -> dict[str, UInt8[Tensor, "clip channel frame height width"]]:
        """Grey films become colour (three equal channels) only beside a colour film; one black film stands in for none at all."""
        size_px, frames = self._config.size_px, self._config.frames
        channels = max((film.shape[0] for film in films), default=1)
        if not films:
            films = [torch.zeros(1, frames, size_px, size_px, dtype=torch.uint8)]
        return {"video": torch.stack([film.expand(channels, -1, -1, -1) for film in films])}

    def slots(self, study: StudyRecord, clip_indices: Sequence[int]) -> list[int]:
        """Which film of the study each slot of its row shows. DataError where that hangs on a frame rate that is not known."""
        shown = []
        for index in clip_indices:
            clip = study.clips[index]
            try:
                shown += [index] * len(frame_indices(self._config, clip, None))
            except ValueError as error:
                raise DataError(f"film {clip.clip} of study {study.study}: {error}") from error
        return shown

    def _clips(
        self, study: StudyRecord, clip: ClipRecord, payload: bytes, draw: np.random.Generator | None
    ) -> list[UInt8[Tensor, "channel frame height width"]]:
        config = self._config
        try:
            wanted = frame_indices(config, clip, draw)
            box = shown_box(clip.height, clip.width, config)
            numbers, place = np.unique(wanted, return_inverse=True)
            frames = decode_frames(clip, payload, numbers, scale_factor(clip, box, config))
        except ValueError as error:
            raise DataError(f"film {clip.clip} of study {study.study}: {error}") from error
        scaled = fitted(frames, clip, box, config)
        if len(numbers) < wanted.size:
            scaled = scaled[torch.from_numpy(place.ravel())]
        clips = rearrange(
            scaled, "(clip frame) channel height width -> clip channel frame height width", clip=len(wanted)
        )
        return list(clips)


def frame_indices(
    config: Config, clip: ClipRecord, draw: np.random.Generator | None
) -> Int[np.ndarray, "clip frame"]:
    """Which frames of a film each of its clips shows, ascending. ValueError for windows of a film without a frame rate.

    Clips are laid out in time, frame n lasting from n to n + 1 frame times, so that one scene filmed at two rates gives two clips
    whose frames lie less than one frame time of the slower film apart.
    """
    num_frames, wanted = clip.num_frames, config.frames
    if config.sampling == "uniform":
        inside = 0.5 if draw is None else draw.random(wanted)
        place = (np.arange(wanted) + inside) * num_frames / wanted
        return _whole(place[None], num_frames)
    if config.sampling == "first_to_last":
        if num_frames <= wanted:
            return np.minimum(np.arange(wanted), num_frames - 1)[None]
        return _evenly(num_frames, wanted)[None]
    rate_fps = clip.frame_rate_fps or config.default_frame_rate_fps
    if not rate_fps:
        raise ValueError(
            f"frame rate unknown, so 'sampling: {config.sampling}' cannot space its frames; use 'uniform', or give "
            "default_frame_rate_fps"
        )
    step = config.stride_s * rate_fps
    starts = _window_starts(num_frames - step * (wanted - 1), config.clips_per_film, draw)
    return _whole(starts[:, None] + step * np.arange(wanted), num_frames)


def _evenly(num_frames: int, wanted: int) -> Int[np.ndarray, "frame"]:
    """From the first to the last, rounded down in float32 as the predecessor's: in another format some frames are the neighbours."""
    return torch.linspace(0, num_frames - 1, wanted).long().numpy()


def _window_starts(
    room: float, windows: int, draw: np.random.Generator | None
) -> Float[np.ndarray, " window"]:
    """In frames; `room` is what the film has beyond one window. Evenly from beginning to end, or each anywhere in its share."""
    if room <= 1:  # the windows would all show the whole film
        return np.array([min(room, 0) / 2])
    if draw is not None:
        return (np.arange(windows) + draw.random(windows)) * room / windows
    # just inside the end: the frame that begins where the film ends does not exist
    return np.array([room / 2]) if windows == 1 else np.linspace(0, room - 1e-3, windows)


def _whole(place: Float[np.ndarray, "clip frame"], num_frames: int) -> Int[np.ndarray, "clip frame"]:
    # 0.2 s at 15 frames a second are 3 frames, and 2.9999999999999996 in floating point
    return np.clip(np.floor(place + 1e-6), 0, num_frames - 1).astype(np.int64)


class Box(NamedTuple):
    """Part of a frame, as fractions of its height and width."""

    top: float
    left: float
    height: float
    width: float


def shown_box(height: int, width: int, config: Config) -> Box:
    """The part of the frames that is shown: all of it, or the central square for `crop`."""
    square = min(height, width)
    tall, wide = (square / height, square / width) if config.fit == "crop" else (1.0, 1.0)
    return Box((1 - tall) / 2, (1 - wide) / 2, tall, wide)


def scale_factor(clip: ClipRecord, box: Box, config: Config) -> int:
    """How much smaller (1, 2, 4 or 8 times) frames may be decoded with the box's longer side still at `size_px` or more."""
    if config.fit == "stretch":  # as exact as the films allow
        return 1
    longer = max(box.height * clip.height, box.width * clip.width)
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or longer >= factor * config.size_px)


def decode_frames(
    clip: ClipRecord, payload: bytes, numbers: np.ndarray, factor: int = 1
) -> UInt8[Tensor, "frame channel height width"]:
    """The numbered frames of a member, JPEG reduced by `factor` while decoding. ValueError on broken bytes."""
    whole = memoryview(payload)
    parts = [whole[clip.frame_offsets[number] : clip.frame_offsets[number + 1]] for number in numbers]
    frames = _decode_zstd(clip, parts) if clip.member.endswith("zst") else _decode_jpeg(clip, parts, factor)
    return rearrange(torch.from_numpy(frames), "frame height width channel -> frame channel height width")


def _decode_jpeg(clip: ClipRecord, parts: list[memoryview], factor: int) -> np.ndarray:
    import simplejpeg

    # Only powers of two: the scales between them have no fast inverse transform. The exact transform costs no more than the
    # rough one (5.46 against 5.43 ms for 16 frames of 512 px at 1/2, best of 30 on AVX-512).
    height, width = -(-clip.height // factor), -(-clip.width // factor)
    frames = np.empty((len(parts), height, width, clip.channels), np.uint8)
    colorspace = "GRAY" if clip.channels == 1 else "RGB"
    for frame, part in zip(frames, parts, strict=True):
        decoded = simplejpeg.decode_jpeg(
            part,
            colorspace=colorspace,
            fastdct=False,
            min_height=height,
            min_width=width,
            min_factor=factor,
            buffer=frame.reshape(-1),
        )
        if decoded.shape != frame.shape:
            raise ValueError(f"a frame is {decoded.shape[:2]} px at 1/{factor}, not {frame.shape[:2]}")
    return frames


def _decode_zstd(clip: ClipRecord, parts: list[memoryview]) -> np.ndarray:
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
    """The box of each frame, resized with antialiasing so that its longer side is `size_px`, black around it; `stretch`: to the square."""
    rows, columns = frames.shape[2:]
    top, left = round(box.top * rows), round(box.left * columns)
    shown = frames[
        :, :, top : top + max(1, round(box.height * rows)), left : left + max(1, round(box.width * columns))
    ]
    longer = max(box.height * clip.height, box.width * clip.width)
    height = max(1, round(box.height * clip.height / longer * config.size_px))
    width = max(1, round(box.width * clip.width / longer * config.size_px))
    if config.fit == "stretch":
        height = width = config.size_px
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
    if frames.shape[1] == 3 or len(frames) < 3:
        return functional.interpolate(frames, size=(height, width), mode="bilinear", antialias=True)
    # torch's vector code for bytes wants three or four interleaved channels: grey frames pass as channels, four at a time (2x)
    count = len(frames)
    frames = torch.cat([frames, frames[-1:].expand(-count % 4, -1, -1, -1)]) if count % 4 else frames
    fours = rearrange(frames, "(group four) 1 height width -> four group height width", four=4)
    # stacked and seen from the side: half the time of .contiguous(memory_format=torch.channels_last), the same bytes
    fours = rearrange(torch.stack(tuple(fours), dim=-1), "group height width four -> group four height width")
    fours = functional.interpolate(fours, size=(height, width), mode="bilinear", antialias=True)
    return rearrange(fours, "group four height width -> (group four) 1 height width")[:count]
