"""DICOM films: X-ray angiography and multi-frame ultrasound, as 8-bit display values, with rate and angles. Nothing else leaves the header."""

import io
import logging
import os
import struct
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.encaps import generate_fragments
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_color_lut, iter_pixels

from deepcoro.ingest.display import display_table, to_display
from deepcoro.ingest.film import Film, RejectedFilm, check_complete
from deepcoro.ingest.header import READ, acquisition_order, angle_of, find, frame_rate_of, number_of

logger = logging.getLogger(__name__)

_FILMS = "1.2.840.10008.5.1.4.1.1."
_ACCEPTED = {
    "12.1": "XA",
    "12.1.1": "Enhanced XA",
    "12.2": "XRF",
    "12.2.1": "Enhanced XRF",
    "3": "US multi-frame (retired)",
    "3.1": "US multi-frame",
}
_REFUSED = {
    "12.3": "biplane: the retired bi-plane object; export its planes as two XA films",
    "6": "single_frame: ultrasound image",
    "6.1": "single_frame: ultrasound image",
    "7": "secondary_capture",
    "7.1": "secondary_capture",
    "7.2": "secondary_capture",
    "7.3": "secondary_capture",
    "7.4": "secondary_capture",
    "104.1": "document",
}
_REFUSED_FAMILIES = {"88.": "structured_report", "9.": "waveform", "11.": "presentation_state"}
_ACCEPTED_MODALITIES = ("XA", "RF", "US")

# Pinned, because decoders differ by 1-3 grey levels and the shards must not depend on what else is installed.
# 12-bit JPEG Extended (51) is refused: of the decoders only a GPL one reads it right.
_PLUGINS = {
    **dict.fromkeys(("50", "51", "57", "70", "80", "81"), "gdcm"),
    **dict.fromkeys(("90", "91", "201", "202", "203"), "pylibjpeg"),
}
_JPEG_FAMILY = "1.2.840.10008.1.2.4."
_RLE = "1.2.840.10008.1.2.5"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_FIRST_VIDEO_SYNTAX, _LAST_VIDEO_SYNTAX = 100, 108

_PIXEL_DATA_HEADER = 12
"""Bytes of tag, VR and undefined length before the first item of encapsulated pixels."""

_DAMAGE = (
    ValueError, RuntimeError, AttributeError, NotImplementedError, KeyError, IndexError, TypeError,
    EOFError, OSError, struct.error, BytesLengthException, InvalidDicomError,
)  # fmt: skip
"""What pydicom and its decoders raise on files that are cut, mislabelled or of an unknown syntax."""


def open_dicom(path: Path, accept_burned_in: bool = False) -> Film:
    """Refuses (RejectedFilm, by kind) what is not a film, and films that declare burnt-in annotation unless accepted."""
    _silence_pydicom()
    try:
        return _open(path, accept_burned_in)
    except _DAMAGE as error:
        raise RejectedFilm("unreadable: the DICOM header is damaged") from error


def _silence_pydicom() -> None:
    """Its warnings and log lines quote header values: of a damaged file, names and numbers of the patient."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="pydicom")


def _open(path: Path, accept_burned_in: bool) -> Film:
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(READ))
    if "TransferSyntaxUID" not in header.file_meta:
        raise RejectedFilm("unreadable: no DICOM file meta information (transfer syntax)")
    _check_kind(header, accept_burned_in)
    announced = int(number_of(header, "NumberOfFrames") or 1)
    if announced < 2:
        raise RejectedFilm("single_frame: a film has two frames or more")
    rate, source = frame_rate_of(header, announced)
    return Film(
        frames=_Frames(path, header, announced),
        frame_rate_fps=rate,
        frame_rate_source=source,
        primary_angle_deg=angle_of(header, "PositionerPrimaryAngle", 180.0),
        secondary_angle_deg=angle_of(header, "PositionerSecondaryAngle", 90.0),
        announced_frames=announced,
        order=acquisition_order(header),
    )


def _check_kind(header: pydicom.Dataset, accept_burned_in: bool) -> None:
    reason = _refusal(str(header.get("SOPClassUID", "") or ""), str(header.get("Modality", "") or ""))
    if reason:
        raise RejectedFilm(reason)
    if header.get("Rows") is None or header.get("Columns") is None:
        raise RejectedFilm("no_pixels: the file describes no image")
    if str(header.get("BurnedInAnnotation", "")).upper() == "YES" and not accept_burned_in:
        raise RejectedFilm("burned_in_annotation: the header declares names or dates in the pixels")


def _refusal(sop_class: str, modality: str) -> str | None:
    """Why an object of this kind is not a film; None when it is one. Files without a class are judged by modality."""
    kind = sop_class.removeprefix(_FILMS)
    if kind in _ACCEPTED or (not sop_class and modality in _ACCEPTED_MODALITIES):
        return None
    if kind in _REFUSED:
        return _REFUSED[kind]
    for family, reason in _REFUSED_FAMILIES.items():
        if kind.startswith(family):
            return reason
    return "unsupported_kind: neither X-ray angiography nor multi-frame ultrasound"


def count_fragments(path: Path, header: pydicom.Dataset) -> int | None:
    """Fragments that are there, when they alone tell where frames end (an empty offset table); None otherwise.

    pydicom yields nothing at all when there are fewer than NumberOfFrames; the frames before the cut are good.
    """
    if not header.file_meta.TransferSyntaxUID.is_encapsulated or "ExtendedOffsetTable" in header:
        return None
    with path.open("rb") as file:
        pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=["NumberOfFrames"])
        file.seek(_PIXEL_DATA_HEADER, os.SEEK_CUR)
        sizes = list(_item_sizes(file))
    return len(sizes) - 1 if sizes and sizes[0] == 0 else None


def _item_sizes(file: BinaryIO) -> Iterator[int]:
    """Sizes of the offset table and of the fragments, up to the end mark or the end of the file (PS3.5 A.4)."""
    while len(head := file.read(8)) == 8:
        group, element, size = struct.unpack("<HHL", head)
        if (group, element) != (0xFFFE, 0xE000):
            return
        yield size
        file.seek(size, os.SEEK_CUR)


class _Frames:
    """The frames in display values. Each iteration decodes the file anew, one frame at a time."""

    def __init__(self, path: Path, header: pydicom.Dataset, announced: int) -> None:
        self._path = path
        self._header = header
        self._announced = announced
        self._syntax = str(header.file_meta.TransferSyntaxUID)
        self._photometric = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
        self._is_colour = (
            int(find(header, "SamplesPerPixel") or 1) == 3 or self._photometric == "PALETTE COLOR"
        )
        self._excess_bits = max(0, int(header.get("BitsStored", 8)) - 8)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._is_video():
            from deepcoro.ingest.video_file import StreamFrames

            yield from StreamFrames(self._open_video, self._announced)
            return
        if self._is_colour:
            yield from self._counted(self._colour_frames())
            return
        yield from self._grey_frames()

    def _grey_frames(self) -> Iterator[np.ndarray]:
        """A table of the display value of every stored value, made once: the film keeps one grey scale throughout."""
        try:
            table = display_table(self._header, self._sample)
        except _DAMAGE as error:
            raise RejectedFilm("unreadable: the grey scale (window or look-up table) is damaged") from error
        is_display_already = len(table) == 256 and np.array_equal(table, np.arange(256))
        for frame in self._counted(self._decoded()):
            yield frame if is_display_already and frame.dtype == np.uint8 else to_display(frame, table)

    def _sample(self) -> np.ndarray:
        """Every 8th part of the film, every second row and column: enough for a percentile."""
        step = max(1, self._announced // 8)
        frames = [
            frame[::2, ::2]
            for number, frame in enumerate(self._counted(self._decoded()))
            if number % step == 0
        ]
        return np.stack(frames)

    def _colour_frames(self) -> Iterator[np.ndarray]:
        shift = self._excess_bits
        for frame in self._decoded():
            if self._photometric == "PALETTE COLOR":
                frame = apply_color_lut(frame, self._header)
                shift = 8 * (frame.dtype.itemsize - 1)
            yield (frame >> shift).astype(np.uint8)

    def _counted(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Passes frames on until they end or cannot be decoded, then checks that enough of the film was there."""
        decoded = 0
        try:
            for frame in frames:
                yield frame
                decoded += 1
        except _DAMAGE as error:
            logger.debug("decoding stopped after %d frames: %s", decoded, type(error).__name__)
        check_complete(decoded, self._announced)

    def _decoded(self) -> Iterator[np.ndarray]:
        suffix = self._syntax.removeprefix(_JPEG_FAMILY)
        plugin = "pylibjpeg" if self._syntax == _RLE else _PLUGINS.get(suffix, "")
        if self._syntax == _DEFLATED:
            yield from iter_pixels(pydicom.dcmread(self._path))
            return
        known = {"number_of_frames": self._announced}
        if (fragments := count_fragments(self._path, self._header)) is not None:
            known["number_of_frames"] = min(self._announced, fragments)
        yield from iter_pixels(self._path, decoding_plugin=plugin, **known)

    def _is_video(self) -> bool:
        number = self._syntax.removeprefix(_JPEG_FAMILY).split(".")[0]
        return number.isdigit() and _FIRST_VIDEO_SYNTAX <= int(number) <= _LAST_VIDEO_SYNTAX

    def _open_video(self) -> Any:
        import av

        stream = b"".join(list(generate_fragments(pydicom.dcmread(self._path).PixelData))[1:])
        return av.open(io.BytesIO(stream))
