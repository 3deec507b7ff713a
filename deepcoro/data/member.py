"""A film as one tar member: frames scaled to the stored size, compressed one by one, laid end to end."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from deepcoro.data.fingerprint import Moments
from deepcoro.data.manifest import Encoding


class Member(NamedTuple):
    """One encoded film and what the record, the index and the manifest say of it."""

    payload: bytes
    frame_offsets: list[int]
    """Start of each frame, and the total size last."""
    height: int
    width: int
    channels: int
    histogram: np.ndarray
    """int64 [256]: how often each value occurs in the stored pixels before compression."""
    fingerprint: bytes | None = None
    """What the film looks like; None when it shows nothing."""

    @property
    def num_frames(self) -> int:
        return len(self.frame_offsets) - 1


class _ColourFound(Exception):
    """A film that began grey holds a coloured frame."""


def encode(frames: Iterable[np.ndarray], encoding: Encoding) -> Member:
    """Encodes a film; `frames` is iterated a second time when colour first shows after a grey beginning.

    Frames are uint8 [height width] or [height width 3] of one size. Three equal channels throughout are stored as one.
    """
    try:
        return _encode_as(1, frames, encoding)
    except _ColourFound:
        return _encode_as(3, frames, encoding)


def _encode_as(channels: int, frames: Iterable[np.ndarray], encoding: Encoding) -> Member:
    compress = _compressor(encoding, channels)
    parts, offsets = [], [0]
    histogram, moments = np.zeros(256, dtype=np.int64), Moments()
    size = None
    for frame in frames:
        stored = _scale(_with_channels(frame, channels), encoding.short_side_px)
        if size is not None and stored.shape[:2] != size:
            raise ValueError(f"frame {len(parts)} is {stored.shape[:2]} px, the first is {size}")
        size = stored.shape[:2]
        histogram += np.bincount(stored.ravel(), minlength=256)
        moments.add(stored)
        parts.append(compress(stored))
        offsets.append(offsets[-1] + len(parts[-1]))
    if size is None:
        raise ValueError("a film without frames cannot be encoded")
    return Member(b"".join(parts), offsets, *size, channels, histogram, moments.fingerprint())


def _with_channels(frame: np.ndarray, channels: int) -> np.ndarray:
    if frame.dtype != np.uint8 or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] in (1, 3))):
        raise ValueError(
            f"a frame is {frame.dtype} {frame.shape}; uint8 [height width] or [height width 3] is expected"
        )
    grey = frame if frame.ndim == 2 else frame[:, :, 0]
    if channels == 3:
        return frame if frame.ndim == 3 and frame.shape[2] == 3 else np.repeat(grey[:, :, None], 3, axis=2)
    if (
        frame.ndim == 3
        and frame.shape[2] == 3
        and not (np.array_equal(grey, frame[:, :, 1]) and np.array_equal(grey, frame[:, :, 2]))
    ):
        raise _ColourFound
    return grey


def _scale(frame: np.ndarray, short_side_px: int) -> np.ndarray:
    """Antialiased bilinear reduction that keeps the aspect; a film that is small enough is untouched."""
    height, width = frame.shape[:2]
    ratio = short_side_px / min(height, width)
    if ratio >= 1:
        return np.ascontiguousarray(frame)
    from PIL import Image

    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize(size, Image.Resampling.BILINEAR))


def _compressor(encoding: Encoding, channels: int) -> Callable[[np.ndarray], bytes]:
    if encoding.type == "lossless":
        import zstandard

        compressor = zstandard.ZstdCompressor(level=3)
        return lambda frame: compressor.compress(frame.tobytes())
    import simplejpeg

    space, subsampling = ("GRAY", "Gray") if channels == 1 else ("RGB", "444")
    return lambda frame: simplejpeg.encode_jpeg(
        frame if channels == 3 else frame[:, :, None],
        quality=encoding.quality,
        colorspace=space,
        colorsubsampling=subsampling,
        fastdct=False,
    )
