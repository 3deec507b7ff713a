"""The part of an echo film that is ultrasound: what moves, grown to the convex shape of the sector. Names, clocks and scales lie outside."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from deepcoro.ingest.film import Box, RejectedFilm

_MOVES = 10
"""Grey levels by which a pixel changes in the film when it shows tissue: speckle does, machine text does not."""
_GRAIN = 1 / 100
"""Of the shorter side: gaps that are closed and specks that are dropped before shapes are looked at."""
_SECOND_SHARE = 0.25
"""A second shape of at least this part of the largest is an image too (two planes at once)."""
_LEAST_SHARE = 0.04
"""Of the picture: a smaller moving part is no sector."""
_BOX_SHARE = 0.3
"""Of the moving shape: header boxes that hold less of it are wrong, and are not used."""


class MaskedFrames:
    """The frames with all outside the sector black. The film is decoded twice: once to see what moves, once to be passed on."""

    def __init__(self, frames: Iterable[np.ndarray], boxes: Sequence[Box] = ()) -> None:
        self._frames = frames
        self._boxes = boxes
        self._mask: Bool[np.ndarray, "height width"] | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._mask is None:
            self._mask = sector_mask(self._frames, self._boxes)
        outside = ~self._mask
        for frame in self._frames:
            frame = frame.copy()
            frame[outside] = 0
            yield frame

    @property
    def masked_fraction(self) -> float:
        """Part of the picture that is blackened, once the frames have been read."""
        return 0.0 if self._mask is None else float(1 - self._mask.mean())


def sector_mask(frames: Iterable[np.ndarray], boxes: Sequence[Box] = ()) -> Bool[np.ndarray, "height width"]:
    """True inside. Boxes of the header, where there are any, cut what moves beside the image (ECG, spectra). RejectedFilm `no_sector` when nothing large moves."""
    moving = _moving(frames)
    shapes = _largest_shapes(moving)
    if not shapes or sum(shape.sum() for shape in shapes) < _LEAST_SHARE * moving.size:
        raise RejectedFilm(
            "no_sector: no large part of the picture moves, so the sector cannot be told from text"
        )
    mask = np.zeros_like(moving)
    for shape in shapes:
        mask |= _hull(shape)
    boxed = mask & _inside(boxes, mask.shape)
    return boxed if boxed.sum() >= _BOX_SHARE * mask.sum() else mask


def _moving(frames: Iterable[np.ndarray]) -> Bool[np.ndarray, "height width"]:
    lowest: UInt8[np.ndarray, "height width"] | None = None
    highest = None
    for frame in frames:
        grey = frame if frame.ndim == 2 else frame.max(axis=2)
        lowest = grey.copy() if lowest is None else np.minimum(lowest, grey, out=lowest)
        highest = grey.copy() if highest is None else np.maximum(highest, grey, out=highest)
    if lowest is None:
        raise RejectedFilm("unreadable: no frame can be decoded")
    return highest - lowest >= _MOVES


def _largest_shapes(moving: Bool[np.ndarray, "height width"]) -> list[Bool[np.ndarray, "height width"]]:
    grain = max(1, round(_GRAIN * min(moving.shape)))
    # padded: closing at the edge of the picture would otherwise see darkness beyond it
    solid = ndimage.binary_closing(np.pad(moving, 2 * grain, mode="edge"), iterations=grain)
    solid = ndimage.binary_opening(
        solid[2 * grain : -2 * grain, 2 * grain : -2 * grain], iterations=2 * grain
    )
    labels, count = ndimage.label(solid)
    if not count:
        return []
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return [labels == number + 1 for number in np.flatnonzero(areas >= _SECOND_SHARE * areas.max())]


def _hull(shape: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The convex shape around it: what lies still inside a sector (a wall of the heart, the blind zone) belongs to it."""
    points = np.argwhere(shape ^ ndimage.binary_erosion(shape))[:, ::-1]
    try:
        corners = points[ConvexHull(points).vertices]
    except QhullError:  # a line
        return shape
    canvas = Image.new("1", shape.shape[::-1])
    ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners.tolist()], fill=1, outline=1)
    return np.asarray(canvas)


def _inside(boxes: Sequence[Box], shape: tuple[int, ...]) -> Bool[np.ndarray, "height width"]:
    """Boxes that reach beyond the picture are those of a larger one, from which this was made; they say nothing."""
    inside = np.zeros(shape, dtype=bool)
    if any(box.bottom > shape[0] + 1 or box.right > shape[1] + 1 for box in boxes):
        return inside
    for box in boxes:
        inside[box.top : box.bottom, box.left : box.right] = True
    return inside
