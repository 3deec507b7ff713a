"""Which reader opens which file."""

import errno
import re
from pathlib import Path

from deepcoro.ingest.array_file import open_array
from deepcoro.ingest.film import Film, RejectedFilm

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ARRAY_SUFFIXES = (".npy", ".npz")
VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".wmv")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

OF_WINDOWS = "missing_file: a path of Windows"
"""Why there is no such file, where the table names a drive or a server as Windows does."""
_DRIVE = re.compile(r"[A-Za-z]:")


def open_film(path: Path, accept_burned_in: bool = False) -> Film:
    """Opens a film of any kind; its frames are decoded when iterated. RejectedFilm with a reason otherwise.

    DICOM is known by its preamble, whatever the name: exports carry `.dcm`, `.IMA` or a bare UID. A disk that fails is no
    fault of the film: other errors of it are raised.
    """
    try:
        return _open(path, accept_burned_in)
    except PermissionError as error:
        raise RejectedFilm("unreadable: no permission to read it") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise RejectedFilm("missing_file: its name is longer than a disk can hold") from error


def _open(path: Path, accept_burned_in: bool) -> Film:
    if path.is_dir():
        from deepcoro.ingest.frame_folder import open_folder

        return open_folder(path)
    if not path.is_file():
        raise RejectedFilm(OF_WINDOWS if _is_of_windows(path) else "missing_file")
    suffix = path.suffix.lower()
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        from deepcoro.ingest.nifti_file import open_nifti

        return open_nifti(path)
    if suffix in ARRAY_SUFFIXES:
        return open_array(path)
    if suffix in VIDEO_SUFFIXES:
        from deepcoro.ingest.video_file import open_video

        return open_video(path)
    if suffix not in DICOM_SUFFIXES and not has_dicom_preamble(path):
        raise RejectedFilm(
            "unsupported_format: neither DICOM, nor a video, an array, NIfTI or a folder of pictures"
        )
    from deepcoro.ingest.dicom import open_dicom

    return open_dicom(path, accept_burned_in)


def _is_of_windows(path: Path) -> bool:
    r"""`D:\films\a.avi` of a table has become `FOLDER/D:/films/a.avi` here, and `\\server\films\a.avi` has kept its two strokes."""
    return path.as_posix().startswith("//") or any(_DRIVE.fullmatch(part) for part in path.parts)


def is_film(path: Path) -> bool:
    """Whether a file is a film by its name or its preamble, before it is opened as one."""
    suffixes = (*VIDEO_SUFFIXES, *ARRAY_SUFFIXES, *NIFTI_SUFFIXES, *DICOM_SUFFIXES)
    return path.name.lower().endswith(suffixes) or has_dicom_preamble(path)


def has_dicom_preamble(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
