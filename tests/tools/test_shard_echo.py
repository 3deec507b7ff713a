"""The command on echo: --echo_mask and --modality change what is stored; a run with another mask is another data set."""

import numpy as np
import pytest

from tests.ingest import films
from tests.ingest.films import write_dicom
from tests.ingest.test_regression_traps import KEYS, films_in, shard
from tests.ingest.test_sector import echo


@pytest.mark.parametrize(
    ("words", "is_masked"), [((), True), (("--echo_mask", "sector"), True), (("--echo_mask", "none"), False)]
)
def test_ultrasound_is_masked_unless_told_otherwise(tmp_path, words, is_masked):
    film, fan = echo()
    path = write_dicom(tmp_path / "echo", film, SOPClassUID=films.US)
    [(clip, frames)] = films_in(shard(tmp_path, {"echo": path}, KEYS[0], *words))
    assert clip.num_frames == 12 and (frames[:, :30, :140].max() == 0) == is_masked
    assert (frames == film)[:, fan].mean() > 0.97
    assert ("of the picture, outside the sector, is black" in (tmp_path / "log").read_text()) == is_masked


def test_an_array_is_masked_when_it_is_said_to_be_echo_and_refused_for_its_writing_when_not(tmp_path):
    film, _ = echo()
    np.save(tmp_path / "echo.npy", film)
    [(_, frames)] = films_in(shard(tmp_path, {"echo": tmp_path / "echo.npy"}, KEYS[0], "--modality", "us"))
    assert frames[:, :30, :140].max() == 0
    with pytest.raises(AssertionError, match="no film could be used .1 x burned_in_text"):
        shard(tmp_path, {"echo": tmp_path / "echo.npy"}, KEYS[1])
    refused = (tmp_path / f"out-{KEYS[1][:4]}" / "rejected.csv").read_text()
    assert "burned_in_text: writing that stands still" in refused
    [(_, frames)] = films_in(shard(tmp_path, {"echo": tmp_path / "echo.npy"}, "a" * 32, "--accept_burned_in"))
    assert np.array_equal(frames, film)


def test_another_mask_is_another_data_set(tmp_path):
    path = write_dicom(tmp_path / "echo", echo()[0], SOPClassUID=films.US)
    shard(tmp_path, {"echo": path})
    with pytest.raises(AssertionError, match="--overwrite"):
        shard(tmp_path, {"echo": path}, KEYS[0], "--echo_mask", "none")
