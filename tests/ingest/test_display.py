"""What a film looks like: grey through its own scale, one for the whole film; colour kept for echo and not for X-ray."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from deepcoro.data.manifest import Encoding
from deepcoro.data.member import encode
from deepcoro.ingest.display import grey_scale_of
from deepcoro.ingest.open import open_film
from tests.ingest import films
from tests.ingest.films import header_of, moving_bar, read_all, write_dicom


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


@pytest.mark.parametrize("relationship", ["LOG", "DISP"])
def test_logarithmic_x_ray_is_shown_as_it_is_not_made_linear(tmp_path, relationship):
    """The modality table of such a film leads back to beam intensity, for subtraction; the window is for the stored values."""
    table = header_of(LUTDescriptor=[1024, 0, 16])
    table.add_new("LUTData", "US", [round(1000 * 10 ** (-value / 1023)) for value in range(1024)])
    film = moving_bar(top=1023)
    window = {"WindowCenter": 512, "WindowWidth": 1024}
    path = write_dicom(
        tmp_path / "film",
        film,
        bits=10,
        PixelIntensityRelationship=relationship,
        ModalityLUTSequence=[table],
        **window,
    )
    assert np.abs(read_all(path) - film / 1023 * 255).max() <= 1


@pytest.mark.parametrize(
    ("elements", "told"),
    [
        ({"WindowCenter": 9, "WindowWidth": 9}, "window"),
        ({"WindowCenter": [9, 8, 7], "WindowWidth": [9, 8, 7]}, "window 1 of 3"),
        ({"BitsStored": 8}, "stored"),
        ({"BitsStored": 12}, "percentiles"),
        (
            {"VOILUTSequence": [header_of(LUTDescriptor=[256, 0, 8])], "WindowCenter": 9, "WindowWidth": 9},
            "voi_table",
        ),
    ],
)
def test_the_grey_scale_that_was_taken_is_told(elements, told):
    assert grey_scale_of(header_of(file_meta=FileMetaDataset(), **elements)) == told


def test_values_in_the_upper_bits_of_their_word_are_moved_down(tmp_path):
    film = moving_bar(top=4095)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    path = write_dicom(tmp_path / "film", film << 4, bits=12, HighBit=15, **window)
    assert np.abs(read_all(path) - film / 4095 * 255).max() <= 1
    path = write_dicom(tmp_path / "unscaled", film << 4, bits=12, HighBit=15)
    assert np.ptp(read_all(path)) == 255


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


def test_the_real_echo_stays_in_colour():
    opened = open_film(Path(pydicom.examples.get_path("ybr_color")))
    member = encode(opened.frames, Encoding())
    assert (member.channels, member.num_frames, member.height, member.width) == (3, 30, 240, 320)
    assert opened.frame_rate_source == "FrameTime" and opened.frame_rate_fps == pytest.approx(30, abs=0.01)


def test_palette_colour_is_looked_up(tmp_path):
    film = moving_bar()
    path = write_dicom(
        tmp_path / "film", film, SOPClassUID=films.US, PhotometricInterpretation="PALETTE COLOR"
    )
    dataset = pydicom.dcmread(path)
    for name, values in (("Red", np.arange(256)), ("Green", np.zeros(256)), ("Blue", 255 - np.arange(256))):
        prefix = f"{name}PaletteColorLookupTable"
        dataset.add_new(f"{prefix}Descriptor", "US", [256, 0, 8])
        dataset.add_new(f"{prefix}Data", "OW", values.astype(np.uint8).tobytes())
    dataset.save_as(path)
    assert np.array_equal(read_all(path), np.stack([film, np.zeros_like(film), 255 - film], axis=-1))


def test_a_palette_of_sixteen_bits_is_taken_as_it_is_meant(tmp_path):
    """Half the machines write 0..65535, as told; the other half announce 16 bits and write 0..255."""
    film = moving_bar()
    for name, factor in (("full", 257), ("small", 1)):
        path = write_dicom(
            tmp_path / name, film, SOPClassUID=films.US, PhotometricInterpretation="PALETTE COLOR"
        )
        dataset = pydicom.dcmread(path)
        for colour in ("Red", "Green", "Blue"):
            dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
            table = (np.arange(256) * factor).astype("<u2").tobytes()
            dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", table)
        dataset.save_as(path)
        assert np.array_equal(read_all(path), np.repeat(film[..., None], 3, axis=3))


def colourful(num_frames: int = 4) -> np.ndarray:
    film = np.repeat(moving_bar(num_frames)[..., None], 3, axis=3)
    film[:, :16, :, 1:] //= 2
    return film


@pytest.mark.parametrize("syntax", [films.EXPLICIT, films.IMPLICIT, films.RLE, films.JPEG_2000_LOSSLESS])
@pytest.mark.parametrize("bits", [8, 16])
def test_colour_echo_stays_colour(tmp_path, syntax, bits):
    film = colourful()
    stored = film if bits == 8 else film.astype(np.uint16) * 256
    path = write_dicom(tmp_path / "film", stored, syntax, bits=bits, SOPClassUID=films.US)
    assert np.array_equal(read_all(path), film)


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
def test_uncompressed_luma_and_chroma_become_colour(tmp_path, photometric):
    film = colourful()
    luma = pydicom.pixels.convert_color_space(film, "RGB", "YBR_FULL")
    if photometric == "YBR_FULL_422":  # two luma, then the chroma of both (PS3.3 C.7.6.3.1.2)
        pairs = luma.reshape(4, 32, 20, 2, 3)
        luma = np.stack([pairs[..., 0, 0], pairs[..., 1, 0], pairs[..., 0, 1], pairs[..., 0, 2]], axis=-1)
    path = write_dicom(tmp_path / "film", film, SOPClassUID=films.US, PhotometricInterpretation=photometric)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = luma.tobytes()
    dataset.save_as(path)
    difference = np.abs(read_all(path).astype(int) - film)
    assert difference.max() <= 3 if photometric == "YBR_FULL" else np.median(difference) <= 2
    assert np.array_equal(read_all(path), pydicom.pixels.pixel_array(path))


def test_planes_of_colour_are_interleaved(tmp_path):
    film = colourful()
    path = write_dicom(tmp_path / "film", film, SOPClassUID=films.US)
    dataset = pydicom.dcmread(path)
    dataset.PlanarConfiguration = 1
    dataset.PixelData = np.ascontiguousarray(np.moveaxis(film, 3, 1)).tobytes()
    dataset.save_as(path)
    assert np.array_equal(read_all(path), film)


def test_a_coloured_copy_of_an_x_ray_film_becomes_its_luminance(tmp_path):
    film = colourful()
    read = read_all(write_dicom(tmp_path / "film", film))
    assert np.abs(read - film @ np.array([0.299, 0.587, 0.114])).max() <= 0.51
    assert np.array_equal(read[:, 16:], film[:, 16:, :, 0])


def test_grey_stored_as_equal_colours_becomes_one_channel(tmp_path):
    film = moving_bar()
    path = write_dicom(tmp_path / "film", np.repeat(film[..., None], 3, axis=3), SOPClassUID=films.US)
    assert encode(open_film(path).frames, Encoding()).channels == 1
