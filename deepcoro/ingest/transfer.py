"""DICOM transfer syntaxes: which decoder reads which, where a compressed frame begins, and the stored values one frame at a time."""

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

_JPEG_FAMILY = "1.2.840.10008.1.2.4."
_RLE = "1.2.840.10008.1.2.5"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", _DEFLATED)
_PLAIN = _NATIVE[:2]
_JPEG_EXTENDED = f"{_JPEG_FAMILY}51"
_FIRST_VIDEO, _LAST_VIDEO = 100, 108

# Pinned, because decoders differ by 1-3 grey levels and the shards must not depend on what else is installed.
_PLUGINS = {
    **dict.fromkeys((f"{_JPEG_FAMILY}{number}" for number in (50, 51, 57, 70, 80, 81)), "gdcm"),
    **dict.fromkeys((f"{_JPEG_FAMILY}{number}" for number in (90, 91, 201, 202, 203)), "pylibjpeg"),
    _RLE: "pylibjpeg",
}

_LONG_HEADER, _SHORT_HEADER = 12, 8
"""Bytes of tag, VR and length before pixels; files with implicit VR leave the VR out."""
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
"""First bytes of a JPEG or JPEG-LS image, a JPEG 2000 codestream, and one in a JP2 file."""


def is_video(syntax: str) -> bool:
    """MPEG-2, H.264 and HEVC, their fragmentable twins (`.102.1`) included: one stream for all frames."""
    number = syntax.removeprefix(_JPEG_FAMILY).split(".")[0]
    return syntax.startswith(_JPEG_FAMILY) and number.isdigit() and _FIRST_VIDEO <= int(number) <= _LAST_VIDEO


def is_native(syntax: str) -> bool:
    """Uncompressed, deflated included."""
    return syntax in _NATIVE


def is_readable(syntax: str) -> bool:
    return is_native(syntax) or is_video(syntax) or syntax in _PLUGINS


def stored_frames(
    path: Path, header: "Dataset", announced: int, indices: Sequence[int] | None = None
) -> Iterator[np.ndarray]:
    """Decoded frames (colour as RGB), all or those of `indices` that are there. Raises what pydicom and its decoders raise.

    One frame is in memory at a time, save for deflated files, which can only be inflated whole.
    """
    import pydicom
    from pydicom.pixels import iter_pixels

    syntax = str(header.file_meta.TransferSyntaxUID)
    source = pydicom.dcmread(path) if syntax == _DEFLATED else path
    if header.get("PhotometricInterpretation") == "YBR_FULL_422" and syntax in _PLAIN:
        yield from _subsampled_frames(path, header, announced)
        return
    # bits above the stored ones are masked by the display table, which also knows values that lie above them
    known: dict[str, Any] = {"correct_unused_bits": int(header.get("SamplesPerPixel") or 1) > 1}
    if not is_native(syntax):
        found = count_frames(path, header)
        known["number_of_frames"] = announced if found is None else found
    if indices is not None:
        there = known.get("number_of_frames", announced)
        known["indices"] = [index for index in indices if index < there]
    if syntax == _JPEG_EXTENDED and int(header.get("BitsStored", 8)) > 8:
        yield from _twelve_bit_frames(path, header, known)
        return
    yield from _without_panic(iter_pixels(source, decoding_plugin=_PLUGINS.get(syntax, ""), **known))


def _without_panic(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """pylibjpeg's Rust decoder panics on damaged run lengths, with an exception that no class of errors catches and no module names."""
    try:
        yield from frames
    # pyo3's PanicException derives from BaseException and cannot be imported by name; all else is raised again
    except BaseException as error:  # noqa: BLE001
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("the decoder gave up on a damaged frame") from error


def count_frames(path: Path, header: "Dataset") -> int | None:
    """Compressed frames that are there, when no offset table tells it (an empty one, which is the most common kind); else None.

    pydicom trusts NumberOfFrames: it yields nothing at all when there are fewer fragments, and glues frames together when
    there are more.
    """
    if "ExtendedOffsetTable" in header:
        return None
    with path.open("rb") as file:
        _seek_pixels(file, _LONG_HEADER)
        heads = list(_items(file))
    if not heads or heads[0][0] != 0:
        return None
    fragments = [head for _, head in heads[1:]]
    starts = sum(head.startswith(_STARTS) for head in fragments)
    # a run-length frame is one fragment by rule and begins with no mark (PS3.5 A.4.2)
    return starts or len(fragments)


def _seek_pixels(file: BinaryIO, header_bytes: int) -> None:
    import pydicom

    pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=["NumberOfFrames"])
    file.seek(header_bytes, os.SEEK_CUR)


def _items(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Size and first bytes of the offset table and of the fragments, up to the end mark or the end of the file (PS3.5 A.4)."""
    while len(head := file.read(8)) == 8:
        group, element, size = struct.unpack("<HHL", head)
        if (group, element) != (0xFFFE, 0xE000):
            return
        first = file.read(min(size, 8))
        yield size, first
        file.seek(size - len(first), os.SEEK_CUR)


def _subsampled_frames(path: Path, header: "Dataset", announced: int) -> Iterator[np.ndarray]:
    """Uncompressed YBR_FULL_422: two luma, then the chroma of both. pydicom 3.0.2 reads it whole or not at all."""
    from pydicom.pixels import convert_color_space

    rows, columns = int(header.Rows), int(header.Columns)
    is_implicit = str(header.file_meta.TransferSyntaxUID) == _NATIVE[0]
    with path.open("rb") as file:
        _seek_pixels(file, _SHORT_HEADER if is_implicit else _LONG_HEADER)
        for _ in range(announced):
            packed = np.frombuffer(file.read(rows * columns * 2), np.uint8).reshape(rows, columns // 2, 4)
            luma = packed[:, :, :2].reshape(rows, columns)
            chroma = np.repeat(packed[:, :, 2:], 2, axis=1)
            yield convert_color_space(np.dstack((luma, chroma)), "YBR_FULL", "RGB", per_frame=False)


def _twelve_bit_frames(path: Path, header: "Dataset", known: dict) -> Iterator[np.ndarray]:
    """12-bit JPEG Extended, through GDCM itself: pydicom's plugin refuses it, though GDCM decodes it right (its encoder does not)."""
    from pydicom.encaps import generate_frames

    wanted = known.get("indices")
    with path.open("rb") as file:
        _seek_pixels(file, _LONG_HEADER)
        frames = generate_frames(file, number_of_frames=known["number_of_frames"])
        for number, payload in enumerate(frames):
            if wanted is None or number in wanted:
                yield _decode_twelve_bits(payload, int(header.Rows), int(header.Columns))


def _jpeg_precision(payload: bytes) -> int:
    """Bits a sample of a sequential JPEG, from its frame header; 0 without one (ITU-T T.81 B.2.2)."""
    position = 2
    while position + 5 <= len(payload) and payload[position] == 0xFF:
        marker, length = payload[position + 1], int.from_bytes(payload[position + 2 : position + 4], "big")
        if marker in (0xC0, 0xC1):
            return payload[position + 4]
        position += 2 + length
    return 0


def _decode_twelve_bits(payload: bytes, rows: int, columns: int) -> np.ndarray:
    import gdcm

    if _jpeg_precision(payload) != 12:
        raise ValueError(
            "not a 12-bit sequential JPEG: GDCM's own encoder writes such frames, and nobody reads them"
        )
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(payload)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    image.SetPhotometricInterpretation(grey)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    # 12 bits allocated, where the file says 16, lets GDCM choose its 12-bit decoder at once
    image.SetPixelFormat(gdcm.PixelFormat(1, 12, 12, 11, 0))
    values = image.GetBuffer()
    if values is None:
        raise ValueError("a frame of JPEG Extended cannot be decoded")
    return np.frombuffer(values.encode("utf-8", "surrogateescape"), "<u2").reshape(rows, columns)
