"""Films stored as a folder of pictures (PNG, JPEG, BMP), one a frame, in the order of the numbers in their names."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from deepcoro.ingest.film import Film, RejectedFilm, check_complete

logger = logging.getLogger(__name__)

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_GREY_MODES, _DEEP_MODES = ("1", "L", "LA"), ("I", "F")


def open_folder(path: Path) -> Film:
    """A folder holds one film; other files in it are left alone, folders in it too. The frame rate is the table's to tell."""
    frames = sorted((each for each in path.iterdir() if _is_frame(each)), key=_natural)
    if not frames:
        raise RejectedFilm("unsupported_format: a folder without PNG, JPEG or BMP frames")
    return Film(_FolderFrames(frames), announced_frames=len(frames))


def _is_frame(path: Path) -> bool:
    return path.suffix.lower() in FRAME_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """frame_2 before frame_10: digits compare as numbers, what lies between them as text; the name breaks ties (2 and 02)."""
    parts = re.split(r"(\d+)", path.stem.lower())
    return [*((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts), (2, 0, path.name)]


class _FolderFrames:
    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __iter__(self) -> Iterator[np.ndarray]:
        from PIL.Image import DecompressionBombError

        # what Pillow raises on damaged pictures; a damaged size may ask for gigabytes
        damage = (OSError, ValueError, SyntaxError, MemoryError, DecompressionBombError)
        decoded, size = 0, None
        for path in self._paths:
            try:
                frame = _read(path)
            except damage as error:
                logger.debug("decoding stopped after %d frames: %s", decoded, type(error).__name__)
                break
            if size not in (None, frame.shape[:2]):
                raise RejectedFilm("frame_size: it changes inside the film")
            size = frame.shape[:2]
            yield frame
            decoded += 1
        check_complete(decoded, len(self._paths))


def _read(path: Path) -> np.ndarray:
    """uint8 [height width] or [height width 3]. Deeper pictures are refused: their scale is not told."""
    from PIL import Image

    with Image.open(path) as picture:
        if picture.mode.startswith(_DEEP_MODES):
            raise RejectedFilm(
                "bit_depth: pictures of more than 8 bits tell no display scale; write 8-bit ones"
            )
        return np.asarray(picture.convert("L" if picture.mode in _GREY_MODES else "RGB"))
