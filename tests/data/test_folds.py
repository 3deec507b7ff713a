"""Folds out of a table: one is val, the others train, and nobody is in both."""

from pathlib import Path

import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.data.collection import Collection
from deepcoro.data.folds import Fold
from deepcoro.data.manifest import Encoding
from deepcoro.data.shards import Shards
from tests.data.folder import moving_film, study_with, write_folder

SPLITS = {"s0": "train", "s1": "train", "s2": "train", "s3": "val", "s4": "test", "s5": "train"}
# s0 and s5 are of one patient
PATIENTS = {"s0": "p0", "s1": "p1", "s2": "p2", "s3": "p3", "s4": "p4", "s5": "p0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    studies = [
        study_with(key, [moving_film(number, 2)] * 2, Encoding(), PATIENTS[key])
        for number, key in enumerate(SPLITS)
    ]
    return write_folder(tmp_path_factory.mktemp("folds"), studies, splits=SPLITS)


def opened(folder: Path, table: Path, rows: str, held_out: int | str) -> Collection:
    table.write_text(rows)
    fold = Fold(column="fold", held_out=held_out)
    return Collection({"site": Shards.open(folder)}, [table], fold=fold)


BY_PATIENT = "patient,fold\np0,0\np1,1\np2,2\np3,1\np4,0\n"


def studies_of(collection: Collection, split: str) -> set[str]:
    units = collection.units(split, True, 2)
    return {units.study_id(unit) for unit in range(len(units))}


def test_each_study_is_val_in_one_fold_and_trains_in_the_others_and_test_stays(
    folder: Path, tmp_path: Path
) -> None:
    expected = {0: {"s0", "s5"}, 1: {"s1", "s3"}, 2: {"s2"}}
    fingerprints = set()
    for held_out, val in expected.items():
        collection = opened(folder, tmp_path / "folds.csv", BY_PATIENT, held_out)
        assert studies_of(collection, "val") == val
        assert studies_of(collection, "train") == {"s0", "s1", "s2", "s3", "s5"} - val
        assert studies_of(collection, "test") == {"s4"}
        assert collection.record()["fold"] == {"column": "fold", "held_out": held_out}
        assert collection.films.read(["split"])["split"].to_pylist().count("val") == 2 * len(val)
        fingerprints.add(collection.fingerprint)
    assert len(fingerprints) == 3


def test_names_of_folds_may_be_words(folder: Path, tmp_path: Path) -> None:
    rows = "patient,fold\np0,north\np1,south\np2,south\np3,south\n"
    collection = opened(folder, tmp_path / "folds.csv", rows, "north")
    assert studies_of(collection, "val") == {"s0", "s5"}


@pytest.mark.parametrize(
    ("rows", "held_out", "error", "message"),
    [
        (BY_PATIENT, 7, ConfigError, r"held_out is 7, which no studies have; 'fold' holds \['0', '1', '2'\]"),
        ("patient,fold\np0,1\np1,1\np2,1\np3,1\n", 1, ConfigError, "which all studies have"),
        ("patient,fold\np0,0\np1,1\n", 1, DataError, "2 studies of train and val have no 'fold'"),
        (
            "clip,patient,fold\ns1-film0,,0\n,p0,0\n,p1,1\n,p2,1\n,p3,1\n",
            1,
            DataError,
            "one study are in two folds",
        ),
        ("study,fold\ns0,0\ns1,1\ns2,1\ns3,1\ns5,1\n", 1, DataError, "train and val share 1 of 5 patients"),
    ],
)
def test_folds_that_cannot_be_are_refused(
    folder: Path, tmp_path: Path, rows: str, held_out: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        opened(folder, tmp_path / "folds.csv", rows, held_out)


def test_a_column_that_nobody_has_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no column 'fould'"):
        Collection({"site": Shards.open(folder)}, fold=Fold(column="fould", held_out=0))
