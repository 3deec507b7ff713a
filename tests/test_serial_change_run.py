"""Two studies of each patient through run_mode=test: what changed comes from shards, when from a table beside them."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from deepcoro import command_line
from deepcoro.data.manifest import Encoding
from deepcoro.embeddings import matrix
from tests.data.folder import moving_film, study_with, write_folder
from tests.launch import CONSTANT_LR

NUM_PATIENTS = 4
LVEF = {0: (30.0, 55.0), 1: (60.0, 58.0), 2: (50.0, 25.0), 3: (40.0, 41.0)}
"""Of each patient, earlier and later; two of them change by 20 or more."""


def study_of(patient: str, study: str, lvef: float) -> tuple:
    """One film, as bright as the heart pumps."""
    record, payloads = study_with(study, [moving_film(int(lvef))], Encoding(), patient)
    (clip,) = record.clips
    return record.model_copy(update={"clips": [clip.model_copy(update={"labels": {"lvef": lvef}})]}), payloads


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and days.csv; of every patient the later study comes first in the shards."""
    folder = tmp_path_factory.mktemp("serial")
    studies = [study_of(f"t{n}", f"train{n}", 30.0 + 10 * n) for n in range(4)]
    days = ["study,days_since_first", *(f"train{n},0" for n in range(4))]
    for patient, both in LVEF.items():
        for when in (1, 0):
            name = f"patient{patient}-{when}"
            studies.append(study_of(f"p{patient}", name, both[when]))
            days.append(f"{name},{400 * when}")
    splits = {record.study: "train" if record.study.startswith("train") else "test" for record, _ in studies}
    write_folder(folder / "shards", studies, splits=splits)
    (folder / "days.csv").write_text("\n".join(days) + "\n")
    return folder


def test_changes_between_studies_are_measured_by_a_run_and_agree_with_its_predictions(folder: Path) -> None:
    run_dir = folder / "run"
    head = "objectives={linear_probing: {head_structure: {lvef: 1}, loss_structure: {lvef: mae}}}"
    serial = "{serial_change: {label: lvef, score: linear_probing/lvef/prediction, bootstrap_samples: 50}}"
    words = [
        *("demo/tiny_probe", f"data.shards={folder / 'shards'}", f"run_dir={run_dir}", *CONSTANT_LR, head),
        *(
            f"data.tables=[{folder / 'days.csv'}]",
            f"evaluate.metrics={serial}",
            "max_steps=8",
            "optim.lr=0.05",
            "pooler.view_embedding=false",
        ),
    ]
    assert command_line.main(words) == 0
    assert command_line.main([*words, "run_mode=test", "checkpoint=last"]) == 0
    assert (
        command_line.main([*words, "run_mode=inference", "inference.splits=[test]", "checkpoint=last"]) == 0
    )

    numbers = json.loads((run_dir / "results" / "shards_test.json").read_text())["metrics"]
    assert numbers["serial_change/num"] == numbers["serial_change/num_patients"] == NUM_PATIENTS
    assert numbers["serial_change/num_positive"] == 2
    assert 0 <= numbers["serial_change/distance/auroc"] <= 1

    pairs = [(f"patient{patient}-0", f"patient{patient}-1") for patient in LVEF]
    change = np.array([later - earlier for earlier, later in LVEF.values()])
    table = pyarrow.parquet.read_table(run_dir / "embeddings" / "shards_test_studies.parquet")
    of_study = dict(zip(table["study"].to_pylist(), matrix(table["embedding"]), strict=True))
    distance = [1 - cosine(of_study[earlier], of_study[later]) for earlier, later in pairs]
    expected = roc_auc_score(np.abs(change) >= 20, distance)
    assert numbers["serial_change/distance/auroc"] == pytest.approx(expected)

    with np.load(run_dir / "predictions" / "shards_test_scored.npz") as scored:
        predicted = dict(zip(scored["clip"].tolist(), scored["linear_probing/lvef:said"][:, 0], strict=True))
    expected = pearsonr([predicted[later] - predicted[earlier] for earlier, later in pairs], change)[0]
    assert numbers["serial_change/pearson"] == pytest.approx(expected, abs=1e-5)

    with (run_dir / "predictions" / "shards_test_serial_change.csv").open() as file:
        rows = {row["later_study"]: row for row in csv.DictReader(file)}
    assert len(rows) == NUM_PATIENTS
    for (earlier, later), moved in zip(pairs, change, strict=True):
        row = rows[later]
        assert row["earlier_study"] == earlier
        assert float(row["days_since_first_change"]) == 400
        assert float(row["score_change"]) == pytest.approx(predicted[later] - predicted[earlier], abs=1e-3)
        assert float(row["label_lvef_change"]) == moved


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
