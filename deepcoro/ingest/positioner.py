"""Where the C-arm stood, how it moved, how large a pixel is, and which plane of a biplane machine this is."""

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepcoro.ingest.header import find, number_of, numbers_in

if TYPE_CHECKING:
    from pydicom import Dataset

_PRIMARY_LIMIT_DEG, _SECONDARY_LIMIT_DEG = 180.0, 90.0
_DETECTOR_RANGE_MM = (300.0, 3000.0)
_PATIENT_RANGE_MM = (200.0, 2000.0)
_SPACING_RANGE_MM = (0.01, 3.0)
_SQUARE = 0.01
"""Sides of a pixel that differ by less than this fraction are equal."""


class Position(NamedTuple):
    """The C-arm at the first frame. None where the header is silent or tells something impossible."""

    primary_angle_deg: float | None = None
    """LAO positive."""
    secondary_angle_deg: float | None = None
    """Cranial positive."""
    rotation_deg: float | None = None
    """Arc that the C-arm travels during the film; None when it does not move."""
    source_to_detector_mm: float | None = None
    source_to_patient_mm: float | None = None
    imager_pixel_spacing_mm: float | None = None
    """Side of a pixel of the film as it lies in the file, at the detector; None when pixels are not square."""


class Plane(NamedTuple):
    """One of the two planes that a biplane machine films at once, and what leads to the other. Used to pair, never stored."""

    name: str
    """A or B."""
    own: str
    partner: str
    """UIDs of this film and of the film it refers to; empty when not told."""
    run: tuple[str, ...]
    """Series and number of the acquisition; empty when not told."""
    moment: str
    """Begin of the acquisition; empty when not told."""


def position_of(header: "Dataset", num_frames: int) -> Position:
    detector = _within(number_of(header, "DistanceSourceToDetector"), _DETECTOR_RANGE_MM)
    patient = number_of(header, "DistanceSourceToPatient")
    if patient is None:
        patient = number_of(header, "DistanceSourceToIsocenter")
    patient = _within(patient, _PATIENT_RANGE_MM)
    if detector is not None and patient is not None and patient >= detector:
        detector = patient = None  # the patient lies between the source and the detector
    return Position(
        primary_angle_deg=_angle(header, "PositionerPrimaryAngle", _PRIMARY_LIMIT_DEG),
        secondary_angle_deg=_angle(header, "PositionerSecondaryAngle", _SECONDARY_LIMIT_DEG),
        rotation_deg=_rotation(header, num_frames),
        source_to_detector_mm=detector,
        source_to_patient_mm=patient,
        imager_pixel_spacing_mm=_spacing(header),
    )


def _angle(header: "Dataset", keyword: str, limit_deg: float) -> float | None:
    """None when empty (type 2) or outside its range."""
    angle = number_of(header, keyword)
    return angle if angle is not None and abs(angle) <= limit_deg else None


def _within(value: float | None, limits: tuple[float, float]) -> float | None:
    return value if value is not None and limits[0] <= value <= limits[1] else None


def _spacing(header: "Dataset") -> float | None:
    sides = numbers_in(find(header, "ImagerPixelSpacing"))
    if len(sides) != 2 or not all(_within(side, _SPACING_RANGE_MM) for side in sides):
        return None
    return sides[0] if abs(sides[0] - sides[1]) <= _SQUARE * sides[0] else None


def _rotation(header: "Dataset", num_frames: int) -> float | None:
    travelled = max(
        _travel(header, "PositionerPrimaryAngle", num_frames),
        _travel(header, "PositionerSecondaryAngle", num_frames),
    )
    return round(travelled, 2) if travelled > 0 else None


def _travel(header: "Dataset", keyword: str, num_frames: int) -> float:
    """Degrees between the first frame and the last, from the angles of each frame (enhanced) or from the increments."""
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    angles = [
        number_of(group[0], keyword) for each in groups if (group := each.get("PositionerPositionSequence"))
    ]
    if len(angles) > 1 and None not in angles:
        return float(max(angles) - min(angles))
    if find(header, "PositionerMotion") != "DYNAMIC":
        return 0.0
    steps = np.array(numbers_in(find(header, f"{keyword}Increment")))
    if len(steps) < 2:
        return float(abs(steps.sum()) * (num_frames - 1))
    # machines write either the step of each frame or its distance from the first: a distance grows, a step does not
    is_distance = abs(steps[-1]) > 1.5 * np.median(np.abs(steps))
    reached = steps if is_distance else np.cumsum(steps)
    return float(reached.max() - reached.min())


def plane_of(header: "Dataset") -> Plane | None:
    """None for single-plane films. Biplane runs are two single-plane objects that refer to each other (PS3.3 C.8.7.1.1.1)."""
    kinds = find(header, "ImageType")
    kinds = [str(kind).strip().upper() for kind in kinds] if kinds and not isinstance(kinds, str) else []
    name = next((kind[-1] for kind in kinds if kind in ("BIPLANE A", "BIPLANE B")), None)
    if name is None:
        return None
    referred = find(header, "ReferencedImageSequence") or []
    run = (str(find(header, "SeriesInstanceUID") or ""), str(find(header, "AcquisitionNumber") or ""))
    date, time = find(header, "AcquisitionDate") or "", find(header, "AcquisitionTime") or ""
    return Plane(
        name=name,
        own=str(find(header, "SOPInstanceUID") or ""),
        partner=str(referred[0].get("ReferencedSOPInstanceUID", "") or "") if len(referred) else "",
        run=run if all(run) else (),
        moment=str(find(header, "AcquisitionDateTime") or (f"{date}{time}" if time else "")),
    )


def pair_planes(planes: Sequence[Plane | None]) -> list[int | None]:
    """For each film of a study the index of its other plane: by reference, else by acquisition, else by moment; None without one.

    A key that fits more than one A or B pairs nothing: a wrong partner is worse than none.
    """
    partner: list[int | None] = [None] * len(planes)
    for key_of in (_references, _same_run, _same_moment):
        _pair_by(key_of, planes, partner)
    return partner


def _references(plane: Plane) -> frozenset[str] | None:
    return frozenset((plane.own, plane.partner)) if plane.own and plane.partner else None


def _same_run(plane: Plane) -> tuple[str, ...] | None:
    return plane.run or None


def _same_moment(plane: Plane) -> str | None:
    return plane.moment or None


def _pair_by(
    key_of: Callable[[Plane], Hashable | None], planes: Sequence[Plane | None], partner: list[int | None]
) -> None:
    groups: dict[Hashable, list[int]] = {}
    for index, plane in enumerate(planes):
        if plane is not None and partner[index] is None and (key := key_of(plane)) is not None:
            groups.setdefault(key, []).append(index)
    for members in groups.values():
        if sorted(planes[index].name for index in members) == ["A", "B"]:
            one, other = members
            partner[one], partner[other] = other, one
