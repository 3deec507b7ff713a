"""Tables of embeddings: who is in which row, and what a clip's weight and a study's mean are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from deepcoro.embeddings import METADATA, clip_table, matrix, study_table, write_embeddings
from deepcoro.evaluated import Evaluated

SLOTS = [[("s1.000", 0), ("s1.002", 0)], [("s0.001", 0), ("s0.001", 1)], [("s1.001", 0)]]


def units(rows: list[list[float]]) -> np.ndarray:
    array = np.array(rows, np.float32)
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


@pytest.fixture
def evaluated() -> Evaluated:
    """Three samples of two studies; the last has one clip and a padded one."""
    clips = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    return Evaluated(
        split="test",
        units=np.arange(3),
        clips=["s1.000", "s0.001", "s1.001"],
        studies=["s1", "s0", "s1"],
        patients=["p", None, "p"],
        films=units([[1, 0, 0], [0, 0, 2], [0, 1, 0]]),
        texts=["a report"],
        text_embeddings=np.eye(3, dtype=np.float32)[:1],
        text_of_film=np.zeros(3, np.int64),
        labels={},
        prompts={},
        rows={
            "clip_embedding": clips,
            "clip_mask": np.array([[1, 1], [1, 1], [1, 0]], bool),
            "clip_weight": np.array([[0.25, 0.75], [0.5, 0.5], [1, 0]], np.float32),
        },
    )


def test_a_row_is_a_real_clip_with_its_film_window_and_weight(evaluated: Evaluated) -> None:
    table = clip_table(evaluated, SLOTS).to_pydict()
    assert table["clip"] == ["s1.000", "s1.002", "s0.001", "s0.001", "s1.001"]
    assert table["window"] == [0, 0, 0, 1, 0] and table["study"] == ["s1", "s1", "s0", "s0", "s1"]
    assert table["patient"] == ["p", "p", None, None, "p"]
    assert table["weight"] == [0.25, 0.75, 0.5, 0.5, 1.0]
    assert table["embedding"][-1] == [12, 13, 14], "padding is no row"


def test_without_weights_the_column_is_empty(evaluated: Evaluated) -> None:
    rows = {name: values for name, values in evaluated.rows.items() if name != "clip_weight"}
    assert clip_table(replace(evaluated, rows=rows), SLOTS)["weight"].null_count == 5


def test_slots_that_are_not_what_the_model_saw_are_refused(evaluated: Evaluated) -> None:
    with pytest.raises(ValueError, match="the model saw 5 clips, the slots name 4"):
        clip_table(evaluated, [*SLOTS[:2], []])


def test_films_of_a_study_are_averaged_and_studies_keep_the_order_of_the_split(evaluated: Evaluated) -> None:
    table = study_table(evaluated)
    assert table["study"].to_pylist() == ["s1", "s0"] and table["num_clips"].to_pylist() == [3, 2]
    np.testing.assert_allclose(matrix(table["embedding"]), [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]], atol=1e-7)
    apart = replace(evaluated, text_embeddings=np.zeros((1, 0), np.float32))
    np.testing.assert_allclose(matrix(study_table(apart)["embedding"])[0], [0.5, 0.5, 0])


def test_a_file_reads_back_and_says_where_it_is_from(evaluated: Evaluated, tmp_path: Path) -> None:
    clips, studies = write_embeddings(tmp_path, "x_test", evaluated, SLOTS, {"checkpoint": "step 1 (abc)"})
    read = pyarrow.parquet.read_table(clips)
    assert read.drop_columns(["embedding"]).equals(clip_table(evaluated, SLOTS).drop_columns(["embedding"]))
    np.testing.assert_array_equal(
        matrix(read["embedding"]), evaluated.rows["clip_embedding"][[0, 0, 1, 1, 2], [0, 1, 0, 1, 0]]
    )
    about = json.loads(read.schema.metadata[METADATA])
    assert about == {"checkpoint": "step 1 (abc)", "space": "contrastive, unit length"}
    assert studies.name == "x_test_studies.parquet"
