"""From stored DICOM values to the grey a physician sees: modality table, window or VOI table, inversion, 8 bits (PS3.4 N.2)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from deepcoro.ingest.film import RejectedFilm
from deepcoro.ingest.header import find

if TYPE_CHECKING:
    from pydicom import Dataset

_KEYWORDS = (
    "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
)  # fmt: skip
_PERCENTILES = (0.5, 99.5)
_XRAY_KINDS = ("12.1", "12.2", "12.1.1", "12.2.1")


def grey_scale_of(header: "Dataset") -> str:
    """What `display_table` will go by: `voi_table`, `window` (`window 1 of 3` when there are several), `stored` or `percentiles`."""
    scale = _scale_elements(header)
    if scale.get("VOILUTSequence"):
        return "voi_table"
    if _first_window(scale) is not None:
        several = _count(scale.get("WindowCenter"))
        return "window" if several == 1 else f"window 1 of {several}"
    return "stored" if int(find(header, "BitsStored") or 8) <= 8 else "percentiles"


def display_table(header: "Dataset", sample: Callable[[], np.ndarray]) -> np.ndarray:
    """uint8 display value of every stored value of BitsStored bits, in the order of their unsigned bit pattern.

    The first window or VOI table counts. Without one, 8-bit films are display values already, and deeper ones are
    stretched between the 0.5 and 99.5 percentile of `sample()` (stored values from the whole film, called only then):
    one scale a film, because a scale per frame would flicker with the contrast.
    """
    scale = _scale_elements(header)
    bits = int(find(header, "BitsStored") or 8)
    if not 1 <= bits <= 16:
        raise RejectedFilm(f"bit_depth: {bits} bits stored; 1 to 16 can be read")
    stored = np.arange(2**bits, dtype=np.int64)
    if int(find(header, "PixelRepresentation") or 0) == 1:
        stored[2 ** (bits - 1) :] -= 2**bits
    values = _modality(stored.astype(np.float64), scale)
    unit = _unit_interval(values, scale, bits, sample)
    inverse = find(header, "PhotometricInterpretation") == "MONOCHROME1"
    if inverse or find(header, "PresentationLUTShape") == "INVERSE":
        unit = 1.0 - unit
    return np.rint(unit * 255.0).astype(np.uint8)


def to_display(frame: np.ndarray, table: np.ndarray, shift: int = 0) -> np.ndarray:
    """Looks the values up, which begin `shift` bits up their word. Bits above are cut off: old files keep overlays there."""
    return table[_bit_pattern(frame, len(table), shift)]


def _bit_pattern(stored: np.ndarray, num_values: int, shift: int = 0) -> np.ndarray:
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    words = native.view(f"u{native.dtype.itemsize}")
    return (words >> shift if shift else words) & (num_values - 1)


def _scale_elements(header: "Dataset") -> "Dataset":
    from pydicom import Dataset

    scale = Dataset()
    scale.file_meta = header.file_meta
    for keyword in _KEYWORDS:
        value = find(header, keyword)
        if value is not None and not (keyword == "ModalityLUTSequence" and _is_intensity_table(header)):
            setattr(scale, keyword, value)
    return scale


def _is_intensity_table(header: "Dataset") -> bool:
    """In X-ray films the modality table of LOG or DISP values leads back to beam intensity: for subtraction, not for display.

    PS3.17 FFF.2.3.1.3; dcm4che does the same. A model sees what the physician sees.
    """
    kind = str(header.get("SOPClassUID", "") or "").removeprefix("1.2.840.10008.5.1.4.1.1.")
    return kind in _XRAY_KINDS and find(header, "PixelIntensityRelationship") in ("LOG", "DISP")


def _unit_interval(
    values: np.ndarray, scale: "Dataset", bits: int, sample: Callable[[], np.ndarray]
) -> np.ndarray:
    """Display intensity 0..1 of each modality value."""
    if scale.get("VOILUTSequence"):
        return _voi_table(values, scale)
    window = _first_window(scale)
    if window is not None:
        return _window(values, *window, str(scale.get("VOILUTFunction", "LINEAR") or "LINEAR"))
    if bits <= 8:
        low, high = values.min(), values.max()
    else:
        low, high = np.percentile(values[_bit_pattern(sample(), len(values))], _PERCENTILES)
    return np.clip((values - low) / max(high - low, 1.0), 0.0, 1.0)


def _first_window(scale: "Dataset") -> tuple[float, float] | None:
    center, width = _first(scale.get("WindowCenter")), _first(scale.get("WindowWidth"))
    return (center, width) if center is not None and width is not None and width > 0 else None


def _count(value: object) -> int:
    return len(value) if hasattr(value, "__len__") and not isinstance(value, str) else 1


def _first(value: object) -> float | None:
    if value is None:
        return None
    many = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return float(next(iter(many), float("nan")))


def _modality(stored: np.ndarray, scale: "Dataset") -> np.ndarray:
    if scale.get("ModalityLUTSequence"):
        return _look_up(stored, scale.ModalityLUTSequence[0], scale)[0]
    slope, intercept = _first(scale.get("RescaleSlope")), _first(scale.get("RescaleIntercept"))
    return stored * (1.0 if slope is None else slope) + (0.0 if intercept is None else intercept)


def _voi_table(values: np.ndarray, scale: "Dataset") -> np.ndarray:
    output, bits = _look_up(values, scale.VOILUTSequence[0], scale)
    return np.clip(output / (2.0**bits - 1.0), 0.0, 1.0)


def _look_up(values: np.ndarray, item: "Dataset", scale: "Dataset") -> tuple[np.ndarray, int]:
    """Output of a LUT and its bits. Our own: pydicom's (3.0.2) wraps round at 256 when a deeper film has an 8-bit table."""
    entries, first, bits = (int(each) for each in item.LUTDescriptor)
    little_endian = scale.file_meta.TransferSyntaxUID.is_little_endian
    table = _table_data(item.LUTData, entries or 2**16, little_endian)
    position = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return table[position], bits


def _table_data(data: object, entries: int, little_endian: bool) -> np.ndarray:
    """Entries are numbers, or bytes of one or two each."""
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype=np.float64))
    order = "<" if little_endian else ">"
    wide = len(data) >= 2 * entries
    return np.frombuffer(data, f"{order}u2" if wide else "u1", count=entries).astype(np.float64)


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with the output range 0..1."""
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700.0, 700.0)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if width <= 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)
