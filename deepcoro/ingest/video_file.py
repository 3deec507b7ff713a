"""Films in video containers (AVI, MP4, MKV, MOV), read with FFmpeg through PyAV, one frame in memory at a time."""

import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deepcoro.ingest.film import Film, RejectedFilm, check_complete

logger = logging.getLogger(__name__)

_GREY_CHROMA = 3
"""Chroma planes within this of 128 are a grey film: encoders leave a level or two of rounding."""


def open_video(path: Path) -> Film:
    """Grey films give grey frames in full range, colour stays colour. RejectedFilm when the container cannot be opened."""
    import av

    opened = functools.partial(av.open, str(path))
    try:
        with opened() as container:
            if not container.streams.video:
                raise RejectedFilm("unreadable: the container holds no video stream")
            stream = container.streams.video[0]
            rate = stream.average_rate
            announced = stream.frames or _frames_by_duration(container.duration, rate)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise RejectedFilm("unreadable: the video container is damaged or of an unknown kind") from error
    known = rate is not None and 0 < rate < 1000
    return Film(
        frames=StreamFrames(opened, announced),
        frame_rate_fps=float(rate) if known else None,
        frame_rate_source="container average_rate" if known else None,
        announced_frames=announced,
    )


def _frames_by_duration(duration_us: int | None, rate_fps: Any) -> int | None:
    """Matroska writes no frame count; without this a film cut in half would pass as a short one."""
    return round(duration_us * float(rate_fps) / 1e6) if duration_us and rate_fps else None


class StreamFrames:
    """The frames of the first video stream; each iteration opens and decodes the container anew."""

    def __init__(self, opened: Callable[[], Any], announced: int | None = None) -> None:
        self._open = opened
        self._announced = announced

    def __iter__(self) -> Iterator[np.ndarray]:
        import av

        decoded, size = 0, None
        try:
            for frame in self._decoded():
                if size not in (None, (frame.height, frame.width)):
                    raise RejectedFilm("frame_size: it changes inside the film")
                size = (frame.height, frame.width)
                yield _to_array(frame)
                decoded += 1
        except (av.FFmpegError, OSError, ValueError) as error:
            logger.debug("decoding stopped after %d frames: %s", decoded, type(error).__name__)
        check_complete(decoded, self._announced)

    def _decoded(self) -> Iterator[Any]:
        """Frames until the end or the first damaged one."""
        with self._open() as container:
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise RejectedFilm("unreadable: no decoder for the video stream")
            stream.codec_context.thread_count = 1  # the processes around us already fill the machine
            yield from itertools.takewhile(lambda frame: not frame.is_corrupt, container.decode(stream))


def _to_array(frame: Any) -> np.ndarray:
    """reformat, not the raw Y plane: H.264 stores 16..235 and only the conversion stretches it to 0..255."""
    if frame.format.name.startswith("gray") or _is_grey(frame):
        return frame.reformat(format="gray").to_ndarray()
    return frame.reformat(format="rgb24").to_ndarray()


def _is_grey(frame: Any) -> bool:
    if not frame.format.name.startswith("yuv") or frame.format.components[0].bits != 8:
        return False
    return all(_is_flat(plane) for plane in frame.planes[1:3])


def _is_flat(plane: Any) -> bool:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    return int(rows.min()) >= 128 - _GREY_CHROMA and int(rows.max()) <= 128 + _GREY_CHROMA
