"""Every transfer syntax gives the same greys; the traps of compressed frames; memory that stays flat."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, encapsulate_extended, generate_fragments

from deepcoro.ingest.film import RejectedFilm
from deepcoro.ingest.open import open_film
from deepcoro.ingest.transfer import count_frames, stored_frames
from tests.ingest import codestreams, films
from tests.ingest.films import JPEG_FAMILY, moving_bar, read_all, write_compressed, write_dicom, write_video

ALL_SYNTAXES = (
    films.EXPLICIT, films.IMPLICIT, films.BIG_ENDIAN, films.DEFLATED, films.RLE,
    films.JPEG_BASELINE, films.JPEG_2000_LOSSLESS,
)  # fmt: skip
DEEP_SYNTAXES = (films.EXPLICIT, films.IMPLICIT, films.BIG_ENDIAN, films.RLE, films.JPEG_2000_LOSSLESS)
FRAGMENTED = (films.RLE, films.JPEG_BASELINE, films.JPEG_2000_LOSSLESS)


@pytest.mark.parametrize("syntax", ALL_SYNTAXES)
def test_eight_bit_films_keep_their_values_in_every_syntax(tmp_path, syntax):
    film = moving_bar()
    read = read_all(write_dicom(tmp_path / "film", film, syntax))
    assert np.abs(read.astype(int) - film).max() <= (2 if syntax == films.JPEG_BASELINE else 0)


@pytest.mark.parametrize("syntax", DEEP_SYNTAXES)
def test_twelve_bit_films_go_through_their_window_in_every_syntax(tmp_path, syntax):
    film = moving_bar(top=4095)
    path = write_dicom(tmp_path / "film", film, syntax, bits=12, WindowCenter=1024, WindowWidth=2048)
    assert np.abs(read_all(path) - np.clip(film / 2047 * 255, 0, 255)).max() <= 1


@pytest.mark.parametrize(
    ("syntax", "uid", "tolerance"),
    [
        ("JPEGLosslessProcess14_1", "70", 0.5),  # what cardiac media carry
        ("JPEGLosslessProcess14", "57", 0.5),
        ("JPEGLSLossless", "80", 0.5),
        ("JPEGLSNearLossless", "81", 3),
        ("JPEG2000", "91", 3),
    ],
)
@pytest.mark.parametrize("bits", [8, 12])
def test_what_gdcm_writes_is_read_back(tmp_path, syntax, uid, tolerance, bits):
    top = 2**bits - 1
    film = moving_bar(top=top)
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    path = films.transcode(write_dicom(tmp_path / "film", film, bits=bits, **window), syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == f"{JPEG_FAMILY}{uid}"
    assert np.abs(read_all(path) - film / top * 255).max() <= tolerance


@pytest.mark.parametrize("uid", ["201", "202", "203"])
def test_high_throughput_jpeg_2000_is_read(tmp_path, uid):
    eight = np.stack([codestreams.ramp(255)] * 3)
    payload = codestreams.EIGHT_BITS_LOSSY if uid == "203" else codestreams.EIGHT_BITS
    path = write_compressed(tmp_path / "eight", eight, f"{JPEG_FAMILY}{uid}", [payload] * 3)
    assert np.abs(read_all(path).astype(int) - eight).max() <= (1 if uid == "203" else 0)
    twelve = np.stack([codestreams.ramp(4095)] * 3)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    path = write_compressed(
        tmp_path / "deep", twelve, f"{JPEG_FAMILY}{uid}", [codestreams.TWELVE_BITS] * 3, 12, **window
    )
    assert np.abs(read_all(path) - twelve / 4095 * 255).max() <= 0.5


@pytest.mark.parametrize("uid", ["100", "101", "102", "103", "104", "105", "106", "107", "108", "102.1"])
def test_a_stream_of_moving_pictures_inside_dicom_is_decoded(tmp_path, uid):
    codec = {"100": "mpeg2video", "101": "mpeg2video", "107": "libx265", "108": "libx265"}.get(uid, "libx264")
    film = moving_bar(num_frames=8, height=64, width=64)
    container = "film.mpg" if codec == "mpeg2video" else "film.mp4"
    stream = write_video(tmp_path / container, film, codec, "yuv420p", rate_fps=25).read_bytes()
    path = write_compressed(tmp_path / "film", film, f"{JPEG_FAMILY}{uid}", [stream])
    read = read_all(path)
    assert len(read) == 8 and np.abs(read.astype(int) - film).mean() < 4


def test_twelve_bit_jpeg_extended_is_read(tmp_path):
    film = np.stack([codestreams.ramp(4095)] * 3)
    payloads, window = [codestreams.TWELVE_BIT_JPEG] * 3, {"WindowCenter": 2048, "WindowWidth": 4096}
    path = write_compressed(tmp_path / "film", film, f"{JPEG_FAMILY}51", payloads, 12, **window)
    assert np.abs(read_all(path) - film / 4095 * 255).max() <= 1
    unscaled = write_compressed(tmp_path / "unscaled", film, f"{JPEG_FAMILY}51", payloads, 12)
    assert np.ptp(read_all(unscaled)) == 255  # the sample for the percentiles is decoded too


def test_eight_bit_jpeg_extended_is_read(tmp_path):
    film = moving_bar()
    path = write_compressed(tmp_path / "film", film, f"{JPEG_FAMILY}51", films.jpeg_frames(film))
    assert np.abs(read_all(path).astype(int) - film).max() <= 2


def test_pydicoms_own_twelve_bit_jpeg_is_read_as_dcmtk_reads_it():
    """No film, so the decoder is asked alone. dcmtk 3.6.7 and libjpeg-turbo 3.1 give these values."""
    path = Path(get_testdata_file("JPEG-lossy.dcm", download=False))
    header = pydicom.dcmread(path, stop_before_pixels=True)
    frames = list(stored_frames(path, header, 1))
    assert len(frames) == 1 and frames[0].shape == (1024, 256) and frames[0].max() == 264


def test_gdcms_own_twelve_bit_jpeg_extended_is_refused_rather_than_read_wrong(tmp_path):
    """Its encoder writes a precision of 16, which no decoder reads right."""
    film = moving_bar(top=4095)
    path = write_dicom(tmp_path / "film", film, bits=12, WindowCenter=2048, WindowWidth=4096)
    with pytest.raises(RejectedFilm, match="^unreadable"):
        read_all(films.transcode(path, "JPEGExtendedProcess2_4"))


def test_a_syntax_without_decoder_is_refused_by_name(tmp_path):
    path = write_compressed(tmp_path / "film", moving_bar(), f"{JPEG_FAMILY}94", [b"\xff\xd8"] * 6)
    with pytest.raises(RejectedFilm, match="^unsupported_syntax"):
        open_film(path)


@pytest.mark.parametrize("syntax", [films.EXPLICIT, *FRAGMENTED])
def test_a_film_cut_in_half_is_refused_and_one_cut_in_its_last_frame_is_not(tmp_path, syntax):
    film = np.random.default_rng(0).integers(0, 255, (20, 32, 40), dtype=np.uint8)
    payload = write_dicom(tmp_path / "film", film, syntax).read_bytes()
    (tmp_path / "half").write_bytes(payload[: len(payload) // 2])
    with pytest.raises(RejectedFilm, match="^truncated: 9 of 20 frames"):
        read_all(tmp_path / "half")
    (tmp_path / "nearly").write_bytes(payload[:-60])
    assert len(read_all(tmp_path / "nearly")) == 19


@pytest.mark.parametrize("syntax", [films.EXPLICIT, *FRAGMENTED])
def test_a_header_that_promises_one_frame_too_many_is_tolerated(tmp_path, syntax):
    opened = open_film(write_dicom(tmp_path / "film", moving_bar(), syntax, NumberOfFrames=7))
    assert (opened.announced_frames, len(list(opened.frames))) == (7, 6)


@pytest.mark.parametrize("syntax", FRAGMENTED)
@pytest.mark.parametrize("has_table", [False, True])
def test_a_header_that_promises_one_frame_too_few_glues_no_frames_together(tmp_path, syntax, has_table):
    film = moving_bar()
    path = write_dicom(tmp_path / "film", film, syntax)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate(fragments_of(dataset), has_bot=has_table)
    dataset.NumberOfFrames = 5
    dataset.save_as(path)
    read = read_all(path)
    assert len(read) in (5, 6) and np.abs(read.astype(int) - film[: len(read)]).max() <= 2


def fragments_of(dataset: pydicom.Dataset) -> list[bytes]:
    return list(generate_fragments(dataset.PixelData))[1:]


@pytest.mark.parametrize("syntax", FRAGMENTED)
def test_an_extended_offset_table_is_followed(tmp_path, syntax):
    film = moving_bar()
    path = write_dicom(tmp_path / "film", film, syntax)
    dataset = pydicom.dcmread(path)
    payload, offsets, lengths = encapsulate_extended(fragments_of(dataset))
    dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = (
        payload,
        offsets,
        lengths,
    )
    dataset.save_as(path)
    assert count_frames(path, pydicom.dcmread(path, stop_before_pixels=True)) is None
    assert np.abs(read_all(path).astype(int) - film).max() <= 2


@pytest.mark.parametrize("syntax", [films.JPEG_BASELINE, films.JPEG_2000_LOSSLESS])
@pytest.mark.parametrize("has_table", [False, True])
def test_frames_in_several_fragments_are_put_together(tmp_path, syntax, has_table):
    film = moving_bar()
    path = write_dicom(tmp_path / "film", film, syntax)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate(fragments_of(dataset), fragments_per_frame=3, has_bot=has_table)
    dataset.save_as(path)
    assert np.abs(read_all(path).astype(int) - film).max() <= 2


MEASURE = """
import resource, sys
from pathlib import Path
from deepcoro.ingest.open import open_film
frames = open_film(Path(sys.argv[1])).frames
first = next(iter(frames))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for _ in frames)
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("syntax", "bits"),
    [
        (films.EXPLICIT, 8),
        (films.JPEG_BASELINE, 8),
        pytest.param(films.EXPLICIT, 12, marks=pytest.mark.slow),
        pytest.param(films.RLE, 8, marks=pytest.mark.slow),
    ],
)
def test_memory_stays_flat_over_a_long_film(tmp_path, syntax, bits):
    """400 frames of 512 x 512 are 105 MB (210 MB at 12 bits); a process of its own that reads them grows by less than 24 MB."""
    frame = np.add.outer(np.arange(512), np.arange(512)) % 2**bits
    film = np.broadcast_to(frame.astype(np.uint8 if bits == 8 else np.uint16), (400, 512, 512))
    if syntax == films.EXPLICIT:
        path = write_dicom(tmp_path / "film", film, bits=bits)
    else:
        one = write_dicom(tmp_path / "one", film[:1], syntax)
        payload = fragments_of(pydicom.dcmread(one))
        path = write_compressed(tmp_path / "film", film, syntax, payload * 400)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True, timeout=600,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    count, grown_kib = (int(word) for word in done.stdout.split())
    assert count == 400 and grown_kib < 24 * 1024
