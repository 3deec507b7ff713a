"""Echo is black outside its sector: names, clocks, scales and ECG go, the heart stays."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from deepcoro.ingest.burned_in import cleaned
from deepcoro.ingest.film import Box, Film, RejectedFilm
from deepcoro.ingest.open import open_film
from deepcoro.ingest.sector import MaskedFrames, sector_mask
from tests.ingest import films
from tests.ingest.films import header_of, write_dicom
from tests.ingest.writing import NAMES, burn, letters


def echo(num_frames: int = 12, size: tuple[int, int] = (240, 320)) -> tuple[np.ndarray, np.ndarray]:
    """Speckle in a fan on black, with names, a running clock and a wandering ECG: [frame height width], and the fan."""
    random = np.random.default_rng(3)
    down, across = np.mgrid[: size[0], : size[1]]
    depth, side = down - 10.0, across - size[1] / 2
    fan = (np.hypot(depth, side) < 190) & (np.abs(side) < 0.7 * depth) & (depth > 8)
    film = np.zeros((num_frames, *size), np.uint8)
    for frame in film:
        frame[fan] = random.gamma(2.0, 30.0, fan.sum()).clip(0, 255)
    film = burn(film, letters(NAMES[0], 16), "tl")
    for number, frame in enumerate(film):
        frame[:] = burn(frame[None], letters(f"10:15:{number:02d}", 14), "tr")[0]
        frame[225 + (number % 4), 20 + 20 * number : 36 + 20 * number] = 200
    return film, fan


def test_what_lies_outside_the_sector_is_black_and_the_sector_is_kept():
    film, fan = echo()
    masked = MaskedFrames(film)
    read = np.stack(list(masked))
    outside = ~fan
    assert read[:, outside].max() == 0 or (read[:, outside] > 0).mean() < 0.005
    assert (read == film)[:, fan].mean() > 0.97
    assert masked.masked_fraction == pytest.approx(1 - fan.mean(), abs=0.03)
    assert read[:, :30, :140].max() == 0 and read[:, :30, 240:].max() == 0  # the name and the clock


def test_a_region_of_the_header_cuts_and_one_of_another_size_does_not(tmp_path):
    film, fan = echo()
    region = header_of(
        RegionSpatialFormat=1, RegionDataType=1, RegionLocationMinX0=0, RegionLocationMaxX1=319,
        RegionLocationMinY0=0, RegionLocationMaxY1=149,
    )  # fmt: skip
    strip = header_of(
        RegionSpatialFormat=3, RegionDataType=10, RegionLocationMinX0=0, RegionLocationMaxX1=319,
        RegionLocationMinY0=200, RegionLocationMaxY1=239,
    )  # fmt: skip
    path = write_dicom(
        tmp_path / "echo", film, SOPClassUID=films.US, SequenceOfUltrasoundRegions=[region, strip]
    )
    opened = open_film(path)
    assert opened.regions == (Box(0, 150, 0, 320),)
    mask = sector_mask(opened.frames, opened.regions)
    assert not mask[150:].any() and mask[fan][:100].any()
    assert sector_mask(film, (Box(0, 900, 0, 1200),))[150:].any()


def test_the_real_echo_keeps_its_heart_and_loses_its_writing():
    opened = open_film(Path(pydicom.examples.get_path("ybr_color")))
    masked = cleaned(opened, False, "sector", "XA")
    read, film = np.stack(list(masked)), np.stack(list(opened.frames))
    assert 0.5 < masked.masked_fraction < 0.8
    for rows, columns in (
        (slice(0, 30), slice(0, 80)),
        (slice(0, 120), slice(290, 320)),
        (slice(225, 240), slice(0, 320)),
    ):
        assert film[:, rows, columns].max() > 60 and read[:, rows, columns].max() == 0
    assert np.array_equal(read[:, 80:190, 125:190], film[:, 80:190, 125:190])


def test_two_sectors_side_by_side_are_both_kept():
    film, fan = echo(size=(240, 320))
    both = np.concatenate([film[:, 40:, 60:260]] * 2, axis=2)
    mask = sector_mask(both)
    assert (
        mask[:, :200].mean() == pytest.approx(mask[:, 200:].mean(), abs=0.05) and mask[:, :200].mean() > 0.3
    )


def test_without_a_moving_sector_a_film_is_refused_unless_masking_is_off(tmp_path):
    still = np.repeat(echo()[0][:1], 6, axis=0)
    film = open_film(write_dicom(tmp_path / "still", still, SOPClassUID=films.US))
    with pytest.raises(RejectedFilm, match="^no_sector"):
        list(cleaned(film, False, "sector", "XA"))
    assert np.array_equal(np.stack(list(cleaned(film, False, "none", "XA"))), still)


def test_declared_annotation_is_no_reason_to_refuse_an_echo_that_is_masked(tmp_path):
    path = write_dicom(tmp_path / "echo", echo()[0], SOPClassUID=films.US, BurnedInAnnotation="YES")
    opened = open_film(path)
    assert np.stack(list(cleaned(opened, False, "sector", "XA")))[:, :30, :140].max() == 0
    with pytest.raises(RejectedFilm, match="^burned_in_annotation"):
        cleaned(opened, False, "none", "XA")
    assert len(list(cleaned(opened, True, "none", "XA"))) == 12


def test_films_in_other_containers_are_masked_when_they_are_said_to_be_echo():
    film, _ = echo()
    assert isinstance(cleaned(Film(film), False, "sector", "US"), MaskedFrames)
