"""Top-hats of the search for writing, against scipy's."""

import numpy as np
import pytest
from scipy import ndimage

from deepcoro.ingest.glyphs import strokes


@pytest.mark.parametrize("shape", [(48, 61), (128, 128), (300, 512)])
@pytest.mark.parametrize("size_px", [3, 5, 7, 13, 17])
def test_strokes_are_those_of_greyscale_opening_and_closing_to_the_bit(
    shape: tuple[int, int], size_px: int
) -> None:
    picture = np.random.default_rng(size_px).uniform(0, 255, shape).astype(np.float32)
    bright, dark = strokes(picture, size_px)
    size = (size_px, size_px)
    assert bright.dtype == dark.dtype == np.float32
    assert np.array_equal(bright, picture - ndimage.grey_opening(picture, size=size))
    assert np.array_equal(dark, ndimage.grey_closing(picture, size=size) - picture)
