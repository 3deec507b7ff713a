"""X-ray angiographic DICOM objects (XA IOD, PS3.3 A.14): multi-frame, with angles, timing and window, in several syntaxes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt

from deepcoro.angiography.carm import CArm

if TYPE_CHECKING:
    import pydicom

Syntax = Literal["explicit", "rle", "j2k"]
_XA_STORAGE = "1.2.840.10008.5.1.4.1.1.12.1"


@dataclass(frozen=True)
class Header:
    """What a machine writes about a film. Names and numbers are invented; ingest must remove them all the same."""

    patient_id: str
    patient_sex: str
    patient_age_years: int
    study_uid: str
    instance_uid: str
    instance_number: int
    manufacturer: str
    intensity: str
    """LIN, LOG or DISP."""
    frame_rate_fps: float
    carm: CArm


def write_dicom(
    path: Path, frames: UInt[np.ndarray, "frame height width"], bits: int, header: Header, syntax: Syntax
) -> None:
    """Writes one film; `bits` is BitsStored (8, 10 or 12). All syntaxes are lossless."""
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

    dataset = _dataset(header)
    _describe_pixels(dataset, frames, bits)
    dataset.PixelData = np.ascontiguousarray(frames).astype(frames.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax == "rle":
        dataset.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    elif syntax == "j2k":
        dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def _dataset(header: Header) -> "pydicom.Dataset":
    from pydicom.dataset import Dataset, FileMetaDataset

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = _XA_STORAGE
    dataset.file_meta.MediaStorageSOPInstanceUID = header.instance_uid
    dataset.SOPClassUID = _XA_STORAGE
    dataset.SOPInstanceUID = header.instance_uid
    dataset.StudyInstanceUID = header.study_uid
    dataset.SeriesInstanceUID = f"{header.study_uid}.0"
    dataset.Modality = "XA"
    dataset.PatientID = header.patient_id
    dataset.PatientName = f"Demo^{header.patient_id}"
    dataset.PatientSex = header.patient_sex
    dataset.PatientAge = f"{header.patient_age_years:03d}Y"
    dataset.PatientBirthDate = "19500101"
    dataset.StudyDate, dataset.StudyTime = "20200101", "120000"
    dataset.StudyID, dataset.AccessionNumber = "1", f"A{header.patient_id}"
    dataset.InstitutionName, dataset.ReferringPhysicianName = "Demo Hospital", "Demo^Physician"
    dataset.Manufacturer = header.manufacturer
    dataset.SeriesNumber, dataset.InstanceNumber = 1, header.instance_number
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "SINGLE PLANE"]
    dataset.BurnedInAnnotation = "NO"
    _describe_geometry(dataset, header)
    return dataset


def _describe_geometry(dataset: "pydicom.Dataset", header: Header) -> None:
    carm = header.carm
    dataset.PositionerMotion = "STATIC"
    dataset.PositionerPrimaryAngle = f"{carm.primary_deg:.1f}"
    dataset.PositionerSecondaryAngle = f"{carm.secondary_deg:.1f}"
    dataset.DistanceSourceToDetector = f"{carm.source_detector_mm:.0f}"
    dataset.DistanceSourceToPatient = f"{carm.source_isocentre_mm:.0f}"
    dataset.ImagerPixelSpacing = [f"{carm.pitch_mm:.5f}"] * 2
    dataset.FrameTime = f"{1000 / header.frame_rate_fps:.3f}"
    dataset.FrameIncrementPointer = 0x00181063
    dataset.CineRate = str(round(header.frame_rate_fps))
    dataset.RecommendedDisplayFrameRate = str(round(header.frame_rate_fps))
    dataset.PixelIntensityRelationship = header.intensity


def _describe_pixels(dataset: "pydicom.Dataset", frames: np.ndarray, bits: int) -> None:
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 if bits == 8 else 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = str(2 ** (bits - 1)), str(2**bits)
