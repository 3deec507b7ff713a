"""Draws projected balls into thickness maps; what goes in comes out: a map's sum is the mass of its balls."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

_RADIUS_STEPS = 4
_OFFSET_STEPS = 4


@lru_cache(maxsize=64)
def _kernels(reach: int) -> Float[np.ndarray, "kernel pixel"]:
    """Projected balls, sqrt(R^2 - d^2), of unit mass on the pixel grid, for radii in (reach - 1, reach].

    Row = (radius step, vertical offset, horizontal offset); a quarter of a pixel is finer than the eye sees.
    """
    steps = np.arange(-reach, reach + 1)
    radii = reach - 1 + (np.arange(_RADIUS_STEPS) + 0.5) / _RADIUS_STEPS
    offsets = np.arange(_OFFSET_STEPS + 1) / _OFFSET_STEPS - 0.5
    distance = np.square(steps - offsets[:, None])
    ball = (
        np.square(radii)[:, None, None, None, None]
        - distance[None, :, None, :, None]
        - distance[None, None, :, None, :]
    )
    ball = np.sqrt(np.maximum(ball, 0)).reshape(-1, len(steps) ** 2)
    ball[ball.sum(axis=1) == 0, len(steps) ** 2 // 2] = 1  # a ball smaller than a pixel falls into its pixel
    return (ball / ball.sum(axis=1, keepdims=True)).astype(np.float32)


class Canvas:
    """Square maps of several frames, with a margin, so that balls cut by the border keep their visible part."""

    def __init__(self, size_px: int, num_frames: int, max_radius_px: float) -> None:
        self.size_px = size_px
        self.margin = 2 * (int(np.ceil(max_radius_px)) + 1)
        self._width = size_px + 2 * self.margin
        self._maps = np.zeros((num_frames, self._width, self._width), np.float32)

    def draw(
        self,
        frame: Int[np.ndarray, " ball"],
        column: Float[np.ndarray, " ball"],
        row: Float[np.ndarray, " ball"],
        radius_px: Float[np.ndarray, " ball"],
        mass: Float[np.ndarray, " ball"],
    ) -> tuple[slice, slice, Float[np.ndarray, "frame height width"]] | None:
        """Thickness of all balls: the rectangle touched (rows, columns of the image) and its maps; None if all are outside.

        The maps are a view that the next call overwrites.
        """
        reach = np.ceil(radius_px).astype(np.int32)
        middle_column, middle_row = np.rint(column).astype(np.int32), np.rint(row).astype(np.int32)
        inside = (middle_column >= -reach) & (middle_column < self.size_px + reach)
        inside &= (middle_row >= -reach) & (middle_row < self.size_px + reach)
        if not inside.any():
            return None
        frame, reach, mass = frame[inside], reach[inside], mass[inside].astype(np.float32)
        middle_column, middle_row = middle_column[inside], middle_row[inside]
        kernel = self._kernel_rows(
            radius_px[inside] - reach + 1, row[inside] - middle_row, column[inside] - middle_column
        )
        height, width = self._extent(middle_row, reach), self._extent(middle_column, reach)
        self._maps[:, self._with_margin(height), self._with_margin(width)] = 0
        corner = (frame * self._width + middle_row + self.margin) * self._width + middle_column + self.margin
        for size in np.unique(reach):
            group = np.flatnonzero(reach == size)
            self._add(int(size), corner[group], kernel[group], mass[group])
        rows = slice(max(height.start, 0), min(height.stop, self.size_px))
        columns = slice(max(width.start, 0), min(width.stop, self.size_px))
        return rows, columns, self._maps[:, self._with_margin(rows), self._with_margin(columns)]

    def _with_margin(self, part: slice) -> slice:
        return slice(part.start + self.margin, part.stop + self.margin)

    @staticmethod
    def _extent(middle: np.ndarray, reach: np.ndarray) -> slice:
        return slice(int((middle - reach).min()), int((middle + reach).max()) + 1)

    @staticmethod
    def _kernel_rows(radius: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
        """Row of `_kernels` for a radius in (0, 1] above the next whole one and offsets from the pixel's middle."""
        step = np.clip((radius * _RADIUS_STEPS).astype(np.int32), 0, _RADIUS_STEPS - 1)
        down = np.rint((down + 0.5) * _OFFSET_STEPS).astype(np.int32)
        across = np.rint((across + 0.5) * _OFFSET_STEPS).astype(np.int32)
        return (step * (_OFFSET_STEPS + 1) + down) * (_OFFSET_STEPS + 1) + across

    def _add(self, size: int, corner: np.ndarray, kernel: np.ndarray, mass: np.ndarray) -> None:
        values = _kernels(size)[kernel]
        values *= mass[:, None]
        steps = np.arange(-size, size + 1)
        around = (steps[:, None] * self._width + steps).ravel()
        # numpy >= 2: add.at on a flat float32 buffer is ten times faster than bincount over the frame
        np.add.at(self._maps.ravel(), (corner[:, None] + around).ravel(), values.ravel())
