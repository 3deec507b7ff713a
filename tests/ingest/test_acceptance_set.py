"""One study as a cath lab sends it: every object that ingest must take, and every one that it must leave and name."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from deepcoro.data import manifest as schema
from deepcoro.data.shards import Shards
from tests.ingest import films
from tests.ingest.films import PLANTED, header_of, write_dicom
from tests.ingest.test_regression_traps import films_in, shard
from tests.ingest.writing import NAMES, burn, clean_films, letters

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.2"
GEOMETRY = {
    "PositionerPrimaryAngle": "-30", "PositionerSecondaryAngle": "25", "DistanceSourceToDetector": "1000",
    "DistanceSourceToPatient": "750", "ImagerPixelSpacing": ["0.3", "0.3"],
    "CineRate": 15, "RecommendedDisplayFrameRate": 15,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, dict[str, tuple[int, np.ndarray]], Path]:
    """Folder, the accepted films by their number with what they show, and the shards."""
    folder = tmp_path_factory.mktemp("study")
    shown = [film for film, _ in clean_films("small", 10, seed=3)]
    paths: dict[str, Path] = {}
    accepted: dict[int, np.ndarray] = {}

    def add(
        name: str, film: np.ndarray, bits: int = 8, syntax: str = films.EXPLICIT, **elements: object
    ) -> None:
        number = len(paths) + 1
        paths[name] = folder / name
        window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits, "InstanceNumber": number}
        stored = film if bits == 8 else film.astype(np.uint16) << (bits - 8)
        write_dicom(paths[name], stored, syntax, bits, **{**GEOMETRY, **window, **elements})
        accepted[number] = film

    add("explicit", shown[0], PixelIntensityRelationship="LIN")
    add("rle", shown[1], 10, films.RLE, PixelIntensityRelationship="LOG")
    add("j2k", shown[2], 12, films.JPEG_2000_LOSSLESS, PixelIntensityRelationship="DISP")
    add("jpeg", shown[3], 8, films.JPEG_BASELINE)
    position = header_of(PositionerPrimaryAngle=-30.0, PositionerSecondaryAngle=25.0)
    enhanced = {
        "SOPClassUID": films.ENHANCED_XA,
        "SharedFunctionalGroupsSequence": [header_of(PositionerPositionSequence=[position])],
    }
    for name, number, bits in (("enhanced", 4, 8), ("enhanced-deep", 5, 12)):
        add(name, 255 - shown[number], bits, PhotometricInterpretation="MONOCHROME1", **enhanced)
        accepted[len(paths)] = shown[number]
    add("no-angle", shown[6], PositionerPrimaryAngle="", PositionerSecondaryAngle="")
    add("one-short", shown[7], NumberOfFrames=len(shown[7]) + 1)
    taken = dict(accepted)
    add("single-frame", shown[0][:1])
    add("capture", burn(shown[8], letters(NAMES[0], 10), "tl"), SOPClassUID=SECONDARY_CAPTURE)
    add("truncated", shown[9])
    whole = paths["truncated"].read_bytes()
    paths["truncated"].write_bytes(whole[: len(whole) // 2])
    return folder, taken, shard(folder, paths)


def test_every_film_is_taken_as_it_looks(study):
    _, taken, output = study
    found = films_in(output)
    assert len(found) == len(taken) == 8
    for (clip, frames), (number, film) in zip(found, sorted(taken.items()), strict=True):
        difference = np.abs(frames.astype(int) - film)
        assert frames.shape == film.shape and difference.max() <= (6 if number == 4 else 1)
        assert (clip.frame_rate_fps, clip.frame_rate_source) == (pytest.approx(15, abs=0.01), "FrameTime")
        assert (clip.source_to_detector_mm, clip.source_to_patient_mm, clip.imager_pixel_spacing_mm) == (
            1000,
            750,
            0.3,
        )


def test_angles_and_views_are_known_where_they_are_told(study):
    views = [clip.view for clip, _ in films_in(study[2])]
    assert views == ["RAO_CRA"] * 6 + [None] + ["RAO_CRA"]


def test_what_is_no_film_is_counted_by_its_reason(study):
    folder, taken, output = study
    reasons = Counter(reason.split(":")[0] for _, _, reason in schema.read_rejected(output))
    assert reasons == {"single_frame": 1, "secondary_capture": 1, "truncated": 1}
    counts = schema.read_manifest(output).counts
    assert counts.clips == len(taken) and counts.clips + sum(reasons.values()) == 11
    log = (folder / "log").read_text()
    assert "frames could be decoded, its header says" in log


def test_no_planted_identity_is_in_what_was_written_or_said(study):
    folder, _, output = study
    assert len(PLANTED) >= 20
    written = (folder / "log").read_bytes()
    written += b"".join(each.read_bytes() for each in output.rglob("*") if each.is_file())
    assert len(Shards.open(output).study(0).clips) == 8
    for keyword, secret in PLANTED.items():
        assert secret.lower().encode() not in written.lower(), keyword
