"""What the films of a folder say of where they were taken from, before a run."""

import logging
from pathlib import Path

import pytest

from deepcoro.config import DataError
from deepcoro.data.collection import Collection
from deepcoro.data.known_views import check_views
from deepcoro.data.manifest import Encoding
from deepcoro.data.shards import Shards
from tests.data.folder import moving_film, study_with, write_folder

SPLITS = {"s0": "train", "s1": "train", "s2": "val"}


def checked(folder: Path, films: dict[str, dict]) -> None:
    """Of three studies of two films each; `films`: what is known of all films of a study."""
    studies = []
    for number, key in enumerate(SPLITS):
        record, payloads = study_with(key, [moving_film(number)] * 2, Encoding(), f"p{number}")
        clips = [clip.model_copy(update=films.get(key, {})) for clip in record.clips]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
    shards = Collection({"one": Shards.open(write_folder(folder, studies, splits=SPLITS))})
    check_views(shards, {split: shards.units(split, True, 1) for split in ("train", "val")})


def test_training_films_without_angles_and_view_words_stop_a_run_that_is_to_learn_from_them(tmp_path) -> None:
    with pytest.raises(
        DataError, match=r"view_embedding has nothing to read: no film of split train .*=false"
    ):
        checked(tmp_path / "none", {"s2": {"primary_angle_deg": 30.0}})
    with pytest.raises(DataError, match=r"no projection: \['OTHER'\]"):
        checked(tmp_path / "other", {"s0": {"view": "OTHER"}})


def test_how_many_films_have_angles_or_a_view_word_in_their_place_is_logged(tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    both = {"view": "RAO", "primary_angle_deg": -30.0}
    checked(tmp_path / "some", {"s0": {"view": "RAO_CAUDAL"}, "s1": both})
    assert "split train: 2 of 4 films have C-arm angles, 2 a view word in their place" in caplog.text
    assert "split val: 0 of 2 films have C-arm angles, 0 a view word" in caplog.text
    assert [record.levelname for record in caplog.records][-2:] == ["INFO", "WARNING"]
