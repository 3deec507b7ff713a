"""Films of a request's body, written to disk piece by piece as they come: nothing of them lies elsewhere, nor whole in memory.

Starlette's own form keeps what is larger than 1 MB in the system's temporary folder, which no argument of it moves.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

_LARGEST_HEADER = 16 << 10
"""Bytes of the headers of one part: they are held in memory."""


class UploadError(Exception):
    """A body that cannot be taken; says why."""


async def store_uploads(
    pieces: AsyncIterator[bytes], content_type: str, folder: Path, most_files: int
) -> int:
    """Writes the parts named `file` under numbers, in the order they come; returns how many. Names that a client gives are not used.

    UploadError for a body that is no multipart form, for a part that is no file, and for more than `most_files`.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return 0
    if b"boundary" not in options:
        raise UploadError("the form names no boundary of its parts")
    parts = _Parts(folder, most_files)
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        async for piece in pieces:
            parser.write(piece)
        parser.finalize()
    except FormParserError as error:
        raise UploadError("the body is no multipart form") from error
    finally:
        parts.close()
    return parts.num_stored


class _Parts:
    """What the parser calls: one part after the other."""

    def __init__(self, folder: Path, most_files: int) -> None:
        self._folder, self._most_files = folder, most_files
        self._num_seen = self.num_stored = 0
        self._name, self._value, self._disposition = b"", b"", b""
        self._header_bytes = 0
        self._file: BinaryIO | None = None

    def callbacks(self) -> dict:
        names = "part_begin part_data part_end header_field header_value header_end headers_finished"
        return {f"on_{name}": getattr(self, f"_{name}") for name in names.split()}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _part_begin(self) -> None:
        self._name, self._value, self._disposition, self._header_bytes = b"", b"", b"", 0

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._bound(end - start)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bound(end - start)

    def _bound(self, num_bytes: int) -> None:
        self._header_bytes += num_bytes
        if self._header_bytes > _LARGEST_HEADER:
            raise UploadError("the headers of a part are too long")

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" not in options:
            raise UploadError("a part is no file; send files alone")
        self._num_seen += 1
        if self._num_seen > self._most_files:
            raise UploadError(f"more than {self._most_files} files; send one study at a time")
        if options.get(b"name") == b"file":
            self.num_stored += 1
            self._file = (self._folder / f"{self.num_stored:06d}").open("xb")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])

    def _part_end(self) -> None:
        self.close()
