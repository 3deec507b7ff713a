"""The few facts that a DICOM header may tell of time: frame rate and order of acquisition; and the list of all that is read."""

import datetime
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

_FASTEST_FPS = 1000.0

PHILIPS_RATE = 0x7FDF1074
"""Private element in which Philips ultrasound keeps its frame rate."""

READ = (
    "SOPClassUID", "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BurnedInAnnotation",
    "PhotometricInterpretation", "PresentationLUTShape", "PixelIntensityRelationship", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "FrameTime", "FrameTimeVector", "FrameIncrementPointer", "CineRate", "ActualFrameDuration",
    "RecommendedDisplayFrameRate", "EffectiveDuration", "PositionerPrimaryAngle", "PositionerSecondaryAngle",
    "PositionerMotion", "PositionerPrimaryAngleIncrement", "PositionerSecondaryAngleIncrement",
    "DistanceSourceToDetector", "DistanceSourceToPatient", "ImagerPixelSpacing", "SequenceOfUltrasoundRegions",
    "ImageType", "SOPInstanceUID", "SeriesInstanceUID", "AcquisitionNumber", "ReferencedImageSequence",
    "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "ContentDate", "ContentTime", "SeriesDate",
    "SeriesTime", "SeriesNumber", "InstanceNumber", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", PHILIPS_RATE,
)  # fmt: skip
"""The elements that are read at all: names and numbers of the patient are skipped, not filtered out later.

Times and UIDs order the films and find the two planes of a biplane run; they are never stored."""


def patient_named(header: "Dataset") -> str:
    """Whom the header names, PatientID without its padding; empty where it names nobody."""
    return str(header.get("PatientID") or "").strip()


def find(header: "Dataset", keyword: str) -> Any:
    """Value of an element, at the top or (enhanced objects) in the functional groups of all frames or of the first; None if empty."""
    for place in _places(header):
        if keyword in place and (value := place[keyword].value) not in (None, ""):
            return value
    return None


def _places(header: "Dataset") -> Iterator["Dataset"]:
    yield header
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if groups not in header:
            continue
        for group in list(header[groups].value or [])[:1]:
            yield from (element.value[0] for element in group if element.VR == "SQ" and element.value)


def number_of(header: "Dataset", keyword: str) -> float | None:
    """First value of a numeric element; None when it is absent, empty or not a finite number."""
    value = find(header, keyword)
    values = numbers_in(value)
    return values[0] if values and np.isfinite(values[0]) else None


def numbers_in(value: Any) -> list[float]:
    """The numbers of an element, one or many; none when any of them is no number."""
    if value is None:
        return []
    try:
        many = value if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else [value]
        return [float(each) for each in many]
    except (TypeError, ValueError):
        return []


def frame_rate_of(header: "Dataset", num_frames: int) -> tuple[float | None, str | None]:
    """Frames per second and the tag that gave it, most trustworthy first (PS3.3 C.7.6.5); (None, None) when no tag does."""
    for keyword, rate in _rates(header, num_frames):
        if rate is not None and 0 < rate < _FASTEST_FPS:
            return round(rate, 4), keyword
    return None, None


def _rates(header: "Dataset", num_frames: int) -> Iterator[tuple[str, float | None]]:
    intervals = numbers_in(find(header, "FrameTimeVector"))[1:]  # its first entry is 0
    vector = ("FrameTimeVector", _per_second(float(np.median(intervals)) if intervals else None, 1000.0))
    constant = ("FrameTime", _per_second(number_of(header, "FrameTime"), 1000.0))
    pointed_at = find(header, "FrameIncrementPointer")
    yield from (constant, vector) if pointed_at == 0x00181063 else (vector, constant)
    yield "FrameAcquisitionDateTime", _measured_rate(header)
    yield "CineRate", number_of(header, "CineRate")
    yield "ActualFrameDuration", _per_second(number_of(header, "ActualFrameDuration"), 1000.0)
    yield "(7FDF,1074)", _philips_rate(header)
    yield "RecommendedDisplayFrameRate", number_of(header, "RecommendedDisplayFrameRate")
    yield "EffectiveDuration", _per_second(number_of(header, "EffectiveDuration"), float(num_frames))


def _measured_rate(header: "Dataset") -> float | None:
    """Enhanced objects tell the moment of each frame: one over the median interval."""
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    moments = [_moment(group) for group in groups]
    if len(moments) < 2 or None in moments:
        return None
    interval_s = float(np.median([(b - a).total_seconds() for a, b in itertools.pairwise(moments)]))
    return _per_second(interval_s, 1.0)


def _moment(group: "Dataset") -> datetime.datetime | None:
    content = group.get("FrameContentSequence")
    if not content:
        return None
    text = str(content[0].get("FrameAcquisitionDateTime") or content[0].get("FrameReferenceDateTime") or "")
    digits = text.split("+")[0].split("-")[0]
    try:
        return datetime.datetime.strptime(digits, "%Y%m%d%H%M%S.%f" if "." in digits else "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _philips_rate(header: "Dataset") -> float | None:
    """A number, its text, or four or eight bytes where the file does not tell the type of a private element."""
    value = header[PHILIPS_RATE].value if PHILIPS_RATE in header else None
    if isinstance(value, bytes) and len(value) in (4, 8):
        value = float(np.frombuffer(value, "<f4" if len(value) == 4 else "<f8")[0])
    elif isinstance(value, bytes):
        value = value.decode("ascii", "ignore").strip(" \0")
    rates = numbers_in(value)
    return rates[0] if rates and np.isfinite(rates[0]) else None


def _per_second(interval: float | None, unit: float) -> float | None:
    return unit / interval if interval else None


def acquisition_order(header: "Dataset") -> tuple[str, ...] | None:
    """Sorts the films of one study; None when the header tells neither a time nor a number. Used for sorting, never stored."""
    date = find(header, "AcquisitionDate") or find(header, "ContentDate") or find(header, "SeriesDate") or ""
    time = find(header, "AcquisitionTime") or find(header, "ContentTime") or find(header, "SeriesTime") or ""
    moment = str(find(header, "AcquisitionDateTime") or f"{date}{time}")
    series, instance = number_of(header, "SeriesNumber"), number_of(header, "InstanceNumber")
    if not moment and instance is None:
        return None
    return (moment, f"{int(series or 0):012d}", f"{int(instance or 0):012d}")
