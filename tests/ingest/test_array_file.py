"""Films stored as numpy arrays."""

import numpy as np
import pytest

from deepcoro.ingest.film import RejectedFilm
from deepcoro.ingest.open import open_film
from tests.ingest.films import moving_bar, read_all


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (moving_bar(), (6, 32, 40)),
        (moving_bar()[..., None], (6, 32, 40)),
        (moving_bar()[..., None].repeat(3, 3), (6, 32, 40, 3)),
    ],
)
def test_the_three_layouts_are_read(tmp_path, array, shape):
    np.save(tmp_path / "film.npy", array)
    np.savez(tmp_path / "film.npz", film=array)
    for name in ("film.npy", "film.npz"):
        read = read_all(tmp_path / name)
        assert read.shape == shape and np.array_equal(read, array.reshape(shape))


@pytest.mark.parametrize(
    "array", [moving_bar() / np.float32(255), moving_bar().astype(np.float64), moving_bar().astype(np.int32)]
)
def test_other_number_types_are_rounded_to_8_bits(tmp_path, array):
    np.save(tmp_path / "film.npy", array)
    assert np.array_equal(read_all(tmp_path / "film.npy"), moving_bar())


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (moving_bar(top=4095), "array_range"),
        (moving_bar().astype(np.float32) - 1, "array_range"),
        (np.full((4, 8, 8), np.nan), "array_range"),
        (moving_bar()[0], "array_shape"),
        (np.zeros((2, 8, 8, 4), np.uint8), "array_shape"),
        (np.zeros((0, 8, 8), np.uint8), "array_shape"),
        (np.zeros((2, 8, 8), bool), "array_type"),
        (moving_bar()[:1], "single_frame"),
    ],
)
def test_what_cannot_be_read_without_guessing_is_refused(tmp_path, array, reason):
    np.save(tmp_path / "film.npy", array)
    with pytest.raises(RejectedFilm, match=f"^{reason}"):
        open_film(tmp_path / "film.npy")


def test_cut_archived_and_pickled_files_are_refused(tmp_path):
    np.save(tmp_path / "whole.npy", moving_bar())
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-500])
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=moving_bar(), b=moving_bar())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:300])
    for name in ("cut.npy", "pickle.npy", "two.npz", "cut.npz"):
        with pytest.raises(RejectedFilm, match="^(truncated|unreadable)"):
            open_film(tmp_path / name)


def test_a_missing_file_and_an_unknown_format_are_told_apart(tmp_path):
    with pytest.raises(RejectedFilm, match="^missing_file$"):
        open_film(tmp_path / "none.npy")
    (tmp_path / "notes.txt").write_text("a report")
    with pytest.raises(RejectedFilm, match="^unsupported_format"):
        open_film(tmp_path / "notes.txt")


def test_of_several_arrays_the_one_called_pixel_array_is_the_film(tmp_path):
    np.savez_compressed(tmp_path / "film.npz", pixel_array=moving_bar(), mask=np.zeros(3))
    assert np.array_equal(np.stack(list(open_film(tmp_path / "film.npz").frames)), moving_bar())
