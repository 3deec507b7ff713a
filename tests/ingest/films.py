"""Small films for the tests of this room: DICOM in the syntaxes met, video containers, and what must never leave a header."""

from pathlib import Path

import numpy as np
import pydicom
import simplejpeg
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from deepcoro.ingest.header import PHILIPS_RATE

XA = "1.2.840.10008.5.1.4.1.1.12.1"
ENHANCED_XA = f"{XA}.1"
US = "1.2.840.10008.5.1.4.1.1.3.1"
JPEG_FAMILY = "1.2.840.10008.1.2.4."
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"

# Twenty-six identities: names, numbers, dates, places, free text and UIDs.
PLANTED = {
    "PatientName": "TREMBLAY^GENEVIEVE",
    "PatientID": "MRN-7734501",
    "OtherPatientIDs": "RAMQ-TREG55031299",
    "PatientBirthDate": "19550312",
    "PatientAddress": "4141 rue Sherbrooke",
    "PatientTelephoneNumbers": "514-555-0199",
    "PatientMotherBirthName": "BOUCHARD",
    "AccessionNumber": "ACC99183",
    "InstitutionName": "HOPITAL-SAINT-EXEMPLE",
    "InstitutionAddress": "5000 Belanger",
    "StationName": "CATHLAB-QZX3",
    "ReferringPhysicianName": "LAVOIE^HENRI",
    "PerformingPhysicianName": "OKAFOR^ADA",
    "OperatorsName": "NGUYEN^LINH",
    "StudyDescription": "coro de Mme Tremblay",
    "SeriesDescription": "LCA-for-Tremblay",
    "PatientComments": "voisine du maire",
    "ImageComments": "film-comment-8812",
    "StudyID": "STUDYID-5512",
    "DeviceSerialNumber": "SERIAL-0451XQ",
    "StudyDate": "20210917",
    "AcquisitionDate": "20210918",
    "StudyInstanceUID": "1.2.826.0.1.3680043.9.7133.1.77345",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.9.7133.2.77345",
    "SOPInstanceUID": "1.2.826.0.1.3680043.9.7133.3.77345",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.9.7133.4.77345",
}


def of_film(number: int) -> dict[str, str]:
    """What makes a DICOM film one of its own: files that have one instance UID are copies of a film."""
    return {"SOPInstanceUID": f"{PLANTED['SOPInstanceUID']}.{number}"}


def moving_bar(num_frames: int = 6, height: int = 32, width: int = 40, top: int = 255) -> np.ndarray:
    """Grey film [frame height width]: a ramp from 0 to `top` that is brighter along one column, which moves."""
    ramp = np.linspace(0, top, width)[None, :].repeat(height, 0)
    film = ramp[None].repeat(num_frames, 0)
    for number in range(num_frames):
        film[number, :, 2 * number : 2 * number + 3] = top
    return film.astype(np.uint8 if top < 256 else np.uint16)


def write_dicom(
    path: Path, frames: np.ndarray, syntax: str = EXPLICIT, bits: int = 8, **elements: object
) -> Path:
    """Writes [frame height width] or [frame height width 3] as one DICOM file; None as a value removes an element."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(EXPLICIT if syntax in (RLE, JPEG_2000_LOSSLESS) else syntax)
    meta.MediaStorageSOPClassUID = UID(str(elements.get("SOPClassUID", XA)))
    meta.MediaStorageSOPInstanceUID = UID(PLANTED["SOPInstanceUID"])
    little_endian = syntax != BIG_ENDIAN
    dataset = FileDataset(
        path, {}, b"\0" * 128, meta, is_implicit_VR=syntax == IMPLICIT, is_little_endian=little_endian
    )
    colour = frames.ndim == 4
    allocated = frames.dtype.itemsize * 8
    image = {
        "SOPClassUID": XA,
        "Modality": "XA",
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "NumberOfFrames": len(frames),
        "Rows": frames.shape[1],
        "Columns": frames.shape[2],
        "BitsAllocated": allocated,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(frames.dtype.kind == "i"),
        "FrameTime": "66.667",
        "FrameIncrementPointer": 0x00181063,
    }
    if colour:
        image["PlanarConfiguration"] = 0
    for keyword, value in {**PLANTED, **image}.items():
        setattr(dataset, keyword, value)
    _set_pixels(dataset, frames, syntax, allocated)
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def _set_pixels(dataset: FileDataset, frames: np.ndarray, syntax: str, allocated: int) -> None:
    if syntax == JPEG_BASELINE:
        dataset.PixelData = encapsulate(jpeg_frames(frames), has_bot=False)
        dataset["PixelData"].VR = "OB"
        return
    swapped = frames.astype(frames.dtype.newbyteorder(">")) if syntax == BIG_ENDIAN else frames
    dataset.PixelData = swapped.tobytes()
    dataset["PixelData"].VR = "OB" if allocated == 8 and syntax != IMPLICIT else "OW"
    if syntax in (RLE, JPEG_2000_LOSSLESS):
        dataset.compress(UID(syntax), generate_instance_uid=False)


def jpeg_frames(frames: np.ndarray, quality: int = 98) -> list[bytes]:
    return [
        simplejpeg.encode_jpeg(frame[:, :, None], quality, "GRAY", "Gray")
        for frame in np.ascontiguousarray(frames)
    ]


def write_compressed(
    path: Path, like: np.ndarray, syntax: str, payloads: list[bytes], bits: int = 8, **elements: object
) -> Path:
    """Writes frames that are compressed already; `like` gives their number, size and type. No offset table."""
    write_dicom(path, like, bits=bits, **elements)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.PixelData = encapsulate(payloads, has_bot=False)
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    return path


def transcode(path: Path, syntax: str) -> Path:
    """A copy of a DICOM file in a syntax that only GDCM can write (a name of gdcm.TransferSyntax)."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    writer = gdcm.ImageWriter()
    target = path.with_suffix(".transcoded")  # GDCM cannot replace the file that it reads
    writer.SetFileName(str(target))
    assert reader.Read()
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target


def write_video(path: Path, frames: np.ndarray, codec: str, pixel_format: str, rate_fps: int = 15) -> Path:
    """Writes [frame height width] or [frame height width 3] with FFmpeg at high quality."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_fps)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        if codec == "libx264":
            stream.options = {"crf": "4"}
        if codec == "mjpeg":
            stream.options = {"q:v": "1", "qmin": "1"}
        for image in frames:
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(image), "gray" if image.ndim == 2 else "rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_all(path: Path) -> np.ndarray:
    """Every display frame of a film."""
    from deepcoro.ingest.open import open_film

    return np.stack(list(open_film(path).frames))


def header_of(**elements: object) -> pydicom.Dataset:
    """A data set with these elements; `PhilipsRate` is the private one."""
    dataset = pydicom.Dataset()
    for keyword, value in elements.items():
        if keyword == "PhilipsRate":
            dataset.add_new(PHILIPS_RATE, "FD" if isinstance(value, float) else "LO", value)
        else:
            setattr(dataset, keyword, value)
    return dataset
