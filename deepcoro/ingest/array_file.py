"""Films stored as numpy arrays: `.npy`, the one array of an `.npz` or its `pixel_array`, [frame height width] with 0, 1 or 3 channels last."""

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from deepcoro.ingest.film import Film, RejectedFilm, check_complete

DAMAGE = (
    ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, OverflowError, MemoryError, KeyError, RuntimeError,
    tokenize.TokenError,
)  # fmt: skip
"""What numpy raises on headers that are cut, nonsense or ask for more than there is, and its archives on broken bytes."""

_NAMED = "pixel_array"
"""What CoronaryDominance, and most who save `pydicom`'s, call it."""


def open_array(path: Path) -> Film:
    """uint8 is taken as it is; float in 0..1 or 0..255 and integers in 0..255 are rounded. Anything else is refused: a scale is never guessed."""
    frames = as_uint8(_load(path))
    check_complete(len(frames), None)
    return Film(frames)


def _load(path: Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path, allow_pickle=False) as archive:
            if len(archive.files) != 1 and _NAMED not in archive.files:
                raise RejectedFilm(
                    f"unreadable: the npz holds {len(archive.files)} arrays and none is called {_NAMED}; one is expected"
                )
            return archive[_NAMED if _NAMED in archive.files else archive.files[0]]
    except DAMAGE as error:
        raise RejectedFilm("truncated: the array file is damaged or shorter than its header says") from error


def as_uint8(array: np.ndarray) -> np.ndarray:
    """uint8 as it is, other types where they hold 0..255 or fractions of one. RejectedFilm otherwise."""
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[:, :, :, 0]
    if not (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)) or 0 in array.shape:
        raise RejectedFilm(
            f"array_shape: {'x'.join(map(str, array.shape))}; [frame height width] or [frame height width 3] is expected"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "fiu":
        raise RejectedFilm(f"array_type: {array.dtype}; uint8 is expected")
    low, high = float(np.min(array)), float(np.max(array))
    if not (low >= 0 and high <= 255):  # also NaN
        raise RejectedFilm(f"array_range: values of {array.dtype} lie outside 0..255; write uint8")
    scale = 255.0 if array.dtype.kind == "f" and high <= 1 else 1.0
    return np.rint(np.asarray(array, dtype=np.float32) * scale).astype(np.uint8)
