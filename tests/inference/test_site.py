"""A run measured at another site: the numbers of an evaluation, and nothing that tells of a patient."""

import csv
import json
from pathlib import Path

import pytest

from deepcoro.aggregates import told_and_withheld
from deepcoro.inference import site
from tests.launch import main_on_this_rank
from tests.tools.command import call_tool


@pytest.fixture
def validate(run_dir: Path, tmp_path: Path, monkeypatch, capfd):
    """`tools/validate_site.py TABLE ...` into tmp_path / "site.json"; the key is another than that of training unless given."""
    key = tmp_path / "id.key"
    key.write_text("0123456789abcdef0123456789abcdef\n")

    def call(table: Path, key_file: Path = key) -> tuple[int, str, str]:
        fixed = ("--checkpoint", run_dir, "--output", tmp_path / "site.json", "--device", "cpu", "--workers", 1, "--report_scope", "side")  # fmt: skip
        return call_tool("validate_site", (table, *fixed, "--key_file", key_file), monkeypatch, capfd)

    return call


def table_of(data: Path, path: Path, splits: tuple[str, ...]) -> Path:
    rows = [row for row in csv.DictReader((data / "dataset.csv").open()) if row["Split"] in splits]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"FileName": str(data / row["FileName"])} for row in rows)
    return path


def test_an_output_that_cannot_be_written_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch, capfd
) -> None:
    words = (tmp_path / "films.csv", "--checkpoint", tmp_path / "nowhere", "--output", tmp_path)
    code, _, complained = call_tool("validate_site", words, monkeypatch, capfd)
    assert code == 2 and "Is a directory" in complained and "nowhere" not in complained


def test_a_site_measures_what_an_evaluation_measures(
    validate, run_dir: Path, tiny_shards: Path, tmp_path: Path, monkeypatch
) -> None:
    data = tiny_shards.parent / "data"
    monkeypatch.setattr(site, "LEAST", 1)
    code, _, complained = validate(table_of(data, tmp_path / "test.csv", ("test",)), data / "demo.key")
    assert code == 0, complained
    record = json.loads((tmp_path / "site.json").read_text())
    assert record["patient_overlap"] == "none"
    # groups of fewer than ten patients are measured here, where LEAST is 1, and not by the evaluation
    assert all(family.startswith("by/") for family in record["suppressed"])
    measured = {name: value for name, value in record["metrics"].items() if not name.startswith("by/")}
    words = (str(run_dir / "config.yaml"), f"run_dir={run_dir}", f"data.shards={tiny_shards}", "run_mode=test")  # fmt: skip
    assert main_on_this_rank("ddp", *words) == 0
    expected = json.loads((run_dir / "results.json").read_text())
    expected = {name: value for name, value in expected.items() if not name.startswith("by/")}
    assert measured.keys() <= expected.keys() and len(measured) > 10
    # a site has no training reports, and nobody hides parts of its films
    of_training = ("nearest_reports/", "_modal", "_nearest", "_placed", "above_", "masked_modeling/")
    for name in expected.keys() - measured.keys():
        assert any(each in name for each in of_training), name
    for name, value in measured.items():
        # what is drawn hangs on the order of the studies, which is the table's here and the shards' there
        is_drawn = "_ci_" in name or "/control/" in name or "_shuffled" in name
        assert is_drawn or value == pytest.approx(expected[name], abs=1e-6), name


def test_what_leaves_a_site_tells_nothing_of_a_patient(validate, tiny_shards: Path, tmp_path: Path) -> None:
    data = tiny_shards.parent / "data"
    table = table_of(data, tmp_path / "all.csv", ("train", "val", "test"))
    code, said, complained = validate(table)
    assert code == 0, complained
    text = (tmp_path / "site.json").read_text()
    record = json.loads(text)
    assert record["patients"] == 24 and record["patient_overlap"] == "unknown"
    rows = list(csv.DictReader(table.open()))
    secrets = {row[name] for row in rows for name in ("PatientID", "StudyInstanceUID", "FileName", "Report")}
    assert not [each for each in secrets if each and each in text + said + complained]
    counts = {key: value for key, value in record["metrics"].items() if "/num" in key}
    assert counts and all(value == 0 or value >= 10 for value in counts.values())


@pytest.mark.parametrize(
    ("splits", "keyed", "told"),
    [(("test",), False, "fewer than 10 patients"), (("train", "val", "test"), True, "in this checkpoint's training data")],
)  # fmt: skip
def test_too_few_patients_or_one_of_training_give_no_file(
    validate, tiny_shards: Path, tmp_path: Path, splits: tuple[str, ...], keyed: bool, told: str
) -> None:
    data = tiny_shards.parent / "data"
    key = {"key_file": data / "demo.key"} if keyed else {}
    code, _, complained = validate(table_of(data, tmp_path / "films.csv", splits), **key)
    assert code == 2 and told in complained
    assert not (tmp_path / "site.json").exists()


def test_a_family_with_few_positives_or_few_negatives_is_left_out_with_its_control() -> None:
    numbers = {
        "zero_shot/cto/num": 40.0, "zero_shot/cto/num_positive": 9.0, "zero_shot/cto/auroc": 0.9,
        "zero_shot/control/cto/auroc": 0.5,
        "zero_shot/side/num": 40.0, "zero_shot/side/num_positive": 31.0, "zero_shot/side/auroc": 0.9,
        "zero_shot/dominance/num": 40.0, "zero_shot/dominance/num_positive": 20.0, "zero_shot/dominance/auroc": 0.8,
        "zero_shot/dominance/num_not_assessed": 3.0, "zero_shot/dominance/num_other_class": 0.0,
        "retrieval/num_patients": 12.0, "retrieval/text_to_video/num_queries": 8.0, "retrieval/text_to_video/R@5": 1.0,
    }  # fmt: skip
    kept, suppressed = told_and_withheld(numbers, 10)
    assert suppressed == ["retrieval/text_to_video", "zero_shot/cto", "zero_shot/side"]
    assert sorted(kept) == [
        "retrieval/num_patients",
        "zero_shot/dominance/auroc",
        "zero_shot/dominance/num",
        "zero_shot/dominance/num_other_class",
        "zero_shot/dominance/num_positive",
    ]
