"""The training reports that lie nearest to a study: those of a search, never of its own patient, and of the same weights alone."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from deepcoro.bank import read_reports, report_bank
from deepcoro.config import ConfigError
from deepcoro.embeddings import UNIT_SPACE, vectors, write_table
from deepcoro.inference.neighbours import Neighbours
from deepcoro.kernels.tied_ranks import nearest
from deepcoro.sample import StudyRecord
from tests.inference.conftest import Predict
from tests.launch import main_on_this_rank

NUM = 12


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """Twelve reports of six patients; the label `cto` is known of every other one."""
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(NUM, 5)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    cto = np.where(np.arange(NUM) % 2, np.nan, np.arange(NUM) % 3 == 0)
    table = pyarrow.table(
        {
            "text": [f"Report {row}." for row in range(NUM)],
            "study": [f"s{row}" for row in range(NUM)],
            "patient": [f"p{row // 2}" for row in range(NUM)],
            "num_films": pyarrow.array([1] * NUM, pyarrow.int32()),
            "label_cto": pyarrow.array(cto, pyarrow.float32(), from_pandas=True),
            "label_lvef": pyarrow.array(50.0 + np.arange(NUM), pyarrow.float32()),
            "embedding": vectors(embeddings),
        }
    )
    about = {"checkpoint": "step 3 (abc)", "data": "d", "data_fingerprint": "f", "space": UNIT_SPACE}
    write_table(tmp_path / "bank" / "d_reports.parquet", table, about)
    return tmp_path / "bank"


def study(patient: str | None) -> StudyRecord:
    return StudyRecord(study="new", patient=patient, clips=[])


def films(seed: int = 1) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_neighbours_are_those_of_a_search_without_the_reports_of_the_patient(bank: Path) -> None:
    rows = films()
    near, readings = Neighbours(bank, "abc", 4).of(study("p0"), rows)
    others = report_bank(read_reports(bank)[0], "p0")
    assert len(others.texts) == NUM - 2
    places, similarities = nearest(rows, others.embeddings, 4)
    for row in range(3):
        assert [each.text for each in near[row]] == [others.texts[place] for place in places[row, :3]]
        assert [each.similarity for each in near[row]] == pytest.approx(similarities[row, :3])
    lvef = next(each for each in readings if each.label == "lvef")
    of_rows = others.labels["lvef"][places].mean(axis=1)
    assert (lvef.value, lvef.lowest, lvef.highest) == pytest.approx((of_rows.mean(), of_rows.min(), of_rows.max()))  # fmt: skip
    assert lvef.overall == pytest.approx(others.labels["lvef"].mean()) and lvef.known == 4
    cto = next(each for each in readings if each.label == "cto")
    known = ~np.isnan(others.labels["cto"][places])
    assert cto.known == known.sum(axis=1)[known.any(axis=1)].min() and cto.num_rows == known.any(axis=1).sum()


def test_a_bank_of_other_weights_or_without_reports_is_refused(bank: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="was written by step 3"):
        Neighbours(bank, "def")
    with pytest.raises(ConfigError, match="neighbours is 0"):
        Neighbours(bank, "abc", 0)
    with pytest.raises(ConfigError, match="not there"):
        Neighbours(tmp_path, "abc")


def test_a_bank_of_the_patient_alone_says_nothing(bank: Path) -> None:
    table = read_reports(bank)[0].slice(0, 2)
    about = {"checkpoint": "step 3 (abc)", "data": "d", "data_fingerprint": "f", "space": UNIT_SPACE}
    write_table(bank / "d_reports.parquet", table, about)
    assert Neighbours(bank, "abc").of(study("p0"), films()) == ([[], [], []], [])


@pytest.mark.slow
def test_the_page_of_a_study_shows_the_nearest_reports_of_the_train_split(
    predict: Predict, run_dir: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    words = (str(run_dir / "config.yaml"), f"run_dir={run_dir}", f"data.shards={tiny_shards}", "run_mode=inference")  # fmt: skip
    assert main_on_this_rank("ddp", *words, "inference.splits=[test]", "inference.reports=true") == 0
    more = ("--split", "test", "--html", "--bank", run_dir, "--neighbours", 5)
    code, _, complained = predict(tiny_shards, *more)
    assert code == 0, complained
    reports = set(read_reports(run_dir / "embeddings")[0]["text"].to_pylist())
    answer = json.loads(next((tmp_path / "answers").glob("*.json")).read_text())
    shown = [each for film in answer["films"] for each in film["nearest_reports"]]
    assert len(shown) == 3 * len(answer["films"]) and {each["text"] for each in shown} <= reports
    assert answer["nearest_reports"] == [] and {"max_stenosis", "side=left"} <= {
        each["label"] for each in answer["readings"]
    }
    page = (tmp_path / "answers" / f"{answer['study']}.html").read_text()
    assert "Nearest training reports" in page and shown[0]["text"].split(".")[0] in page
    row, *_ = csv.DictReader((tmp_path / "answers" / "studies.csv").open())
    assert 0 <= float(row["nearest_reports_max_stenosis"]) <= 100
    films = (tmp_path / "answers" / "films.csv").read_text()
    assert "nearest_reports" not in films  # tables hold no text of others
