"""Films in AVI, MP4, MKV and MOV."""

import numpy as np
import pytest

from deepcoro.data.manifest import Encoding
from deepcoro.data.member import encode
from deepcoro.ingest.film import RejectedFilm
from deepcoro.ingest.open import open_film
from tests.ingest.films import moving_bar, read_all, write_video

KINDS = [
    ("film.avi", "mjpeg", "yuvj420p", 6.0),
    ("film.mp4", "libx264", "yuv420p", 2.0),
    ("film.mov", "libx264", "yuv420p", 2.0),
    ("film.mkv", "ffv1", "gray", 0.0),
]


@pytest.mark.parametrize(("name", "codec", "pixel_format", "tolerance"), KINDS)
def test_a_grey_film_keeps_its_greys_and_its_rate(tmp_path, name, codec, pixel_format, tolerance):
    """H.264 stores 16..235: reading the raw luma plane would be off by 16 at black."""
    film = np.linspace(0, 255, 64)[None, None, :].repeat(64, 1).repeat(8, 0).astype(np.uint8)
    path = write_video(tmp_path / name, film, codec, pixel_format, rate_fps=15)
    read, opened = read_all(path), open_film(path)
    assert read.shape == film.shape and np.abs(read.astype(int) - film).max() <= tolerance
    assert opened.frame_rate_fps == 15.0 and opened.frame_rate_source == "container average_rate"


@pytest.mark.parametrize(
    ("name", "codec"),
    [("film.avi", "mjpeg"), ("film.mp4", "libx264"), ("film.mov", "libx264"), ("film.mkv", "ffv1")],
)
def test_colour_stays_colour_in_every_container(tmp_path, name, codec):
    film = np.zeros((8, 64, 64, 3), np.uint8)
    film[:, :, :32], film[:, :, 32:] = (200, 60, 40), (30, 90, 180)
    pixel_format = {"mjpeg": "yuvj444p", "libx264": "yuv444p", "ffv1": "bgr0"}[codec]
    read = read_all(write_video(tmp_path / name, film, codec, pixel_format))
    assert read.shape == film.shape and np.abs(read.astype(int) - film)[:, :, [8, 56]].max() <= 10


def test_colour_stays_colour_also_when_it_comes_late(tmp_path):
    film = np.repeat(moving_bar(8, 64, 64)[..., None], 3, axis=3)
    film[5:, 20:40, 20:40] = (200, 30, 30)
    opened = open_film(write_video(tmp_path / "film.mp4", film, "libx264", "yuv420p"))
    member = encode(opened.frames, Encoding())
    assert (member.channels, member.num_frames) == (3, 8)
    last = list(opened.frames)[-1]
    assert np.abs(last[30, 30].astype(int) - (200, 30, 30)).max() < 12


@pytest.mark.parametrize(("name", "codec", "pixel_format", "tolerance"), KINDS)
def test_a_film_cut_in_half_is_refused(tmp_path, name, codec, pixel_format, tolerance):
    film = np.random.default_rng(0).integers(0, 255, (20, 64, 64), dtype=np.uint8)
    payload = write_video(tmp_path / name, film, codec, pixel_format).read_bytes()
    (tmp_path / name).write_bytes(payload[: len(payload) // 2])
    with pytest.raises(RejectedFilm, match="^(truncated|unreadable)"):
        read_all(tmp_path / name)


def test_what_is_no_video_is_refused_without_its_name(tmp_path, capfd):
    path = tmp_path / "TREMBLAY.avi"
    path.write_bytes(b"not a film" * 100)
    with pytest.raises(RejectedFilm, match="^unreadable") as refusal:
        open_film(path)
    assert "TREMBLAY" not in str(refusal.value) and "TREMBLAY" not in "".join(capfd.readouterr())
