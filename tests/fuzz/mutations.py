"""Damage to files, by seed: blind to what the bytes mean, and knowing what they mean."""

import random
import struct
import zlib
from collections.abc import Callable

Damage = Callable[[bytes, random.Random], bytes]

_ODD_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 0x80000000)
_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{each}".encode() for each in (50, 51, 57, 70, 80, 81, 90, 91, 102, 201)) + (
    b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.1.99",
)  # fmt: skip
_REPRESENTATIONS = (
    b"OB",
    b"OW",
    b"UL",
    b"US",
    b"SS",
    b"SQ",
    b"UN",
    b"DS",
    b"IS",
    b"LO",
    b"PN",
    b"FD",
    b"AT",
    b"UI",
    b"ZZ",
)
# rows, columns, frames, samples, planar, allocated, stored, high bit, sign, pixel data, window, LUT, frame time
_ELEMENTS = tuple(
    struct.pack("<HH", group, element)
    for group, element in (
        (0x28, 0x10), (0x28, 0x11), (0x28, 0x08), (0x28, 0x02), (0x28, 0x06), (0x28, 0x100), (0x28, 0x101), (0x28, 0x102),
        (0x28, 0x103), (0x28, 0x04), (0x28, 0x1050), (0x28, 0x1051), (0x28, 0x3010), (0x18, 0x1063), (0x7FE0, 0x10), (0x02, 0x10),
    )
)  # fmt: skip


def flip(data: bytes, draw: random.Random) -> bytes:
    """One to twelve bytes become others, headers more often than pixels."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 12)):
        span = min(len(data), 2000) if draw.random() < 0.6 else len(data)
        changed[draw.randrange(span)] = draw.randrange(256)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def splice(data: bytes, draw: random.Random) -> bytes:
    """A piece is left out, doubled, or put elsewhere."""
    start = draw.randrange(len(data))
    piece = data[start : start + draw.randint(1, 600)]
    rest = data[:start] + data[start + len(piece) :]
    if draw.random() < 0.3:
        return rest
    place = draw.randrange(len(rest) + 1)
    return (data if draw.random() < 0.5 else rest)[:place] + piece + rest[place:]


def blank(data: bytes, draw: random.Random) -> bytes:
    start, length = draw.randrange(len(data)), draw.randint(1, 400)
    return data[:start] + bytes([draw.choice((0, 255))]) * length + data[start + length :]


def number(data: bytes, draw: random.Random) -> bytes:
    """A number that programs trip over, of two or four bytes, somewhere in the first kilobytes."""
    width, order = draw.choice((2, 4)), draw.choice("<>")
    value = draw.choice(_ODD_NUMBERS) & (2 ** (8 * width) - 1)
    place = draw.randrange(max(1, min(len(data), 3000) - width))
    return data[:place] + struct.pack(f"{order}{'H' if width == 2 else 'I'}", value) + data[place + width :]


BLIND: tuple[Damage, ...] = (flip, cut, splice, blank, number)


def dicom_value(data: bytes, draw: random.Random) -> bytes:
    """The value of an element that shapes the image."""
    place = data.find(draw.choice(_ELEMENTS))
    if place < 0:
        return flip(data, draw)
    start = place + 8
    new = draw.choice(
        (struct.pack("<H", draw.choice(_ODD_NUMBERS) & 0xFFFF), b"-1", b"99999999", b"1e9\\", b"\xff\xfe")
    )
    return data[:start] + new + data[start + len(new) :]


def dicom_length(data: bytes, draw: random.Random) -> bytes:
    """The length of an element that shapes the image."""
    place = data.find(draw.choice(_ELEMENTS))
    if place < 0:
        return number(data, draw)
    start = place + draw.choice((6, 8))
    return data[:start] + struct.pack("<I", draw.choice(_ODD_NUMBERS)) + data[start + 4 :]


def dicom_representation(data: bytes, draw: random.Random) -> bytes:
    place = data.find(draw.choice(_ELEMENTS))
    return data if place < 0 else data[: place + 4] + draw.choice(_REPRESENTATIONS) + data[place + 6 :]


def dicom_syntax(data: bytes, draw: random.Random) -> bytes:
    """Another transfer syntax over the same pixels; the length of the element is kept right or not."""
    place = data.find(struct.pack("<HH", 2, 0x10) + b"UI")
    if place < 0:
        return data
    length = struct.unpack("<H", data[place + 6 : place + 8])[0]
    new = draw.choice(_SYNTAXES)
    new += b"\0" * (len(new) % 2)
    told = len(new) if draw.random() < 0.8 else length
    return data[: place + 6] + struct.pack("<H", told) + new + data[place + 8 + length :]


def dicom_fragment(data: bytes, draw: random.Random) -> bytes:
    """A fragment of compressed pixels is dropped, doubled, cut, or lies about its size."""
    mark = struct.pack("<HH", 0xFFFE, 0xE000)
    places = (
        [place for place in range(len(data) - 8) if data.startswith(mark, place)]
        if len(data) < 60_000
        else []
    )
    if not places:
        return blank(data, draw)
    place = draw.choice(places)
    size = struct.unpack("<I", data[place + 4 : place + 8])[0]
    end = min(place + 8 + size, len(data))
    item, kind = data[place:end], draw.randrange(4)
    if kind == 0:
        return data[:place] + data[end:]
    if kind == 1:
        return data[:place] + item + item + data[end:]
    if kind == 2:
        return data[:place] + item[: draw.randint(8, max(8, len(item)))] + data[end:]
    return data[: place + 4] + struct.pack("<I", draw.choice(_ODD_NUMBERS)) + data[place + 8 :]


DICOM: tuple[Damage, ...] = (dicom_value, dicom_length, dicom_representation, dicom_syntax, dicom_fragment)


def chunk_size(data: bytes, draw: random.Random) -> bytes:
    """The size of a chunk of an AVI or of a box of an MP4."""
    names = (
        b"RIFF",
        b"LIST",
        b"avih",
        b"strf",
        b"strh",
        b"00dc",
        b"idx1",
        b"movi",
        b"moov",
        b"stsz",
        b"stco",
        b"stsd",
        b"mdat",
        b"tkhd",
    )
    place = data.find(draw.choice(names))
    if place < 0:
        return number(data, draw)
    start = place + 4 if draw.random() < 0.6 else max(0, place - 4)
    return data[:start] + struct.pack("<I", draw.choice(_ODD_NUMBERS)) + data[start + 4 :]


VIDEO: tuple[Damage, ...] = (chunk_size, chunk_size)


def array_header(data: bytes, draw: random.Random) -> bytes:
    """Another dtype or shape in the text header of an npy file, of the same length."""
    swaps = ((b"|u1", b"<O8"), (b"|u1", b"<f8"), (b"|u1", b"|S1"), (b"|u1", b"<M8"), (b"False", b"True "), (b"(6, ", b"(99,"),
             (b"(6, ", b"(-6,"), (b"descr", b"dscre"), (b"32, 40", b"99999 "), (b"'shape'", b"'shame'"))  # fmt: skip
    old, new = draw.choice(swaps)
    return data.replace(old, new, 1) if old in data else flip(data, draw)


ARRAY: tuple[Damage, ...] = (array_header, array_header)


def picture_size(data: bytes, draw: random.Random) -> bytes:
    """Height and width of a PNG or JPEG, or the length of one of its parts. The checksum of a PNG is made right again or not."""
    place = data.find(draw.choice((b"IHDR", b"IDAT", b"\xff\xc0", b"\xff\xda", b"\xff\xdb", b"IEND")))
    if place < 0:
        return number(data, draw)
    start = place + draw.choice((2, 4, 5, 8)) if draw.random() < 0.7 else max(0, place - 4)
    changed = data[:start] + struct.pack(">I", draw.choice(_ODD_NUMBERS)) + data[start + 4 :]
    header = changed.find(b"IHDR")
    if header < 0 or draw.random() < 0.3:
        return changed
    check = struct.pack(">I", zlib.crc32(changed[header : header + 17]))
    return changed[: header + 17] + check + changed[header + 21 :]


PICTURE: tuple[Damage, ...] = (picture_size, picture_size)


def text_token(data: bytes, draw: random.Random) -> bytes:
    """Something that a table or a YAML file should not hold, at any place."""
    tokens = (b'"', b'""', b"'", b"\0", b"\n", b"\r", b"\r\n", b",", b";", b"\t", "α".encode(), b"\xff\xfe", b"\xef\xbb\xbf", b"nan",
              b"-1", b"inf", b"1e400", b"../../../etc/passwd", b"\xc3", b"x" * 100_000, b"&a [*a]", b"!!python/name:os.system", b"{", b": ",
              b"- ", b"?", b"\x1b[2J", "é\u202e".encode())  # fmt: skip
    place = draw.randrange(len(data) + 1)
    return data[:place] + draw.choice(tokens) + data[place:]


def text_line(data: bytes, draw: random.Random) -> bytes:
    """A line is doubled, dropped, cut or moved."""
    lines = data.split(b"\n")
    line = draw.choice(lines)
    kind = draw.randrange(4)
    if kind == 0:
        lines.insert(draw.randrange(len(lines) + 1), line)
    elif kind == 1 and len(lines) > 1:
        lines.remove(line)
    elif kind == 2:
        lines[lines.index(line)] = line[: draw.randint(0, len(line))]
    else:
        draw.shuffle(lines)
    return b"\n".join(lines)


def text_encoding(data: bytes, draw: random.Random) -> bytes:
    return data.decode("utf-8", "replace").encode(
        draw.choice(("utf-16", "utf-16-le", "utf-32", "latin-1")), "replace"
    )


TEXT: tuple[Damage, ...] = (text_token, text_token, text_line, text_line, text_encoding)


def damaged(data: bytes, knowing: tuple[Damage, ...], draw: random.Random) -> bytes:
    """One to three kinds of damage, half of them knowing; never the file as it was."""
    for _ in range(20):
        changed = data
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            if changed:
                changed = draw.choice(knowing if draw.random() < 0.5 else BLIND)(changed, draw)
        if changed != data:
            return changed
    return data + b"\0"
