"""Is there writing in a picture? Rows of small, thin, sharp shapes of one height: what letters are and anatomy is not."""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_LEAST_HEIGHT_PX = 5
_GREATEST_HEIGHT = 1 / 8
"""Of the picture's shorter side."""
_WIDEST = 4.0
"""Width over height of one shape: letters that touch are one shape."""
_FILL = (0.12, 0.95)
"""Part of its box that a shape covers."""
_MOST_SHAPES = 1500
"""More are noise, and would take long to compare."""


def strokes(
    picture: Float[np.ndarray, "height width"], size_px: int
) -> tuple[Float[np.ndarray, "height width"], Float[np.ndarray, "height width"]]:
    """How much brighter, and how much darker, each pixel is than what surrounds it, counting only shapes thinner than `size_px`.

    Top-hats: an edge, however sharp, is neither; a stroke of a letter is.
    """
    opened = _extreme(_extreme(picture, size_px, np.minimum), size_px, np.maximum)
    closed = _extreme(_extreme(picture, size_px, np.maximum), size_px, np.minimum)
    return picture - opened, closed - picture


def _extreme(
    picture: Float[np.ndarray, "height width"], size_px: int, pick: np.ufunc
) -> Float[np.ndarray, "height width"]:
    """Least or greatest of the square of `size_px` (odd) around each pixel, the picture mirrored at its border.

    Windows of 2, 4, 8... pixels from halves of them: a few passes of numpy, where scipy's filters visit pixel by pixel.
    """
    for axis in (0, 1):
        lines = np.moveaxis(picture, axis, 0)[_mirrored(picture.shape[axis], size_px // 2)]
        reach = 1
        while reach < size_px:
            shift = min(reach, size_px - reach)
            lines = pick(lines[:-shift], lines[shift:])
            reach += shift
        picture = np.moveaxis(lines, 0, axis)
    return picture


@lru_cache(maxsize=16)
def _mirrored(length: int, beyond: int) -> Int[np.ndarray, "place"]:
    """Places of a line with those that stand mirrored `beyond` its ends."""
    return np.pad(np.arange(length), beyond, mode="symmetric")


def longest_row(ink: Bool[np.ndarray, "height width"]) -> int:
    """Shapes in the longest row of writing in this mask; 0 without any."""
    if not ink.any():
        return 0
    boxes = _letter_boxes(ink)
    if not 2 <= len(boxes) <= _MOST_SHAPES:
        return 0
    neighbour = _neighbours(boxes)
    count, row = connected_components(coo_matrix(neighbour), directed=False)
    return max(_length(boxes[row == number]) for number in range(count))


def _letter_boxes(ink: Bool[np.ndarray, "height width"]) -> Int[np.ndarray, "shape 4"]:
    """Top, bottom, left, right of the shapes that could be letters."""
    labels, _ = ndimage.label(ink, structure=np.ones((3, 3)))
    area = np.bincount(labels.ravel())[1:]
    found = ndimage.find_objects(labels)
    boxes = np.array([(y.start, y.stop, x.start, x.stop) for y, x in found], dtype=np.int64).reshape(-1, 4)
    height, width = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    fill = area / np.maximum(height * width, 1)
    tallest = max(_LEAST_HEIGHT_PX + 1, _GREATEST_HEIGHT * min(ink.shape))
    fits = (height >= _LEAST_HEIGHT_PX) & (height <= tallest) & (width <= _WIDEST * height)
    fits &= (fill >= _FILL[0]) & ((fill <= _FILL[1]) | (width <= 0.35 * height))  # an I is a full box
    return boxes[fits]


def _neighbours(boxes: Int[np.ndarray, "shape 4"]) -> Bool[np.ndarray, "shape shape"]:
    """Shapes of like height that stand side by side on one line."""
    top, bottom, left, right = boxes.T.astype(np.float64)
    height = bottom - top
    taller, lower = np.maximum.outer(height, height), np.minimum.outer(height, height)
    overlap = np.minimum.outer(bottom, bottom) - np.maximum.outer(top, top)
    gap = np.maximum.outer(left, left) - np.minimum.outer(right, right)
    on_line = np.minimum(np.abs(np.subtract.outer(bottom, bottom)), np.abs(np.subtract.outer(top, top)))
    return (
        (taller <= 1.7 * lower)
        & (overlap >= 0.6 * lower)
        & (gap <= 1.2 * taller)
        & (on_line <= 0.2 * taller + 1)
    )


def _length(boxes: Int[np.ndarray, "shape 4"]) -> int:
    """Letters in a row; shapes wider than a letter count as several."""
    height = float(np.median(boxes[:, 1] - boxes[:, 0]))
    width = boxes[:, 3] - boxes[:, 2]
    return int(np.maximum(1, np.round(width / height)).sum())
