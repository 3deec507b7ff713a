"""NIfTI films, as CAMUS hands them out."""

import sys

import nibabel
import numpy as np
import pytest

from deepcoro.config import ConfigError
from deepcoro.ingest.film import RejectedFilm
from deepcoro.ingest.open import open_film
from tests.ingest.films import moving_bar, read_all


def write_nifti(path, film, dtype=np.uint8):
    nibabel.save(nibabel.Nifti1Image(film.transpose(2, 1, 0).astype(dtype), np.eye(4)), path)
    return path


@pytest.mark.parametrize("name", ["patient0001_4CH_half_sequence.nii.gz", "film.nii"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_frames_lie_upright_in_order(tmp_path, name, dtype):
    film = moving_bar()
    assert np.array_equal(read_all(write_nifti(tmp_path / name, film, dtype)), film)


def test_an_empty_third_axis_is_dropped_and_volumes_in_time_are_refused(tmp_path):
    film = moving_bar()
    stored = film.transpose(2, 1, 0)[:, :, None]
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "flat.nii.gz")
    assert np.array_equal(read_all(tmp_path / "flat.nii.gz"), film)
    nibabel.save(nibabel.Nifti1Image(np.repeat(stored, 2, axis=2), np.eye(4)), tmp_path / "deep.nii.gz")
    with pytest.raises(RejectedFilm, match="^array_shape: 40x32x2x6"):
        open_film(tmp_path / "deep.nii.gz")


def test_a_still_and_a_damaged_file_are_refused(tmp_path):
    with pytest.raises(RejectedFilm, match="^single_frame"):
        open_film(write_nifti(tmp_path / "ED.nii.gz", moving_bar(2)[:1]))
    whole = write_nifti(
        tmp_path / "whole.nii.gz", np.random.default_rng(0).integers(0, 255, (6, 32, 40))
    ).read_bytes()
    for name, payload in (
        ("cut.nii.gz", whole[: len(whole) // 2]),
        ("text.nii", b"no film"),
        ("text.nii.gz", b"no film"),
    ):
        (tmp_path / name).write_bytes(payload)
        with pytest.raises(RejectedFilm, match="^unreadable"):
            open_film(tmp_path / name)


def test_without_nibabel_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "film.nii.gz", moving_bar())
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ConfigError, match=r"pip install 'deepcoro\[layouts\]'"):
        open_film(path)
