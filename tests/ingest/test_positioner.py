"""Where the C-arm stood, how large a pixel is, and which two films a biplane machine took at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcoro.data import decode
from deepcoro.data.manifest import Encoding
from deepcoro.data.sharding import Settings
from deepcoro.data.shards import Shards
from deepcoro.data.writer import write_dataset
from deepcoro.ingest.film import FilmSource, StudySource
from deepcoro.ingest.open import open_film
from deepcoro.ingest.positioner import Plane, pair_planes, position_of
from tests.ingest import films
from tests.ingest.films import header_of, moving_bar, write_dicom


def test_angles_are_read_and_empty_ones_are_unknown(tmp_path):
    known = open_film(
        write_dicom(tmp_path / "a", moving_bar(), PositionerPrimaryAngle=-30, PositionerSecondaryAngle="25.5")
    )
    assert (known.primary_angle_deg, known.secondary_angle_deg) == (-30.0, 25.5)
    empty = open_film(
        write_dicom(tmp_path / "b", moving_bar(), PositionerPrimaryAngle="", PositionerSecondaryAngle=200)
    )
    assert (empty.primary_angle_deg, empty.secondary_angle_deg) == (None, None)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        (
            {"DistanceSourceToDetector": 1000, "DistanceSourceToPatient": 750, "ImagerPixelSpacing": [0.3, 0.3]},
            (1000.0, 750.0, 0.3),
        ),
        ({"DistanceSourceToDetector": 1000}, (1000.0, None, None)),
        ({"DistanceSourceToDetector": 0, "DistanceSourceToPatient": 99999}, (None, None, None)),
        ({"DistanceSourceToDetector": 700, "DistanceSourceToPatient": 900}, (None, None, None)),  # swapped
        ({"ImagerPixelSpacing": [0.3, 0.4]}, (None, None, None)),  # not square
        ({"ImagerPixelSpacing": [0, 0]}, (None, None, None)),
        ({"ImagerPixelSpacing": "0.3"}, (None, None, None)),
        ({}, (None, None, None)),
    ],
)  # fmt: skip
def test_distances_and_pixels_are_read_where_they_are_possible(elements, expected):
    assert position_of(header_of(**elements), 60)[3:] == expected


def test_enhanced_objects_tell_geometry_in_their_functional_groups(tmp_path):
    shared = header_of(
        PositionerPositionSequence=[header_of(PositionerPrimaryAngle=45.0, PositionerSecondaryAngle=-30.0)],
        XRayGeometrySequence=[header_of(DistanceSourceToIsocenter=760.0, DistanceSourceToDetector=1100.0)],
    )
    path = write_dicom(
        tmp_path / "film",
        moving_bar(),
        SOPClassUID=films.ENHANCED_XA,
        SharedFunctionalGroupsSequence=[shared],
        ImagerPixelSpacing=[0.2, 0.2],
    )
    film = open_film(path)
    assert (film.primary_angle_deg, film.secondary_angle_deg, film.rotation_deg) == (45.0, -30.0, None)
    assert (film.source_to_detector_mm, film.source_to_patient_mm) == (1100.0, 760.0)
    assert film.imager_pixel_spacing_mm == 0.2


@pytest.mark.parametrize(
    ("elements", "degrees"),
    [
        ({"PositionerMotion": "DYNAMIC", "PositionerPrimaryAngleIncrement": 1.5}, 6.0),
        ({"PositionerMotion": "DYNAMIC", "PositionerPrimaryAngleIncrement": [0, 1.5, 1.5, 1.5, 1.5]}, 6.0),
        ({"PositionerMotion": "DYNAMIC", "PositionerPrimaryAngleIncrement": [0, 1.5, 3, 4.5, 6]}, 6.0),
        ({"PositionerMotion": "DYNAMIC", "PositionerSecondaryAngleIncrement": [0, -2, -4, -6, -8]}, 8.0),
        ({"PositionerMotion": "STATIC", "PositionerPrimaryAngleIncrement": 1.5}, None),
        ({"PositionerMotion": "DYNAMIC"}, None),
        ({}, None),
    ],
)
def test_a_rotational_run_tells_its_arc(elements, degrees):
    assert position_of(header_of(**elements), 5).rotation_deg == degrees


def test_the_arc_of_an_enhanced_run_comes_from_the_angle_of_each_frame():
    groups = [
        header_of(PositionerPositionSequence=[header_of(PositionerPrimaryAngle=angle)])
        for angle in (-90.0, -30.0, 30.0, 90.0)
    ]
    position = position_of(header_of(PerFrameFunctionalGroupsSequence=groups), 4)
    assert (position.primary_angle_deg, position.rotation_deg) == (-90.0, 180.0)


def sharded(tmp_path, settings=Settings(), **paths):  # noqa: B008 - frozen
    sources = tuple(FilmSource(n, path, name * 16) for n, (name, path) in enumerate(paths.items(), start=1))
    write_dataset([StudySource("0" * 16, "train", sources)], tmp_path / "out", settings)
    return {clip.clip[0]: clip for clip in Shards.open(tmp_path / "out").study(0).clips}


def test_geometry_follows_the_film_to_its_stored_size(tmp_path):
    """Rotated by 10 degrees a film has no view; stored at half the size its pixels are twice as large."""
    geometry = {
        "DistanceSourceToDetector": 1000, "DistanceSourceToPatient": 750, "ImagerPixelSpacing": [0.4, 0.4],
        "PositionerPrimaryAngle": -30, "PositionerSecondaryAngle": 25,
    }  # fmt: skip
    film = moving_bar(height=64, width=80)
    still = write_dicom(tmp_path / "still", film, **geometry)
    turning = {"PositionerMotion": "DYNAMIC", "PositionerPrimaryAngleIncrement": 2}
    turns = write_dicom(tmp_path / "turns", film, **geometry, **turning)
    clips = sharded(tmp_path, Settings(encoding=Encoding(short_side_px=32)), a=still, b=turns)
    assert (clips["a"].height, clips["a"].width, clips["a"].imager_pixel_spacing_mm) == (32, 40, 0.8)
    assert (clips["a"].source_to_detector_mm, clips["a"].source_to_patient_mm) == (1000.0, 750.0)
    assert (clips["a"].view, clips["a"].rotation_deg) == ("RAO_CRA", None)
    assert (clips["b"].view, clips["b"].rotation_deg, clips["b"].primary_angle_deg) == (None, 10.0, -30.0)


def test_the_planes_of_a_biplane_run_find_each_other(tmp_path):
    """Two runs of two planes and a single-plane film, in the order of their acquisition; no time or UID is in the record."""
    paths = {}
    for name, plane, time, angle in (
        ("a", "A", "101500", -30), ("b", "B", "101500", 60), ("c", "B", "101800.25", 50), ("d", "A", "101800.25", -20),
    ):  # fmt: skip
        kind = ["ORIGINAL", "PRIMARY", f"BIPLANE {plane}"]
        identity = {"ImageType": kind, "AcquisitionTime": time, "InstanceNumber": ord(name)}
        paths[name] = write_dicom(
            tmp_path / name,
            moving_bar(),
            **identity,
            PositionerPrimaryAngle=angle,
            SOPInstanceUID=f"1.2.{ord(name)}",
        )
    alone = {"ImageType": ["ORIGINAL", "PRIMARY", "SINGLE PLANE"], "AcquisitionTime": "101600"}
    paths["e"] = write_dicom(tmp_path / "e", moving_bar(), **alone)
    clips = sharded(tmp_path, **paths)
    order = list(clips)
    assert order == ["a", "b", "e", "c", "d"]
    assert {name: clip.biplane for name, clip in clips.items()} == {
        "a": "A",
        "b": "B",
        "c": "B",
        "d": "A",
        "e": None,
    }
    partner = {name: clip.biplane_pair for name, clip in clips.items()}
    assert partner == {"a": 1, "b": 0, "e": None, "c": 4, "d": 3}
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"101800" not in written and b"BIPLANE" not in written and b"1.2.97" not in written


def test_planes_pair_after_an_interruption_and_no_uid_waits_on_disk(tmp_path, monkeypatch):
    paths = {}
    for name, plane in (("a", "A"), ("b", "B"), ("c", "A")):
        kind = ["ORIGINAL", "PRIMARY", f"BIPLANE {plane}"]
        run = {
            "AcquisitionNumber": 1 + (name == "c"),
            "InstanceNumber": ord(name),
            "AcquisitionTime": "101500",
        }
        paths[name] = write_dicom(tmp_path / name, moving_bar(), ImageType=kind, **run)
    whole = sharded(tmp_path / "whole", **paths)
    calls = []

    def killed(*film):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*film)

    original = decode.encode
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(decode, "encode", killed)
        sharded(tmp_path, **paths)
    waiting = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert len(waiting) > 1000 and b"101500" not in waiting and b"1.2.826" not in waiting
    assert sharded(tmp_path, **paths) == whole and [clip.biplane_pair for clip in whole.values()] == [
        1,
        0,
        None,
    ]


def test_references_win_over_acquisitions_and_an_ambiguous_key_pairs_nothing():
    def plane(name, own="", partner="", run=(), moment=""):
        return Plane(name, own, partner, run, moment)

    referring = [
        plane("A", "1", "4", ("s", "1")),
        plane("B", "2", "3", ("s", "1")),
        plane("A", "3", "2"),
        plane("B", "4", "1"),
    ]
    assert pair_planes(referring) == [3, 2, 1, 0]
    assert pair_planes([plane("A", run=("s", "1")), None, plane("B", run=("s", "1"))]) == [2, None, 0]
    assert pair_planes([plane("A", moment="1"), plane("B", moment="1"), plane("B", moment="1")]) == [None] * 3
    assert pair_planes([plane("A"), plane("B")]) == [None, None]


@given(st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 3)), max_size=8))
def test_partners_are_mutual_and_of_different_planes(drawn):
    planes = [Plane(name, "", "", (), str(moment)) for name, moment in drawn]
    for index, partner in enumerate(pair_planes(planes)):
        if partner is not None:
            assert pair_planes(planes)[partner] == index and planes[partner].name != planes[index].name


def test_a_rotation_keeps_frames_and_trims_are_only_display(tmp_path):
    """StartTrim and StopTrim tell what to play, not what was acquired: all frames are kept."""
    path = write_dicom(tmp_path / "film", moving_bar(), StartTrim=3, StopTrim=4)
    assert np.array_equal(films.read_all(path), moving_bar())
