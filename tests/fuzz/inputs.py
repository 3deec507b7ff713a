"""Good files of every kind that is read, small, with identities planted where a file can hold them."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from tests.ingest import films

FILM_SIZE = (32, 40)


def film_files(folder: Path) -> list[Path]:
    """One film of each kind; all of them are accepted as they are."""
    grey, deep = films.moving_bar(), films.moving_bar(top=4095)
    colour = np.repeat(grey[..., None], 3, axis=3)
    dicoms = {
        "explicit": films.EXPLICIT, "implicit": films.IMPLICIT, "big": films.BIG_ENDIAN, "deflated": films.DEFLATED,
        "rle": films.RLE, "baseline": films.JPEG_BASELINE, "j2k": films.JPEG_2000_LOSSLESS,
    }  # fmt: skip
    made = [films.write_dicom(folder / f"{name}.dcm", grey, syntax) for name, syntax in dicoms.items()]
    made.append(films.write_dicom(folder / "deep.dcm", deep, bits=12))
    made.append(
        films.write_dicom(
            folder / "deep_rle.dcm", deep, films.RLE, bits=12, WindowCenter=2000, WindowWidth=4000
        )
    )
    echo = {"SOPClassUID": films.US, "Modality": "US"}
    made.append(films.write_dicom(folder / "echo.dcm", colour, **echo))
    for name, syntax in (("lossless", "JPEGLosslessProcess14_1"), ("ls", "JPEGLSLossless")):
        copy = shutil.copy(folder / "explicit.dcm", folder / f"{name}.dcm")
        made.append(films.transcode(Path(copy), syntax).rename(folder / f"{name}.dcm"))
    for name, codec, pixels in (
        ("mjpeg.avi", "mjpeg", "yuvj420p"),
        ("h264.mp4", "libx264", "yuv420p"),
        ("h264.mkv", "libx264", "yuv420p"),
        ("raw.avi", "rawvideo", "gray"),
    ):
        made.append(films.write_video(folder / name, grey, codec, pixels))
    np.save(folder / "film.npy", grey)
    np.savez(folder / "film.npz", grey)
    np.savez_compressed(folder / "packed.npz", colour)
    made += [folder / "film.npy", folder / "film.npz", folder / "packed.npz"]
    volume = nibabel.Nifti1Image(np.ascontiguousarray(grey.transpose(2, 1, 0)), np.eye(4))
    for name in ("film.nii", "film.nii.gz"):
        nibabel.save(volume, folder / name)
        made.append(folder / name)
    return [*made, *(_pictures(folder / f"frames_{kind}", grey, kind) for kind in ("png", "jpg", "bmp"))]


def _pictures(folder: Path, frames: np.ndarray, kind: str) -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame_{number}.{kind}")
    return folder


PEOPLE = ("TREMBLAY GENEVIEVE", "MRN-7734501", "1955-03-12")


def table_text(film_name: str, rows: int = 6) -> str:
    """A table of one film each, with a name, a number and a date where careless tables have them."""
    name, number, date = PEOPLE
    header = "FileName,StudyInstanceUID,PatientID,Split,Report,side,dominance,prox_lad_stenosis,mid_rca_calcif,cto,status"
    lines = [
        f"../{film_name}{row}.npy,{number}-s{row // 2},{number}-{row // 2},{'train' if row < 4 else 'val'},"
        f'"Patient {name}, seen on {date}. Severe stenosis, {60 + row} %.",{"left" if row % 2 else "right"},right,{10 * row},'
        f"none,{row % 2},diagnostic"
        for row in range(rows)
    ]
    return "\n".join([header, *lines]) + "\n"


RULES_TEXT = """\
rules:
  '*_stenosis': {kind: percent, absent: not_assessed, missing_codes: [-1, 99]}
  cto: {kind: binary, absent: negative, positive: [occluded], negative: ['no']}
  '*_calcif': {kind: grade, words: {lourde: severe}}
thresholds: {severe: '>= 70', half: '> 50'}
not_assessed_status: [PCI, POST_PCI]
"""
