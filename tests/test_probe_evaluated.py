"""A probe from training to its page: thresholds are chosen on val alone, kept with their checkpoint, and used on test unchanged."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, mean_absolute_error, roc_auc_score

from deepcoro.comparison import compare_runs
from deepcoro.scored import read_scored, scored_path
from tests.launch import main_on_this_rank, metrics
from tests.tools.command import call_tool

FEW = ", ".join(
    f"{name}: {{bootstrap_samples: 20}}" for name in ("classification", "regression", "calibration")
)
SURVIVAL = "survival: {outcomes: {late: {head: linear_probing/max_stenosis, event: cto, time: lvef, horizons: [50]}}}"
HEADS = (
    "{linear_probing: {head_structure: {cto: 1, max_stenosis: 1, dominance: 3, lvef: 1}, labels_map: {dominance: {right: 0, left: 1, co: 2}}, "
    "loss_structure: {cto: bce, max_stenosis: huber, dominance: ce, lvef: mae}, head_weights: {max_stenosis: 0.02, lvef: 0.02}}}"
)
WORDS = (
    "data.multi_video=false",
    f"objectives={HEADS}",
    f"evaluate.metrics={{{FEW}, {SURVIVAL}}}",
    "evaluate.metrics.classification.selective_error=0.9",
    "evaluate.metrics.regression.coverage=0.5",  # of the few patients of val
    "evaluate.by_min_patients=1",
)


def run(shards: Path, run_dir: Path, *words: str) -> None:
    words = ("demo/tiny_probe", f"data.shards={shards}", f"run_dir={run_dir}", *WORDS, *words)
    assert main_on_this_rank("ddp", *words) == 0


def results(run_dir: Path, split: str) -> dict[str, Any]:
    return json.loads((run_dir / "results" / f"shards_{split}.json").read_text())


@pytest.fixture(scope="module")
def probe(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for two steps, tested without thresholds, then val, then tested with them."""
    run_dir = tmp_path_factory.mktemp("probe") / "run"
    run(tiny_shards, run_dir, "max_steps=2")
    run(tiny_shards, run_dir, "run_mode=test")
    shutil.copy(run_dir / "results" / "shards_test.json", run_dir.parent / "before.json")
    run(tiny_shards, run_dir, "run_mode=val")
    run(tiny_shards, run_dir, "run_mode=test")
    return run_dir


def test_numbers_of_heads_are_those_of_their_predictions_and_the_labels_of_the_table(probe):
    found, rows = results(probe, "test")["metrics"], read_scored(scored_path(probe, "shards", "test"))
    assert {name for name in rows.answers if name.startswith("linear_probing/")} == {
        f"linear_probing/{head}" for head in ("cto", "dominance", "max_stenosis", "lvef")
    }
    cto = rows.answers["linear_probing/cto"]
    known = ~np.isnan(cto.truth)
    assert found["linear_probing/cto/num"] == known.sum() > 0
    assert found["linear_probing/cto/auroc"] == pytest.approx(
        roc_auc_score(cto.truth[known], cto.said[known, 0])
    )
    called = cto.said[known, 0] >= cto.threshold
    assert found["linear_probing/cto/f1"] == pytest.approx(
        f1_score(cto.truth[known], called, zero_division=0)
    )
    lvef = rows.answers["linear_probing/lvef"]
    known = ~np.isnan(lvef.truth)
    assert found["linear_probing/lvef/mae"] == pytest.approx(
        mean_absolute_error(lvef.truth[known], lvef.said[known, 0]), rel=1e-5
    )
    assert found["linear_probing/lvef/mae_ci_low"] <= found["linear_probing/lvef/mae_ci_high"]
    assert rows.answers["linear_probing/dominance"].classes == ["right", "left", "co"]
    assert "linear_probing/dominance/accuracy" in found
    assert "survival/late/c_index" in found
    assert any(key.startswith("by/dominance=right/linear_probing/") for key in found)


def test_thresholds_come_from_val_and_nothing_is_decided_without_them(probe):
    before, after = json.loads((probe.parent / "before.json").read_text()), results(probe, "test")
    assert "linear_probing/cto/f1" not in before["metrics"]
    assert any("run_mode=val chooses them" in note for note in before["notes"])
    chosen = [json.loads(path.read_text()) for path in (probe / "calibration").glob("*.json")]
    assert len(chosen) == 1
    assert chosen[0]["checkpoint"] in after["checkpoint"]
    assert chosen[0]["split"] == "val"
    threshold = chosen[0]["heads"]["linear_probing/cto"]["threshold"]
    assert after["metrics"]["linear_probing/cto/threshold"] == threshold
    assert results(probe, "val")["metrics"]["linear_probing/cto/threshold"] == threshold
    assert any("too good here" in note for note in results(probe, "val")["notes"])
    certainty = chosen[0]["heads"]["linear_probing/cto"]["certainty"]
    assert after["metrics"]["linear_probing/cto/selective/certainty"] == certainty
    assert "linear_probing/cto/selective/error_ci_low" in after["metrics"]
    assert not any("/selective/" in key for key in before["metrics"])
    assert before["metrics"]["linear_probing/cto/auroc"] == after["metrics"]["linear_probing/cto/auroc"]


def test_prediction_intervals_come_from_val_and_go_to_test_and_to_answers(
    probe, tiny_shards, tmp_path, monkeypatch, capfd
):
    before, after = json.loads((probe.parent / "before.json").read_text()), results(probe, "test")
    assert not any("/interval_" in key for key in before["metrics"])
    assert any("no 50 % prediction interval of numbers" in note for note in before["notes"])
    (chosen,) = [json.loads(path.read_text()) for path in (probe / "calibration").glob("*.json")]
    fixed, val = chosen["numbers"]["linear_probing/lvef"], read_scored(scored_path(probe, "shards", "val"))
    lvef = val.answers["linear_probing/lvef"]
    worst: dict[str | None, float] = {}
    for patient, error in zip(val.patients, np.abs(lvef.said[:, 0] - lvef.truth), strict=True):
        if not np.isnan(error):
            worst[patient] = max(worst.get(patient, 0), error)
    assert None not in worst and fixed["num_patients"] == len(worst) >= 2
    rank = -(-(len(worst) + 1) // 2)
    assert fixed["half_width"] == pytest.approx(sorted(worst.values())[rank - 1])
    measured = {key.rpartition("/")[2]: value for key, value in after["metrics"].items() if key.startswith("linear_probing/lvef/")}  # fmt: skip
    assert (measured["interval_half_width"], measured["interval_level"]) == (fixed["half_width"], 0.5)
    assert measured["interval_coverage_ci_low"] <= measured["interval_coverage"] <= 1
    answers = tmp_path / "answers"
    words = (tiny_shards, "--split", "test", "--load", "last", "--checkpoint", probe, "--output", answers)
    code, _, complained = call_tool("predict", (*words, "--device", "cpu", "--html"), monkeypatch, capfd)
    assert code == 0, complained
    pages = list(answers.glob("*.html"))
    assert pages and all("(50 %: " in page.read_text() for page in pages)
    for page in pages:
        found = {each["name"]: each for each in json.loads(page.with_suffix(".json").read_text())["findings"]}
        low, high = found["linear_probing/lvef"]["interval"]
        assert (low + high) / 2 == pytest.approx(found["linear_probing/lvef"]["score"])
        assert (high - low) / 2 == pytest.approx(fixed["half_width"])
        assert found["linear_probing/cto"]["interval"] is None


def test_training_logs_the_numbers_of_val(probe):
    logged = {key for line in metrics(probe) for key in line}
    assert {"val/linear_probing/cto/auroc", "val/linear_probing/lvef/mae"} <= logged
    assert not any(key.startswith("val/by/dominance") for key in logged)


def test_the_page_shows_heads_and_every_evaluation_of_the_checkpoint(probe):
    page = (probe / "report.html").read_text()
    assert "Findings that the model was trained for" in page
    assert "decisions at thresholds fixed on val" in page
    assert "This checkpoint on every data set" in page
    assert "shards, val" in page
    assert "What heads got most wrong" in page and page.count("Frames of film") >= 1
    shared = (probe / "report_aggregates.html").read_text()
    assert "What heads got most wrong" not in shared and "data:image/jpeg" not in shared
    counts = results(probe, "test")["data_summary"]
    assert counts["films"] > counts["studies"], "rows are studies of several films"
    assert f"{counts['films']} films, {counts['studies']} studies" in page


def test_a_run_does_not_differ_from_itself(probe):
    compared = compare_runs([probe], [probe], "shards_test", 20, 0)
    assert {each.value for each in compared.differences.values() if not np.isnan(each.value)} == {0.0}
    assert "linear_probing/cto/auroc" in compared.differences
