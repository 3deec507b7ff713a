"""A film as one member."""

import numpy as np
import pytest
import simplejpeg
import zstandard
from PIL import Image

from deepcoro.data.manifest import Encoding
from deepcoro.data.member import encode


def film(num_frames: int = 5, height: int = 48, width: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(rows / 9 + number) * np.cos(columns / 7) for number in range(num_frames)]
    return np.stack(waves).astype(np.uint8)


def frames_of(member) -> list[bytes]:
    offsets = member.frame_offsets
    return [member.payload[start:end] for start, end in zip(offsets, offsets[1:], strict=False)]


def test_each_frame_is_a_jpeg_of_its_own_found_by_its_offset():
    source = film()
    member = encode(source, Encoding())
    assert member.num_frames == 5 and member.frame_offsets[0] == 0
    assert member.frame_offsets[-1] == len(member.payload)
    for frame, part in zip(source, frames_of(member), strict=True):
        decoded = simplejpeg.decode_jpeg(part, "GRAY")[:, :, 0]
        assert decoded.shape == (48, 64) and np.abs(decoded.astype(int) - frame).max() <= 4


def test_lossless_is_lossless_also_in_colour():
    colour = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
    member = encode(colour, Encoding(type="lossless"))
    assert (member.channels, member.height, member.width) == (3, 20, 30)
    for frame, part in zip(colour, frames_of(member), strict=True):
        raw = zstandard.ZstdDecompressor().decompress(part)
        assert np.array_equal(np.frombuffer(raw, np.uint8).reshape(20, 30, 3), frame)


def test_a_large_film_is_reduced_to_the_short_side_and_a_small_one_is_never_enlarged():
    source = film(2, 96, 160)
    member = encode(source, Encoding(type="lossless", short_side_px=48))
    assert (member.height, member.width) == (48, 80)
    raw = zstandard.ZstdDecompressor().decompress(frames_of(member)[0])
    oracle = Image.fromarray(source[0]).resize((80, 48), Image.Resampling.BILINEAR)
    assert np.array_equal(np.frombuffer(raw, np.uint8).reshape(48, 80), np.asarray(oracle))
    assert encode(source, Encoding()).height == 96


def test_colour_that_comes_late_makes_the_whole_film_colour():
    late = np.repeat(film()[..., None], 3, axis=3)
    assert encode(late, Encoding()).channels == 1
    late[3, 10, 10] = (250, 0, 0)
    member = encode(late, Encoding())
    assert (member.channels, member.num_frames) == (3, 5)


def test_the_histogram_is_that_of_the_stored_pixels():
    source = film()
    assert np.array_equal(encode(source, Encoding()).histogram, np.bincount(source.ravel(), minlength=256))


def test_quality_is_heeded():
    assert len(encode(film(), Encoding(quality=50)).payload) < 0.6 * len(
        encode(film(), Encoding(quality=95)).payload
    )


@pytest.mark.parametrize(
    "frames",
    [np.zeros((0, 8, 8), np.uint8), np.zeros((2, 8, 8), np.float32), np.zeros((2, 8, 8, 2), np.uint8)],
)
def test_what_is_no_film_is_an_error(frames):
    with pytest.raises(ValueError):
        encode(frames, Encoding())


def test_frames_of_two_sizes_are_an_error():
    with pytest.raises(ValueError, match="frame 1 is"):
        encode([np.zeros((8, 8), np.uint8), np.zeros((8, 9), np.uint8)], Encoding())
