"""The demo's bars are held by its last command."""

import json
import math
from pathlib import Path

import pytest

from tests.tools.command import call_tool

GOOD = {
    "retrieval/text_to_video/within_stratum/R@5": 0.6,
    "retrieval/text_to_video/within_stratum/R@5_chance": 0.25,
    "clinical_findings/side/balanced_accuracy": 1.0,
    "clinical_findings/dominance/balanced_accuracy": 0.9,
    "clinical_findings/lesion/f1": 0.8,
    "clinical_findings/lesion/f1_nearest": 0.7,
    "clinical_findings/lesion/f1_modal": 0.0,
    "clinical_findings/lesion/hallucination_rate": 0.1,
    "masked_modeling/error": 0.6,
    "masked_modeling/error_of_unit_mean": 1.0,
    "masked_modeling/error_of_nearest_visible": 0.8,
}


def checked(results: dict[str, float], run_dir: Path, monkeypatch, capsys) -> tuple[int, list[str]]:
    (run_dir / "results.json").write_text(json.dumps(results))
    code, out, _ = call_tool("check_demo", (run_dir,), monkeypatch, capsys)
    return code, [line for line in out.splitlines() if line.startswith("NOT MET")]


def test_a_run_that_reaches_every_bar_passes(tmp_path: Path, monkeypatch, capsys) -> None:
    assert checked(GOOD, tmp_path, monkeypatch, capsys) == (0, [])


@pytest.mark.parametrize(
    ("measure", "value", "told"),
    [
        ("retrieval/text_to_video/within_stratum/R@5", 0.34, "1.4 times chance"),
        ("clinical_findings/side/balanced_accuracy", 0.94, "side of the reports"),
        ("clinical_findings/dominance/balanced_accuracy", 0.59, "dominance of the reports"),
        ("clinical_findings/lesion/f1", 0.69, "the nearest training report's"),
        ("clinical_findings/lesion/f1", 0.7, "the nearest training report's"),
        ("clinical_findings/lesion/hallucination_rate", 0.26, "made up"),
        ("masked_modeling/error", 0.81, "the nearest visible's"),
        ("masked_modeling/error", math.nan, "the mean's"),
    ],
)
def test_a_measure_short_of_its_bar_fails_by_name(
    measure: str, value: float, told: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    code, missed = checked(GOOD | {measure: value}, tmp_path, monkeypatch, capsys)
    assert code == 1 and any(told in line for line in missed)


@pytest.mark.parametrize("measure", sorted(GOOD))
def test_what_was_not_measured_meets_no_bar(measure: str, tmp_path: Path, monkeypatch, capsys) -> None:
    results = {name: value for name, value in GOOD.items() if name != measure}
    code, missed = checked(results, tmp_path, monkeypatch, capsys)
    assert code == 1 and all("not measured" in line for line in missed) and missed


def test_a_folder_without_results_is_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    code, _, complained = call_tool("check_demo", (tmp_path,), monkeypatch, capsys)
    assert code == 2 and "run_mode=test writes it" in complained and len(complained.splitlines()) == 1
