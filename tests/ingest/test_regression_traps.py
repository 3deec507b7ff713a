"""What the predecessor's ingest got wrong (MONOCHROME1, 16 bits, flicker, collisions, leaks), on real files through the real command."""

import hashlib
import io
import itertools
import logging
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np

from deepcoro.data import manifest as schema
from deepcoro.data.shards import Shards
from tests.ingest.films import PLANTED, moving_bar, write_dicom
from tests.tools.test_shard_dataset import load_tool

IDENTIFIERS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
KEYS = ("0123456789abcdef0123456789abcdef", "f" * 32)


def shard(folder: Path, films: dict[str, Path], key: str = KEYS[0], *words: str) -> Path:
    """Runs the command on one study of these films, losslessly."""
    lines = [
        f"{path.relative_to(folder)},{PLANTED['PatientID']},{PLANTED['StudyInstanceUID']}"
        for path in films.values()
    ]
    (folder / "dataset.csv").write_text("\n".join(["FileName,PatientID,StudyInstanceUID", *lines]) + "\n")
    (folder / "key").write_text(f"{key}\n")
    output = folder / f"out-{key[:4]}"
    words = ("--csv", folder / "dataset.csv", "--output", output, "--key_file", folder / "key", *words)
    said = io.StringIO()
    handler, root = logging.StreamHandler(said), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        command = ["shard_dataset", *map(str, words), "--workers", "1", "--lossless"]
        with redirect_stdout(said), redirect_stderr(said), mock.patch.object(sys, "argv", command):
            code = load_tool().main()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert code == 0, said.getvalue()
    (folder / "log").write_text(said.getvalue())
    return output


def films_in(output: Path) -> list[tuple[object, np.ndarray]]:
    """Record and frames of every film of the study, in order."""
    import zstandard

    shards = Shards.open(output)
    found = []
    for number, clip in enumerate(shards.study(0).clips):
        payload = shards.read_clip(0, number)
        parts = [payload[a:b] for a, b in zip(clip.frame_offsets, clip.frame_offsets[1:], strict=False)]
        raw = [np.frombuffer(zstandard.ZstdDecompressor().decompress(part), np.uint8) for part in parts]
        found.append((clip, np.stack(raw).reshape(len(raw), clip.height, clip.width)))
    return found


def test_trap_1_monochrome1_deep_pixels_missing_times_and_equal_names(tmp_path):
    """Un-inverted MONOCHROME1; 16-bit values handed to an 8-bit writer; no SeriesTime, no film; equal stems, one film;
    the display hint taken for the frame rate, and 30 invented where there is none."""
    film = moving_bar(6, 32, 40)
    places = {name: tmp_path / name / "IM0001.dcm" for name in ("a", "b", "c", "d")}
    for place in places.values():
        place.parent.mkdir()
    write_dicom(places["a"], 255 - film, PhotometricInterpretation="MONOCHROME1", InstanceNumber=1)
    deep = {"bits": 12, "WindowCenter": 2048, "WindowWidth": 4096, "InstanceNumber": 2}
    write_dicom(
        places["b"], film.astype(np.uint16) << 4, RecommendedDisplayFrameRate=30, FrameTime="133.333", **deep
    )
    write_dicom(
        places["c"], film, InstanceNumber=3, FrameTime=None, FrameIncrementPointer=None, AcquisitionDate=None
    )
    write_dicom(places["d"], film, InstanceNumber=4)
    found = films_in(shard(tmp_path, places))
    assert len(found) == 4 and len({clip.clip for clip, _ in found}) == 4
    for clip, frames in found:
        assert np.abs(frames.astype(int) - film).max() <= 1, clip.grey_scale
    rates = sorted((round(clip.frame_rate_fps or 0, 2), clip.frame_rate_source or "") for clip, _ in found)
    assert rates == [(0, ""), (7.5, "FrameTime"), (15.0, "FrameTime"), (15.0, "FrameTime")]


def test_trap_2_no_flicker_no_swapped_sides_no_invented_rate(tmp_path):
    """Min-max per frame made the scale follow the contrast; Rows were called width; 15 or 30 fps were assumed; records held
    the patient's number and birth date."""
    film = np.full((8, 24, 40), 1000, np.uint16)
    film[:, 12:] = 3000
    film[4:, :4, :10] = 0
    path = write_dicom(tmp_path / "film", film, bits=12, FrameTime=None, FrameIncrementPointer=None)
    output = shard(tmp_path, {"film": path})
    [(clip, frames)] = films_in(output)
    assert (clip.height, clip.width, clip.frame_rate_fps, clip.grey_scale) == (24, 40, None, "percentiles")
    assert np.ptp(frames[:, 20], axis=0).max() == 0 and np.ptp(frames[:, 8, 20:]) == 0
    written = b"".join(each.read_bytes() for each in output.rglob("*") if each.is_file())
    for secret in (PLANTED["PatientID"], PLANTED["PatientBirthDate"]):
        assert secret.encode() not in written


def test_trap_6_names_of_files_tell_no_time(tmp_path):
    """The time of acquisition was read back from UIDs in file names, which the outputs carried."""
    name = "1.2.392.200036.9116.20210918101533.77.dcm"
    output = shard(tmp_path, {"film": write_dicom(tmp_path / name, moving_bar(), AcquisitionTime="101533")})
    told = (tmp_path / "log").read_bytes().replace(str(tmp_path).encode(), b"")
    written = told + b"".join(
        str(each.relative_to(output)).encode() + each.read_bytes()
        for each in output.rglob("*")
        if each.is_file()
    )
    for secret in (b"20210918", b"101533", b"9116", PLANTED["SOPInstanceUID"].encode()):
        assert secret not in written


def test_trap_7_ids_are_not_hashes_that_can_be_tried_out(tmp_path):
    """md5(MRN) is found again in seconds, and the map back to the MRN lay beside the data."""
    path = write_dicom(tmp_path / "film", moving_bar())
    ids = []
    for key in KEYS:
        output = shard(tmp_path, {"film": path}, key)
        study = Shards.open(output).study(0)
        ids.append({study.study, study.patient, study.clips[0].clip})
        written = b"".join(each.read_bytes() for each in output.rglob("*") if each.is_file())
        for original, algorithm in itertools.product(IDENTIFIERS, ("md5", "sha1", "sha256")):
            digest = hashlib.new(algorithm, PLANTED[original].encode()).hexdigest()
            assert digest[:16].encode() not in written and key.encode() not in written
        assert {each.suffix for each in output.iterdir()} <= {
            ".json",
            ".tar",
            ".csv",
            ".parquet",
            ".html",
            "",
        }
        assert all(re.fullmatch("[0-9a-f]{16}", each) for each in ids[-1]) and schema.read_manifest(output)
    assert not ids[0] & ids[1]
