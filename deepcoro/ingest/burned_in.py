"""Names in pixels. X-ray films with writing in them are refused while they are read; echo is cut to its sector instead."""

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from scipy import ndimage

from deepcoro.ingest.film import Film, Modality, RejectedFilm
from deepcoro.ingest.glyphs import longest_row, strokes
from deepcoro.ingest.sector import MaskedFrames

EchoMask = Literal["sector", "none"]

_SAMPLED = 24
"""Frames that are measured, all over the film."""
_STILLS = (0.02, 0.35, 0.65, 0.98)
"""Places among them of the frames that are looked at one by one, for writing that moves or comes and goes."""
_LARGEST_PX = 640
"""Longer shorter sides are measured on every second (third, ...) pixel averaged: letters of a hand's breadth stay."""
_LEGIBLE_PX = 48
"""Smaller pictures hold no line that could be read."""
_STROKE = 1 / 40
"""Thickest stroke of a letter, as a fraction of the shorter side."""
_NOISES = 4.0
"""A stroke stands out by at least so many standard deviations of the noise."""
_DARK = 8
"""Grey level of the collimator's border; the noise is measured inside it."""


def cleaned(
    film: Film, accept_burned_in: bool, echo_mask: EchoMask, undeclared: Modality
) -> Iterable[np.ndarray]:
    """The frames that may be stored. Iterating raises RejectedFilm `burned_in_text` at the end of an X-ray film that holds writing,
    `no_sector` for an echo film without one; an echo film that declares annotation and shall not be masked is refused here.

    `undeclared`: what films show that do not say it themselves.
    """
    if (film.modality or undeclared) == "US":
        if echo_mask == "sector":
            return MaskedFrames(film.frames, film.regions)
        if film.declares_burned_in and not accept_burned_in:
            raise RejectedFilm("burned_in_annotation: the header declares names or dates in the pixels")
        return film.frames
    return film.frames if accept_burned_in else WatchedFrames(film.frames, film.announced_frames)


class WatchedFrames:
    """Passes the frames on and looks at them as they pass: nothing is decoded twice."""

    def __init__(self, frames: Iterable[np.ndarray], announced: int | None) -> None:
        self._frames = frames
        self._announced = announced

    def __iter__(self) -> Iterator[np.ndarray]:
        watch = TextWatch(self._announced)
        for frame in self._frames:
            watch.add(frame)
            yield frame
        if found := watch.finding():
            raise RejectedFilm(f"burned_in_text: {found}; --accept_burned_in takes such films")


class TextWatch:
    """Looks for writing in a film: pixels that do not change like their surroundings and form rows of letters, or rows of letters in single frames."""

    def __init__(self, announced: int | None) -> None:
        self._every = math.ceil((announced or _SAMPLED) / _SAMPLED)
        sampled = math.ceil((announced or _SAMPLED) / self._every)
        self._still_numbers = {round(place * (sampled - 1)) for place in _STILLS}
        self._stills: list[np.ndarray] = []
        self._seen = self._measured = 0
        self._sum = self._square_sum = np.zeros(())

    def add(self, frame: np.ndarray) -> None:
        self._seen += 1
        if (self._seen - 1) % self._every:
            return
        grey = _reduced(frame)
        self._sum = self._sum + grey
        self._square_sum = self._square_sum + grey * grey
        if self._measured in self._still_numbers:
            self._stills.append(grey)
        self._measured += 1

    def finding(self) -> str | None:
        """What was found, in words that name no content; None when nothing was."""
        if not self._measured or min(self._sum.shape) < _LEGIBLE_PX:
            return None
        mean = self._sum / self._measured
        deviation = np.sqrt(np.maximum(self._square_sum / self._measured - mean * mean, 0))
        inside = mean > _DARK
        unbiased = math.sqrt(self._measured / max(self._measured - 1, 1))
        noise = unbiased * float(np.median(deviation[inside])) if inside.any() else 0.0
        if self._measured > 2 and _is_written_still(mean, deviation, noise, self._measured):
            return "writing that stands still"
        if any(_is_written(still, noise) for still in self._stills):
            return "writing in single frames"
        return None


def _reduced(frame: np.ndarray) -> np.ndarray:
    """float32 grey, at most `_LARGEST_PX` on its shorter side (averages of whole pixels)."""
    grey = frame.mean(axis=2, dtype=np.float32) if frame.ndim == 3 else frame.astype(np.float32)
    factor = -(-min(grey.shape) // _LARGEST_PX)
    if factor == 1:
        return grey
    height, width = (side // factor * factor for side in grey.shape)
    blocks = grey[:height, :width].reshape(height // factor, factor, width // factor, factor)
    return blocks.mean(axis=(1, 3))


# The pairs (contrast in grey levels, letters in a row) were chosen on generated films with leads, wires and borders and on a
# real angiogram: where fewer letters or less contrast begin to meet anatomy, which is dark more often than bright.
# tests/ingest/test_burned_in.py measures both sides.


def _is_written_still(mean: np.ndarray, deviation: np.ndarray, noise: float, num_frames: int) -> bool:
    """Letters that hardly vary, or that vary like what they are drawn over but stand out of its average."""
    bright, dark = _strokes_above(_NOISES * noise / math.sqrt(num_frames), mean)
    nearby = ndimage.uniform_filter(deviation, 3 * _stroke_px(mean))
    is_fixed = deviation <= max(0.35 * noise, 0.3)
    is_calm = deviation <= np.maximum(1.1 * nearby, 0.3)
    cues = (
        (is_fixed & (bright >= 6), 3),
        (is_fixed & (dark >= 6), 4),
        (is_calm & (bright >= 16), 5),
        (is_calm & (dark >= 16), 8),
        (bright >= 28, 6),
        (dark >= 28, 6),
    )
    return any(longest_row(ink) >= letters for ink, letters in cues)


def _is_written(frame: np.ndarray, noise: float) -> bool:
    """Bright letters, which no anatomy is; or dark letters of one exact grey: noise leaves nothing else so flat."""
    bright, dark = _strokes_above(_NOISES * noise, frame)
    flat_dark = np.where(_flat(frame), dark, 0) if (dark >= 40).any() else np.zeros_like(dark)
    cues = (
        (bright >= 40, 5),
        (bright >= 60, 4),
        (bright >= 80, 3),
        (flat_dark >= 40, 7),
        (flat_dark >= 60, 5),
    )
    return any(longest_row(ink) >= letters for ink, letters in cues)


def _strokes_above(floor: float, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strokes that noise alone does not make."""
    bright, dark = strokes(picture, _stroke_px(picture))
    return np.where(bright >= floor, bright, 0), np.where(dark >= floor, dark, 0)


def _flat(frame: np.ndarray) -> np.ndarray:
    """Pixels that equal two of their four neighbours, and what touches them."""
    equal = np.zeros(frame.shape, dtype=np.uint8)
    for axis in (0, 1):
        same = np.diff(frame, axis=axis) == 0
        ahead = [(0, 0), (0, 0)]
        ahead[axis] = (0, 1)
        behind = [(0, 0), (0, 0)]
        behind[axis] = (1, 0)
        equal += np.pad(same, ahead).astype(np.uint8) + np.pad(same, behind)
    return ndimage.binary_dilation(equal >= 2)


def _stroke_px(picture: np.ndarray) -> int:
    return max(3, round(_STROKE * min(picture.shape)) | 1)
