"""The frames of a DICOM film as display values: grey through one table for the whole film, colour as RGB, X-ray always grey."""

import io
import logging
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.encaps import generate_fragments
from pydicom.errors import BytesLengthException, InvalidDicomError

from deepcoro.ingest.display import display_table, to_display
from deepcoro.ingest.film import RejectedFilm, check_complete
from deepcoro.ingest.header import find
from deepcoro.ingest.transfer import is_native, is_video, stored_frames

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger(__name__)

DAMAGE = (
    ValueError, RuntimeError, AttributeError, NotImplementedError, KeyError, IndexError, TypeError,
    EOFError, OSError, struct.error, zlib.error, ArithmeticError, MemoryError, BytesLengthException, InvalidDicomError,
)  # fmt: skip
"""What pydicom and its decoders raise on files that are cut, mislabelled or of an unknown syntax. MemoryError: a damaged length
asks for gigabytes at once; films themselves are read a frame at a time."""

_LUMA = np.array((0.299, 0.587, 0.114), dtype=np.float32)
"""ITU-R BT.601."""
_SAMPLED_FRAMES = 8


class DicomFrames:
    """The frames in display values. Each iteration decodes the file anew, one frame at a time."""

    def __init__(self, path: Path, header: "Dataset", announced: int, is_xray: bool) -> None:
        self._path = path
        self._header = header
        self._announced = announced
        self._is_xray = is_xray
        self._syntax = str(header.file_meta.TransferSyntaxUID)
        self._photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
        self._is_colour = (
            int(find(header, "SamplesPerPixel") or 1) == 3 or self._photometric == "PALETTE COLOR"
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        if is_video(self._syntax):
            from deepcoro.ingest.video_file import StreamFrames

            frames: Iterable[np.ndarray] = StreamFrames(self._open_video, self._announced)
        else:
            frames = self._colour_frames() if self._is_colour else self._grey_frames()
        yield from map(_luminance, frames) if self._is_xray else frames

    def _grey_frames(self) -> Iterator[np.ndarray]:
        """A table of the display value of every stored value, made once: the film keeps one grey scale throughout."""
        try:
            table, shift = display_table(self._header, self._sample), self._shift()
        except DAMAGE as error:
            raise RejectedFilm("unreadable: the grey scale (window or look-up table) is damaged") from error
        is_display_already = len(table) == 256 and np.array_equal(table, np.arange(256))
        for frame in self._counted(stored_frames(self._path, self._header, self._announced)):
            if is_display_already and frame.dtype == np.uint8 and not shift:
                yield frame
            else:
                yield to_display(frame, table, shift)

    def _shift(self) -> int:
        """Old files keep the value in the upper bits of its word: HighBit says where. Decoders of compressed frames move it down."""
        high = self._header.get("HighBit")
        if high is None or not is_native(self._syntax):
            return 0
        shift = max(0, int(high) + 1 - int(self._header.get("BitsStored", 8)))
        if shift >= int(self._header.get("BitsAllocated", 16)):
            raise ValueError("the highest bit lies outside the word")
        return shift

    def _sample(self) -> np.ndarray:
        """Stored values of eight frames all over the film, every second row and column: enough for a percentile."""
        step = max(1, self._announced // _SAMPLED_FRAMES)
        indices = range(0, self._announced, step)
        frames = []
        try:
            for frame in stored_frames(self._path, self._header, self._announced, indices):
                frames.append(_shifted(frame[::2, ::2], self._shift()))
        except DAMAGE as error:
            logger.debug("sampling stopped after %d frames: %s", len(frames), type(error).__name__)
        if not frames:
            raise RejectedFilm("unreadable: no frame can be decoded")
        return np.stack(frames)

    def _colour_frames(self) -> Iterator[np.ndarray]:
        try:
            excess_bits = max(0, int(self._header.get("BitsStored", 8)) - 8)
            look_up = _palette(self._header) if self._photometric == "PALETTE COLOR" else None
        except DAMAGE as error:
            raise RejectedFilm("unreadable: the colour scale (depth or palette) is damaged") from error
        for frame in self._counted(stored_frames(self._path, self._header, self._announced)):
            yield look_up(frame) if look_up else (frame >> excess_bits).astype(np.uint8)

    def _counted(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Passes frames on until they end or cannot be decoded, then checks that enough of the film was there."""
        decoded = 0
        try:
            for frame in frames:
                yield frame
                decoded += 1
        except DAMAGE as error:
            logger.debug("decoding stopped after %d frames: %s", decoded, type(error).__name__)
        check_complete(decoded, self._announced)

    def _open_video(self) -> Any:
        import av
        import pydicom

        try:
            stream = b"".join(list(generate_fragments(pydicom.dcmread(self._path).PixelData))[1:])
        except DAMAGE as error:
            raise RejectedFilm("unreadable: the file holds no video stream") from error
        return av.open(io.BytesIO(stream))


def _shifted(frame: np.ndarray, shift: int) -> np.ndarray:
    return frame if not shift else frame.view(f"{frame.dtype.byteorder}u{frame.dtype.itemsize}") >> shift


def _luminance(frame: np.ndarray) -> np.ndarray:
    """An X-ray film is grey: colour in a derived clip is a drawing or a false-colour scale."""
    if frame.ndim == 2:
        return frame
    return np.rint(frame.astype(np.float32) @ _LUMA).astype(np.uint8)


def _palette(header: "Dataset") -> Any:
    """A function from stored indices to uint8 RGB. Tables that announce 16 bits and hold 8 are met, and are taken as they are meant."""
    from pydicom.pixels import apply_color_lut

    bits = int(header.RedPaletteColorLookupTableDescriptor[2])
    num_values = 2 ** min(16, int(header.get("BitsStored", 8)))
    table = apply_color_lut(np.arange(num_values, dtype=np.uint16 if num_values > 256 else np.uint8), header)
    deep = bits > 8 and table.max() > 255
    table = (table >> 8 if deep else table).astype(np.uint8)
    return lambda frame: table[frame & (num_values - 1)]
