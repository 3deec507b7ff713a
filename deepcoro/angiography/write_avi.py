"""Motion-JPEG AVI, the export most cath labs hand out: a RIFF file of grey JPEG frames with an index.

Layout after Microsoft's "AVI RIFF File Reference": hdrl (avih, strl: strh, strf), movi (00dc chunks), idx1.
"""

import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

_HAS_INDEX = 0x10
_KEYFRAME = 0x10


def write_avi(
    path: Path, frames: UInt8[np.ndarray, "frame height width"], frame_rate_fps: float, quality: int = 95
) -> None:
    """Writes a film that FFmpeg and OpenCV open."""
    import simplejpeg

    images = [
        simplejpeg.encode_jpeg(frame[:, :, None], quality=quality, colorspace="GRAY", colorsubsampling="Gray")
        for frame in np.ascontiguousarray(frames)
    ]
    # chunks start at even offsets; the size in the header does not count the padding
    chunks = [_chunk(b"00dc", image) for image in images]
    offsets = np.cumsum([4] + [len(chunk) for chunk in chunks[:-1]])
    entries = zip(offsets.tolist(), images, strict=True)
    index = b"".join(
        struct.pack("<4sIII", b"00dc", _KEYFRAME, offset, len(image)) for offset, image in entries
    )
    largest = max(len(image) for image in images)
    body = (
        _header(frames.shape, frame_rate_fps, largest)
        + _list(b"movi", b"".join(chunks))
        + _chunk(b"idx1", index)
    )
    path.write_bytes(_chunk(b"RIFF", b"AVI " + body))


def _header(shape: tuple[int, ...], frame_rate_fps: float, largest: int) -> bytes:
    num_frames, height, width = shape
    period_us = round(1e6 / frame_rate_fps)
    main = struct.pack(
        "<14I", period_us, largest * round(frame_rate_fps), 0, _HAS_INDEX, num_frames, 0, 1, largest,
        width, height, 0, 0, 0, 0,
    )  # fmt: skip
    stream = struct.pack(
        "<4s4sIHHIIIIIIII4H", b"vids", b"MJPG", 0, 0, 0, 0, 1000, round(1000 * frame_rate_fps), 0,
        num_frames, largest, 0xFFFFFFFF, 0, 0, 0, width, height,
    )  # fmt: skip
    bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
    described = _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", bitmap))
    return _list(b"hdrl", _chunk(b"avih", main) + described)


def _chunk(name: bytes, payload: bytes) -> bytes:
    return name + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)


def _list(name: bytes, payload: bytes) -> bytes:
    return _chunk(b"LIST", name + payload)
