"""What a model said of one study as a DICOM Comprehensive SR (after TID 1500, PS3.16): for the owner's own archive, with true ids.

Each number is a measurement and each class a qualitative evaluation, with the model's name and version (TID 4019) and with what was said
besides as properties; the report says that it is for research only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ComprehensiveSRStorage, ExplicitVRLittleEndian, generate_uid

from deepcoro import __version__, atomic
from deepcoro.config import DataError
from deepcoro.ingest.crosswalk import Entry
from deepcoro.ingest.header import patient_named

RESEARCH_ONLY = "Research only. Made by a model without regulatory clearance; not for diagnosis or treatment."
_SCHEME = "99DEEPCORO"
_COPIED = (
    "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip
"""Of the patient and study modules; empty where no film can be read."""
_REFERENCE = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_UNITS = {None: ("1", "no units"), "%": ("%", "percent")}
"""UCUM."""


@dataclass(frozen=True)
class Measurement:
    """One thing that was said of the study."""

    name: str
    value: float
    unit: Literal["%"] | None = None
    """None = a score, a probability, or a number whose unit nobody knows."""
    word: str | None = None
    """The likeliest of several classes: then it is what the report says, and `value` is its probability."""
    call: str | None = None
    """What was made of the number: positive, negative or abstained."""
    probability: float | None = None
    """The number recalibrated."""
    threshold: float | None = None
    """The number from which on the call is positive."""
    fixed_on: str | None = None
    """What the threshold was fixed on: films, or studies."""
    film_calls: Mapping[str, int] = field(default_factory=dict)
    """How many films each call is made of."""
    higher_means: str | None = None
    """What a higher number speaks for."""


def write_report(
    path: Path, entries: Sequence[Entry], measurements: Sequence[Measurement], model: str, now: datetime
) -> None:
    """Writes the report of one study (0600). `entries` are its films in the crosswalk.

    Patient and study are those of the films' own headers where these can still be read, else those of the crosswalk.
    A film whose header names nobody is of the patient that the others name. DataError when the study has no valid UID, or when its films
    are of two patients by their headers.
    """
    headers = [header for entry in entries if (header := _header(Path(entry.file))) is not None]
    patients = {patient_named(header) for header in headers} - {""}
    if len(patients) > 1:
        raise DataError(
            f"the films of this study name {len(patients)} patients in their headers: a report would go into the wrong record"
        )
    report = _report(entries[0], headers, now)
    report.ContentSequence = [
        *_observer(report.SOPInstanceUID, model),
        _container("126010", "Imaging Measurements", [_group(headers, measurements, model)]),
        _text("121106", "Comment", RESEARCH_ONLY),
    ]
    with pydicom.filebase.DicomBytesIO() as file:
        pydicom.dcmwrite(file, report, enforce_file_format=True)
        atomic.write_bytes(path, file.getvalue(), private=True)


def _header(path: Path) -> Dataset | None:
    """None for a film that is gone, is no DICOM or does not say which it is."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except (OSError, InvalidDicomError):
        return None
    return header if all(header.get(name) for name in _REFERENCE) else None


def _report(entry: Entry, headers: Sequence[Dataset], now: datetime) -> FileDataset:
    leading = next(filter(patient_named, headers), headers[0] if headers else None)
    study = leading.StudyInstanceUID if leading else UID(entry.original_study, pydicom.config.IGNORE)
    if not study.is_valid:
        raise DataError(
            "the study has no valid StudyInstanceUID: its films are no DICOM (or have moved) and the table named it otherwise"
        )
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    report = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    report.SpecificCharacterSet = "ISO_IR 192"
    report.SOPClassUID, report.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    report.Modality, report.SeriesInstanceUID = "SR", generate_uid(prefix=None)
    report.SeriesNumber, report.InstanceNumber = 1, 1
    report.Manufacturer, report.SoftwareVersions = "deepcoro", __version__
    report.ManufacturerModelName, report.DeviceSerialNumber = "deepcoro", "0"
    report.StudyInstanceUID = study
    report.PatientID = patient_named(leading) if leading else entry.original_patient
    for name in _COPIED:
        setattr(report, name, leading.get(name, "") if leading else "")
    report.SeriesDescription = "deepcoro: research only"
    report.ContentDate, report.ContentTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    report.InstanceCreationDate, report.InstanceCreationTime = report.ContentDate, report.ContentTime
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.ReferencedPerformedProcedureStepSequence, report.PerformedProcedureCodeSequence = [], []
    if headers:
        report.CurrentRequestedProcedureEvidenceSequence = _evidence(headers)
    report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
    report.ConceptNameCodeSequence = [_code("126000", "Imaging Measurement Report")]
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "1500"
    report.ContentTemplateSequence = [template]
    return report


def _evidence(headers: Sequence[Dataset]) -> list[Dataset]:
    """An item a study: what the user's table calls one study may be several of the archive's."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for header in headers:
        series = studies.setdefault(header.StudyInstanceUID, {})
        series.setdefault(header.SeriesInstanceUID, []).append(_reference(header))
    items = []
    for study_uid, series in studies.items():
        items.append(Dataset())
        items[-1].StudyInstanceUID, items[-1].ReferencedSeriesSequence = study_uid, []
        for uid, references in series.items():
            item = Dataset()
            item.SeriesInstanceUID, item.ReferencedSOPSequence = uid, references
            items[-1].ReferencedSeriesSequence.append(item)
    return items


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def _observer(device: UID, model: str) -> list[Dataset]:
    kind = _item("CODE", "121005", "Observer Type", "HAS OBS CONTEXT")
    kind.ConceptCodeSequence = [_code("121007", "Device")]
    uid = _item("UIDREF", "121012", "Device Observer UID", "HAS OBS CONTEXT")
    uid.UID = device
    name = _text("121013", "Device Observer Name", model, "HAS OBS CONTEXT")
    return [kind, uid, name]


def _group(headers: Sequence[Dataset], measurements: Sequence[Measurement], model: str) -> Dataset:
    items = [
        _text("112039", "Tracking Identifier", "study", "HAS OBS CONTEXT"),
        _text("111001", "Algorithm Name", "deepcoro", "HAS CONCEPT MOD"),
        _text("111003", "Algorithm Version", f"{__version__}; {model}", "HAS CONCEPT MOD"),
    ]
    for header in headers:
        image = _item("IMAGE", "260753009", "Source", scheme="SCT")
        image.ReferencedSOPSequence = [_reference(header)]
        items.append(image)
    return _container("125007", "Measurement Group", [*items, *map(_said, measurements)])


def _said(measurement: Measurement) -> Dataset:
    """A class is the word, with its probability below it; anything else is the number."""
    name, value = measurement.name, measurement.value
    if measurement.word is not None:
        item = _word(name, measurement.word)
        item.ContentSequence = [_number("probability", value, relation="HAS PROPERTIES")]
        return item
    item = _number(name, value, measurement.unit)
    properties = _properties(measurement)
    if properties:
        item.ContentSequence = properties
    return item


def _properties(measurement: Measurement) -> list[Dataset]:
    relation, properties = "HAS PROPERTIES", []
    words = {"call": measurement.call, "threshold fixed on": measurement.fixed_on}
    properties += [_word(name, word, relation) for name, word in words.items() if word is not None]
    numbers = {"recalibrated probability": measurement.probability, "threshold": measurement.threshold}
    numbers |= {f"films called {call}": float(count) for call, count in measurement.film_calls.items()}
    properties += [_number(name, value, None, relation) for name, value in numbers.items() if value is not None]  # fmt: skip
    if measurement.higher_means is not None:
        item = _item("TEXT", "higher means", "higher means", relation, _SCHEME)
        item.TextValue = measurement.higher_means
        properties.append(item)
    return properties


def _word(name: str, word: str, relation: str = "CONTAINS") -> Dataset:
    item = _item("CODE", name, name[:64], relation, _SCHEME)
    item.ConceptCodeSequence = [_code(word, word[:64], _SCHEME)]
    return item


def _number(name: str, value: float, unit: Literal["%"] | None = None, relation: str = "CONTAINS") -> Dataset:
    item = _item("NUM", name, name[:64], relation, _SCHEME)
    measured = Dataset()
    measured.NumericValue = f"{value:.6g}"
    measured.MeasurementUnitsCodeSequence = [_code(*_UNITS[unit], "UCUM")]
    item.MeasuredValueSequence = [measured]
    return item


def _container(code: str, meaning: str, items: Sequence[Dataset]) -> Dataset:
    item = _item("CONTAINER", code, meaning)
    item.ContinuityOfContent, item.ContentSequence = "SEPARATE", list(items)
    return item


def _text(code: str, meaning: str, text: str, relation: str = "CONTAINS") -> Dataset:
    item = _item("TEXT", code, meaning, relation)
    item.TextValue = text
    return item


def _item(kind: str, code: str, meaning: str, relation: str = "CONTAINS", scheme: str = "DCM") -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relation, kind
    item.ConceptNameCodeSequence = [_code(code, meaning, scheme)]
    return item


def _code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    code = Dataset()
    setattr(code, "CodeValue" if len(value) <= 16 else "LongCodeValue", value)
    code.CodingSchemeDesignator, code.CodeMeaning = scheme, meaning
    return code
