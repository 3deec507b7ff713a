"""The bank of reports: what a row is, whose reports answer for whom, and means over neighbours against sums by hand."""

from pathlib import Path

import numpy as np
import pyarrow
import pytest

from deepcoro.bank import read_bank, report_bank, report_table
from deepcoro.config import ConfigError, DataError
from deepcoro.embeddings import UNIT_SPACE, vectors, write_table
from deepcoro.evaluated import Evaluated
from deepcoro.label_means import numeric_labels

NONE = None
TEXTS = ["Normal.", "Severe LAD stenosis.", "CTO of the RCA."]


def training_reports() -> Evaluated:
    """Five films of three studies; the report "Normal." is of two patients, one film has none."""
    return Evaluated(
        split="train",
        units=np.arange(5),
        clips=["s0.000", "s0.001", "s1.000", "s2.000", "s2.001"],
        studies=["s0", "s0", "s1", "s2", "s2"],
        patients=["p0", "p0", "p1", None, None],
        films=np.zeros((5, 0), np.float32),
        texts=TEXTS,
        text_embeddings=np.eye(3, dtype=np.float32),
        text_of_film=np.array([0, 0, 0, 1, -1]),
        labels={
            "cto": [0, NONE, 1.0, NONE, 1],
            "lvef": [40, 50, 60, float("nan"), 1],
            "side": ["left", "left", "right", NONE, "left"],
        },
        prompts={},
    )


def test_a_row_is_a_report_of_a_study_with_the_means_of_its_assessed_films() -> None:
    table = report_table(training_reports()).to_pydict()
    assert table["text"] == ["Normal.", "Normal.", "Severe LAD stenosis."], "no film carries the third text"
    assert table["study"] == ["s0", "s1", "s2"] and table["patient"] == ["p0", "p1", None]
    assert table["num_films"] == [2, 1, 1]
    assert table["label_cto"] == [0, 1, None] and table["label_lvef"] == [45, 60, None]
    assert table["label_side=left"] == [1, 0, None] and table["label_side=right"] == [0, 1, None]


def test_equal_reports_are_one_and_a_patient_never_answers_for_themselves() -> None:
    table = report_table(training_reports())
    everyone = report_bank(table)
    assert everyone.texts == TEXTS[:2] and everyone.num_films.tolist() == [3, 1]
    assert everyone.labels["cto"][0] == 0.5 and np.isnan(everyone.labels["cto"][1])
    without = report_bank(table, patient="p1")
    assert without.texts == TEXTS[:2] and without.labels["cto"][0] == 0
    assert (
        report_bank(table, study="s2").texts == TEXTS[:1]
    ), "where no patient is named the study is left out"
    nobody = report_bank(table.slice(2), study="s2")
    assert not nobody.texts and nobody.embeddings.shape == (0, 3)


def test_an_interpretation_is_the_mean_of_the_neighbours_that_know() -> None:
    generator = np.random.default_rng(0)
    values = generator.random(40)
    values[generator.random(40) < 0.4] = np.nan
    table = pyarrow.table(
        {
            "text": [f"report {row}" for row in range(40)],
            "study": [f"s{row}" for row in range(40)],
            "patient": [f"p{row}" for row in range(40)],
            "num_films": pyarrow.array([1] * 40, pyarrow.int32()),
            "label_x": pyarrow.array(values, pyarrow.float32(), from_pandas=True),
            "embedding": vectors(generator.standard_normal((40, 6))),
        }
    )
    bank, films = report_bank(table), generator.standard_normal((7, 6))
    rows, cosines = bank.nearest(films, 3)
    found = bank.interpretation(rows)["x"]
    for film in range(7):
        products = bank.embeddings @ films[film]
        nearest = sorted(range(40), key=lambda row: -products[row])[:3]
        assert rows[film].tolist() == nearest
        assert cosines[film] == pytest.approx([products[row] for row in nearest], abs=1e-6)
        known = [values[row] for row in nearest if not np.isnan(values[row])]
        expected = sum(known) / len(known) if known else np.nan
        assert found[film] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_words_become_shares_and_free_text_no_label() -> None:
    found = numeric_labels({"view": [f"v{row}" for row in range(30)], "bad": [True, False, *[NONE] * 28]})
    assert list(found) == ["bad"] and found["bad"][:2].tolist() == [1, 0] and np.isnan(found["bad"][2:]).all()


def clips(folder: Path, name: str, checkpoint: str, space: str = UNIT_SPACE) -> None:
    table = pyarrow.table({"clip": ["s.000"], "split": [name], "embedding": vectors(np.eye(2)[:1])})
    write_table(folder / f"x_{name}_clips.parquet", table, {"checkpoint": checkpoint, "space": space})


def test_a_bank_is_of_one_checkpoint_with_a_common_space(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run_mode=inference"):
        read_bank(tmp_path)
    clips(tmp_path, "val", "step 1 (a)")
    clips(tmp_path, "test", "step 1 (a)")
    assert read_bank(tmp_path, ["val"]).clips.num_rows == 1 and read_bank(tmp_path).clips.num_rows == 2
    with pytest.raises(ConfigError, match=r"no films of \['train'\]; it has \['test', 'val'\]"):
        read_bank(tmp_path, ["train"])
    clips(tmp_path, "test", "step 2 (b)")
    with pytest.raises(ConfigError, match="several checkpoints"):
        read_bank(tmp_path)
    clips(tmp_path, "test", "step 1 (a)", "pooled video features")
    with pytest.raises(ConfigError, match="share no space"):
        read_bank(tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"clip": ["s.000"]}), tmp_path / "y_clips.parquet")
    with pytest.raises(DataError, match="does not say which checkpoint"):
        read_bank(tmp_path)
