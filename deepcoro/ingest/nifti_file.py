"""Films stored as NIfTI (`.nii`, `.nii.gz`: the CAMUS echo films), read with nibabel, an optional extra."""

from pathlib import Path

import numpy as np

from deepcoro.config import ConfigError
from deepcoro.ingest.array_file import DAMAGE, as_uint8
from deepcoro.ingest.film import Film, RejectedFilm, check_complete


def open_nifti(path: Path) -> Film:
    """NIfTI lies [column row frame], or [column row 1 frame]; values as for arrays: 0..255, or 0..1 when they are fractions.

    ConfigError without nibabel. The header's times are not read: their unit is wrong as often as not; the table tells the rate.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ConfigError(
            "NIfTI films need nibabel: pip install 'deepcoro[layouts]'", topic="missing-packages"
        ) from error
    try:
        stored = np.asarray(nibabel.load(path).dataobj)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, *DAMAGE) as error:
        raise RejectedFilm("unreadable: the NIfTI file is damaged or shorter than its header says") from error
    if stored.ndim == 4 and stored.shape[2] == 1:
        stored = stored[:, :, 0]
    if stored.ndim != 3:
        raise RejectedFilm(
            f"array_shape: {'x'.join(map(str, stored.shape))}; [column row frame] is expected of NIfTI"
        )
    frames = np.ascontiguousarray(as_uint8(stored.transpose(2, 1, 0)))
    check_complete(len(frames), None)
    return Film(frames)
