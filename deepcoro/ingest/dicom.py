"""DICOM films: X-ray angiography and multi-frame ultrasound, as 8-bit display values, with rate and geometry. Nothing else leaves the header."""

import logging
import warnings
from pathlib import Path

import pydicom

from deepcoro.ingest.display import grey_scale_of
from deepcoro.ingest.film import Box, Film, Modality, RejectedFilm
from deepcoro.ingest.header import READ, acquisition_order, frame_rate_of, number_of
from deepcoro.ingest.pixels import DAMAGE, DicomFrames
from deepcoro.ingest.positioner import plane_of, position_of
from deepcoro.ingest.transfer import is_readable

_FILMS = "1.2.840.10008.5.1.4.1.1."
_ACCEPTED: dict[str, Modality] = {
    "12.1": "XA",
    "12.1.1": "XA",  # enhanced
    "12.2": "XA",  # radiofluoroscopy
    "12.2.1": "XA",
    "3": "US",  # retired multi-frame
    "3.1": "US",
}
_REFUSED = {
    "12.3": "biplane: the retired bi-plane object; export its planes as two XA films",
    "6": "single_frame: ultrasound image",
    "6.1": "single_frame: ultrasound image",
    "7": "secondary_capture",
}
_REFUSED_FAMILIES = {
    "7.": "secondary_capture",
    "88.": "structured_report",
    "9.": "waveform",
    "11.": "presentation_state",
    "104.": "document",
}
_MODALITIES: dict[str, Modality] = {"XA": "XA", "RF": "XA", "US": "US"}
_TISSUE, _FLOW = 1, 2
_TWO_DIMENSIONAL = 1


def open_dicom(path: Path, accept_burned_in: bool = False) -> Film:
    """Refuses (RejectedFilm, by kind) what is not a film, and X-ray films that declare burnt-in annotation unless accepted."""
    silence_pydicom()
    try:
        return _open(path, accept_burned_in)
    except DAMAGE as error:
        raise RejectedFilm("unreadable: the DICOM header is damaged") from error


def silence_pydicom() -> None:
    """Its warnings and log lines quote header values: of a damaged file, names and numbers of the patient."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="pydicom")


def _open(path: Path, accept_burned_in: bool) -> Film:
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(READ))
    if "TransferSyntaxUID" not in header.file_meta:
        raise RejectedFilm("unreadable: no DICOM file meta information (transfer syntax)")
    modality = _modality(header)
    declares_burned_in = str(header.get("BurnedInAnnotation", "")).upper() == "YES"
    # echo is cut to its sector later, where no annotation is left
    if declares_burned_in and modality == "XA" and not accept_burned_in:
        raise RejectedFilm("burned_in_annotation: the header declares names or dates in the pixels")
    announced = _announced_frames(header)
    rate, source = frame_rate_of(header, announced)
    return Film(
        frames=DicomFrames(path, header, announced, is_xray=modality == "XA"),
        frame_rate_fps=rate,
        frame_rate_source=source,
        **position_of(header, announced)._asdict(),
        height=int(header.Rows),
        modality=modality,
        grey_scale=grey_scale_of(header) if int(header.get("SamplesPerPixel") or 1) == 1 else None,
        plane=plane_of(header),
        regions=tuple(_regions(header)) if modality == "US" else (),
        declares_burned_in=declares_burned_in,
        announced_frames=announced,
        order=acquisition_order(header),
    )


def _modality(header: pydicom.Dataset) -> Modality:
    """What made the film, by its class; by its modality in files without a class. RejectedFilm for what is no film."""
    sop_class = str(header.get("SOPClassUID", "") or "")
    kind = sop_class.removeprefix(_FILMS)
    modality = _ACCEPTED.get(kind) if sop_class else _MODALITIES.get(str(header.get("Modality", "") or ""))
    if modality is None:
        raise RejectedFilm(_refusal(kind))
    if header.get("Rows") is None or header.get("Columns") is None:
        raise RejectedFilm("no_pixels: the file describes no image")
    if not is_readable(str(header.file_meta.TransferSyntaxUID)):
        raise RejectedFilm("unsupported_syntax: no decoder for this transfer syntax")
    return modality


def _refusal(kind: str) -> str:
    families = (reason for family, reason in _REFUSED_FAMILIES.items() if kind.startswith(family))
    unknown = "unsupported_kind: neither X-ray angiography nor multi-frame ultrasound"
    return _REFUSED.get(kind) or next(families, unknown)


def _announced_frames(header: pydicom.Dataset) -> int:
    announced = int(number_of(header, "NumberOfFrames") or 1)
    if announced < 2:
        raise RejectedFilm("single_frame: a film has two frames or more")
    return announced


def _regions(header: pydicom.Dataset) -> list[Box]:
    """Two-dimensional tissue and flow images; not the strips of spectra, M-mode and ECG (PS3.3 C.8.5.5)."""
    boxes = []
    for item in header.get("SequenceOfUltrasoundRegions") or []:
        is_image = item.get("RegionSpatialFormat") == _TWO_DIMENSIONAL
        corners = [number_of(item, f"RegionLocation{name}") for name in ("MinY0", "MaxY1", "MinX0", "MaxX1")]
        if is_image and item.get("RegionDataType") in (_TISSUE, _FLOW) and None not in corners:
            top, bottom, left, right = (int(corner) for corner in corners)
            boxes.append(Box(max(top, 0), bottom + 1, max(left, 0), right + 1))
    return boxes
