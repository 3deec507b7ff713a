"""A study with more films than a row shows has one label: in every epoch, in the evaluation, and as it was counted."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest

from deepcoro.build import Parts, build_parts
from deepcoro.config import DataError, find_config
from deepcoro.data.manifest import Encoding
from deepcoro.data.plan import Row
from deepcoro.data.stream import Fetch
from deepcoro.embed import facts_of_units
from deepcoro.run_config import RunConfig, load_run_config
from tests.data.folder import moving_film, study_with, write_folder

# Six films each, and a row shows two. Of `grade`, the val split has a value that is no class.
CTO = {
    "train0": [0, 0, 0, 0, 0, 1],
    "train1": [1, 0, 0, None, 0, 0],
    "train2": [1] * 6,
    "train3": [0] * 6,
    "val0": [0, 1, 0, 0, 0, 0],
    "val1": [1] * 6,
}
WORST = {"train0": 1, "train1": 1, "train2": 1, "train3": 0, "val0": 1, "val1": 1}
DROPPED = WORST | dict.fromkeys(("train0", "train1", "val0"), None)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    studies = []
    for number, (key, values) in enumerate(CTO.items()):
        record, payloads = study_with(key, [moving_film(number, 2)] * 6, Encoding(), f"p{number}")
        grade = 7.0 if key == "val1" else float(number % 2)
        labels = [{"cto": None if value is None else float(value), "grade": grade} for value in values]
        clips = [
            clip.model_copy(update={"labels": each}) for clip, each in zip(record.clips, labels, strict=True)
        ]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
    splits = {key: key.rstrip("0123456789") for key in CTO}
    return write_folder(tmp_path_factory.mktemp("six") / "shards", studies, splits=splits)


def config_of(shards: Path, *words: str) -> RunConfig:
    objective = "objectives={linear_probing: {head_structure: {cto: 1}, loss_structure: {cto: bce}}}"
    given = (f"data.shards={shards}", "data.num_videos=2", "pooler={type: mean}", objective, *words)
    return load_run_config(find_config("demo/tiny_probe"), list(given))


def targets(parts: Parts, split: str, epochs: range, seed: int | None) -> dict[str, list[float | None]]:
    """Study -> its label in each epoch, as a batch has it."""
    units = parts.shards.units(split, True, 2)
    fetch = Fetch(parts.shards, units, {"labels": parts.fields["labels"]}, seed)
    found: dict[str, list[float | None]] = {units.study_id(unit): [] for unit in range(len(units))}
    for epoch in epochs:
        rows = [Row(epoch * len(units) + unit, epoch, unit) for unit in range(len(units))]
        numbers = fetch[rows].batch["labels"]["cto"].tolist()
        for unit, number in enumerate(numbers):
            found[units.study_id(unit)].append(None if math.isnan(number) else number)
    return found


@pytest.mark.parametrize(("conflict", "expected"), [("max", WORST), ("drop", DROPPED)])
def test_the_label_of_a_study_is_that_of_all_its_films_in_every_epoch_and_in_the_evaluation(
    shards: Path, conflict: str, expected: dict, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    parts = build_parts(config_of(shards, f"data.fields.labels.conflict={conflict}"))
    assert "the films of 2 of 4 studies of split train disagree" in caplog.text
    training = targets(parts, "train", range(5), seed=0)
    assert training == {key: [expected[key]] * 5 for key in CTO if key.startswith("train")}
    known = [value for values in training.values() for value in values[:1] if value is not None]
    assert parts.fields["labels"].counts("cto") == {value: known.count(value) for value in known}
    assert targets(parts, "val", range(1), None) == {key: [expected[key]] for key in ("val0", "val1")}
    judged = facts_of_units(parts, parts.shards.units("val", True, 2), np.arange(2)).labels
    assert judged["cto"] == [expected["val0"], expected["val1"]]
    assert judged["num_films"] == [6.0, 6.0], "films of the study, not those of the row"


def test_films_that_the_filter_drops_have_no_say_in_the_label_nor_in_the_number_of_films(
    shards: Path,
) -> None:
    parts = build_parts(config_of(shards, "data.where=cto < 1 or grade == 7", "run_mode=val"))
    judged = facts_of_units(parts, parts.shards.units("val", True, 2), np.arange(2)).labels
    assert judged["cto"] == [0.0, 1.0] and judged["num_films"] == [5.0, 6.0]


def test_a_label_of_the_val_split_that_is_no_class_stops_training_before_it_begins(shards: Path) -> None:
    graded = "objectives={linear_probing: {head_structure: {grade: 3}, loss_structure: {grade: ce}}}"
    told = r"head 'grade' reads the column 'grade', whose labels of split val hold \[7.0\].*labels_map.grade"
    for mode in ("train", "val"):
        with pytest.raises(DataError, match=told):
            build_parts(config_of(shards, graded, f"run_mode={mode}"))
    build_parts(config_of(shards, graded, "run_mode=inference"))
