"""Columns that metrics read as numbers, looked through before the first step."""

from pathlib import Path

import numpy as np
import pytest

from deepcoro.config import DataError
from deepcoro.data.collection import Collection
from deepcoro.data.manifest import Encoding
from deepcoro.data.number_columns import check_numbers
from deepcoro.data.shards import Shards
from tests.data.folder import moving_film, study_with, write_folder

LABELS = {
    "s0": {"days": -3.0, "side_of_lesion": "left", "endless": 1.0},
    "s1": {"days": 10.0, "side_of_lesion": "", "endless": float("inf")},
    "s2": {"days": 0.0, "side_of_lesion": "12", "endless": float("nan")},
    "s3": {"days": None, "side_of_lesion": None, "endless": None},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    studies = []
    for number, (key, labels) in enumerate(LABELS.items()):
        record, payloads = study_with(key, [moving_film(number)], Encoding(), f"p{number}")
        clips = [clip.model_copy(update={"labels": labels}) for clip in record.clips]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
    splits = {"s0": "val", "s1": "val", "s2": "test", "s3": "test"}
    folder: Path = write_folder(tmp_path_factory.mktemp("numbers"), studies, splits=splits)
    return Collection({"one": Shards.open(folder)})


def check(shards: Collection, split: str, **least: float) -> None:
    check_numbers(least, shards, {split: shards.units(split, False, 1)})


def test_a_negative_follow_up_is_named_with_its_column_and_split(shards: Collection) -> None:
    with pytest.raises(DataError, match=r"label 'days' of split val holds -3\.0, .* of 0 or more"):
        check(shards, "val", days=0.0)
    check(shards, "val", days=-np.inf)
    check(shards, "test", days=0.0)


def test_words_and_numbers_without_end_are_named_and_empty_cells_are_not(shards: Collection) -> None:
    with pytest.raises(DataError, match="label 'side_of_lesion' of split val holds left,"):
        check(shards, "val", side_of_lesion=-np.inf)
    with pytest.raises(DataError, match="label 'endless' of split val holds inf,"):
        check(shards, "val", endless=-np.inf)
    check(shards, "test", side_of_lesion=-np.inf, endless=0.0)


def test_a_column_that_the_films_do_not_have_is_left_to_the_note_of_its_metric(shards: Collection) -> None:
    check(shards, "val", syntax=0.0)
