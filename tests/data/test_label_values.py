"""Label columns of a shard folder before training: who disagrees, what is unknown, how often each value is."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.data.collection import Collection
from deepcoro.data.label_values import check_labels
from deepcoro.data.manifest import Encoding
from deepcoro.data.shards import Shards
from deepcoro.fields.labels import Config
from tests.data.folder import moving_film, study_with, write_folder

# Study -> label values of its films. s0 disagrees in rca, s4 is of the val split.
FILMS = {
    "s0": [{"cto": 1.0, "rca": 20.0, "dominance": "left"}, {"cto": 1.0, "rca": 80.0, "dominance": None}],
    "s1": [{"cto": 0.0, "rca": None, "dominance": "right"}],
    "s2": [
        {"cto": None, "rca": 20.0, "dominance": "right"},
        {"cto": None, "rca": 20.0, "dominance": "right"},
    ],
    "s3": [{"cto": 1.0, "rca": 0.0, "dominance": None}, {"cto": None, "rca": None, "dominance": None}],
    "s4": [{"cto": 1.0, "rca": 5.0, "dominance": "both"}, {"cto": 0.0, "rca": 5.0, "dominance": "both"}],
}
DOMINANCE = {"dominance": {"left": 0, "right": 1}}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    studies = []
    for number, (key, labels) in enumerate(FILMS.items()):
        record, payloads = study_with(key, [moving_film(number)] * len(labels), Encoding(), f"p{number}")
        clips = [
            clip.model_copy(update={"labels": film}) for clip, film in zip(record.clips, labels, strict=True)
        ]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
    folder: Path = write_folder(tmp_path_factory.mktemp("labels"), studies, splits={"s4": "val"})
    return Collection({"one": Shards.open(folder)})


def looked_through(shards: Collection, multi_video: bool, splits=("train",), is_training=True, **settings):
    units = {split: shards.units(split, multi_video, 2) for split in splits}
    return check_labels(Config(**settings), shards, units, is_training)


@pytest.mark.parametrize("multi_video", [False, True])
@pytest.mark.parametrize("conflict", ["max", "drop"])
def test_counts_of_the_training_split_are_those_of_the_rows_that_the_field_gives(
    shards: Collection, multi_video: bool, conflict: str
) -> None:
    config = Config(columns=["cto", "rca", "dominance"], values=DOMINANCE, conflict=conflict)
    units, field = shards.units("train", multi_video, 2), config.build()
    rows = [
        field.decode(shards.study(int(units.study_row[unit])), units.shown_clips(unit, None), bytes, None)
        for unit in range(len(units))
    ]
    expected = {
        column: Counter(row[place] for row in rows if not math.isnan(row[place]))
        for place, column in enumerate(config.columns)
    }
    assert check_labels(config, shards, {"train": units}, True).counts == expected


def test_films_that_disagree_stop_a_run_that_sets_no_rule_and_are_counted_under_one(
    shards: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DataError, match=r"films of 1 of 4 studies of split train disagree \(s0\).*conflict"):
        looked_through(shards, True, columns=["rca"])
    found = looked_through(shards, True, splits=("train", "val"), columns=["rca", "cto"], conflict="max")
    assert found.conflicts["train"]["rca"] == 1 and found.conflicts["val"] == {"cto": 1}
    assert "films of 1 of 4 studies of split train disagree; the highest counts" in caplog.text
    assert looked_through(shards, False, columns=["rca"]).conflicts == {}


def test_films_that_disagree_in_another_split_than_training_stop_it_too(shards: Collection) -> None:
    with pytest.raises(DataError, match="split val disagree"):
        looked_through(shards, True, splits=("train", "val"), columns=["cto"])


def test_a_word_that_no_map_knows_is_named_with_its_split(shards: Collection) -> None:
    with pytest.raises(DataError, match="'dominance' of split train: .*'left' is a word.*labels_map"):
        looked_through(shards, False, columns=["dominance"])
    looked_through(shards, False, columns=["dominance"], values=DOMINANCE)
    with pytest.raises(DataError, match="of split val: 'both' is not among"):
        looked_through(shards, False, splits=("train", "val"), columns=["dominance"], values=DOMINANCE)


def test_a_column_that_films_do_not_have_stops_training_and_is_not_assessed_in_an_evaluation(
    shards: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="no label column .*'lvef'.*'cto'"):
        looked_through(shards, False, columns=["lvef"])
    with pytest.raises(ConfigError, match="no label column"):
        looked_through(shards, False, columns=["num_frames"])
    assert looked_through(shards, False, splits=("val",), is_training=False, columns=["lvef"]).counts == {}
    assert "'lvef'" in caplog.text


def test_a_column_of_one_value_or_none_in_training_cannot_be_learned(shards: Collection) -> None:
    with pytest.raises(DataError, match="'side' is 0 in all 7 assessed rows of split train"):
        looked_through(shards, False, columns=["side"], values={"side": {"left": 0, "right": 1}})
    with pytest.raises(DataError, match="'view' is not assessed in any row"):
        looked_through(shards, False, columns=["view"], values={"view": {"RAO_CAU": 0}})


def test_only_films_that_a_filter_let_pass_have_a_say(shards: Collection) -> None:
    kept = Collection(shards.sources, where="rca < 50")
    counts = looked_through(kept, True, columns=["rca"]).counts
    assert counts["rca"] == {0.0: 1, 20.0: 2}
    assert np.sum(list(counts["rca"].values())) == 3
