"""Film files: what pydicom, PyAV and OpenCV read back is what was written."""

import struct

import numpy as np
import pytest

from deepcoro.angiography.carm import CArm
from deepcoro.angiography.write_avi import write_avi
from deepcoro.angiography.write_dicom import Header, write_dicom


def noise_film(bits: int, num_frames: int = 4, height: int = 48, width: int = 64) -> np.ndarray:
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(bits).integers(0, 2**bits, (num_frames, height, width)).astype(dtype)


def smooth_film(num_frames: int = 7, height: int = 50, width: int = 63) -> np.ndarray:
    down, across = np.mgrid[0:height, 0:width]
    return np.stack([(2 * down + across + 8 * index) % 256 // 2 + 60 for index in range(num_frames)]).astype(
        np.uint8
    )


def header(**changes) -> Header:
    known = {
        "patient_id": "P1",
        "patient_sex": "F",
        "patient_age_years": 61,
        "study_uid": "2.25.1234",
        "instance_uid": "2.25.1234.7",
        "instance_number": 7,
        "manufacturer": "Aster",
        "intensity": "LIN",
        "frame_rate_fps": 7.5,
        "carm": CArm(-31.5, 24.0, 1050.0, 750.0, 170.0, 64),
    }
    return Header(**(known | changes))


@pytest.mark.parametrize("syntax", ["explicit", "rle", "j2k"])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_dicom_gives_back_every_pixel_in_every_syntax_and_depth(tmp_path, syntax, bits):
    import pydicom

    frames = noise_film(bits)
    write_dicom(tmp_path / "film.dcm", frames, bits, header(), syntax)
    dataset = pydicom.dcmread(tmp_path / "film.dcm")
    np.testing.assert_array_equal(dataset.pixel_array, frames)
    assert (
        dataset.file_meta.TransferSyntaxUID
        == {
            "explicit": "1.2.840.10008.1.2.1",
            "rle": "1.2.840.10008.1.2.5",
            "j2k": "1.2.840.10008.1.2.4.90",
        }[syntax]
    )
    assert (dataset.BitsStored, dataset.HighBit, dataset.WindowWidth) == (bits, bits - 1, 2**bits)
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID == "2.25.1234.7"


def test_dicom_states_angles_time_and_geometry(tmp_path):
    import pydicom

    write_dicom(tmp_path / "film.dcm", noise_film(8), 8, header(), "explicit")
    dataset = pydicom.dcmread(tmp_path / "film.dcm", stop_before_pixels=True)
    assert dataset.SOPClassUID.name == "X-Ray Angiographic Image Storage" and dataset.Modality == "XA"
    assert (dataset.PositionerPrimaryAngle, dataset.PositionerSecondaryAngle) == (-31.5, 24.0)
    assert dataset.FrameIncrementPointer == pydicom.tag.Tag("FrameTime")
    assert float(dataset.FrameTime) == pytest.approx(133.333, abs=1e-3)
    assert dataset.ImagerPixelSpacing[0] == pytest.approx(170 / 64, abs=1e-4)


def test_writing_a_dicom_twice_gives_the_same_bytes(tmp_path):
    for name in ("a.dcm", "b.dcm"):
        write_dicom(tmp_path / name, noise_film(12), 12, header(), "j2k")
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def test_pyav_reads_an_avi_with_its_frames_and_rate(tmp_path):
    import av

    frames = smooth_film()
    write_avi(tmp_path / "film.avi", frames, 7.5)
    with av.open(str(tmp_path / "film.avi")) as container:
        stream = container.streams.video[0]
        read = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(stream)])
        assert (stream.codec_context.name, float(stream.average_rate), stream.frames) == ("mjpeg", 7.5, 7)
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).mean() < 1.5


def test_opencv_reads_an_avi_and_seeks_in_it(tmp_path):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    frames = smooth_film()
    write_avi(tmp_path / "film.avi", frames, 15.0)
    film = cv2.VideoCapture(str(tmp_path / "film.avi"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 7 and film.get(cv2.CAP_PROP_FPS) == 15
    film.set(cv2.CAP_PROP_POS_FRAMES, 5)
    assert np.abs(film.read()[1][:, :, 0].astype(int) - frames[5]).mean() < 1.5


def test_the_index_of_an_avi_points_at_jpeg_frames(tmp_path):
    import simplejpeg

    frames = smooth_film()
    write_avi(tmp_path / "film.avi", frames, 15.0)
    data = (tmp_path / "film.avi").read_bytes()
    assert data[:4] == b"RIFF" and struct.unpack("<I", data[4:8])[0] == len(data) - 8
    movi, index = data.index(b"movi"), data.rindex(b"idx1") + 8
    for number in range(len(frames)):
        name, _, offset, size = struct.unpack("<4sIII", data[index + 16 * number :][:16])
        chunk = data[movi + offset :]
        assert name == chunk[:4] == b"00dc" and struct.unpack("<I", chunk[4:8])[0] == size
        image = simplejpeg.decode_jpeg(chunk[8 : 8 + size], colorspace="GRAY")[:, :, 0]
        assert np.abs(image.astype(int) - frames[number]).mean() < 1.5
